"""The random number generators that training draws from: where they are, and putting them back there."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["from_hex", "random_states", "set_random_states", "to_hex"]


def random_states(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The states of this process's generators, ready for JSON: Python's, NumPy's, PyTorch's, and that of `device`."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    states: dict[str, Any] = {"torch": to_hex(torch.get_rng_state()), "python": [version, list(numbers), gauss],
                              "numpy": [name, keys.tolist(), *rest]}
    device = torch.device(device)
    # Of this device alone: asking for the others' would take memory on each of them.
    if device.type == "cuda":
        states["device"] = {"type": "cuda", "state": to_hex(torch.cuda.get_rng_state(device))}
    elif device.type == "mps":
        states["device"] = {"type": "mps", "state": to_hex(torch.mps.get_rng_state())}
    return states


def set_random_states(states: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
    """Put the generators back where `random_states` found them. A state of another kind of device is left out."""
    torch.set_rng_state(from_hex(states["torch"]))
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    device, saved = torch.device(device), states.get("device")
    if saved is None and "cuda" in states:  # llmbook 0.1.0 kept a list, one for each GPU
        place = device.index or 0
        saved = {"type": "cuda", "state": states["cuda"][place]} if place < len(states["cuda"]) else None
    if saved is None or saved["type"] != device.type:
        return
    if device.type == "cuda":
        torch.cuda.set_rng_state(from_hex(saved["state"]), device)
    elif device.type == "mps":
        torch.mps.set_rng_state(from_hex(saved["state"]))


def to_hex(state: Tensor) -> str:
    """A generator's state, a tensor of bytes, as text."""
    return state.cpu().numpy().tobytes().hex()


def from_hex(text: str) -> Tensor:
    """The tensor of bytes again."""
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
