"""Where the book's code runs and in which number format: the one place that decides both.

The policy, the same in `train`, `load_model`, `load_pretrained`, `generate` and the command:

- `device=None` means `best_device()`: a CUDA GPU, else Apple's, else the CPU. A model that is there already stays where
  it is: `generate` and `evaluate` go to the model.
- A model that is loaded to be used has the number format `inference_dtype(device)` unless `dtype` says another:
  bfloat16 on a GPU that computes it natively, else float32. `load_model` keeps what was saved.
- What is trained has its weights in float32 everywhere; the products run in bfloat16 where the hardware has it
  (`autocast`, "auto").
- Where a CUDA GPU trains in float32, matrix products run in TF32 (`fast_products`): 8 bits of exponent and 11
  significant ones, added up in float32, at several times the speed. Only during forward and backward passes; a setting
  of your own (`torch.set_float32_matmul_precision`, `torch.backends.cuda.matmul.fp32_precision`, NVIDIA_TF32_OVERRIDE)
  stays as it is. Evaluating and generating never change it.
- Batches go to a CUDA GPU through page-locked memory, in its queue of work (`send`): the program does not wait.
- Nothing changes a model that it was only lent: dropout is off inside `without_dropout`, for that caller alone.
"""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .files import process_place
from .protocols import LossFunction

PRECISIONS = ("auto", "float32", "bfloat16")


def best_device() -> torch.device:
    """The fastest device here: a CUDA GPU, else Apple's GPU (MPS), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def chosen_device(device: torch.device | str | None = None) -> torch.device:
    """A device by its name; `best_device()` for None. Raises ValueError for one that does not exist here."""
    if device is None:
        return best_device()
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device is {device!r}: use 'cpu', 'cuda', 'mps', or None for the best one here") from None
    here = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if not here.get(found.type, lambda: True)():
        raise ValueError(f"device is {str(found)!r}, and PyTorch finds none here: use {str(best_device())!r}, or None "
                         "for the best one")
    return found


def has_native_bfloat16(device: torch.device | str) -> bool:
    """Whether `device` multiplies bfloat16 matrices in hardware.

    True on NVIDIA GPUs from Ampere on and on CPUs with AVX512-BF16 or AMX. Elsewhere bfloat16 is emulated,
    often a hundred times slower than float32, so "auto" does not choose it.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if kind == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # PyTorch has no public name for these
        return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    return False


def autocast(device: torch.device | str, precision: str = "auto") -> AbstractContextManager:
    """The context in which to run a forward pass and its loss.

    Args:
        device: where the model is.
        precision: "float32", "bfloat16" (autocast: weights stay float32, matrix products run in bfloat16),
            or "auto": bfloat16 where `has_native_bfloat16`, else float32.

    Raises:
        ValueError: for another `precision`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision == "bfloat16" or (precision == "auto" and has_native_bfloat16(device)):
        return torch.autocast(torch.device(device).type, torch.bfloat16)
    return nullcontext()


@contextmanager
def fast_products(device: torch.device | str) -> Iterator[None]:
    """Inside, float32 matrix products on a CUDA GPU may run in TF32, unless somebody has set their precision.

    Source: "high" of `torch.set_float32_matmul_precision`; PyTorch's default, "highest", is the exact format.
    """
    matmuls = [backend.matmul for backend in (torch.backends.cuda, torch.backends.mkldnn)
               if hasattr(getattr(backend, "matmul", None), "fp32_precision")]  # PyTorch 2.9 and later
    if torch.device(device).type != "cuda" or not _products_as_installed(matmuls):
        yield
        return
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        for matmul in matmuls:
            matmul.fp32_precision = "none"  # as installed; the line above has made it "ieee", a choice


def _products_as_installed(matmuls: Sequence[Any]) -> bool:
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # set in the new way: PyTorch refuses to answer in the old one
        return False
    return precision == "highest" and all(matmul.fp32_precision == "none" for matmul in matmuls)


def page_locked(batch: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """A batch in memory that a CUDA GPU reads by itself; for other devices the batch as it is."""
    if device.type != "cuda":
        return batch
    return [tensor.pin_memory() if tensor.device.type == "cpu" else tensor for tensor in batch]


def send(batch: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """A batch on `device`. A CUDA GPU fetches it from page-locked memory when its work up to here is done, and the
    program goes on at once; from ordinary memory it would wait for the GPU."""
    return [tensor.to(device, non_blocking=True) for tensor in page_locked(batch, device)]


class Numbers:
    """Numbers that a device has computed, on their way to the program: all in one transfer, which waits in the GPU's
    queue of work while the program goes on. `wait()` waits for them."""

    def __init__(self, *scalars: Tensor):
        self.there = torch.stack([scalar.detach().float() for scalar in scalars])
        self.here, self.arrived = self.there, None
        if self.there.device.type == "cuda":
            self.here = torch.empty(len(scalars), pin_memory=True).copy_(self.there, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def wait(self) -> list[float]:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.here.tolist()


def guard_update(optimizer: torch.optim.Optimizer, numbers: Numbers) -> None:
    """Let the next step of an optimizer do nothing if one of the numbers is nan or infinite.

    PyTorch's fused kernels look on the device (`found_inf`, which its `GradScaler` uses): nobody waits. For other
    optimizers the program waits here, and takes the gradients away.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if optimizer.defaults.get("fused") and not any(map(is_sharded, weights)):
        optimizer.found_inf = 1 - numbers.there.isfinite().all().float()
    elif not all(map(math.isfinite, numbers.wait())):
        optimizer.zero_grad(set_to_none=True)


