"""The next step's batches, fetched while a GPU is still busy with this step's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from .devices import page_locked

__all__ = ["BatchesAhead"]

DEVICES = ("cuda",)  # where a program goes on while the device computes; elsewhere there is no time to be won


class BatchesAhead:
    """The batches of one step after the other.

    Args:
        loader: where they come from. One that keeps its place (`llmbook.scale.resumable_loader`) is told which batches
            are fetched ahead: they do not count before they are taken, so that a checkpoint never skips one. From one
            with a true `samples_from_model`, whose batches the model itself writes, nothing is fetched ahead: the
            weights would be those before the step.
        batches: the loader's, again and again.
        parts: batches of a step.
        device: where the steps are computed. For a CUDA GPU the batches come in page-locked memory, which it reads by
            itself.
    """

    def __init__(self, loader: Iterable, batches: Iterator[Sequence[Tensor]], parts: int, device: torch.device):
        self.loader, self.batches, self.parts, self.device = loader, batches, parts, device
        self.waiting: list[Sequence[Tensor]] | Exception | None = None

    def take(self) -> list[Sequence[Tensor]]:
        """The next step's batches. Raises what the loader raises, also when that was found ahead."""
        found, self.waiting = self.waiting, None
        if found is None:
            return self._fetch()
        if hasattr(self.loader, "release"):
            self.loader.release()
        if isinstance(found, Exception):
            raise found
        return found

    def fetch_ahead(self) -> None:
        """Fetch the batches that `take` will give: to be called when the device has been given this step's work."""
        samples = getattr(self.loader, "samples_from_model", False)
        if self.device.type not in DEVICES or self.waiting is not None or samples:
            return
        if hasattr(self.loader, "hold"):
            self.loader.hold()
        try:
            self.waiting = self._fetch()
        except Exception as error:  # it belongs to the next step: this one is still to be done
            self.waiting = error

    def _fetch(self) -> list[Sequence[Tensor]]:
        return [page_locked(next(self.batches), self.device) for _ in range(self.parts)]
