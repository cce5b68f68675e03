"""Texts that come and go while a model continues them side by side: the rows of one cache.

All rows end at one place, so that a step writes one column: a short text has padding at its left, as in
`llmbook.text_batch`. A row that joins is copied to the end, a row that leaves gives its place to the last one, and
nothing else is touched. The places before the longest row are cut off by a view; when the room at the right is used up,
all rows move to the left, or into larger tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..caching import KeyValueCache
from ..devices import without_dropout

__all__ = ["Rows", "read_on"]

_FEWEST = 256  # places of a new cache


class Rows:
    """Up to `most` texts and what a model has read of them.

    Args:
        model: a `llmbook.protocols.LanguageModel` whose cache is a `llmbook.caching.KeyValueCache`.
        most: rows at the same time.

    Attributes:
        lengths: how many tokens each row has had read, one number a row.

    Raises ValueError for a model with another kind of cache.
    """

    def __init__(self, model: nn.Module, most: int):
        cache = model.new_cache(1, 1)
        if type(cache) is not KeyValueCache:
            advice = ("serve the model itself, not compiled" if isinstance(cache, KeyValueCache) else
                      "only models that keep keys and values in one cache can be served")
            raise ValueError(f"the cache of this model is a {type(cache).__name__}, in which texts cannot come and go: "
                             f"{advice}")
        self.model, self.most, self.lengths = model, most, []
        self.modules = [*model.modules()]
        self._width = 0  # all rows end here
        self._keys = self._values = cache.keys[:, :, :, :0]  # (n_layers, most, n_heads, room, d_head)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest row, 0 without any."""
        return max(self.lengths, default=0)

    def clear(self) -> None:
        """Forget all rows, whatever they hold."""
        self.lengths = []
        self._keys.zero_()
        self._values.zero_()

    def join(self, cache: KeyValueCache) -> None:
        """A text joins as the last row, with what was read of it: a cache of one row, without padding.

        Raises ValueError if all rows are taken.
        """
        if len(self) == self.most:
            raise ValueError(f"all {self.most} rows are taken: wait until one leaves")
        length, row = cache.length, len(self)
        if not self.lengths:
            self._width = 0
        if length > self._width:
            self._move(max(length, self.longest))
        ends = slice(self._width - length, self._width)
        self._keys[:, row, :, ends] = cache.keys[:, 0, :, :length]
        self._values[:, row, :, ends] = cache.values[:, 0, :, :length]
        self.lengths.append(length)

    def leave(self, row: int) -> None:
        """A row leaves, and the last one takes its number."""
        last = len(self) - 1
        if row != last:
            self._keys[:, row] = self._keys[:, last]
            self._values[:, row] = self._values[:, last]
            self.lengths[row] = self.lengths[last]
        self._keys[:, last].zero_()  # a row that overflowed would spoil the next one there
        self._values[:, last].zero_()
        self.lengths.pop()

    def copy_of(self, row: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a row, each (n_layers, 1, n_heads, tokens, d_head)."""
        places = slice(self._width - self.lengths[row], self._width)
        return (self._keys[:, row : row + 1, :, places].clone(), self._values[:, row : row + 1, :, places].clone())

    def step(self, new: list[int]) -> Tensor:
        """Reads one more token of each row; returns the scores of the next ones, (rows, vocab_size)."""
        if self._width == self._keys.shape[3]:
            self._move(self.longest)
        start, rows = self._width - self.longest, len(self)  # what is left of the longest row is cut off
        device = self._keys.device
        padding = None
        if min(self.lengths) < self.longest:
            padding = torch.tensor([self.longest - length for length in self.lengths], device=device)
        view = KeyValueCache.over(self._keys[:, :rows, :, start:], self._values[:, :rows, :, start:], self.longest,
                                  padding)
        ids = torch.tensor(new, device=device)[:, None]
        logits = read_on(self.model, ids, view, self.modules)
        self._width += 1
        self.lengths = [length + 1 for length in self.lengths]
        return logits

    def _move(self, width: int) -> None:
        """Let all rows end at `width`, at least the longest one's length, with room after it."""
        room, kept, rows = self._keys.shape[3], self.longest, len(self)
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


def read_on(model: nn.Module, ids: Tensor, cache: KeyValueCache, modules: list[nn.Module]) -> Tensor:
    """Reads ids (batch, tokens) that go on from what a cache holds; returns the scores (batch, vocab_size) of the next
    ones. modules: the model's, made into a list once."""
    with without_dropout(modules):
        return model.lm_head(model.hidden_states(ids, cache)[:, -1])
