"""Texts that come and go while a model continues them side by side: the rows of one cache.

Keys and values: all rows end at one place, so that a step writes one column: a short text has padding at its left, as
in `llmbook.text_batch`. A row that joins is copied to the end, a row that leaves gives its place to the last one, and
nothing else is touched. The places before the longest row are cut off by a view; when the room at the right is used up,
all rows move to the left, or into larger tensors.

States have one size, whatever was read. So each row has its own below the others, none has padding, and a row that
joins or leaves makes the few tensors anew. The last keys and values that a window sees are such a state, too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..caching import KeyValueCache
from ..devices import without_dropout
from ..protocols import Cache
from ..state_cache import LayerCaches, StateCache, WindowCache

__all__ = ["Rows", "read_on"]

_FEWEST = 256  # places of a new cache


class Rows:
    """Up to `most` texts and what a model has read of them.

    Args:
        model: a `llmbook.protocols.LanguageModel` whose cache is a `llmbook.caching.KeyValueCache`, or consists of
            those and of states, a `llmbook.state_cache.LayerCaches`.
        most: rows at the same time.

    Attributes:
        lengths: how many tokens each row has had read, one number a row.

    Raises ValueError for a model with another kind of cache.
    """

    def __init__(self, model: nn.Module, most: int):
        cache = model.new_cache(1, 1)
        self._has_layers = type(cache) is LayerCaches
        layers = cache.layers if self._has_layers else [cache]
        for layer in layers:
            if type(layer) not in _PARTS:
                advice = ("serve the model itself, not compiled" if isinstance(layer, KeyValueCache) else
                          "only models that keep keys and values or states, as those of this book, can be served")
                raise ValueError(f"the cache of this model is a {type(layer).__name__}, in which texts cannot come and "
                                 f"go: {advice}")
        self.model, self.most, self.lengths = model, most, []
        self.modules = [*model.modules()]
        self._parts = [_PARTS[type(layer)](layer, most, self.lengths) for layer in layers]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest row, 0 without any."""
        return max(self.lengths, default=0)

    def clear(self) -> None:
        """Forget all rows, whatever they hold."""
        self.lengths.clear()
        for part in self._parts:
            part.clear()

    def join(self, cache: Cache) -> None:
        """A text joins as the last row, with what was read of it: a cache of one row, without padding.

        Raises ValueError if all rows are taken.
        """
        if len(self) == self.most:
            raise ValueError(f"all {self.most} rows are taken: wait until one leaves")
        for part, layer in zip(self._parts, cache.layers if self._has_layers else [cache]):
            part.join(layer)
        self.lengths.append(cache.length)

    def leave(self, row: int) -> None:
        """A row leaves, and the last one takes its number."""
        for part in self._parts:
            part.leave(row)
        self.lengths[row] = self.lengths[-1]
        self.lengths.pop()

    def copy_of(self, row: int) -> Cache:
        """What was read of a row, as a cache of that row alone."""
        layers = [part.copy_of(row) for part in self._parts]
        return LayerCaches(layers, self.lengths[row]) if self._has_layers else layers[0]

    def step(self, new: list[int]) -> Tensor:
        """Reads one more token of each row; returns the scores of the next ones, (rows, vocab_size)."""
        device, longest, padding = next(self.model.parameters()).device, self.longest, None
        if min(self.lengths) < longest:
            padding = torch.tensor([longest - length for length in self.lengths], device=device)
        views = [part.view(padding) for part in self._parts]
        cache = LayerCaches(views, longest + 1, padding) if self._has_layers else views[0]
        logits = read_on(self.model, torch.tensor(new, device=device)[:, None], cache, self.modules)
        for part, view in zip(self._parts, views):
            part.take(view)
        self.lengths[:] = [length + 1 for length in self.lengths]
        return logits