def activation_dtype(weight: Tensor) -> torch.dtype:
    """The number format of what a layer computes with `weight`: autocast's inside `autocast`, else the weight's."""
    return _autocast_dtype(weight.device.type) or weight.dtype


@torch.compiler.assume_constant_result  # not every PyTorch can trace it; a graph is made for one state of autocast
def _autocast_dtype(kind: str) -> torch.dtype | None:
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return None


class _NoDraws(TorchFunctionMode):
    """Skips the random draws of new layers: on the meta device they have nowhere to go, and cost two seconds."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.normal_ or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def whole_precision(device: torch.device | str) -> AbstractContextManager:
    """A context in which autocast is off: for sums over a long text, and for solvers that know no bfloat16."""
    return torch.autocast(torch.device(device).type, enabled=False)


def at_least_float32(*tensors: Tensor) -> list[Tensor]:
    """The tensors in float32, or in float64 where they are in that."""
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]


@contextmanager
def without_weights() -> Iterator[None]:
    """Models built inside have shapes and no numbers, until `load_state_dict(state, assign=True)` gives them some."""
    with torch.device("meta"), _NoDraws():
        yield


@functools.cache
def one_row_has_one_thread() -> bool:
    """Whether PyTorch leaves the product of a matrix and one row to a single thread here: its Intel library (MKL) does
    on AMD's processors."""
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux; on Windows this ends with the maker
        processor = platform.processor()
    return "AuthenticAMD" in processor and torch.backends.mkl.is_available()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, (..., in) -> (..., out); one row in float32 is shared out between a CPU's threads where PyTorch would
    leave it to one (`one_row_has_one_thread`).

    Text is generated one row at a time, and there fetching the weights from memory is all the work. A batch of
    products, one for each part of the rows of `weight`, goes to all threads, and took half the time on an AMD
    processor. On an Intel one it takes an eighth longer.
    """
    one_row = x.numel() == x.shape[-1] and x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"
    if not one_row or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    parts = torch.get_num_threads()
    if parts == 1 or len(weight) % parts or not one_row_has_one_thread():
        return F.linear(x, weight, bias)
    pieces = weight.view(parts, -1, weight.shape[1]).transpose(1, 2)  # (parts, in, out / parts)
    result = torch.bmm(x.reshape(1, 1, -1).expand(parts, 1, -1), pieces).view(*x.shape[:-1], -1)
    return result if bias is None else result + bias


class Linear(nn.Linear):
    """`nn.Linear` that computes by `linear`: the same numbers, sooner where text is generated on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


# --- tensors that several processes share (see `llmbook.scale.team`) ---

def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds only its rows of a tensor."""
    return hasattr(tensor, "to_local")


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its rows, or all of it."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor, from the processes that hold its rows. All of them must call it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """A model's `state_dict`, whole, on the CPU. Every process of a team must call it."""
    return {name: whole_tensor(tensor.detach()).cpu()
            for name, tensor in model.state_dict().items()}


# --- one policy for loading, and evaluation mode without touching the model ---

def inference_dtype(device: torch.device | str) -> torch.dtype:
    """The number format in which a model is loaded to be used: bfloat16 on a GPU that computes it natively, else
    float32. Training keeps its weights in float32 everywhere, and computes as `autocast` says."""
    on_gpu = torch.device(device).type != "cpu"
    return torch.bfloat16 if on_gpu and has_native_bfloat16(device) else torch.float32


_DROPOUTS = {torch.dropout, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}


class _DropoutOff(TorchFunctionMode):
    """Makes dropout do nothing, in this thread, whatever mode the layers are in."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func is F.scaled_dot_product_attention and "dropout_p" in kwargs:
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Inside, all of a model is in evaluation mode; afterwards each of its parts is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def without_dropout(model: nn.Module | Sequence[nn.Module]) -> AbstractContextManager:
    """The context in which a model's dropout does nothing, as in evaluation mode. The model itself is not touched, so
    that two callers, or two threads, cannot switch dropout on or off for each other. Whoever asks for each token hands
    in the list of the model's modules, so that it is not made each time."""
    modules = model.modules() if isinstance(model, nn.Module) else model
    return _DropoutOff() if any(module.training for module in modules) else nullcontext()


class OneProcess:
    """A team of one: this process trains alone, on `device` (the best there is if None).

    `llmbook.scale.team.Team` has the same methods for several. Raises ValueError if torchrun
    started more than this process.
    """

    size, rank, leads = 1, 0, True

    def __init__(self, device: torch.device | str | None = None):
        if (size := process_place()[1]) > 1:
            raise ValueError(f"{size} processes were started (WORLD_SIZE) and each would train "
                             "alone: pass team=Team() of llmbook.scale.team")
        self.device = chosen_device(device)

    def share(self, model: nn.Module, loss_fn: LossFunction) -> LossFunction:
        """What to call in place of `loss_fn`."""
        return loss_fn

    def own_rows(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The rows of a batch that are this process's: all of them."""
        return tuple(batch)

    def exchange(self, last: bool) -> AbstractContextManager:
        """The context of a forward and backward pass: with nobody to exchange gradients with."""
        return nullcontext()

    def sum(self, number: Tensor) -> Tensor:
        """A scalar added up over the processes."""
        return number
