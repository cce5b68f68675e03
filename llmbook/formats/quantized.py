"""Linear layers with 8 and 4 bits a weight, for inference."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..llama import LlamaBlock
from .quick_blocks import QuickLlamaBlock

__all__ = ["Int4Linear", "Int8Linear", "four_bit_codes", "quantize"]

_FEW = 64  # rows; making an output layer of 28M weights large costs as much as the products of 128 rows


class Int8Linear(nn.Module):
    """A linear layer for inference whose weights are int8 numbers, with one scale for each row.

    (..., in) -> (..., out). A quarter of float32's memory to read for each new token.

    Source: per-row absmax quantisation, as in Dettmers et al., "LLM.int8()" (2022), section 2.
    """

    def __init__(self, linear: nn.Linear | nn.Embedding):
        super().__init__()
        weight = linear.weight.detach().float()  # (out, in)
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale[:, 0])
        self.register_buffer("rounded_scale", self.scale.bfloat16(), persistent=False)
        self.bias = getattr(linear, "bias", None)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if len(rows) <= _FEW and x.device.type == "cpu":  # reading the weights takes longest
            return self.product(rows.bfloat16()).to(x.dtype).view(*x.shape[:-1], -1)
        # many rows: computing does, and the weights are made large for the moment
        result = F.linear(x, (self.weight * self.scale[:, None]).to(x.dtype))
        return result if self.bias is None else result + self.bias

    def product(self, rows: Tensor) -> Tensor:
        """(rows, in) in bfloat16 -> (rows, out) for few rows on a CPU, rounded to bfloat16 before a bias is added."""
        numbers = self._buffers  # a look-up by name, `self.weight`, would take a microsecond
        result = torch._weight_int8pack_mm(rows, numbers["weight"], numbers["rounded_scale"])
        return result if self.bias is None else result + self.bias


def four_bit_codes(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes 0 to 15 of a matrix (out, in), and steps and minima of each 32 numbers of a row.

    Number = minimum + step * code. Returns (out, in) int32 and twice (out, in / 32).
    """
    groups = weight.detach().float().unflatten(1, (-1, 32))  # (out, in / 32, 32)
    minimum, maximum = groups.aminmax(dim=2, keepdim=True)
    step = ((maximum - minimum) / 15).clamp(min=1e-12)
    codes = ((groups - minimum) / step).round().to(torch.int32)
    return codes.flatten(1), step[..., 0], minimum[..., 0]


class Int4Linear(nn.Module):
    """A linear layer for inference on a CPU: 4-bit weights in groups of 32, with step and minimum.

    (..., in) -> (..., out). `in` must be a multiple of 32, `out` of 16. Steps and results are
    rounded to bfloat16.

    Source: the layout is that of Q4_1 of the ggml project (2023); see `unpack_q4_1`.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        codes, step, minimum = four_bit_codes(linear.weight)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)  # two in a byte
        self.register_buffer("weight", packed)
        self.register_buffer("scale", torch.stack([step.T, (minimum + 8 * step).T], dim=2)
                             .bfloat16())  # (in / 32, out, 2)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x.flatten(0, -2).bfloat16()).to(x.dtype).view(*x.shape[:-1], -1)

    def product(self, rows: Tensor) -> Tensor:
        """(rows, in) in bfloat16 -> (rows, out), rounded to bfloat16 before a bias is added."""
        numbers = self._buffers  # a look-up by name, `self.weight`, would take a microsecond
        result = torch._weight_int4pack_mm_for_cpu(rows, numbers["weight"], 32, numbers["scale"])
        return result if self.bias is None else result + self.bias


def quantize(model: nn.Module, bits: int = 8) -> nn.Module:
    """Exchange a model's linear layers for faster ones, in place, for inference; returns it.

    bits: 8 (`Int8Linear`), or 4 (`Int4Linear`, for CPUs: the blocks' layers whose sizes allow it).
    A Llama's output layer gets 8 in any case: each token's score depends on it alone. Its blocks
    become `QuickLlamaBlock`s.

    Raises ValueError for other bits, for 4 if the model is not on the CPU, and for a model with adapters.
    """
    if bits not in (4, 8):
        raise ValueError(f"bits is {bits!r}: it must be 4 or 8")
    if bits == 4 and next(model.parameters()).device.type != "cpu":
        raise ValueError("4-bit layers run on the CPU: move the model there, or give bits=8")
    if any(hasattr(module, "adapters") for module in model.modules()):  # of `llmbook.lora`
        raise ValueError(f"this {type(model).__name__} has adapters, which would be lost: merge_lora(model) first")
    for module in [*model.modules()]:
        for name, child in [*module.named_children()]:
            if isinstance(child, nn.Linear):
                small = bits == 4 and module is not model
                small = small and child.in_features % 32 == 0 and child.out_features % 16 == 0
                setattr(module, name, (Int4Linear if small else Int8Linear)(child).train(child.training))
    if getattr(model, "output", model) is None:  # a Llama's, tied to the embedding: a copy of that
        model.output = Int8Linear(model.token_embedding).train(model.training)
    for module in [*model.modules()]:
        for name, child in [*module.named_children()]:
            if type(child) is LlamaBlock:
                setattr(module, name, QuickLlamaBlock(child))
    return model.requires_grad_(False)
