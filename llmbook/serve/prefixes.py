"""What a model has read lately, so that a text that begins alike is not read again: a system prompt, earlier turns.

Keys and values of a text hold those of each of its beginnings. A state does not: a text can be continued only from the
very places at which its state was kept. Which those are, a cache says by `reachable`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from ..formats.conversations import common_prefix
from ..protocols import Cache

__all__ = ["Prefixes"]

_WORTH = 16  # tokens: to read fewer again is cheaper than a pass of their own


class Prefixes:
    """Caches of texts that were read, the latest used last.

    Args:
        most_bytes: kept in all; the texts that were not used for longest go first. 0 keeps nothing.

    Only exact ids count: what is reused is what would have been computed, up to rounding.
    """

    def __init__(self, most_bytes: int):
        self.most_bytes = most_bytes
        self._texts: OrderedDict[tuple[int, ...], Cache] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes that are kept now."""
        return sum(cache.held_bytes for cache in self._texts.values())

    def keep(self, ids: Sequence[int], cache: Cache) -> None:
        """Note what was read of `ids`: a cache of one row, such as `Rows.copy_of` gives, that nobody changes any more.
        A text that begins this one goes, if the longer one can go back to its end."""
        ids = tuple(ids[: cache.length])
        too_large = cache.held_bytes > self.most_bytes
        if not ids or too_large or any(text[: len(ids)] == ids and kept.reachable(len(ids)) == len(ids)
                                       for text, kept in self._texts.items()):
            return
        for text in [text for text in self._texts if ids[: len(text)] == text]:
            if cache.reachable(len(text)) == len(text):
                del self._texts[text]
        self._texts[ids] = cache
        while self.size > self.most_bytes:
            self._texts.popitem(last=False)

    def begin(self, model: nn.Module, ids: Sequence[int], room: int) -> Cache:
        """A cache of one row with `room` places, and in it what is known of `ids`. At least the last id is left to be
        read, since its features choose the next."""
        known = {text: cache.reachable(self._same(text, ids)) for text, cache in self._texts.items()}
        best = max(known, key=known.get, default=())
        if not known.get(best):
            return model.new_cache(1, room)
        self._texts.move_to_end(best)
        return self._texts[best].beginning(known[best], room)

    def parting(self, ids: Sequence[int], read: int) -> int | None:
        """Where `ids` part from the text that is most like them, if a cache of theirs that holds `read` tokens should
        have a state of that place, because others may begin alike too. None if that is not worth a pass."""
        place = max((self._same(text, ids) for text in self._texts), default=0)
        return place if place - read >= _WORTH else None

    def clear(self) -> None:
        """Forget everything: after the weights changed."""
        self._texts.clear()

    @staticmethod
    def _same(text: Sequence[int], ids: Sequence[int]) -> int:
        return min(common_prefix(text, ids), len(ids) - 1)
