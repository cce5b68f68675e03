"""Cross-entropy straight from a model's features, in chunks of tokens, so that not all logits exist at once.

A batch of 16 x 1,024 tokens has 823 million logits for GPT-2's vocabulary: 3.3 GB in float32, and their gradient as
much again. But a token's loss needs the logits of that token only. So a chunk of tokens is taken to its loss and, while
its logits are there, to its share of both gradients; then the logits are forgotten. Nothing is computed twice: the
three matrix products are those of the usual way. The idea is that of Hsu et al., "Liger Kernel: Efficient Triton
Kernels for LLM Training" (2024), section 3.2; the arithmetic here is PyTorch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .devices import Linear, activation_dtype
from .families import has_plain_head

__all__ = ["CHUNK", "ROWS", "chunked_loss", "chunks_pay", "head_weight", "most_logits", "padded_rows"]

CHUNK = {"cpu": 2**24, "cuda": 2**28}
"""Logits that exist at once, by device: as many as keep it busy."""
ROWS = 64
"""On a GPU the vocabulary's rows are padded to a multiple of this, inside the product only: its fast kernels want rows
of logits that begin at round addresses, and 50,257 is odd. 1: no padding."""
LEAST = 2**24  # logits; fewer take no memory worth the trouble


def head_weight(model: nn.Module) -> Tensor | None:
    """The matrix (vocab_size, d_model) of a head that is one product with it and nothing else; None for another head,
    such as one with a bias, with adapters, or with an `lm_head` that the class does not share with its family."""
    if "lm_head" in model.__dict__ or not has_plain_head(type(model)):
        return None
    output = getattr(model, "output", None)
    layer = model.token_embedding if output is None else output
    if type(layer) not in (nn.Embedding, nn.Linear, Linear) or getattr(layer, "bias", None) is not None:
        return None
    return layer.weight


def chunks_pay(model: nn.Module, targets: Tensor) -> bool:
    """Whether `chunked_loss` can take the place of the plain one, and saves something."""
    weight = head_weight(model)
    return weight is not None and targets.numel() * weight.shape[0] >= LEAST


def most_logits(model: nn.Module, tokens: int, vocab_size: int, kind: str) -> int:
    """How many logits exist at once while `next_token_loss` goes through so many tokens, on a device of this kind."""
    chunked = head_weight(model) is not None and tokens * vocab_size >= LEAST
    return min(tokens, _tokens_at_once(vocab_size, kind)) * vocab_size if chunked else tokens * vocab_size


def _tokens_at_once(vocab_size: int, kind: str) -> int:
    most = max(1, CHUNK.get(kind, CHUNK["cpu"]) // vocab_size)
    return 2 ** (most.bit_length() - 1)  # batches are cut evenly by a power of 2


def padded_rows(vocab_size: int, kind: str) -> int:
    """How many rows the matrix has while it is multiplied, on a device of this kind."""
    return -(-vocab_size // ROWS) * ROWS if kind == "cuda" else vocab_size


def chunked_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """As `llmbook.training.next_token_loss`, in chunks; for models that have a `head_weight`.

    inputs, targets: ids (batch, tokens); targets of -100 do not count. Returns a scalar, nats a token.
    """
    hidden = model.hidden_states(inputs).flatten(0, 1)
    weight, targets = head_weight(model), targets.flatten()
    scale = 1 / (targets != -100).sum().clamp(min=1)
    kind = hidden.device.type
    size, rows = _tokens_at_once(weight.shape[0], kind), padded_rows(weight.shape[0], kind)
    return _HeadLoss.apply(hidden, weight, targets, scale, size, rows, activation_dtype(weight))


class _HeadLoss(torch.autograd.Function):
    """hidden (n, d_model), weight (vocab_size, d_model), targets (n,) -> sum of the losses times scale, a scalar.

    size: tokens in a chunk. rows: of the matrix while it is multiplied. dtype: of the products. Gradients come from the
    forward pass; that of the weights is added up in the weights' own format.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, size: int, rows: int,
                dtype: torch.dtype) -> Tensor:
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        vocab_size = weight.shape[0]
        with torch.autocast(hidden.device.type, enabled=False):
            matrix, features = weight.to(dtype), hidden.to(dtype)
            if rows > vocab_size:
                matrix = F.pad(matrix, (0, 0, 0, rows - vocab_size))
            total = torch.zeros((), device=hidden.device)
            grad_weight = torch.zeros_like(matrix, dtype=weight.dtype) if for_weight else None
            parts = []
            for x, target in zip(features.split(size), targets.split(size)):
                loss, slope = _chunk(x, matrix, target, vocab_size, for_hidden or for_weight)
                total = total + loss
                counts = (target != -100)[:, None]
                if for_hidden:
                    parts.append((slope @ matrix * counts).to(hidden.dtype))
                if for_weight and dtype == weight.dtype:
                    grad_weight.addmm_(slope.T, x * counts)
                elif for_weight:
                    grad_weight += slope.T @ (x * counts)
        ctx.save_for_backward(torch.cat(parts) if for_hidden else None,
                              grad_weight[:vocab_size] if for_weight else None, scale)
        return total * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *found, scale = ctx.saved_tensors
        return *(part if part is None else part * (grad * scale) for part in found), None, None, None, None, None


def _chunk(x: Tensor, matrix: Tensor, target: Tensor, vocab_size: int, slope: bool) -> tuple[Tensor, Tensor | None]:
    """The sum of the losses of some tokens, features (n, d_model), and the gradient of each one's loss with respect to
    its logits, (n, rows of the matrix), in the matrix's format."""
    logits = _product(x, matrix)  # (n, rows)
    if matrix.shape[0] > vocab_size:
        logits[:, vocab_size:] = -torch.inf  # no token has these
    known, place = target != -100, target.clamp(min=0)[:, None]
    log_p = F.log_softmax(logits, dim=-1, dtype=torch.float32)
    right = log_p.gather(1, place)  # of the token that came, (n, 1)
    loss = -right[:, 0].where(known, 0.0).sum()
    if not slope:
        return loss, None
    if torch.compiler.is_compiling():  # one fused pass over the logits
        hit = torch.arange(matrix.shape[0], device=x.device) == place
        return loss, (log_p.exp() - hit.float()).to(x.dtype)
    into = next((t for t in (log_p, logits) if t.dtype == x.dtype), None)  # memory that is not needed any more
    slopes = torch.exp(log_p, out=torch.empty_like(log_p, dtype=x.dtype) if into is None else into)
    return loss, slopes.scatter_(1, place, right.expm1().to(x.dtype))  # p, and p - 1 for the token that came


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    """Logits (n, rows). A GPU's bfloat16 product can write float32 at once: nothing is rounded, and the softmax, which
    needs float32, reads them as they are."""
    writes = x.device.type == "cuda" and x.dtype != torch.float32 and hasattr(torch.ops.aten.mm, "dtype")  # 2.8
    if writes and not torch.compiler.is_compiling():
        return torch.mm(x, matrix.T, out_dtype=torch.float32)
    return x @ matrix.T
