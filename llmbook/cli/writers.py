"""The model that writes for `llmbook generate`, `chat` and `serve`, made faster where its flags ask for it."""

from __future__ import annotations

import argparse
from typing import Any

from .errors import UsageError
from .interrupts import import_torch
from .terminal import remark

__all__ = ["open_writer"]


def open_writer(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The model that the flags name, and its tokenizer: with fewer bits a weight, and compiled, if they say so.

    Raises UsageError for flags that cannot go together here, else as `open_model`.
    """
    remark(f"loading {arguments.model} ...")
    import_torch()
    from .device import find_device
    from .models import open_model

    device, dtype = find_device(arguments.device, "--device"), arguments.dtype
    if arguments.bits == 4 and device.type != "cpu":
        raise UsageError(f"--bits 4 computes on the CPU and the device is {device}: add --device cpu, or give --bits 8")
    if arguments.compile:
        _check_compiler(device)
    if arguments.bits and dtype is None:
        dtype = "float32"  # of what is not quantised; and codes are made of numbers that were not rounded before
    model, tokenizer = open_model(arguments.model, arguments.tokenizer, arguments.device, dtype)
    if arguments.bits:
        from ..formats.quantized import quantize

        model = quantize(model, arguments.bits)
    return _compiled(model) if arguments.compile else model, tokenizer


def _check_compiler(device: Any) -> None:
    from ..compiling import check_compiler

    try:
        check_compiler(device)
    except RuntimeError as error:
        told = str(error).replace("compile=True", "--compile").replace("do without (compile=False)", "leave it out")
        raise UsageError(told) from None


def _compiled(model: Any) -> Any:
    """The model, whose pass for one token is compiled now: it takes time, and nobody should wait for a word."""
    import torch

    from ..compiled import compile_decoding
    from ..generation import generate

    remark("compiling, which can take a minute ...")
    try:
        compiled = compile_decoding(model)
        generate(compiled, torch.zeros(1, 1, dtype=torch.long), 2, temperature=0)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"--compile: the model cannot be compiled here ({reason}): leave it out") from error
    return compiled
