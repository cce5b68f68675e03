"""What surrounds a byte-pair encoding in use: text of any size and content to ids and back, tokenizers from merges and
from files. How the merges are learned is `llmbook.text`, which hands these functions on."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import regex
import tiktoken

from .files import replace_file

if TYPE_CHECKING:  # a process that only encodes need not wait for PyTorch
    from .protocols import Tokenizer

__all__ = ["bpe_merges", "decode_text", "encode_array", "encode_iterable", "encode_text", "read_merges",
           "read_tokenizer", "save_tokenizer", "tokenizer_from_merges", "utf8"]

_LONG_SPACE = 100_000  # characters; tiktoken's regular expressions overflow at about 500,000
_LARGEST_ID = 2**24  # of a special token in a file: a larger one is a mistake that would exhaust the memory


# --- text to ids and back ------------------------------------------------------------------------------------------

def utf8(text: str) -> bytes:
    """A text's UTF-8. Raises ValueError if it has none, because it holds half of a surrogate pair."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start} ({text[error.start]!r}) has no UTF-8: it is half of a surrogate "
                         "pair, take it out") from None


def encode_text(text: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of a text, of any size and content. What looks like a special token is plain text.

    Raises:
        ValueError: for half of a surrogate pair, for which tiktoken alone would silently take another character.
    """
    utf8(text)
    if isinstance(tokenizer, tiktoken.Encoding) and _has_long_space(text):
        pieces = regex.finditer(tokenizer._pat_str, text)  # the same pieces as tiktoken's, with no limit
        return [token for piece in pieces for token in tokenizer._encode_single_piece(piece.group())]
    return tokenizer.encode(text, disallowed_special=())


def encode_array(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """As `encode_text`, an array (n,) of integers: tiktoken hands them over as one block, with no object for each."""
    utf8(text)
    if isinstance(tokenizer, tiktoken.Encoding) and not _has_long_space(text):
        return tokenizer.encode_to_numpy(text, disallowed_special=())
    return np.array(encode_text(text, tokenizer), np.int64)


def _has_long_space(text: str) -> bool:
    """Whether there is so much white space in a row that tiktoken would end the process. Much less is fine with it, so
    it is enough to look at blocks of which such a row fills one."""
    starts = range(0, len(text) - _LONG_SPACE + 1, _LONG_SPACE)
    return any(text[start].isspace() and text[start : start + _LONG_SPACE].isspace() for start in starts)


def encode_iterable(texts: Iterable[str], tokenizer: Tokenizer,
                    end_of_text: str | None = "<|endoftext|>") -> Iterator[np.ndarray]:
    """Ids of texts that come one by one, and need not fit into memory together: (n,) of int64 for each.

    Args:
        end_of_text: the special token whose id ends each text; None for none.

    Raises:
        ValueError: as `encode_text`, with the number of the text, from 1; or if the tokenizer has no such special
            token.
    """
    if end_of_text is not None and end_of_text not in tokenizer.special_tokens_set:
        raise ValueError(f"the tokenizer has no special token {end_of_text!r}: name one of its own by end_of_text, or "
                         "pass None")
    end = [] if end_of_text is None else tokenizer.encode(end_of_text, allowed_special="all")
    for number, text in enumerate([texts] if isinstance(texts, str) else texts, 1):
        if not isinstance(text, str):
            raise ValueError(f"text {number} is {text!r:.40}, of type {type(text).__name__}: it must be a string")
        try:
            ids = encode_text(text, tokenizer)
        except ValueError as error:
            raise ValueError(f"text {number}: {error}") from None
        yield np.array(ids + end, np.int64)


def decode_text(token_ids: Iterable[int], tokenizer: Tokenizer) -> str:
    """The text of ids. An id that the tokenizer has no token for becomes U+FFFD: a model's vocabulary may be a little
    larger than its tokenizer's."""
    ids = [int(token) for token in token_ids]
    try:
        return tokenizer.decode(ids)
    except (KeyError, OverflowError):
        return b"".join(_bytes_of(token, tokenizer) for token in ids).decode("utf-8", errors="replace")


def _bytes_of(token: int, tokenizer: Tokenizer) -> bytes:
    try:
        return tokenizer.decode_single_token_bytes(token)
    except (KeyError, OverflowError):
        return "\ufffd".encode()


# --- a tokenizer from merges, and its file -------------------------------------------------------------------------

def tokenizer_from_merges(merges: Iterable[tuple[bytes, bytes]], special_tokens: Sequence[str], pattern: str,
                          name: str = "bpe", byte_order: Sequence[int] = range(256)) -> tiktoken.Encoding:
    """A tokenizer from its merges, first learned first. `llmbook.text.bpe_merges` gives them back.

    Ids 0 to 255 are the single bytes, then one id a merge, last the special tokens.

    Args:
        merges: two tokens each, whose bytes become one token.
        special_tokens: strings with an id of their own.
        pattern: regular expression whose matches are the chunks; no merge crosses two of them.
        byte_order: the byte of each id from 0 to 255. GPT-2's is another than 0, 1, 2, ...

    Raises:
        ValueError: if a merge joins what is no token yet, or gives what is one already.
    """
    ranks = {bytes([byte]): number for number, byte in enumerate(byte_order)}
    for number, (left, right) in enumerate(merges, 1):
        if left not in ranks or right not in ranks or left + right in ranks:
            why = "is a token already" if left + right in ranks else "has a part that is no token"
            raise ValueError(f"merge {number}, {left!r} + {right!r}, {why}: give the merges in the order of learning, "
                             "each once")
        ranks[left + right] = len(ranks)
    specials = {token: len(ranks) + number for number, token in enumerate(special_tokens)}
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)