class _KeyValueRows:
    """Keys and values of one or more layers.

    Args:
        cache: an empty one of the model. most: rows. lengths: the list that `Rows` keeps, one number a row.
    """

    def __init__(self, cache: KeyValueCache, most: int, lengths: list[int]):
        self.most, self.lengths = most, lengths
        self._width = 0  # all rows end here
        self._keys = self._values = cache.keys[:, :, :, :0]  # (n_layers, most, n_heads, room, d_head)

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    def clear(self) -> None:
        self._keys.zero_()
        self._values.zero_()

    def join(self, cache: KeyValueCache) -> None:
        length, row = cache.length, len(self.lengths)
        if not row:
            self._width = 0
        if length > self._width:
            self._move(max(length, self.longest))
        ends = slice(self._width - length, self._width)
        self._keys[:, row, :, ends] = cache.keys[:, 0, :, :length]
        self._values[:, row, :, ends] = cache.values[:, 0, :, :length]

    def leave(self, row: int) -> None:
        last = len(self.lengths) - 1
        if row != last:
            self._keys[:, row] = self._keys[:, last]
            self._values[:, row] = self._values[:, last]
        self._keys[:, last].zero_()  # a row that overflowed would spoil the next one there
        self._values[:, last].zero_()

    def copy_of(self, row: int) -> KeyValueCache:
        places = slice(self._width - self.lengths[row], self._width)
        return KeyValueCache.over(self._keys[:, row : row + 1, :, places].clone(),
                                  self._values[:, row : row + 1, :, places].clone(), self.lengths[row])

    def view(self, padding: Tensor | None) -> KeyValueCache:
        """All rows with room for a token more, as one cache that writes into these tensors."""
        if self._width == self._keys.shape[3]:
            self._move(self.longest)
        start, rows = self._width - self.longest, len(self.lengths)  # what is left of the longest row is cut off
        return KeyValueCache.over(self._keys[:, :rows, :, start:], self._values[:, :rows, :, start:], self.longest,
                                  padding)

    def take(self, view: KeyValueCache) -> None:
        """The view has read a token of each row."""
        self._width += 1

    def _move(self, width: int) -> None:
        """Let all rows end at `width`, at least the longest one's length, with room after it."""
        room, kept, rows = self._keys.shape[3], self.longest, len(self.lengths)
        while room < width + max(_FEWEST // 2, width // 4):
            room = max(_FEWEST, 2 * room)
        keys, values = self._keys, self._values
        if room > keys.shape[3]:
            n_layers, _, n_heads, _, d_head = keys.shape
            # zeros: what stands in padding weighs nothing, but nothing times a number that is none is none
            self._keys = keys.new_zeros(n_layers, self.most, n_heads, room, d_head)
            self._values = torch.zeros_like(self._keys)
        if rows:
            old, new = slice(self._width - kept, self._width), slice(width - kept, width)
            # `clone`, since the places may overlap
            self._keys[:, :rows, :, new] = keys[:, :rows, :, old].clone()
            self._values[:, :rows, :, new] = values[:, :rows, :, old].clone()
        self._width = width


class _StateRows:
    """The states of one recurrent layer. Arguments as of `_KeyValueRows`."""

    def __init__(self, cache: StateCache, most: int, lengths: list[int]):
        self.empty, self.lengths = cache, lengths
        self._states: tuple[Tensor, ...] = ()  # each (rows, ...)

    def clear(self) -> None:
        self._states = ()

    def join(self, cache: StateCache) -> None:
        states = self._of_one_size(cache.states)
        self._states = tuple(map(torch.cat, zip(self._states, states))) if self.lengths else states

    def leave(self, row: int) -> None:
        kept = [*range(len(self.lengths))]
        kept[row] = kept[-1]
        kept.pop()
        self._states = tuple(state[kept] for state in self._states)

    def copy_of(self, row: int) -> StateCache:
        return self.empty.holding(tuple(state[row : row + 1].clone() for state in self._states), self.lengths[row], 1)

    def view(self, padding: Tensor | None) -> StateCache:
        """All rows as one cache. Nothing is padding in a state."""
        return self.empty.holding(self._states, max(self.lengths), len(self.lengths))

    def take(self, view: StateCache) -> None:
        """The view has read a token of each row."""
        self._states = view.states

    def _of_one_size(self, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return states


class _WindowRows(_StateRows):
    """Keys and values that a window still sees: as many places in each row, at whose left may be padding."""

    def copy_of(self, row: int) -> WindowCache:
        cache = super().copy_of(row)
        missing = max(0, self.empty.window - 1 - self.lengths[row])
        return self.empty.holding(tuple(state[:, :, missing:] for state in cache.states), cache.length, 1)

    def view(self, padding: Tensor | None) -> WindowCache:
        longest, kept = max(self.lengths), self.empty.window - 1
        if min(self.lengths) >= kept:
            padding = None  # all of it lies before what the window sees
        elif padding is None:
            padding = torch.zeros(len(self.lengths), dtype=torch.int64, device=self._states[0].device)
        return self.empty.holding(self._states, longest, len(self.lengths), padding)

    def _of_one_size(self, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(F.pad(state, (0, 0, self.empty.window - 1 - state.shape[2], 0)) for state in states)


_PARTS = {KeyValueCache: _KeyValueRows, StateCache: _StateRows, WindowCache: _WindowRows}


def read_on(model: nn.Module, ids: Tensor, cache: Cache, modules: list[nn.Module]) -> Tensor:
    """Reads ids (batch, tokens) that go on from what a cache holds; returns the scores (batch, vocab_size) of the next
    ones. modules: the model's, made into a list once."""
    with without_dropout(modules):
        return model.lm_head(model.hidden_states(ids, cache)[:, -1])
