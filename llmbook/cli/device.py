"""The device that a command uses."""

from __future__ import annotations

from typing import Any

from .errors import UsageError

__all__ = ["find_device"]


def find_device(name: str | None, place: str) -> Any:
    """The device of this name, or the best one here. place: where the name stands, for a message.

    Raises UsageError for one that is not here.
    """
    import torch

    from ..devices import best_device

    if name is None:
        return best_device()
    try:
        torch.empty(0, device=(device := torch.device(name)))
    except (RuntimeError, AssertionError, ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:80]
        raise UsageError(f"{place} is {name!r}, which is not to be had here ({reason}): choose cpu, cuda or mps, or "
                         f"leave it out for {best_device()}") from None
    if device.type == "meta":
        raise UsageError(f"{place} is 'meta', which computes nothing: choose cpu, cuda or mps, or leave it out")
    return device
