"""Tokenizers as other programs read them: a description of the book's own, and what a GGUF file says of any."""

from __future__ import annotations

from typing import Any

import tiktoken
import tokenizers as hub

from ..text import END_OF_TEXT, GPT2_PATTERN
from ..tokenizing import bpe_merges
from .gguf_tokenizers import PIECES, TokenKind
from .pretrained_tokenizer import PretrainedTokenizer, adapt
from .tokenizer_descriptions import Description, byte_alphabet
from .tokenizer_runners import GPT2_PIECES, SMOLLM_PIECES, pieces_of

__all__ = ["described", "tokenizer_for_gguf"]


def described(tokenizer: Any, chat_template: str | None = None,
              begins_with_end: bool = False) -> PretrainedTokenizer:
    """Any tokenizer as one whose files can be written.

    Args:
        tokenizer: the book's own, tiktoken's, or one of a model's files.
        chat_template: in Jinja2; its own if None.
        begins_with_end: put `<|endoftext|>` before each text, because each text that the model was trained on began
            with it, as the storyteller's stories did.

    Raises ValueError for one that has no merges, or no `<|endoftext|>` to begin with.
    """
    known = adapt(tokenizer)
    if known.description is not None and chat_template is None and not begins_with_end:
        return known
    if known.description is not None:
        description, named = known.description, dict(known.named)
    elif isinstance(tokenizer, tiktoken.Encoding):
        description = Description(_content_of(tokenizer))
        named = {name: END_OF_TEXT for name in ("bos_token", "eos_token") if END_OF_TEXT in description.special}
    else:
        raise ValueError(f"a tokenizer of the type {type(tokenizer).__name__} is not one that other programs run: "
                         "give one of llmbook.text, tiktoken or a model's files")
    prefix = list(known.prefix)
    if begins_with_end:
        if END_OF_TEXT not in description.special:
            raise ValueError(f"the tokenizer has no {END_OF_TEXT!r} for a text to begin with: leave begins_with_end "
                             "out")
        named["bos_token"], prefix = END_OF_TEXT, [description.special[END_OF_TEXT]]
    return PretrainedTokenizer(description, known.name, named, known.end_ids, prefix,
                               known.chat_template if chat_template is None else chat_template)


def _content_of(encoding: tiktoken.Encoding) -> dict[str, Any]:
    """A byte-pair encoding as a tokenizer.json says it: bytes in GPT-2's visible alphabet, pairs in their order."""
    spelling = {byte: character for character, byte in byte_alphabet().items()}

    def spelled(token: bytes) -> str:
        return "".join(spelling[byte] for byte in token)

    special = [{"id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for token, number in encoding._special_tokens.items()]
    vocabulary = {spelled(token): number for token, number in encoding._mergeable_ranks.items()}
    vocabulary |= {token["content"]: token["id"] for token in special}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    before: dict[str, Any] = {**bytes_, "use_regex": True}
    if encoding._pat_str not in (GPT2_PATTERN, GPT2_PIECES):
        cut = {"type": "Split", "pattern": {"Regex": encoding._pat_str}, "behavior": "Isolated", "invert": False}
        before = {"type": "Sequence", "pretokenizers": [cut, {**bytes_, "use_regex": False}]}
    merges = [[spelled(left), spelled(right)] for left, right in bpe_merges(encoding)]
    return {"version": "1.0", "added_tokens": special, "normalizer": None, "pre_tokenizer": before,
            "post_processor": None, "decoder": {**bytes_, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": vocabulary, "merges": merges}}


# --- GGUF ---

def tokenizer_for_gguf(tokenizer: PretrainedTokenizer, vocab_size: int) -> dict[str, Any]:
    """A byte-level tokenizer as the settings of a GGUF file: full name -> value.

    vocab_size: rows of the model's embedding; those that no token has get a name that no text gives.

    Raises ValueError for a tokenizer that llama.cpp does not run, or not so.

    Source: the keys are those of the GGUF specification of the ggml project (2023).
    """
    description = tokenizer.description
    pieces = None if description is None else pieces_of(description)
    if description is None or pieces is None:
        raise ValueError("only byte-level BPE tokenizers are written as GGUF: export to='huggingface', and convert "
                         "that with llama.cpp's convert_hf_to_gguf.py")
    pre = _pre_of(pieces)
    if PIECES[pre].ignores_merges != bool(description.content["model"].get("ignore_merges")):
        _check_merges(description)
    tokens, kinds = _tokens(description, vocab_size)
    known = {**description.vocabulary, **description.added}
    ids = {"bos": known.get(tokenizer.named.get("bos_token", "")), "unknown": known.get(
        tokenizer.named.get("unk_token", "")), "padding": known.get(tokenizer.named.get("pad_token", ""))}
    if tokenizer.prefix not in ((), (ids["bos"],)):
        raise ValueError(f"before each text the tokenizer puts the ids {list(tokenizer.prefix)}: llama.cpp puts only "
                         f"one there, the token that begins a text ({ids['bos']})")
    end = known.get(tokenizer.named.get("eos_token", ""))
    ends = list(dict.fromkeys([*([] if end is None else [end]), *tokenizer.end_ids]))
    ids |= dict(zip(("eos", "eot"), ends))
    found: dict[str, Any] = {
        "model": "gpt2", "pre": pre, "tokens": tokens, "token_type": kinds,
        "merges": [f"{left} {right}" for left, right in description.merges],
        **{f"{name}_token_id": number for name, number in ids.items() if number is not None},
        "add_bos_token": bool(tokenizer.prefix)}
    settings = {f"tokenizer.ggml.{name}": value for name, value in found.items()}
    if tokenizer.chat_template is not None:
        settings["tokenizer.chat_template"] = tokenizer.chat_template
    return settings


def _pre_of(pieces: str) -> str:
    """llama.cpp's name for the way in which a text is cut before any merge."""
    ours = {GPT2_PIECES: None, GPT2_PATTERN: None, SMOLLM_PIECES: "digits"}
    wanted = ours.get(pieces, pieces)
    for name, cut in PIECES.items():
        if cut.pattern == wanted:
            return name
    raise ValueError(f"llama.cpp knows no tokenizer that cuts a text by {pieces[:60]!r}: train one with "
                     "llmbook.text.GPT2_PATTERN, or export to='huggingface'")


def _check_merges(description: Description) -> None:
    """ValueError unless each token is what merging its own bytes gives. Then it does not matter whether a piece of text
    that is a token is looked up before it is merged."""
    merger = hub.models.BPE(description.vocabulary, description.merges)
    for token, number in description.vocabulary.items():
        if token not in description.added and [part.id for part in merger.tokenize(token)] != [number]:
            raise ValueError(f"the merges do not make the token {token[:40]!r} of its own bytes, so llama.cpp would "
                             "give other ids: export to='huggingface'")


def _tokens(description: Description, vocab_size: int) -> tuple[list[str], list[int]]:
    """Every id's token, and its kind."""
    tokens = [f"[PAD{number}]" for number in range(vocab_size)]
    kinds = [int(TokenKind.UNUSED)] * vocab_size
    for token, number in description.vocabulary.items():
        tokens[number], kinds[number] = token, int(TokenKind.NORMAL)
    for token, number in description.added.items():
        kind = TokenKind.CONTROL if token in description.special else TokenKind.USER_DEFINED
        tokens[number], kinds[number] = token, int(kind)
    return tokens, kinds
