"""What a model of mixed layers keeps of the texts that it has read: keys and values, the last few of them, or a state.

Each layer has a cache of its own, and each is a `llmbook.protocols.Cache`. A state cannot be un-read: what a token did
to it stays mixed with all the rest. So a cache of states goes back to the newest place that it still remembers, at or
before the one that is asked for, and whoever reads on begins at its `length`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .caching import KeyValueCache

__all__ = ["LayerCaches", "StateCache", "WindowCache"]

Kind = TypeVar("Kind", bound="StateCache")


class StateCache:
    """The state of one recurrent layer: some tensors of fixed size, replaced at each pass.

    Args:
        batch_size: texts that are read side by side.
        padding: (batch_size,), how many places at the left of each row hold no token. None: no row has any.
        remembered: how many earlier states are kept, so that the cache can go back to their places.

    Attributes:
        length: tokens read so far, left padding included.
        states: what the layer handed over last, each (batch, ...); None before the first token.
    """

    def __init__(self, batch_size: int, padding: Tensor | None = None, remembered: int = 8):
        if padding is not None and padding.shape != (batch_size,):
            raise ValueError(f"padding has shape {tuple(padding.shape)}: give one number for each of the {batch_size} "
                             "rows")
        self.batch_size, self.padding, self.remembered = batch_size, padding, remembered
        self.length, self.states = 0, None
        self._earlier: list[tuple[int, tuple[Tensor, ...] | None]] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the state itself; earlier ones not counted."""
        return sum(state.nbytes for state in self.states or ())

    @property
    def held_bytes(self) -> int:
        """Bytes of the state and of those earlier ones that it can go back to."""
        return self.nbytes + sum(state.nbytes for _, states in self._earlier for state in states or ())

    def holding(self: Kind, states: tuple[Tensor, ...] | None, length: int, batch_size: int,
                padding: Tensor | None = None) -> Kind:
        """A cache for the same layer that holds other texts: these states, each (batch_size, ...), after `length`
        tokens, and no earlier ones."""
        cache = copy.copy(self)
        cache.states, cache.length, cache.batch_size, cache.padding = states, length, batch_size, padding
        cache._earlier = []
        return cache

    def beginning(self: Kind, length: int, max_tokens: int) -> Kind:
        """A cache of its own that has gone back to `reachable(length)`. A state is replaced and never changed, so both
        may hold the same tensors. `max_tokens` is there because attention's caches have a room."""
        cache = copy.copy(self)
        cache.rewind(length)
        return cache

    def update(self, tokens: int, *states: Tensor) -> None:
        """Take the states after `tokens` more, each (batch, ...). Raises ValueError, with nothing taken, if they are of
        another number of rows, or would need gradients."""
        for state in states:
            if len(state) != self.batch_size:
                raise ValueError(f"the state has {len(state)} rows, the cache {self.batch_size}: make one with "
                                 "new_cache(batch_size) for each batch of texts")
            if state.requires_grad:
                raise ValueError("the state needs gradients, which a cache cannot keep: read under torch.no_grad()")
        self._earlier = [*self._earlier, (self.length, self.states)][-self.remembered:] if self.remembered else []
        self.states, self.length = states, self.length + tokens

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, (kept,) of int64, in this order; a row may come twice."""
        rows = torch.as_tensor(rows)
        if rows.dim() != 1 or rows.dtype != torch.int64:
            raise ValueError(f"rows are {tuple(rows.shape)} of {rows.dtype}: give the numbers of the rows to keep, "
                             "(kept,) of torch.int64")
        self.states = _chosen(self.states, rows)
        self._earlier = [(length, _chosen(states, rows)) for length, states in self._earlier]
        self.padding = None if self.padding is None else self.padding[rows.to(self.padding.device)]
        self.batch_size = len(rows)

    def reachable(self, length: int) -> int:
        """The newest place at or before `length` whose state is remembered; 0, before the first token, always is."""
        places = [self.length, *(place for place, _ in self._earlier)]
        return max((place for place in places if place <= length), default=0)

    def rewind(self, length: int) -> None:
        """Go back to `reachable(length)`. Raises ValueError if it holds fewer than `length` tokens."""
        _check_place(self, length)
        place = self.reachable(length)
        if place < self.length:
            known = dict(self._earlier)
            self.states, self.length = known.get(place), place
            self._earlier = [(earlier, states) for earlier, states in self._earlier if earlier < place]

    def filled(self, tokens: int) -> Tensor | None:
        """Which of the next `tokens` places hold a token, (batch, tokens, 1) of bool; None if all do."""
        if self.padding is None or (self.length and self.length >= int(self.padding.max())):
            return None
        places = torch.arange(self.length, self.length + tokens, device=self.padding.device)
        return (places >= self.padding[:, None])[:, :, None]


class WindowCache(StateCache):
    """Keys and values of the last tokens that a layer with a window still looks at, and of no other.

    Args:
        window: how many tokens each one sees, itself included. batch_size, padding, remembered: as for `StateCache`.
    """

    def __init__(self, window: int, batch_size: int, padding: Tensor | None = None, remembered: int = 8):
        super().__init__(batch_size, padding, remembered)
        self.window = window

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """New keys and values, each (batch, heads, tokens, d_head), behind those that are kept: both together. What the
        next token will not see is dropped. `layer` is not needed; `MultiHeadAttention` gives it."""
        tokens = keys.shape[2]
        if self.states is not None:
            if len(keys) != self.batch_size:
                self.update(tokens, keys, values)  # says what is wrong
            keys, values = (torch.cat(pair, dim=2) for pair in zip(self.states, (keys, values)))
        first = max(0, keys.shape[2] - (self.window - 1))
        self.update(tokens, keys[:, :, first:].clone(), values[:, :, first:].clone())
        return keys, values

    def mask(self, tokens: int) -> Tensor | None:
        """As `KeyValueCache.mask`, for the places that are kept and the next `tokens`."""
        if self.padding is None:
            return None
        kept = 0 if self.states is None else self.states[0].shape[2]
        places = torch.arange(self.length - kept, self.length + tokens, device=self.padding.device)
        filled = places >= self.padding[:, None]  # (batch, kept + tokens)
        itself = places[kept:, None] == places  # softmax over nothing would be NaN
        return filled[:, None, None] | itself


class LayerCaches:
    """The caches of a model's layers, one for each, as one cache.

    Args:
        layers: in the model's order, each a `KeyValueCache` of one layer, a `WindowCache` or a `StateCache`.
        max_tokens: the most that the model may read.
        padding: as the layers have it.
    """

    def __init__(self, layers: Sequence[KeyValueCache | StateCache], max_tokens: int, padding: Tensor | None = None):
        self.layers, self.max_tokens, self.padding = list(layers), max_tokens, padding

    @property
    def length(self) -> int:
        """Tokens that every layer has read, left padding included."""
        return min(layer.length for layer in self.layers)

    @property
    def held_bytes(self) -> int:
        """Bytes of all that the layers hold, earlier states too."""
        return sum(layer.held_bytes for layer in self.layers)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, (kept,) of int64, in this order; a row may come twice."""
        rows = torch.as_tensor(rows)
        for layer in self.layers:
            layer.select(rows)
        self.padding = None if self.padding is None else self.padding[rows.to(self.padding.device)]

    def reachable(self, length: int) -> int:
        """The newest place at or before `length` that all layers can go back to."""
        place, before = length, None
        while place != before:  # until all agree
            before = place
            for layer in self.layers:
                place = layer.reachable(place)
        return place

    def rewind(self, length: int) -> None:
        """Go back to `reachable(length)`: see `length` afterwards. Raises ValueError if it holds fewer."""
        _check_place(self, length)
        place = self.reachable(length)
        for layer in self.layers:
            layer.rewind(place)

    def beginning(self, length: int, max_tokens: int) -> LayerCaches:
        """A cache of its own that has gone back to `reachable(length)`, with room for `max_tokens`."""
        place = self.reachable(length)
        return LayerCaches([layer.beginning(place, max_tokens) for layer in self.layers], max_tokens, self.padding)

    def positions(self, tokens: int) -> Tensor:
        """The positions of the next `tokens` in their texts: (tokens,), or with padding (batch, tokens), where padding
        itself stands at 0."""
        device = None if self.padding is None else self.padding.device
        places = torch.arange(self.length, self.length + tokens, device=device)
        return places if self.padding is None else (places - self.padding[:, None]).clamp(min=0)


def _chosen(states: tuple[Tensor, ...] | None, rows: Tensor) -> tuple[Tensor, ...] | None:
    return None if states is None else tuple(state[rows.to(state.device)] for state in states)


def _check_place(cache: StateCache | LayerCaches, length: int) -> None:
    if not 0 <= length <= cache.length:
        raise ValueError(f"a cache of {cache.length} tokens cannot go back to {length}: give 0 to {cache.length}")
