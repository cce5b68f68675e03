"""What turns text into ids and ids into bytes: Hugging Face's `tokenizers`, and tiktoken where it gives the same ids.

Nothing here has a state that a call changes, so threads can share a tokenizer.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import tiktoken
import tokenizers as hub

from ..tokenizing import encode_text
from .tokenizer_descriptions import Description, byte_alphabet

__all__ = ["EncodingRunner", "GPT2_PIECES", "HubRunner", "Runner", "SMOLLM_PIECES", "pieces_of"]

# How a byte-level tokenizer cuts text into pieces before it merges bytes inside each of them.
GPT2_PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SMOLLM_PIECES = (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+"  # digits one by one
                 r"|\s+(?![^\s\p{N}])|\s+")
_BULK = 100_000  # characters from which on it pays to set tiktoken up, which takes half a second


class Runner(Protocol):
    """Text to ids, ids to bytes."""

    n_vocab: int  # ids are below this
    added: Mapping[str, int]  # tokens that are looked for in a text before all else
    special: Mapping[str, int]  # those of them that stand for no text, but for a place in it
    drops_first_space: bool  # whether a whole text loses the space that was put before it

    def encode(self, parts: Sequence[str | int]) -> list[int]:
        """Ids of a text in parts: strings, in which no special token is seen, and special tokens' ids."""

    def token_bytes(self, number: int) -> bytes | None:
        """What a token adds to a text; None if that depends on its neighbours. Raises KeyError if there is none."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids where `token_bytes` cannot say."""


class EncodingRunner:
    """A tiktoken.Encoding, or any tokenizer with its methods encode and decode."""

    drops_first_space = False

    def __init__(self, encoding: Any):
        self.encoding, self.n_vocab = encoding, encoding.n_vocab
        self.special = {token: encoding.encode(token, allowed_special="all")[0]
                        for token in encoding.special_tokens_set}
        self.added = self.special

    def encode(self, parts: Sequence[str | int]) -> list[int]:
        ids: list[int] = []
        for part in parts:
            ids += [part] if isinstance(part, int) else encode_text(part, self.encoding)
        return ids

    def token_bytes(self, number: int) -> bytes | None:
        of_one = getattr(self.encoding, "decode_single_token_bytes", None)
        return of_one(number) if of_one else None

    def decode(self, ids: Sequence[int]) -> str:
        return self.encoding.decode(ids)


class HubRunner:
    """A description, run by Hugging Face's `tokenizers`; long texts by tiktoken, if it gives the same ids.

    That package looks for special tokens in every text, or, by a switch that all callers share, in none. Here each of
    them goes under a name that nobody can guess, and `encode` writes that name where the special token is meant. Its
    own name is then text like any other.
    """

    def __init__(self, description: Description):
        self.description, self.n_vocab = description, description.n_vocab
        self.added, self.special = description.added, description.special
        self._names = {number: f"\ufdd2{secrets.token_hex(8)}\ufdd3" for number in self.special.values()}
        self._runner = _open(description, {token: self._names[number] for token, number in self.special.items()})
        self._bytes, self.drops_first_space = _spelling(description)
        self._seen, self._quick = 0, None if pieces_of(description) else False

    def encode(self, parts: Sequence[str | int]) -> list[int]:
        self._seen += sum(len(part) for part in parts if isinstance(part, str))
        if self._seen > _BULK and self._quick is None:
            self._quick = _Quick.of(self.description) or False  # two threads would make the same
        if self._quick and all(isinstance(part, int) or self._quick.gives_the_same(part) for part in parts):
            return self._quick.encode(parts)
        text = "".join(part if isinstance(part, str) else self._names[part] for part in parts)
        try:
            return self._runner.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            raise _in_one_line(error, f"a text of {len(text):,} characters cannot be encoded") from None

    def token_bytes(self, number: int) -> bytes | None:
        return None if self._bytes is None else self._bytes[number]

    def decode(self, ids: Sequence[int]) -> str:
        text = self._runner.decode(list(ids), skip_special_tokens=False)
        for token, number in self.special.items():
            text = text.replace(self._names[number], token)
        return text


