"""`llmbook export`: write a model so that other programs run it."""

from __future__ import annotations

import argparse
from pathlib import Path

from .errors import UsageError

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Write the model; returns the exit code."""
    for name in ("target", "adapter", "name"):
        if getattr(arguments, name) == "":
            raise UsageError(f"{name.upper()} is empty: give one")
    if arguments.quantization is not None and arguments.to != "gguf":
        raise UsageError(f"--quantization {arguments.quantization} goes with --to gguf: give that, or --dtype for a "
                         "folder")
    from .interrupts import import_torch

    import_torch()
    from ..formats.export import check_target, export
    from ..formats.gguf_writer import check_quantization
    from .models import begins_with_end, open_model
    from .terminal import say

    target = check_target(arguments.target, arguments.to)  # before the model is read, which takes longer
    if arguments.quantization is not None:
        check_quantization(arguments.quantization)
    model, tokenizer = open_model(arguments.model, arguments.tokenizer, "cpu", arguments.dtype)
    if arguments.adapter is not None:
        from ..lora import load_adapter, merge_lora

        model = merge_lora(load_adapter(model, Path(arguments.adapter).expanduser()))
    export(model, tokenizer, target, arguments.to, quantization=arguments.quantization, name=arguments.name,
           begins_with_end=begins_with_end(arguments.model), about=arguments.about, licence=arguments.licence)
    files = [target] if target.is_file() else sorted(target.iterdir())
    size = sum(file.stat().st_size for file in files)
    say(f"{arguments.model}: {len(files)} file{'s' if len(files) > 1 else ''}, {size / 1e6:,.1f} MB, in {target}")
    return 0
