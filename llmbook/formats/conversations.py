"""A conversation and the model that reads it: what fits its context, and what it has read already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..protocols import Cache
from .chat_templates import Template, encode_chat
from .pretrained_tokenizer import adapt

__all__ = ["ReadSoFar", "answer_ends", "common_prefix", "fit_conversation"]

_FEWEST = 512  # tokens that a cache has room for at first


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
                     template: Template, context_length: int, max_new_tokens: int) -> tuple[list[Any], list[int]]:
    """The messages that fit a context together with a new one and its answer, and the ids of all of them.

    A system message stays; of the others, the oldest go, a question and its answer at a time. Raises ValueError for a
    message that is empty, or does not fit alone.
    """
    if not said["content"].strip():
        raise ValueError("the message is empty: say something")
    messages = list(messages)
    first = int(bool(messages) and messages[0]["role"] == "system")
    while True:
        ids = encode_chat(tokenizer, [*messages, said], template=template)
        if len(ids) + max_new_tokens <= context_length:
            return messages, ids
        if len(messages) == first:
            raise ValueError(f"the message needs {len(ids):,} tokens and the answer {max_new_tokens:,}, the context "
                             f"has {context_length:,}: shorten it, or lower max_new_tokens")
        del messages[first : first + 2]


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
        self.cache.rewind(same)
        self.ids = list(ids)
        return self.cache

    def add(self, token: int) -> None:
        """Note a token that was generated after `ids`."""
        self.ids.append(token)

    def _larger(self, needed: int, same: int) -> Cache:
        """A cache with room to spare, and in it the first `same` tokens of the old one."""
        room = min(self.model.config.context_length, max(_FEWEST, needed + needed // 2))
        new, old = self.model.new_cache(1, room), self.cache
        if old is not None and same:
            for layer in range(len(old.keys)):
                new.append(layer, old.keys[layer, :, :, :same], old.values[layer, :, :, :same])
        return new

    def _state_of_weights(self) -> list[tuple[int, int]]:
        """Changes whenever a weight does."""
        return [(weight.data_ptr(), 0 if weight.is_inference() else weight._version)
                for weight in self.model.parameters()]
