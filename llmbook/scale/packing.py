"""Nested values as JSON and tensors, and back: what a loader's `state_dict` holds, stored without a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["pack", "unpack"]

_KIND = "@"  # the key that marks what JSON has no word for


def pack(value: Any, name: str) -> tuple[Any, dict[str, Tensor]]:
    """A value as JSON, and the tensors that the JSON refers to, named `name`.0, `name`.1, ... All of it is a copy.

    What can be stored: None, bool, int, float, str, bytes, tensors, NumPy arrays and numbers, and lists, tuples and
    dictionaries of these. Raises ValueError for anything else, with its place.
    """
    tensors: dict[str, Tensor] = {}

    def keep(tensor: Tensor) -> str:
        tensors[f"{name}.{len(tensors)}"] = tensor
        return f"{name}.{len(tensors) - 1}"

    def walk(value: Any, place: str) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, list):
            return [walk(item, f"{place}[{number}]") for number, item in enumerate(value)]
        if isinstance(value, tuple):
            return {_KIND: "tuple", "items": walk(list(value), place)}
        if isinstance(value, Mapping):
            if all(type(key) is str for key in value) and _KIND not in value:
                return {key: walk(item, f"{place}[{key!r}]") for key, item in value.items()}
            items = [[walk(key, f"{place}, a key"), walk(item, f"{place}[{key!r}]")] for key, item in value.items()]
            return {_KIND: "dict", "items": items}
        if isinstance(value, (bytes, bytearray)):
            return {_KIND: "bytes", "hex": bytes(value).hex()}
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
            return {_KIND: "tensor", "name": keep(value.detach().to("cpu", copy=True).contiguous())}
        if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
            content = torch.from_numpy(np.frombuffer(value.tobytes(), dtype=np.uint8).copy())
            return {_KIND: "array", "name": keep(content), "dtype": value.dtype.str, "shape": list(value.shape),
                    "number": isinstance(value, np.generic)}
        raise ValueError(f"{place} is a {type(value).__name__}, which cannot be stored: numbers, texts, bytes, "
                         "tensors, arrays, and lists, tuples and dictionaries of them can")

    return walk(value, name), tensors


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value again, from what `pack` returned."""
    if isinstance(packed, list):
        return [unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    kind = packed.get(_KIND)
    if kind is None:
        return {key: unpack(item, tensors) for key, item in packed.items()}
    if kind == "tuple":
        return tuple(unpack(item, tensors) for item in packed["items"])
    if kind == "dict":
        return {unpack(key, tensors): unpack(item, tensors) for key, item in packed["items"]}
    if kind == "bytes":
        return bytes.fromhex(packed["hex"])
    if kind == "tensor":
        return tensors[packed["name"]]
    array = np.frombuffer(tensors[packed["name"]].numpy().tobytes(), dtype=np.dtype(packed["dtype"]))
    array = array.reshape(packed["shape"]).copy()
    return array[()] if packed["number"] else array
