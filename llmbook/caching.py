"""The store of keys and values that a model reads a text with, token by token: chapter 3 builds a plain one first.

Beside the tensors it keeps what writing texts needs: rows that end at different times (`select`), a text taken back to
an earlier place (`rewind`), texts of unequal length (`padding`), and refusing what does not fit before it is stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .diagnosis import explain_misfit

__all__ = ["KeyValueCache"]


class KeyValueCache:
    """Keys and values of the tokens that a model has already read, for all its layers.

    The memory for `max_tokens` is reserved once: adding a token copies that token and no other.

    Args:
        n_layers, batch_size: attention layers that share the cache, and sequences.
        n_heads, max_tokens, d_head: heads that are kept, most tokens it holds, features a head.
        dtype, device: of the stored numbers, as for `torch.empty`; the model's must be the same.
        padding: (batch_size,), how many places at the left of each row hold no token, so that
            texts of unequal length end at the same place. None: no row has any.

    Attributes:
        keys, values: (n_layers, batch, n_heads, max_tokens, d_head), filled up to `length`.

    Source: Shazeer, "Fast Transformer Decoding: One Write-Head is All You Need" (2019), section 2.
    """

    def __init__(self, n_layers: int, batch_size: int, n_heads: int, max_tokens: int, d_head: int,
                 dtype: torch.dtype | None = None, device: torch.device | str | None = None,
                 padding: Tensor | None = None):
        shape = (n_layers, batch_size, n_heads, max_tokens, d_head)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        if padding is not None and padding.shape != (batch_size,):
            raise ValueError(f"padding has shape {tuple(padding.shape)}: give one number for each "
                             f"of the {batch_size} rows")
        self.padding = None if padding is None else padding.to(self.keys.device)
        self.max_tokens = max_tokens
        self._lengths = [0] * n_layers  # layers fill one by one
        self._mask: tuple[tuple[int, int], Tensor] | None = None  # one serves all layers of a pass

    @classmethod
    def over(cls, keys: Tensor, values: Tensor, length: int, padding: Tensor | None = None) -> KeyValueCache:
        """A cache over tensors that exist and are filled up to `length`, or over a part of them: what it appends is
        written there. keys, values, padding: as the attributes."""
        n_layers, batch_size, n_heads, max_tokens, d_head = keys.shape
        cache = cls(n_layers, batch_size, n_heads, 0, d_head, keys.dtype, keys.device, padding)
        cache.keys, cache.values, cache.max_tokens = keys, values, max_tokens
        cache._lengths = [length] * n_layers
        return cache

    @property
    def length(self) -> int:
        """Places that every layer has filled, left padding included."""
        return min(self._lengths)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values, each (batch, n_heads, tokens, d_head).

        Returns all of that layer's so far, each (batch, n_heads, length, d_head), as views.
        Raises ValueError, with nothing stored, if they do not fit, or would need gradients.
        """
        n_layers, batch_size, n_heads, max_tokens, d_head = self.keys.shape
        start = self._lengths[layer] if 0 <= layer < n_layers else max_tokens + 1
        end = start + keys.shape[2]
        fits = (keys.shape == values.shape == (batch_size, n_heads, end - start, d_head)
                and end <= max_tokens and (layer or start == self.length)
                and keys.dtype == self.keys.dtype and keys.device == self.keys.device
                and not (keys.requires_grad or values.requires_grad))
        if not fits:
            raise ValueError(explain_misfit(self.keys, self._lengths, layer, keys, values))
        self.keys[layer, :, :, start:end] = keys
        self.values[layer, :, :, start:end] = values
        self._lengths[layer] = end
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def fill(self, layer: int, length: int) -> None:
        """Count the first `length` places of a layer as filled, by a caller who wrote into `keys`
        and `values` itself."""
        self._lengths[layer] = length

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, (kept,) of int64, in this order; a row may come twice."""
        rows = torch.as_tensor(rows, device=self.keys.device)
        if rows.dim() != 1 or rows.dtype != torch.int64:
            raise ValueError(f"rows are {tuple(rows.shape)} of {rows.dtype}: give the numbers of "
                             "the rows to keep, (kept,) of torch.int64")
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.padding = None if self.padding is None else self.padding[rows]
        self._mask = None

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` places. ValueError if it holds fewer."""
        if not 0 <= length <= self.length:
            raise ValueError(f"a cache of {self.length} tokens cannot go back to {length}: "
                             f"give 0 to {self.length}")
        self._lengths = [length] * len(self._lengths)

    @property
    def held_bytes(self) -> int:
        """Bytes of all its tensors."""
        return self.keys.nbytes + self.values.nbytes

    def reachable(self, length: int) -> int:
        """The newest place at or before `length` that it can go back to: that very one, or its end."""
        return min(length, self.length)

    def beginning(self, length: int, max_tokens: int) -> KeyValueCache:
        """A plain cache of its own with room for `max_tokens`, and in it the first `length` places."""
        n_layers, batch_size, n_heads, _, d_head = self.keys.shape
        cache = KeyValueCache(n_layers, batch_size, n_heads, max_tokens, d_head, self.keys.dtype, self.keys.device,
                              self.padding)
        cache.keys[:, :, :, :length] = self.keys[:, :, :, :length]
        cache.values[:, :, :, :length] = self.values[:, :, :, :length]
        cache._lengths = [length] * n_layers
        return cache

    def positions(self, tokens: int) -> Tensor:
        """The positions of the next `tokens` in their texts: (tokens,), or with padding
        (batch, tokens), where padding itself stands at 0."""
        places = torch.arange(self.length, self.length + tokens, device=self.keys.device)
        if self.padding is None:
            return places
        return (places - self.padding[:, None]).clamp(min=0)

    def mask(self, tokens: int) -> Tensor | None:
        """Which places the next `tokens` may look at besides the causal mask's limits: True where
        no padding is, (batch, 1, tokens, length + tokens). None if there is no padding."""
        if self.padding is None:
            return None
        pass_ = (self.length, tokens)
        if self._mask is None or self._mask[0] != pass_:
            places = torch.arange(self.length + tokens, device=self.keys.device)
            filled = places >= self.padding[:, None]  # (batch, length + tokens)
            itself = places[self.length :, None] == places  # softmax over nothing would be NaN
            self._mask = pass_, filled[:, None, None] | itself
        return self._mask[1]
