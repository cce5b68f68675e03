"""A conversation and the model that reads it: what fits its context, and what it has read already."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from ..caching import KeyValueCache
from ..protocols import Cache
from ..state_cache import LayerCaches
from .chat_templates import Template, encode_chat
from .pretrained_tokenizer import PretrainedTokenizer, adapt

__all__ = ["ReadSoFar", "answer_ends", "as_read", "common_prefix", "fit_conversation"]

_FEWEST = 2048  # tokens that a cache has room for at first: more than most conversations need


def answer_ends(tokenizer: Any, stop: str | None = None) -> tuple[int, ...]:
    """The tokens that end an answer: the special token `stop`, or all that the model's files name.

    Raises ValueError if there is no such token.
    """
    known = adapt(tokenizer)
    if stop is not None and stop not in known.special_tokens_set:
        raise ValueError(f"{stop!r} is no special token of this tokenizer: give template and stop as the model was "
                         "trained with them, or another model")
    ends = known.end_ids if stop is None else (known.runner.special[stop],)
    if not ends:
        raise ValueError("the tokenizer has no token that ends an answer: name one by stop, or give another model")
    return ends


def fit_conversation(tokenizer: Any, messages: Sequence[Mapping[str, Any]], said: Mapping[str, Any],
                     template: Template, read_so_far: ReadSoFar, max_new_tokens: int) -> tuple[list[Any], list[int]]:
    """The messages that fit a context together with a new one and its answer, and the ids of all of them.

    A system message stays. If the rest does not fit, the oldest turns go, a question and its answer at a time, until
    half of the room is free; the latest turn stays wherever it fits. What is left must be read anew, since all of it
    has moved. Half of the room is enough for several turns more, so this stays rare.

    Args:
        said: the new message.
        read_so_far: what the model has read of the conversation. Parts with the same text keep their ids (`as_read`).

    Raises ValueError for a message that is empty, or does not fit alone.
    """
    if not said["content"].strip():
        raise ValueError("the message is empty: say something")
    first = int(bool(messages) and messages[0]["role"] == "system")
    turns, context_length = (len(messages) - first + 1) // 2, read_so_far.model.config.context_length
    room = context_length - max_new_tokens

    def without(gone: int) -> tuple[list[Any], list[int]]:
        kept = [*messages[:first], *messages[first + 2 * gone :]]
        return kept, as_read(encode_chat(tokenizer, [*kept, said], template=template), read_so_far.ids, tokenizer)

    kept, ids = without(0)
    if len(ids) > room:
        gone = bisect_left(range(turns), True, key=lambda gone: len(without(gone)[1]) <= room // 2)
        kept, ids = without(min(gone, max(0, turns - 1)))
    if len(ids) > room:
        kept, ids = without(turns)
    if len(ids) > room:
        raise ValueError(f"the message needs {len(ids):,} tokens and the answer {max_new_tokens:,}, the context "
                         f"has {context_length:,}: shorten it, or lower max_new_tokens")
    return kept, ids


def as_read(ids: Sequence[int], read: Sequence[int], tokenizer: Any) -> list[int]:
    """A conversation's ids, spelled as the model has read it, as far as it has.

    A text can be cut into tokens in many ways, and a model that samples does not always choose the tokenizer's. The
    cache holds what the model chose. So, from the beginning on, each part between two special tokens takes its ids
    from `read` if it has the same text there. The first part that has not, and all that follow, keep their own.
    """
    known, result, done = adapt(tokenizer), [], 0
    special = frozenset(known.runner.special.values())
    for new, old in zip(_parts(ids, special), _parts(read, special)):
        if new != old and _text(new, special, known) != _text(old, special, known):
            break
        result += old
        done += len(new)
    return [*result, *ids[done:]]


def _parts(ids: Sequence[int], special: frozenset[int]) -> Iterator[list[int]]:
    """Ids, cut before each special token."""
    cuts = [place for place, token in enumerate(ids) if place and token in special]
    for start, end in zip([0, *cuts], [*cuts, len(ids)]):
        yield list(ids[start:end])


def _text(part: list[int], special: frozenset[int], tokenizer: PretrainedTokenizer) -> tuple[list[int], str]:
    """A part's special token and the text after it; the ids alone where a token's text depends on its neighbours."""
    opening = [token for token in part[:1] if token in special]
    words = [tokenizer.token_bytes(token) for token in part[len(opening) :]]
    return (part, "") if None in words else (opening, b"".join(words).decode("utf-8", "replace"))


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two rows have in common from the beginning on."""
    pairs = zip(first, second)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


class ReadSoFar:
    """A model's cache for one conversation, and the ids that it holds.

    Attributes:
        ids: what was read, and what was generated since. cache: None before the first turn.
    """

    def __init__(self, model: nn.Module):
        self.model, self.cache, self.ids = model, None, []
        self._weights = self._state_of_weights()

    def recall(self, ids: Sequence[int], max_new_tokens: int) -> Cache:
        """The cache, taken back to where `ids` still agree with what was read, with room for so many tokens more.

        At least the last id is left to be read, since its features choose the first new token.
        """
        if (weights := self._state_of_weights()) != self._weights:
            self.cache, self._weights = None, weights  # trained or moved: what the old weights made of it is no use
        needed = min(self.model.config.context_length, len(ids) + max_new_tokens)
        same = 0 if self.cache is None else min(common_prefix(self.ids[: self.cache.length], ids), len(ids) - 1)
        if self.cache is None or getattr(self.cache, "max_tokens", needed) < needed:
            self.cache = self._larger(needed, same)
        self.cache.rewind(min(same, self.cache.length))
        self.ids = list(ids)
        return self.cache

    def add(self, token: int) -> None:
        """Note a token that was generated after `ids`."""
        self.ids.append(token)

    def _larger(self, needed: int, same: int) -> Cache:
        """A cache with room to spare, and in it the first `same` tokens of the old one, or as many as its states allow.

        Its room doubles, so that each token is copied once on average, and a compiled model meets few sizes.
        """
        room = _FEWEST
        while room < needed:
            room *= 2
        room, old = min(room, self.model.config.context_length), self.cache
        if isinstance(old, LayerCaches):
            return old.beginning(same, room)
        new = self.model.new_cache(1, room)
        if isinstance(old, KeyValueCache) and same:
            for layer in range(len(old.keys)):
                new.append(layer, old.keys[layer, :, :, :same], old.values[layer, :, :, :same])
        return new

    def _state_of_weights(self) -> list[tuple[int, int]]:
        """Changes whenever a weight does."""
        return [(weight.data_ptr(), 0 if weight.is_inference() else weight._version)
                for weight in self.model.parameters()]
