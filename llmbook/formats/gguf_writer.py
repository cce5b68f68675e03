"""Writing a model as one GGUF file: settings, tokenizer and weights, for llama.cpp and the programs built on it.

The bytes are those of the package `gguf`, of the project that reads them. Tensors are packed one by one while the file
is written, so that no second copy of the model is in memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from torch import Tensor, nn

from ..devices import whole_state
from ..families import family_of
from ..files import is_first
from .layouts import GGUFHeader

__all__ = ["QUANTIZATIONS", "check_quantization", "write_gguf"]

QUANTIZATIONS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
"""The number formats of matrices that can be written. llama.cpp's Q4_K and the like can be read, but the package `gguf`
does not write them."""
_FINE = "Q8_0"  # of the embedding and the output layer in a file of 4 bits, as llama.cpp's own files have finer ones


def check_quantization(quantization: str) -> None:
    """Raise ValueError for a number format that cannot be written."""
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization is {quantization!r}: it must be one of {', '.join(QUANTIZATIONS)}")


def write_gguf(model: nn.Module, path: Path, quantization: str = "F16",
               about: Mapping[str, Any] | None = None) -> None:
    """Write a model's settings and weights, and what `about` says, as a GGUF file.

    Args:
        model: of a family that llama.cpp computes. Every process of a team must call this, and the first one writes.
        path: the new file. What was there is written over: see `llmbook.formats.export.export`, which takes care.
        quantization: the number format of the matrices, one of `QUANTIZATIONS`. Vectors and position embeddings stay
            float32, and in a file of 4 bits the token embedding and the output layer get Q8_0.
        about: further settings, such as those of `tokenizer_for_gguf`: full name -> text, number, truth or list.

    Raises ValueError for a model that llama.cpp does not compute, or a matrix that cannot be packed in that format;
    nothing is written then.

    Source: the GGUF specification of the ggml project (2023), version 3.
    """
    check_quantization(quantization)
    header, tensors = _prepare(model)
    if not is_first():
        return
    kinds = {name: _kind_of(name, tensor, quantization) for name, tensor in tensors.items()}
    writer = gguf.GGUFWriter(path, header.architecture)
    try:
        for name, value in {**(about or {}), **{f"{header.architecture}.{name}": value
                                                for name, value in header.settings.items()}}.items():
            _add(writer, name, value)
        writer.add_file_type(getattr(gguf.LlamaFileType, "ALL_F32" if quantization == "F32" else
                                     f"MOSTLY_{quantization}"))
        if quantization.startswith("Q"):
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for name, tensor in tensors.items():
            shape = gguf.quant_shape_to_byte_shape(tuple(tensor.shape), kinds[name])
            writer.add_tensor_info(name, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=kinds[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in tensors.items():
            writer.write_tensor_data(_packed(name, tensor, kinds[name]))
        writer.flush()
    finally:
        writer.close()
    with open(path, "rb+") as file:
        os.fsync(file.fileno())  # on the disk before anybody renames it


def _prepare(model: nn.Module) -> tuple[GGUFHeader, dict[str, Tensor]]:
    """What the file says of the model, and its tensors by their names there."""
    layout = family_of(model).find_layout()
    if layout.config_to_gguf is None or layout.gguf is None:
        raise ValueError(f"the family {family_of(model).name} is not written as GGUF: export to='huggingface'")
    header = layout.config_to_gguf(model.config)
    names = layout.gguf(model.config, header.architecture)
    return header, {**header.tensors, **names.written(whole_state(model), model.config)}


def _kind_of(name: str, tensor: Tensor, quantization: str) -> GGMLQuantizationType:
    """The number format of one tensor. Raises ValueError if its rows are no whole number of blocks."""
    if tensor.dim() < 2 or name == "position_embd.weight":
        return GGMLQuantizationType.F32
    fine = quantization.startswith("Q4") and name in ("token_embd.weight", "output.weight")
    kind = GGMLQuantizationType[_FINE if fine else quantization]
    block, _ = GGML_QUANT_SIZES[kind]
    if tensor.shape[-1] % block:
        raise ValueError(f"quantization is {quantization!r}, which packs {block} numbers at a time, and a row of "
                         f"{name} has {tensor.shape[-1]}: choose F16, BF16 or F32")
    return kind


def _packed(name: str, tensor: Tensor, kind: GGMLQuantizationType) -> np.ndarray:
    """A tensor's bytes in a file. Raises ValueError for numbers that the format does not hold."""
    numbers = tensor.float().numpy()
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} holds a number that is not finite: the model is broken, train or load it again")
    if kind == GGMLQuantizationType.F16 and (largest := float(np.abs(numbers).max(initial=0))) > 65504:
        raise ValueError(f"{name} holds {largest:.6g}, which is more than a float16 can say: choose BF16 or F32")
    return gguf.quantize(numbers, kind).view(np.uint8)


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    """One setting, in the type that llama.cpp expects of it."""
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
           list: writer.add_array}
    add[type(value)](name, value)
