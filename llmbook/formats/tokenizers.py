"""Tokenizers of Hugging Face folders and GGUF files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tiktoken

from .gguf import GGUFCheckpoint

# How a tokenizer cuts text into pieces before it merges bytes inside each of them.
_GPT2_PIECES = (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
_SMOLLM_PIECES = (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+"  # digits one by one
                  r"|\s+(?![^\s\p{N}])|\s+")
_LLAMA3_PIECES = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
_QWEN2_PIECES = _LLAMA3_PIECES.replace("{1,3}", "")
_GGUF_PIECES = {"gpt-2": _GPT2_PIECES, "smollm": _SMOLLM_PIECES, "llama-bpe": _LLAMA3_PIECES,
                "qwen2": _QWEN2_PIECES}


def _byte_alphabet() -> dict[str, int]:
    """The visible character that GPT-2's vocabulary files write for each byte."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    return {**{chr(byte): byte for byte in visible},
            **{chr(256 + place): byte for place, byte in enumerate(others)}}


def _byte_tokenizer(name: str, tokens: Mapping[str, int], special: Mapping[str, int],
                    merges: Sequence[str], pieces: str) -> tiktoken.Encoding:
    """A byte-level BPE vocabulary, as a tiktoken encoding.

    Args:
        tokens: the id of each token, in GPT-2's alphabet for bytes. special: of each special one.
        merges: "left right" of each merge, first merge first.
        pieces: regular expression of what is merged on its own.

    Raises ValueError if the merges are not in the order of the ids: tiktoken merges in that order.
    """
    alphabet = _byte_alphabet()
    ids = [tokens[merge.replace(" ", "")] for merge in merges]
    if any(later <= earlier for earlier, later in zip(ids, ids[1:])):
        raise ValueError("its merges are not in the order of its token ids")
    ranks = {bytes(alphabet[character] for character in token): number
             for token, number in tokens.items() if token not in special}
    gaps = sorted(set(range(max(tokens.values()))) - set(tokens.values()))
    unused = {f"<|unused_{number}|>": number for number in gaps}
    return tiktoken.Encoding(name, pat_str=_without_missing_bytes(pieces, ranks),
                             mergeable_ranks=ranks, special_tokens={**special, **unused})


def _without_missing_bytes(pieces: str, ranks: Mapping[bytes, int]) -> str:
    """Leave out of every piece the characters whose bytes are no tokens, as other tokenizers do.

    SmolLM2's vocabulary lacks a few control characters and the first bytes of unassigned planes.
    """
    missing = [byte for byte in range(0x80) if bytes([byte]) not in ranks]
    gone = "".join(f"\\x{byte:02x}" for byte in missing)
    planes = {0xF0: (0x10000, 0x3FFFF), 0xF1: (0x40000, 0x7FFFF), 0xF2: (0x80000, 0xBFFFF),
              0xF3: (0xC0000, 0xFFFFF), 0xF4: (0x100000, 0x10FFFF)}
    gone += "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for byte, (first, last) in planes.items()
                    if bytes([byte]) not in ranks)
    return pieces.replace(r"[^\s\p{L}\p{N}]+", rf"[^\s\p{{L}}\p{{N}}{gone}]+") if gone else pieces


