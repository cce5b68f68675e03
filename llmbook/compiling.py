"""Training through `torch.compile`: the forward and backward pass become a few programs, made for this model."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from functools import wraps
from types import FunctionType

import torch
from torch import Tensor, nn

from .protocols import LossFunction

__all__ = ["check_compiler", "compiled_loss"]


def check_compiler(device: torch.device | str, what: str = "compile=True",
                   otherwise: str = "or do without (compile=False)") -> None:
    """Raise RuntimeError, before anything is computed, if what `torch.compile` needs on `device` is not installed: a
    C++ compiler; for CUDA Triton, and a C compiler for its launchers."""
    kind = torch.device(device).type
    if kind == "cuda" and importlib.util.find_spec("triton") is None:
        name = "triton-windows" if sys.platform == "win32" else "triton"
        raise RuntimeError(f"{what} needs Triton on {kind}: pip install {name}, {otherwise}")
    if kind == "cuda" and sys.platform == "win32":
        return  # its Triton brings a compiler
    usual = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    variable, names = ("CC", ("gcc", "clang")) if kind == "cuda" else ("CXX", (usual,))
    names = (os.environ[variable].split()[0],) if os.environ.get(variable, "").strip() else names
    if not any(shutil.which(name) for name in names):
        raise RuntimeError(f"{what} needs a C++ compiler, and there is no {' or '.join(names)}: install one "
                           f"(g++, clang or Visual Studio's), name it in {variable}, {otherwise}")


def compiled_loss(loss_fn: LossFunction, device: torch.device | str) -> LossFunction:
    """`loss_fn`, compiled with all that it calls of the model. The model itself stays as it is, with its names.

    What cannot be compiled runs as it is. It is made anew where training changes to evaluation, and once more where
    batches differ in shape. Raises RuntimeError as `check_compiler`; the result raises it if the compiler fails.
    """
    check_compiler(device)

    def call(model: nn.Module, *batch: Tensor) -> Tensor:
        return loss_fn(model, *batch)

    # PyTorch counts how often it compiled a piece of code, and gives up at eight. So each run has its own.
    own = FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
    compiled = torch.compile(own)

    @wraps(loss_fn)  # it may have a `count_targets` of its own
    def compute(model: nn.Module, *batch: Tensor) -> Tensor:
        try:
            return compiled(model, *batch)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise RuntimeError(f"torch.compile failed ({reason}): train without it (compile=False)") from error

    return compute