def _in_one_line(error: BaseException, what: str) -> BaseException:
    """The package raises plain Exception, and a panic of its Rust code, which is none: both become a ValueError."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return ValueError(f"{what}: {' '.join(str(error).split())[:200]}")
    return error


def _open(description: Description, names: Mapping[str, str]) -> hub.Tokenizer:
    """A runner in which special tokens have other names."""
    content, model = description.content, description.content["model"]
    added = [{**token, "content": names.get(token["content"], token["content"])}
             for token in content["added_tokens"]]
    rest = {**content, "added_tokens": [], "post_processor": None}
    try:
        if model["type"] == "BPE":  # built from objects: as JSON, a large vocabulary takes seconds
            ids = {**description.vocabulary, **description.added}
            options = {name: model[name] for name in ("unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                                                      "fuse_unk", "byte_fallback", "ignore_merges") if model.get(name)}
            if options.get("unk_token") in names:
                options["unk_token"] = names[options["unk_token"]]
            merges = [pair for pair in description.merges if names.keys().isdisjoint((*pair, "".join(pair)))]
            runner = hub.Tokenizer.from_str(json.dumps({**rest, "model": {"type": "BPE", "vocab": {}, "merges": []}}))
            runner.model = hub.models.BPE({names.get(token, token): number for token, number in ids.items()}, merges,
                                          **options)
            for token in added:
                flags = {name: bool(token.get(name)) for name in ("single_word", "lstrip", "rstrip", "normalized")}
                entry = hub.AddedToken(token["content"], special=bool(token.get("special")), **flags)
                (runner.add_special_tokens if token.get("special") else runner.add_tokens)([entry])
        else:
            runner = hub.Tokenizer.from_str(json.dumps({**content, "post_processor": None, "added_tokens": added,
                                                        "model": _with_names(model, names)}))
    except BaseException as error:
        raise _in_one_line(error, "the package tokenizers does not accept it") from None
    for token in added:
        if (number := runner.token_to_id(token["content"])) != token["id"]:
            raise ValueError(f"its added token {token['content'][:40]!r} gets the id {number}, not {token['id']}")
    runner.no_padding()
    runner.no_truncation()
    return runner


def _with_names(model: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A model whose special tokens have other names."""
    vocab = model["vocab"]
    if isinstance(vocab, list):
        vocab = [[names.get(token, token), score] for token, score in vocab]
    else:
        vocab = {names.get(token, token): number for token, number in vocab.items()}
    unknown = {"unk_token": names.get(model["unk_token"], model["unk_token"])} if "unk_token" in model else {}
    return {**model, "vocab": vocab, **unknown}


def _spelling(description: Description) -> tuple[dict[int, bytes] | None, bool]:
    """The bytes of each token, None if they depend on its neighbours; and whether a text loses its first space."""
    steps = description.decoder_steps
    kinds = [step["type"] for step in steps]
    added = {number: token.encode("utf-8", "replace") for token, number in description.added.items()}
    if kinds == ["ByteLevel"]:
        alphabet = byte_alphabet()
        return {number: _visible_bytes(token, alphabet) for token, number in description.vocabulary.items()
                } | added, False
    first, falls_back = False, False
    if kinds == ["Metaspace"]:
        sign, first = steps[0].get("replacement"), steps[0].get("prepend_scheme", "always") != "never"
    elif kinds in (["Replace", "ByteFallback", "Fuse"], ["Replace", "ByteFallback", "Fuse", "Strip"]):
        sign, first, falls_back = (steps[0].get("pattern") or {}).get("String"), kinds[-1] == "Strip", True
        strip = steps[-1]
        if steps[0].get("content") != " " or (first and [strip.get(name) for name in ("content", "start", "stop")]
                                              != [" ", 1, 0]):
            return None, False
    else:
        return None, False
    if not isinstance(sign, str) or not sign:
        return None, False
    single = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)} if falls_back else {}
    return {number: single.get(token) or token.replace(sign, " ").encode("utf-8", "replace")
            for token, number in {**description.vocabulary, **description.added}.items()}, first


def _visible_bytes(token: str, alphabet: Mapping[str, int]) -> bytes:
    """A token's bytes from GPT-2's alphabet; in UTF-8 if it is not written in that."""
    try:
        return bytes(alphabet[character] for character in token)
    except KeyError:
        return token.encode("utf-8", "replace")


# --- plain byte-level BPE, by tiktoken -----------------------------------------------------------------------------

