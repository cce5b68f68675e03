"""Slower rotary positions, for models that were taught longer texts than they were first trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

__all__ = ["SCALINGS", "scale_frequencies"]

SCALINGS = {  # kind: the numbers that it needs
    "default": (),
    "linear": ("factor",),
    "factors": (),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def scale_frequencies(frequencies: Tensor, scaling: Mapping[str, Any] | None) -> Tensor:
    """The angles by which the pairs of a head turn from one position to the next, (d_head / 2,), slowed down.

    Args:
        frequencies: the angles before, (d_head / 2,), in radians.
        scaling: its "rope_type" is "default" (they stay as they are, as with None), "linear" (all pairs slower by
            "factor"), "llama3" (slow pairs by "factor", fast ones not at all) or "factors" (a list, one for each pair).

    Raises ValueError for another kind, or a number that is missing or not above 0.

    Source: linear: Chen et al., "Extending Context Window of Large Language Models via Position Interpolation" (2023);
        llama3: as released with Llama 3.1 (2024).
    """
    scaling = scaling or {}
    kind = scaling.get("rope_type", "default")
    if kind not in SCALINGS:
        raise ValueError(f"rotary scaling {kind!r} is not supported: {', '.join(SCALINGS)} are")
    for name in SCALINGS[kind]:
        number = scaling.get(name)
        if isinstance(number, bool) or not isinstance(number, Real) or not 0 < number < math.inf:
            raise ValueError(f"rotary scaling {kind!r} has {name} = {number!r}: give a number above 0")
    if kind == "linear":
        return frequencies / scaling["factor"]
    if kind == "llama3":
        return _llama3(frequencies, scaling)
    if kind == "factors":
        factors = scaling.get("factors", ())
        if len(factors) != len(frequencies):
            raise ValueError(f"rotary scaling: {len(factors)} factors for {len(frequencies)} pairs")
        return frequencies / torch.tensor(factors, device=frequencies.device)
    return frequencies


def _llama3(frequencies: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    if low == high:
        raise ValueError(f"rotary scaling 'llama3' has low_freq_factor = high_freq_factor = {low}: they must differ")
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # in the original context
    share = ((turns - low) / (high - low)).clamp(0, 1)  # 0: below low; 1: above high
    return (1 - share) * frequencies / scaling["factor"] + share * frequencies
