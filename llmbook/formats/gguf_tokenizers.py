"""Tokenizers inside GGUF files: byte-level BPE with its merges, and SentencePiece's kind with scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .pretrained_tokenizer import PretrainedTokenizer, check_size
from .tokenizer_descriptions import Description, byte_alphabet

__all__ = ["PIECES", "Pieces", "TokenKind", "tokenizer_of_gguf"]


class TokenKind(IntEnum):
    """The values of tokenizer.ggml.token_type."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Pieces(NamedTuple):
    """How llama.cpp cuts a text before it merges.

    Args:
        pattern: a regular expression of the pieces; None: GPT-2's own; "digits": that, with digits one by one.
        ignores_merges: whether a piece that is a token is taken as it is.
    """

    pattern: str | None
    ignores_merges: bool = False


# Regular expressions of the pieces that are merged on their own.
_LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
           r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
_QWEN2 = _LLAMA3.replace("{1,3}", "")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+END|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*END"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4O = _WORDS.replace("END", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?") + r"|\p{N}{1,3}" + _REST
_TEKKEN = _WORDS.replace("END", "") + r"|\p{N}" + _REST
_OF_LLAMA3 = Pieces(_LLAMA3, ignores_merges=True)
PIECES: dict[str, Pieces] = {
    "gpt-2": Pieces(None), "smollm": Pieces("digits"), "llama-bpe": _OF_LLAMA3, "llama3": _OF_LLAMA3,
    "llama-v3": _OF_LLAMA3, "falcon3": _OF_LLAMA3, "qwen2": Pieces(_QWEN2), "deepseek-r1-qwen": Pieces(_QWEN2),
    "gpt-4o": Pieces(_GPT4O), "tekken": Pieces(_TEKKEN)}
"""By the names in tokenizer.ggml.pre."""


class WeightFile(Protocol):
    path: Path
    metadata: Mapping[str, Any]


def tokenizer_of_gguf(file: WeightFile, vocab_size: int | None = None) -> PretrainedTokenizer:
    """The tokenizer inside a GGUF file.

    Args:
        file: its path and its metadata.
        vocab_size: rows of the model's embedding, which must be as many as the tokens, or a few more.

    Raises ValueError for one that is damaged, of a kind that is not known, or of another model.

    Source: the keys are those of the GGUF specification of the ggml project (2023).
    """
    data = {key.removeprefix("tokenizer.").removeprefix("ggml."): value for key, value in file.metadata.items()
            if key.startswith("tokenizer.")}
    try:
        tokens = _tokens(data)
        kind, pre = data.get("model"), data.get("pre", "gpt-2")
        if kind == "gpt2" and pre in PIECES:
            content = _byte_level(data, tokens, pre)
        elif kind == "llama":
            gemma = str(file.metadata.get("general.architecture", "")).startswith("gemma")
            content = _sentencepiece(data, tokens, gemma)
        else:
            raise ValueError(f"its tokenizer ({kind!r}, {pre!r}) is not supported (only 'llama', and 'gpt2' with "
                             f"{', '.join(PIECES)}): load the model's Hugging Face folder instead")
        named = {name: tokens[number] for name, number in _named(data, len(tokens)).items()}
        adds_bos = data.get("add_bos_token", kind == "llama" or PIECES.get(pre) == _OF_LLAMA3)
        description = Description(content)
        prefix = [tokens.index(named["bos_token"])] if adds_bos and "bos_token" in named else []
        ends = [number for name in ("eos", "eot", "eom")
                if (number := _id_of(data, f"{name}_token_id", len(tokens))) is not None]
        template = data.get("chat_template")
        if template is not None and not isinstance(template, str):
            raise ValueError(f"its chat_template is {template!r:.40}: it must be text")
        tokenizer = PretrainedTokenizer(description, str(file.metadata.get("general.name", file.path.stem)), named,
                                        ends, prefix, template)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None
    check_size(tokenizer, vocab_size, file.path)
    return tokenizer


def _tokens(data: Mapping[str, Any]) -> list[str]:
    tokens = data.get("tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise ValueError("it has no list tokenizer.ggml.tokens: download it again")
    return tokens


def _list(data: Mapping[str, Any], name: str, count: int, kind: type | tuple[type, ...]) -> list[Any]:
    """A list with an entry for each token."""
    values = data.get(name)
    if not isinstance(values, list) or len(values) != count or not all(isinstance(value, kind) for value in values):
        raise ValueError(f"it has no list tokenizer.ggml.{name} of {count:,} entries, one for each token: download it "
                         "again")
    return values


def _id_of(data: Mapping[str, Any], name: str, count: int) -> int | None:
    number = data.get(name)
    if number is not None and (type(number) is not int or not 0 <= number < count):
        raise ValueError(f"its tokenizer.ggml.{name} is {number!r:.40}: it has {count:,} tokens")
    return number


def _named(data: Mapping[str, Any], count: int) -> dict[str, int]:
    """The ids of the special tokens that have a part."""
    keys = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id",
            "pad_token": "padding_token_id"}
    return {name: number for name, key in keys.items() if (number := _id_of(data, key, count)) is not None}