class _Quick:
    """A plain byte-level BPE, run by tiktoken, and the texts for which it gives the ids of `tokenizers`."""

    def __init__(self, description: Description, pieces: str):
        alphabet = byte_alphabet()
        ranks = {_visible_bytes(token, alphabet): number for token, number in description.vocabulary.items()
                 if token not in description.special}
        self._nfc = bool(description.content.get("normalizer"))
        self._user_defined = [token for token in description.added if token not in description.special]
        missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
        self._other = _characters_with(missing)
        for byte in missing:  # tiktoken wants all; none of these comes up: see `gives_the_same`
            ranks[bytes([byte])] = description.n_vocab + byte
        self._encoding = tiktoken.Encoding("quick", pat_str=pieces, mergeable_ranks=ranks, special_tokens={})

    @classmethod
    def of(cls, description: Description) -> _Quick | None:
        """None if a text may get other ids.

        tiktoken merges in the order of the ids and knows no merge but by what it makes. So each token must come from
        one merge, of older tokens, and the merges must be in the order of their ids. Then the two can only differ
        if a token is not what merging its own bytes gives: see the proof in the tests.
        """
        vocabulary = description.vocabulary
        special, alphabet = description.special, byte_alphabet()
        plain = {token: number for token, number in vocabulary.items() if token not in special}
        made = [vocabulary[left + right] for left, right in description.merges]
        older = all(all(len(part) == 1 or vocabulary[part] < number for part in pair)
                    for pair, number in zip(description.merges, made))
        if not older or any(later <= earlier for earlier, later in itertools.pairwise(made)) or len(made) != sum(
                len(token) > 1 for token in plain) or not all(alphabet.keys() >= set(token) for token in plain):
            return None
        merger = hub.models.BPE(vocabulary, description.merges)
        if any([part.id for part in merger.tokenize(token)] != [number] for token, number in plain.items()):
            return None
        return cls(description, pieces_of(description))

    def gives_the_same(self, text: str) -> bool:
        if self._other and self._other.search(text) or any(token in text for token in self._user_defined):
            return False
        return not self._nfc or text.isascii() or unicodedata.is_normalized("NFC", text)

    def encode(self, parts: Sequence[str | int]) -> list[int]:
        ids: list[int] = []
        for part in parts:
            ids += [part] if isinstance(part, int) else encode_text(part, self._encoding)
        return ids


def _characters_with(missing: Sequence[int]) -> re.Pattern[str] | None:
    """Finds characters some of whose bytes in UTF-8 are among `missing`, and perhaps others beyond ASCII; None for
    none. Other tokenizers leave such bytes out; SmolLM2's vocabulary lacks some control characters, for example."""
    ascii_ones = "".join(re.escape(chr(byte)) for byte in missing if byte < 0x80)
    first = {0xF4: 0x100000, 0xF3: 0xC0000, 0xF2: 0x80000, 0xF1: 0x40000, 0xF0: 0x10000}  # by the first byte
    beyond = [first.get(byte, 0x800 if 0xE0 <= byte < 0xF0 else 0x80) for byte in missing
              if 0x80 <= byte < 0xC0 or 0xC2 <= byte < 0xF5]  # no other byte occurs in UTF-8
    if beyond:
        ascii_ones += f"{chr(min(beyond))}-\U0010ffff"
    return re.compile(f"[{ascii_ones}]") if ascii_ones else None


def pieces_of(description: Description) -> str | None:
    """The regular expression of a byte-level BPE's pieces; None if more happens than cutting and merging."""
    content, model = description.content, description.content["model"]
    before, normalizer = content.get("pre_tokenizer"), content.get("normalizer")
    if model["type"] != "BPE" or not before or (normalizer and normalizer.get("type") != "NFC"):
        return None
    if any(model.get(option) for option in ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback",
                                            "unk_token")):
        return None
    if any(token.get(flag) for token in content["added_tokens"] for flag in ("single_word", "lstrip", "rstrip")):
        return None
    try:
        *cuts, last = before["pretokenizers"] if before["type"] == "Sequence" else [before]
        if last["type"] != "ByteLevel" or last["add_prefix_space"]:
            return None
        if last.get("use_regex", True):
            if not cuts:
                return GPT2_PIECES
            if [cut["type"] for cut in cuts] == ["Digits"] and cuts[0]["individual_digits"]:
                return SMOLLM_PIECES
        elif [cut["type"] for cut in cuts] == ["Split"] and "Regex" in cuts[0]["pattern"]:
            if cuts[0]["behavior"] == "Isolated" and not cuts[0]["invert"]:
                return cuts[0]["pattern"]["Regex"]
    except (LookupError, TypeError, ValueError):
        pass  # HubRunner says what is wrong, if anything is
    return None
