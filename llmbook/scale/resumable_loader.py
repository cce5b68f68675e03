"""A loader that knows its place in the data."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from .random_states import from_hex, random_states, set_random_states, to_hex

__all__ = ["ResumableLoader"]


class ResumableLoader:
    """A loader that knows its place: `state()` says it, `restore(state)` goes back there.

    A place is the state of the random generators at the beginning of the pass, and the number of batches taken since.
    To go back, the pass is begun from that state again, and so many batches are dropped. A loader with a `state_dict`
    and a `load_state_dict` of its own is asked instead. Batches that are taken between `hold` and `release` were taken
    ahead of their time: the place is before them, and whoever goes back there gets them again.

    Args:
        loader: what `train` reads, again and again.
        val_loader: only what it draws from is kept; an evaluation is never broken off.
        device: whose generator is kept beside the others.
    """

    def __init__(self, loader: Iterable, val_loader: Iterable | None = None, device: torch.device | str = "cpu"):
        self.loader, self.val_loader, self.device = loader, val_loader, device
        self.taken, self.skip = 0, 0
        self.at_start: Mapping[str, Any] | None = None
        self.goes_on = False  # whether the next pass is the rest of one
        self._held: dict[str, Any] | None = None  # the place before what was taken ahead
        self._again: Mapping[str, Any] | None = None  # what is to be taken ahead once more, and with which draws
        self.has_own = hasattr(loader, "load_state_dict")
        self.samples_from_model = getattr(loader, "samples_from_model", False)  # see `llmbook.prefetching`

    def __iter__(self) -> Iterator:
        skip, goes_on, now = self.skip, self.goes_on, random_states(self.device)
        self.skip, self.goes_on = 0, False
        if self._again is not None and "after" not in self._again:
            self._again, now = {**self._again, "after": now}, self._again["random"]
        if skip:
            set_random_states(self.at_start["everywhere"], self.device)
            _set_own_draws(self.loader, self.at_start["own"])
        self.at_start = {"everywhere": random_states(self.device), "own": _own_draws(self.loader)}
        self.taken = 0
        batches = iter(self.loader)
        if goes_on and not skip:
            set_random_states(now, self.device)  # an unbroken run would not have made an iterator here
        for batch in batches:
            self.taken += 1
            if self.taken > skip:
                self._count_ahead()
                yield batch
            elif self.taken == skip:
                set_random_states(now, self.device)  # go on drawing as if nothing had been read again
        if self.taken < skip:
            raise ValueError(f"the loader gave {self.taken} batches, fewer than the {skip} before the checkpoint: "
                             "give it the data of the first run")
        if goes_on and self.taken == skip:  # it stood at the end of a pass
            yield from self

    def _count_ahead(self) -> None:
        if self._held is not None:
            self._held["ahead"]["batches"] += 1
        if self._again is not None:  # after the last of them, draw as the first run did when it had them
            self._again = {**self._again, "batches": self._again["batches"] - 1}
            if not self._again["batches"]:
                set_random_states(self._again["after"], self.device)
                self._again = None

    def hold(self) -> None:
        """Keep the place: what is taken from now on is taken ahead."""
        draws = random_states(self.device)
        place = self._place()
        self._held = {**place, "own": copy.deepcopy(place["own"]), "ahead": {"batches": 0, "random": draws}}
        if self.has_own:
            set_random_states(draws, self.device)  # some loaders draw when they are asked

    def release(self) -> None:
        """What was taken ahead counts now."""
        self._held = None

    def _place(self) -> dict[str, Any]:
        return {"own": self.loader.state_dict() if self.has_own else None, "taken": self.taken,
                "at_start": self.at_start}

    def state(self) -> dict[str, Any]:
        """The place. What a loader's own `state_dict` returns is part of it as it is, and not copied."""
        return {**(self._place() if self._held is None else self._held), "val": _own_draws(self.val_loader)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on from a place."""
        self.goes_on, self._again = True, state.get("ahead")
        _set_own_draws(self.val_loader, state["val"])
        if self.has_own:
            own = state["own"]
            self.loader.load_state_dict(json.loads(own) if isinstance(own, str) else own)  # llmbook 0.1.0: a text
        else:
            self.skip, self.at_start = state["taken"], state["at_start"]


def _generators(loader: Iterable | None) -> list[torch.Generator]:
    """The generators that a DataLoader and its samplers draw from, each once."""
    holders = [loader, *(getattr(loader, name, None) for name in ("sampler", "batch_sampler"))]
    holders.append(getattr(holders[-1], "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _own_draws(loader: Iterable | None) -> list[str]:
    return [to_hex(generator.get_state()) for generator in _generators(loader)]


def _set_own_draws(loader: Iterable | None, states: Sequence[str]) -> None:
    for generator, state in zip(_generators(loader), states):
        generator.set_state(from_hex(state))