def _kinds(data: Mapping[str, Any], count: int) -> list[int]:
    """The type of each token; without a list, those with a part are special."""
    if "token_type" in data:
        return _list(data, "token_type", count, int)
    special = set(_named(data, count).values())
    return [TokenKind.CONTROL if number in special else 1 for number in range(count)]


def _added(tokens: Sequence[str], kinds: Sequence[int]) -> list[dict[str, Any]]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)  # transformers wants all of them
    return [{"content": token, "id": number, "special": kind != TokenKind.USER_DEFINED, **flags}
            for number, (token, kind) in enumerate(zip(tokens, kinds))
            if kind in (TokenKind.UNKNOWN, TokenKind.CONTROL, TokenKind.USER_DEFINED) and token]


def _vocabulary(tokens: Sequence[str]) -> dict[str, int]:
    """Ids by token. Raises ValueError for a token that occurs twice, which then has no certain id."""
    ids: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if ids.setdefault(token, number) != number:
            raise ValueError(f"its tokens {ids[token]} and {number} are both {token[:40]!r}")
    return ids


def _byte_level(data: Mapping[str, Any], tokens: Sequence[str], pre: str) -> dict[str, Any]:
    """A byte-level BPE's description."""
    merges = data.get("merges")
    if not isinstance(merges, list):
        raise ValueError("it has no list tokenizer.ggml.merges: download it again")
    kinds = _kinds(data, len(tokens))
    spelling = {byte: character for character, byte in byte_alphabet().items()}
    alphabet = set(spelling.values())
    spelled = [token if kind != 1 or alphabet.issuperset(token) else
               "".join(spelling[byte] for byte in token.encode()) for token, kind in zip(tokens, kinds)]
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    cut, (pieces, ignores_merges) = [], PIECES[pre]
    if pieces == "digits":
        cut = [{"type": "Digits", "individual_digits": True}]
    elif pieces:
        cut = [{"type": "Split", "pattern": {"Regex": pieces}, "behavior": "Isolated", "invert": False}]
    last = {**bytes_, "use_regex": pieces in (None, "digits")}
    return {"version": "1.0", "added_tokens": _added(spelled, kinds), "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*cut, last]}, "post_processor": None,
            "decoder": {**bytes_, "use_regex": True},
            "model": {"type": "BPE", "vocab": _vocabulary(spelled), "merges": merges,
                      "ignore_merges": ignores_merges}}


def _sentencepiece(data: Mapping[str, Any], tokens: Sequence[str], gemma: bool) -> dict[str, Any]:
    """The description of a vocabulary with scores: llama.cpp, and SentencePiece's BPE before it, merge the pair whose
    product has the best score. So each way to make a token is a merge, the best token first."""
    scores, kinds = _list(data, "scores", len(tokens), (int, float)), _kinds(data, len(tokens))
    if gemma:  # its scores are not in the order of its merges, its ids are; and it spells runs of spaces as spaces
        scores = [-number for number in range(len(tokens))]
        tokens = ["\u2581" * len(token) if token.strip(" ") == "" else token for token in tokens]
    ids = _vocabulary(tokens)
    first = bool(data.get("add_space_prefix", not gemma))
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    decoder = [{**space, "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if first:
        decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    before = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first" if first else "never",
              "split": False}
    if gemma and not first:
        before = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    unknown = _named(data, len(tokens)).get("unk_token")
    return {"version": "1.0", "added_tokens": _added(tokens, kinds), "normalizer": space if gemma else None,
            "pre_tokenizer": before, "post_processor": None, "decoder": {"type": "Sequence", "decoders": decoder},
            "model": {"type": "BPE", "vocab": ids, "merges": [list(pair) for pair in _merges(ids, scores)],
                      "unk_token": tokens[unknown] if gemma and unknown is not None else None,
                      "fuse_unk": True, "byte_fallback": True}}


def _merges(ids: Mapping[str, int], scores: Sequence[float]) -> Iterator[tuple[str, str]]:
    """Each pair of tokens that makes a token: the best first; of a token's pairs, that with the longest left part."""
    pairs = [(left, right, scores[number]) for token, number in ids.items() for place in range(1, len(token))
             if (left := token[:place]) in ids and (right := token[place:]) in ids]
    for left, right, _ in sorted(pairs, key=lambda pair: (-pair[2], -len(pair[0]), -len(pair[1]))):
        yield left, right
