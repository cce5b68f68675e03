"""GGUF files: settings, tokenizer and weights, often quantised, in one file.

The header is read by our own code and not by `gguf.GGUFReader`: that takes 6.2 s for the 98 MB file of chapter 5b
(ours 0.2 s), because it makes an object of each of the 98,000 strings, and it maps the file into memory, so that a file
that is truncated while it is open ends the process. Numbers are unpacked by the package.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from torch import Tensor

__all__ = ["GGUFCheckpoint", "unpack_q4_1"]

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_NOT_WEIGHTS = {GGMLQuantizationType[name] for name in ("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K")}


class GGUFCheckpoint:
    """A .gguf file: settings, tokenizer and weights, often quantised, in one file.

    Attributes:
        path: the file. metadata: its settings. shapes: of each tensor, by name, as PyTorch counts. formats: of its
        numbers, such as "F32" or "Q4_1".

    Raises ValueError if it is truncated, damaged, or not a GGUF file.

    Source: the GGUF specification of the ggml project (2023), version 3.
    """

    def __init__(self, path: Path):
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.formats: dict[str, str] = {}
        self._places: dict[str, tuple[int, int]] = {}  # first byte, bytes in a row
        size = path.stat().st_size
        try:
            with open(path, "rb") as file:
                self._read(_Header(file, size), size)
        except (ValueError, KeyError, TypeError, RecursionError, MemoryError, struct.error) as error:
            what = f"it has an unknown kind of value, {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{path} is no whole GGUF file ({what}): download it again") from None

    def copy(self, name: str, target: Tensor, rows_at_once: int = 1024) -> None:
        """Write the tensor's numbers into `target`, which has its shape. A few rows at a time save memory."""
        first, row_bytes = self._places[name]
        target = target.view(-1, target.shape[-1])
        for start in range(0, len(target), rows_at_once):
            rows = target[start : start + rows_at_once]
            packed = np.fromfile(self.path, np.uint8, len(rows) * row_bytes, offset=first + start * row_bytes)
            if packed.size != len(rows) * row_bytes:
                raise ValueError(f"{self.path} ends inside {name}: it changed while it was read; download it again")
            rows.copy_(self._unpack(name, packed.reshape(len(rows), row_bytes)))

    def _unpack(self, name: str, packed: np.ndarray) -> Tensor:
        """Rows of bytes -> rows of numbers, float32."""
        kind = self.formats[name]
        if kind == "Q4_1":  # the format of chapter 5b's model, unpacked sooner than by the package
            return unpack_q4_1(torch.from_numpy(packed))
        try:
            return torch.from_numpy(dequantize(packed, GGMLQuantizationType[kind]))
        except NotImplementedError:
            raise ValueError(f"{self.path}: {name} is in the format {kind}, which is not supported: take a file in "
                             "another, such as Q8_0, Q4_K or F16") from None

    def _read(self, header: _Header, size: int) -> None:
        if header.take(4) != b"GGUF" or header.number("I") not in (2, 3):
            raise ValueError("it does not start with GGUF and version 2 or 3")
        n_tensors, n_settings = header.number("Q"), header.number("Q")
        for _ in range(n_settings):
            key = header.string()
            if key in self.metadata:
                raise ValueError(f"it says {key} twice")
            self.metadata[key] = header.value(header.number("I"))
        tensors = {}
        for _ in range(n_tensors):
            name, dimensions = header.string(), header.number("I")
            if name in tensors:
                raise ValueError(f"it holds {name} twice")
            shape = tuple(header.number("Q") for _ in range(dimensions))[::-1]  # rows first
            tensors[name] = shape, GGMLQuantizationType(header.number("I")), header.number("Q")
        alignment = self.metadata.get("general.alignment", 32)
        if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"its alignment is {alignment!r}")
        start = _round_up(size - header.left, alignment)  # of the weights
        end = 0
        for name, (shape, kind, offset) in sorted(tensors.items(), key=lambda item: item[1][2]):
            # One after the other, as the specification says: a damaged shape or offset shows.
            if offset != _round_up(end, alignment):
                raise ValueError(f"{name} begins at byte {offset:,} of the weights instead of "
                                 f"{_round_up(end, alignment):,}")
            row_bytes = _row_bytes(name, shape, kind)
            end = offset + row_bytes * math.prod(shape[:-1])
            if start + end > size:
                raise ValueError(f"{name} should end at byte {start + end:,}, the file has {size:,}")
            self._places[name] = start + offset, row_bytes
        if tensors and size - (start + end) >= max(alignment, 4096):
            raise ValueError(f"its last tensor ends at byte {start + end:,}, the file has {size:,}")
        self.shapes = {name: shape for name, (shape, *_) in tensors.items()}
        self.formats = {name: kind.name for name, (_, kind, _) in tensors.items()}


class _Header:
    """Takes numbers and strings off the front of a GGUF file. Lengths in it are not trusted."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.left = file, size

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise ValueError("it ends inside its header")
        self.left -= count
        return self.file.read(count)

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(_NUMBERS[kind])
        item, count = self.number("I"), self.number("Q")
        if item not in _NUMBERS:
            return [self.value(item) for _ in range(count)]
        numbers = np.dtype("<" + _NUMBERS[item])
        return np.frombuffer(self.take(count * numbers.itemsize), numbers).tolist()


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _row_bytes(name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """Bytes in a row of a tensor. Raises ValueError if its shape or format cannot be one of weights."""
    block_numbers, block_bytes = GGML_QUANT_SIZES[kind]
    if kind in _NOT_WEIGHTS:
        raise ValueError(f"{name} is in the format {kind.name}, which weights do not have")
    if not shape or 0 in shape or shape[-1] % block_numbers:
        raise ValueError(f"{name} has shape {shape}, in blocks of {block_numbers}")
    return shape[-1] // block_numbers * block_bytes


def unpack_q4_1(packed: Tensor) -> Tensor:
    """Rows of ggml's 4-bit format "Q4_1", (rows, bytes) uint8 -> (rows, numbers) float32.

    A block of 20 bytes holds 32 numbers: a float16 step, a float16 minimum, and 16 bytes with two codes each, 0 to 15.
    Number i is minimum + step * code i; the low halves come first.

    Source: the block_q4_1 structure of the ggml project (2023).
    """
    blocks = packed.reshape(-1, 20)
    step, minimum = blocks[:, :4].view(torch.float16).float().split(1, dim=1)  # each (blocks, 1)
    codes = torch.cat([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], dim=1)  # (blocks, 32)
    return torch.addcmul(minimum, step, codes.float()).view(len(packed), -1)