def bpe_merges(tokenizer: tiktoken.Encoding) -> list[tuple[bytes, bytes]]:
    """The merges of a tokenizer, first learned first: the two tokens that each one joined.

    To find them, apply to a token's bytes only the merges before it: two parts remain.

    Raises:
        ValueError: if a token cannot be made by joining two earlier ones.
    """
    ranks, merges = tokenizer._mergeable_ranks, []
    for token in sorted((token for token in ranks if len(token) > 1), key=ranks.get):
        own, parts = ranks[token], [bytes([byte]) for byte in token]
        while len(parts) > 2:
            joined = [ranks.get(left + right, own) for left, right in zip(parts, parts[1:])]
            if (first := min(joined)) >= own:
                raise ValueError(f"token {own} ({token!r}) of {tokenizer.name!r} is not made by one merge: the "
                                 f"earlier ones leave {len(parts)} parts")
            place = joined.index(first)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        merges.append((parts[0], parts[1]))
    return merges


def read_merges(path: str | Path) -> tuple[list[int], list[tuple[bytes, bytes]]]:
    """The order of the bytes and the merges in a file like OpenAI's `vocab.bpe`: a line for the version, then "left
    right" in each, every byte written as one visible character."""
    visible = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    others = [byte for byte in range(256) if byte not in visible]
    byte_of = {chr(byte): byte for byte in visible} | {chr(256 + number): byte for number, byte in enumerate(others)}
    lines = Path(path).read_text(encoding="utf-8").strip("\n").split("\n")[1:]
    pairs = (line.split(" ") for line in lines)
    return visible + others, [(bytes(map(byte_of.get, left)), bytes(map(byte_of.get, right))) for left, right in pairs]


def save_tokenizer(tokenizer: tiktoken.Encoding, path: str | Path) -> None:
    """Write a tokenizer to a JSON file that `llmbook.text.load_tokenizer` reads.

    It holds the name, the pattern, the special tokens, and the other tokens in the order of their ids, in base64. An
    interrupted call leaves what was at `path` before.

    Raises:
        ValueError: if the ids have gaps, so that the order does not give them, or if it is no byte-pair encoding that
            tiktoken runs.
    """
    if not isinstance(tokenizer, tiktoken.Encoding):
        raise ValueError(f"a {type(tokenizer).__name__} cannot be saved in this format: keep the files that it came "
                         "from")
    tokens = sorted(tokenizer._mergeable_ranks, key=tokenizer._mergeable_ranks.get)
    if [tokenizer._mergeable_ranks[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError(f"the ids of tokenizer {tokenizer.name!r} have gaps: it cannot be saved in this format")
    content = {"name": tokenizer.name, "pattern": tokenizer._pat_str, "special_tokens": tokenizer._special_tokens,
               "tokens": [base64.b64encode(token).decode("ascii") for token in tokens]}
    replace_file(Path(path), json.dumps(content, indent=0).encode("utf-8"))


def read_tokenizer(path: str | Path) -> tiktoken.Encoding:
    """The tokenizer in a file of `save_tokenizer`. Raises ValueError if it is not one, FileNotFoundError without it."""
    try:
        return _tokenizer_of(json.loads(Path(path).read_text(encoding="utf-8-sig")))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, regex.error) as error:
        why = str(error) if type(error) is ValueError else repr(error)
    raise ValueError(f"{path} is not a tokenizer file from save_tokenizer ({why}): give another, or save it again")


def _tokenizer_of(content: dict[str, Any]) -> tiktoken.Encoding:
    """The tokenizer in a file's parsed JSON; any error means that the file is not in order."""
    tokens = [base64.b64decode(token, validate=True) for token in content["tokens"]]
    ranks, specials = {token: number for number, token in enumerate(tokens)}, content["special_tokens"]
    if len({*ranks.values(), *specials.values()}) < len(tokens) + len(specials):
        raise ValueError("a token or an id occurs twice")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ValueError(f"{len(missing)} of the 256 single bytes are missing")
    if not all(token and isinstance(token, str) for token in (content["name"], content["pattern"], *specials)):
        raise ValueError("its name, its pattern or a special token is empty or not text")
    if any(type(number) is not int or not 0 <= number <= _LARGEST_ID for number in specials.values()):
        raise ValueError(f"the ids of its special tokens are {str(list(specials.values()))[:40]}")
    if b"" in ranks:
        raise ValueError("a token is empty")
    regex.compile(content["pattern"])
    return tiktoken.Encoding(content["name"], pat_str=content["pattern"], mergeable_ranks=ranks,
                             special_tokens=specials)
