"""What a tokenizer consists of, as `tokenizer.json` says it, checked before anything is built from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

__all__ = ["Description", "byte_alphabet"]

_LARGEST_GAP = 65_536  # how many ids a file may leave out
_MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")


def byte_alphabet() -> dict[str, int]:
    """The visible character that GPT-2's vocabulary files write for each byte."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    return {**{chr(byte): byte for byte in visible},
            **{chr(256 + place): byte for place, byte in enumerate(others)}}


class Description:
    """The content of a tokenizer.json that is in order: each id once, merges of tokens that there are.

    Attributes:
        content: the whole of it, without padding, truncation and dropout.
        vocabulary: the id of each of the model's tokens.
        added: the id of each token that is looked for in a text before all else.
        special: the id of each of those that stand for no text, but for a place in it.
        merges: pairs of tokens, first merge first; none unless the model is a BPE.
        n_vocab: ids are below this.

    Raises ValueError that says what is wrong.
    """

    def __init__(self, content: Mapping[str, Any]):
        if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
            raise ValueError("it is no object with a model")
        model = dict(content["model"])
        model.setdefault("type", "BPE" if "merges" in model else "WordPiece")
        if model["type"] not in _MODELS:
            raise ValueError(f"its model is {model['type']!r}: only {', '.join(_MODELS)} are known")
        if model["type"] == "BPE":
            model["dropout"] = None
        added = content.get("added_tokens") or []
        self.content = {**content, "truncation": None, "padding": None, "added_tokens": added, "model": model}
        self.vocabulary = _vocabulary(model)
        self.added, self.special = _added_tokens(added)
        self.n_vocab = _count_ids(self.vocabulary, self.added)
        self.merges = list(_merges(model, self.vocabulary)) if model["type"] == "BPE" else []

    @property
    def decoder_steps(self) -> list[Mapping[str, Any]]:
        """What is done to tokens, step by step, to make text of them."""
        return list(_steps(self.content.get("decoder"), "decoders"))

    @property
    def prefix(self) -> tuple[int, ...]:
        """The ids that the file itself puts before a text."""
        ids: list[int] = []
        for step in _steps(self.content.get("post_processor"), "processors"):
            ids = [*_prefix_of(step), *ids]
        return tuple(ids)

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides which ids a text gets."""
        return sha256(json.dumps(self.content, sort_keys=True).encode("utf-8")).hexdigest()[:16]


def _vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    """The id of each of a model's tokens."""
    vocab = model.get("vocab")
    if model["type"] == "Unigram":
        if not isinstance(vocab, list) or not vocab:
            raise ValueError("its vocab is no list of tokens with their scores")
        for place, entry in enumerate(vocab):
            if not isinstance(entry, (list, tuple)) or len(entry) != 2 or not isinstance(entry[0], str) or not (
                    isinstance(entry[1], (int, float))):
                raise ValueError(f"entry {place} of its vocab is {str(entry)[:40]}: a token and its score must stand "
                                 "there")
        unknown = model.get("unk_id")
        if unknown is not None and (type(unknown) is not int or not 0 <= unknown < len(vocab)):
            raise ValueError(f"its unk_id is {unknown!r}: it has {len(vocab):,} tokens")
        return {entry[0]: place for place, entry in enumerate(vocab)}
    if not isinstance(vocab, Mapping):
        raise ValueError("its vocab is no object of tokens and ids")
    _check_ids(vocab.items())
    return dict(vocab)


def _added_tokens(entries: Any) -> tuple[dict[str, int], dict[str, int]]:
    """The ids of all added tokens, and of the special ones among them."""
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError("its added_tokens are no list of objects")
    for entry in entries:
        if not isinstance(entry.get("content"), str) or not entry["content"]:
            raise ValueError(f"the added token {str(dict(entry))[:60]} has no content")
    _check_ids((entry["content"], entry.get("id")) for entry in entries)
    return ({entry["content"]: entry["id"] for entry in entries},
            {entry["content"]: entry["id"] for entry in entries if entry.get("special")})


def _check_ids(entries: Any) -> None:
    for token, number in entries:
        if type(number) is not int or not 0 <= number < 2**31:
            raise ValueError(f"the id of its token {token[:40]!r} is {str(number)[:40]}: ids are whole numbers from 0")


def _count_ids(vocabulary: Mapping[str, int], added: Mapping[str, int]) -> int:
    """One more than the largest id. Raises ValueError for an id that two tokens have, or that is far too large."""
    token_of: dict[int, str] = {}
    for token, number in {**vocabulary, **added}.items():
        if (other := token_of.setdefault(number, token)) != token:
            raise ValueError(f"its tokens {other[:40]!r} and {token[:40]!r} have the same id, {number}")
    for token in added.keys() & vocabulary.keys():
        if added[token] != vocabulary[token]:
            raise ValueError(f"its token {token[:40]!r} has two ids, {vocabulary[token]} and {added[token]}")
    if not token_of:
        raise ValueError("it has no tokens")
    largest = max(token_of)
    if largest >= len(token_of) + _LARGEST_GAP:
        raise ValueError(f"the id of its token {token_of[largest][:40]!r} is {largest:,}, and it has only "
                         f"{len(token_of):,} tokens")
    return largest + 1


def _merges(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """The merges as pairs, which files write as one string or as two."""
    merges, prefix = model.get("merges"), model.get("continuing_subword_prefix") or ""
    if not isinstance(merges, list):
        raise ValueError("its merges are no list")
    for place, merge in enumerate(merges):
        pair = tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) if isinstance(merge, list) else ()
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError(f"merge {place} is {str(merge)[:40]!r}: two tokens must stand there")
        left, right = pair
        for token in (left, right, left + right.removeprefix(prefix)):
            if token not in vocabulary:
                raise ValueError(f"merge {place} is of {token[:40]!r}, which is no token")
        yield left, right


def _steps(step: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """A step, or those of a sequence, which lie under `name`."""
    if step is None:
        return
    if not isinstance(step, Mapping) or not isinstance(step.get("type"), str):
        raise ValueError(f"its {name} hold {str(step)[:40]}: an object with a type must stand there")
    if step["type"] != "Sequence":
        yield step
        return
    if not isinstance(step.get(name), list):
        raise ValueError(f"a sequence of its {name} is no list")
    for part in step[name]:
        yield from _steps(part, name)


def _prefix_of(step: Mapping[str, Any]) -> Iterator[int]:
    """The ids that one post-processor puts before a text."""
    try:
        if step["type"] in ("BertProcessing", "RobertaProcessing"):
            yield step["cls"][1]
        elif step["type"] == "TemplateProcessing":
            for part in step["single"]:
                if "SpecialToken" not in part:
                    return
                yield from step["special_tokens"][part["SpecialToken"]["id"]]["ids"]
    except (LookupError, TypeError) as error:
        raise ValueError(f"its post_processor is not in order ({error!r})") from None