class HubTokenizer:
    """Any tokenizer.json, run by Hugging Face's `tokenizers`, with the calls of tiktoken we use.

    Raises ImportError if the package `tokenizers` is missing, ValueError if the file is damaged.
    """

    def __init__(self, path: Path):
        self._tokenizer = _open_tokenizer(path)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {token.content: number for number, token in added.items() if token.special}

    @property
    def n_vocab(self) -> int:
        return self._tokenizer.get_vocab_size()

    @property
    def special_tokens_set(self) -> set[str]:
        return set(self._special)

    def encode(self, text: str, allowed_special: Any = (),
               disallowed_special: Any = "all") -> list[int]:
        """Token ids of a text. A special token in it is an error unless allowed, as in tiktoken."""
        every = self.special_tokens_set
        refused = every if disallowed_special == "all" else set(disallowed_special)
        allowed = every if allowed_special == "all" else set(allowed_special)
        if found := [token for token in refused - allowed if token in text]:
            raise ValueError(f"the text holds the special token {found[0]!r}: "
                             "allow it by allowed_special, or take it out")
        if allowed and (found := [token for token in every - allowed if token in text]):
            raise ValueError(f"the text holds {found[0]!r} beside allowed special tokens: "
                             "allow all of them or none")
        self._tokenizer.encode_special_tokens = not allowed  # then they are spelled like any text
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def _open_tokenizer(path: Path) -> Any:
    """A `tokenizers.Tokenizer` that neither pads nor cuts."""
    try:
        from tokenizers import Tokenizer as Runner
    except ImportError:
        raise ImportError(f"{path} needs another package: pip install tokenizers") from None
    try:
        tokenizer = Runner.from_file(str(path))
    except Exception as error:  # the package raises plain Exception
        raise ValueError(f"{path} is not a tokenizer: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


Tokenizer = tiktoken.Encoding | HubTokenizer


def _gguf_tokenizer(checkpoint: GGUFCheckpoint) -> tiktoken.Encoding:
    """The byte-level BPE tokenizer inside a GGUF file."""
    data = {key.removeprefix("tokenizer.ggml."): value
            for key, value in checkpoint.metadata.items()}
    kind, pre = data.get("model"), data.get("pre", "gpt-2")
    if kind != "gpt2" or pre not in _GGUF_PIECES:
        raise ValueError(
            f"{checkpoint.path}: its tokenizer ({kind!r}, {pre!r}) is not supported (only 'gpt2' "
            f"with {', '.join(_GGUF_PIECES)}): load the model's Hugging Face folder instead")
    tokens = {token: number for number, token in enumerate(data["tokens"])}
    kinds = data.get("token_type", [1] * len(tokens))
    special = {token: number for token, number in tokens.items() if kinds[number] != 1}
    return _byte_tokenizer(checkpoint.metadata.get("general.name", checkpoint.path.stem), tokens,
                           special, data["merges"], _GGUF_PIECES[pre])


def _folder_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a Hugging Face folder: by tiktoken where it can, None if there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        model, pieces = data["model"], _pieces_of(data)
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        added = {token["content"]: token["id"] for token in data["added_tokens"]}
        if pieces is not None and all(token["special"] for token in data["added_tokens"]):
            return _byte_tokenizer(folder.name, {**model["vocab"], **added}, added, merges, pieces)
    except (ValueError, KeyError, TypeError):
        pass  # not what tiktoken can run; the general one says what is wrong, if anything is
    return HubTokenizer(path)


def _pieces_of(data: Mapping[str, Any]) -> str | None:
    """The regular expression of a tokenizer.json's pieces; None if more happens than cutting."""
    if data.get("normalizer") or data["model"].get("type") != "BPE":
        return None
    before = data["pre_tokenizer"]
    steps = before["pretokenizers"] if before["type"] == "Sequence" else [before]
    *cuts, last = steps
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    if last["use_regex"]:
        if not cuts:
            return _GPT2_PIECES
        if [cut["type"] for cut in cuts] == ["Digits"] and cuts[0]["individual_digits"]:
            return _SMOLLM_PIECES
    elif [cut["type"] for cut in cuts] == ["Split"] and "Regex" in cuts[0]["pattern"]:
        if cuts[0]["behavior"] == "Isolated" and not cuts[0]["invert"]:
            return cuts[0]["pattern"]["Regex"]
    return None


def _check_tokenizer(tokenizer: Tokenizer | None, vocab_size: int, path: Path) -> None:
    """A few rows of an embedding may be spare, to round its size up; none may be missing."""
    if tokenizer is not None and not vocab_size - 1024 <= tokenizer.n_vocab <= vocab_size:
        raise ValueError(f"{path}: the tokenizer has {tokenizer.n_vocab:,} tokens, the embedding "
                         f"{vocab_size:,}: they belong to different models")
