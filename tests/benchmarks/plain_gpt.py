"""GPT-2 and its training as a fast plain script has them, to compare with: one file, no package.

In the style of nanoGPT and written anew: PyTorch's modules and its fused attention, the exact GELU, a vocabulary padded
to a multiple of 64, AdamW, on a GPU with its fused kernel, bfloat16 by autocast, TF32 for what stays in float32,
`torch.compile` if asked for, batches in pinned memory, and no wait for the device inside a step. Both benchmarks, on a
CPU and on a GPU, use it.
"""

from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def padded(vocab_size: int) -> int:
    """Up to a multiple of 64: 50,304 for GPT-2's 50,257."""
    return -(-vocab_size // 64) * 64


class Block(nn.Module):
    """Attention and feed-forward, each reading a normalised copy."""

    def __init__(self, d_model: int, n_heads: int, bias: bool = True):
        super().__init__()
        self.n_heads = n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(d_model, bias=bias), nn.LayerNorm(d_model, bias=bias)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model, bias), nn.Linear(d_model, d_model, bias)
        self.up, self.down = nn.Linear(d_model, 4 * d_model, bias), nn.Linear(4 * d_model, d_model, bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, features = x.shape
        query, key, value = (part.view(batch, tokens, self.n_heads, -1).transpose(1, 2)
                             for part in self.qkv(self.norm_1(x)).split(features, dim=2))
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, tokens, features))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class PlainGPT(nn.Module):
    """(batch, tokens) ids and targets -> the mean cross-entropy. The output layer is the embedding."""

    def __init__(self, vocab_size: int = padded(50_257), context_length: int = 1024, d_model: int = 768,
                 n_heads: int = 12, n_layers: int = 12, bias: bool = True):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.places = nn.Embedding(context_length, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, bias) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model, bias=bias)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                writes = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * n_layers) ** 0.5 if writes else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


class PlainTraining:
    """The loop around a model that returns its loss: `loss_of(model, ids, targets)`, a scalar.

    Args:
        model: is moved to `device` and trained in place.
        bfloat16: whether products run in it.
        compiled: whether `torch.compile` makes kernels for the model.
        accumulation: batches to a step.
        fused: AdamW in one kernel; on a GPU only if None, as nanoGPT has it.
    """

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu", bfloat16: bool = False,
                 compiled: bool = False, accumulation: int = 1, loss_of=None, fused: bool | None = None):
        self.device, self.accumulation = torch.device(device), accumulation
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32
        self.model = model.to(self.device).train()
        self.context = torch.autocast(self.device.type, torch.bfloat16) if bfloat16 else nullcontext()
        weights = list(self.model.parameters())
        groups = [{"params": [p for p in weights if p.dim() >= 2], "weight_decay": 0.1},
                  {"params": [p for p in weights if p.dim() < 2], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95),
                                           fused=self.device.type == "cuda" if fused is None else fused)
        self.called = torch.compile(self.model) if compiled else self.model
        self.loss_of = loss_of or (lambda called, ids, targets: called(ids, targets))

    def _there(self, tensor: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def step(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """One step of the optimizer over `accumulation` batches (ids, targets); the last one's loss, on the device."""
        for ids, targets in batches:
            ids, targets = self._there(ids), self._there(targets)
            with self.context:
                loss = self.loss_of(self.called, ids, targets) / self.accumulation
            loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach() * self.accumulation
