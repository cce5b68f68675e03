"""GGUF files: settings, tokenizer and weights, often quantised, in one file."""

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from torch import Tensor

_GGUF_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?",
                 10: "Q", 11: "q", 12: "d"}
_GGUF_STRING, _GGUF_ARRAY = 8, 9


class _HeaderReader:
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
        if kind == _GGUF_STRING:
            return self.string()
        if kind != _GGUF_ARRAY:
            return self.number(_GGUF_NUMBERS[kind])
        item, count = self.number("I"), self.number("Q")
        if item not in _GGUF_NUMBERS:
            return [self.value(item) for _ in range(count)]
        numbers = np.dtype("<" + _GGUF_NUMBERS[item])
        return np.frombuffer(self.take(count * numbers.itemsize), numbers).tolist()


def unpack_q4_1(packed: Tensor) -> Tensor:
    """Rows of ggml's 4-bit format "Q4_1", (rows, bytes) uint8 -> (rows, numbers) float32.

    A block of 20 bytes holds 32 numbers: a float16 step, a float16 minimum, and 16 bytes with two
    codes each, 0 to 15. Number i is minimum + step * code i; the low halves come first.

    Source: the block_q4_1 structure of the ggml project (2023).
    """
    blocks = packed.reshape(-1, 20)
    step, minimum = blocks[:, :4].view(torch.float16).float().split(1, dim=1)  # each (blocks, 1)
    codes = torch.cat([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], dim=1)  # (blocks, 32)
    return torch.addcmul(minimum, step, codes.float()).view(len(packed), -1)


def _read_header(header: _HeaderReader, size: int) -> tuple[dict[str, Any], dict[str, tuple]]:
    """Settings, and for each tensor its shape, number format, first byte and bytes in a row."""
    if header.take(4) != b"GGUF" or header.number("I") not in (2, 3):
        raise ValueError("it does not start with GGUF and version 2 or 3")
    n_tensors, n_settings = header.number("Q"), header.number("Q")
    metadata, tensors = {}, {}
    for _ in range(n_settings):
        key = header.string()
        metadata[key] = header.value(header.number("I"))
    for _ in range(n_tensors):
        name, dimensions = header.string(), header.number("I")
        shape = tuple(header.number("Q") for _ in range(dimensions))[::-1]  # rows first
        tensors[name] = shape, GGMLQuantizationType(header.number("I")), header.number("Q")
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"its alignment is {alignment!r}")
    start = -(-(size - header.left) // alignment) * alignment  # of the weights, rounded up
    return metadata, {name: _place(name, *tensor, start, size) for name, tensor in tensors.items()}


def _place(name: str, shape: tuple[int, ...], kind: GGMLQuantizationType, offset: int, start: int,
           size: int) -> tuple:
    """Shape, format, first byte, bytes in a row; ValueError if the file ends before its last."""
    block_numbers, block_bytes = GGML_QUANT_SIZES[kind]
    if not shape or shape[-1] % block_numbers:
        raise ValueError(f"{name} has shape {shape}, in blocks of {block_numbers}")
    first, row_bytes = start + offset, shape[-1] // block_numbers * block_bytes
    if (last := first + row_bytes * math.prod(shape[:-1])) > size:
        raise ValueError(f"{name} should end at byte {last:,}, the file has {size:,}")
    return shape, kind, first, row_bytes


class GGUFCheckpoint:
    """A .gguf file: settings, tokenizer and weights, often quantised, in one file.

    Attributes:
        path: the file. metadata: its settings. shapes: of each tensor, by name, as PyTorch counts.
        formats: of its numbers, such as "F32" or "Q4_1".

    Raises ValueError if it is truncated or not a GGUF file.

    Source: the GGUF specification of the ggml project (2023), version 3.
    """

    def __init__(self, path: Path):
        self.path, size = path, path.stat().st_size
        try:
            with open(path, "rb") as file:
                self.metadata, places = _read_header(_HeaderReader(file, size), size)
        except (ValueError, KeyError, TypeError, RecursionError, struct.error) as error:
            raise ValueError(f"{path} is no whole GGUF file ({error}): download it again") from None
        self.shapes = {name: shape for name, (shape, *_) in places.items()}
        self.formats = {name: kind.name for name, (_, kind, *_) in places.items()}
        self._places = {name: (first, row_bytes) for name, (*_, first, row_bytes) in places.items()}

    def copy(self, name: str, target: Tensor, rows_at_once: int = 1024) -> None:
        (first, row_bytes), kind = self._places[name], self.formats[name]
        target = target.view(-1, target.shape[-1])
        for start in range(0, len(target), rows_at_once):  # a few rows at a time saves memory
            rows = target[start : start + rows_at_once]
            packed = np.fromfile(self.path, np.uint8, len(rows) * row_bytes,
                                 offset=first + start * row_bytes).reshape(len(rows), row_bytes)
            if kind == "Q4_1":  # the format of the chapter's model, unpacked faster than by gguf
                rows.copy_(unpack_q4_1(torch.from_numpy(packed)))
            else:
                rows.copy_(torch.from_numpy(dequantize(packed, GGMLQuantizationType[kind])))
