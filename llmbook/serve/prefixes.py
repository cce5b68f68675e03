"""What a model has read lately, so that a text that begins alike is not read again: a system prompt, earlier turns."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from ..caching import KeyValueCache
from ..formats.conversations import common_prefix

__all__ = ["Prefixes"]


class Prefixes:
    """Keys and values of texts that were read, the latest used last.

    Args:
        most_bytes: kept in all; the texts that were not used for longest go first. 0 keeps nothing.

    Only exact ids count: what is reused is what would have been computed, up to rounding.
    """

    def __init__(self, most_bytes: int):
        self.most_bytes = most_bytes
        self._texts: OrderedDict[tuple[int, ...], tuple[Tensor, Tensor]] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes that are kept now."""
        return sum(keys.nbytes + values.nbytes for keys, values in self._texts.values())

    def keep(self, ids: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """Note what was read of `ids`: keys and values, each (n_layers, 1, n_heads, tokens, d_head). A text that
        begins this one goes: the longer one holds it."""
        ids = tuple(ids[: keys.shape[3]])
        too_large = keys.nbytes + values.nbytes > self.most_bytes
        if not ids or too_large or any(text[: len(ids)] == ids for text in self._texts):
            return
        for text in [text for text in self._texts if ids[: len(text)] == text]:
            del self._texts[text]
        self._texts[ids] = keys, values
        while self.size > self.most_bytes:
            self._texts.popitem(last=False)

    def begin(self, model: nn.Module, ids: Sequence[int], room: int) -> KeyValueCache:
        """A cache of one row with `room` places, and in it what is known of `ids`. At least the last id is left to be
        read, since its features choose the next."""
        cache = model.new_cache(1, room)
        best = max(self._texts, key=lambda text: common_prefix(text, ids), default=())
        if same := min(common_prefix(best, ids), len(ids) - 1):
            self._texts.move_to_end(best)
            keys, values = self._texts[best]
            for layer in range(len(keys)):
                cache.append(layer, keys[layer, :, :, :same], values[layer, :, :, :same])
        return cache

    def clear(self) -> None:
        """Forget everything: after the weights changed."""
        self._texts.clear()
