"""Gemma 3's text model: a relative of Llama with two kinds of layers, in a module of its own to keep Llama readable."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import KeyValueCache, MultiHeadAttention
from .devices import activation_dtype, linear
from .gpt import check_token_ids, initialize_weights
from .llama import GatedFeedForward, rotary_frequencies, rotation_at

__all__ = ["Gemma", "GemmaBlock", "GemmaConfig", "GemmaNorm"]


@dataclass(frozen=True)
class GemmaConfig:
    """The sizes of a `Gemma`. The defaults are those of Gemma 3 1B.

    Args:
        vocab_size, context_length, d_model, n_heads, n_kv_heads, n_layers, d_hidden, d_head, norm_eps: as in
            `LlamaConfig`.
        window: how many tokens a local layer sees, itself included.
        global_layers: the blocks, from 0, that see all tokens; every sixth if None.
        rope_base, rope_scaling: of the global layers, see `rotary_frequencies`.
        local_rope_base: of the local layers.
        attention_scale: what the dot products are multiplied by; 1 / sqrt(d_head) if None.

    Raises ValueError for a size that cannot work.
    """

    vocab_size: int = 262144
    context_length: int = 32768
    d_model: int = 1152
    n_heads: int = 4
    n_kv_heads: int = 1
    n_layers: int = 26
    d_hidden: int = 6912
    d_head: int = 256
    window: int = 512
    global_layers: Sequence[int] | None = None
    rope_base: float = 1e6
    rope_scaling: Mapping[str, Any] | None = None
    local_rope_base: float = 10000.0
    attention_scale: float | None = None
    norm_eps: float = 1e-6

    def __post_init__(self):
        for name in ("vocab_size", "context_length", "d_model", "n_heads", "n_kv_heads", "n_layers", "d_hidden",
                     "d_head", "window"):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
                raise ValueError(f"{name} is {size!r}: it must be a whole number, at least 1")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads ({self.n_heads}) must be divisible by n_kv_heads ({self.n_kv_heads})")
        if self.d_head % 2:
            raise ValueError(f"d_head is {self.d_head}: it must be even, for rotary pairs")
        if self.attention_scale is None:
            object.__setattr__(self, "attention_scale", self.d_head**-0.5)  # it is frozen
        for name, least in (("rope_base", 1), ("local_rope_base", 1), ("norm_eps", 0), ("attention_scale", 0)):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, Real) or not least < number < math.inf:
                raise ValueError(f"{name} is {number!r}: it must be a number above {least}")
        layers = range(5, self.n_layers, 6) if self.global_layers is None else self.global_layers
        object.__setattr__(self, "global_layers", tuple(layers))  # a list, as JSON has it, is as good
        if unknown := set(self.global_layers) - set(range(self.n_layers)):
            raise ValueError(f"global_layers names block {min(unknown)}: there are 0 to {self.n_layers - 1}")
        self.frequencies(local=False)  # is the scaling known?

    def frequencies(self, local: bool, device: torch.device | str | None = None) -> Tensor:
        """How fast each pair of a head's features turns, (d_head / 2,), in the local or the global layers."""
        if local:
            return rotary_frequencies(self.d_head, self.local_rope_base, None, device)
        return rotary_frequencies(self.d_head, self.rope_base, self.rope_scaling, device)


class GemmaNorm(nn.Module):
    """RMSNorm that scales by 1 + weight, in float32. (..., features) -> the same shape.

    Args:
        features: of the last dimension. eps: added under the root.
    """

    def __init__(self, features: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        scale = 1.0 + self.weight.float()
        return (F.rms_norm(x.float(), self.weight.shape, eps=self.eps) * scale).type_as(x)


class GemmaBlock(nn.Module):
    """Attention, local or global, then a gated feed-forward part, with a norm before and after each.

    (batch, tokens, d_model) -> the same shape. `cache`, `layer` and `rotation` as in `LlamaBlock`.

    Args:
        config: the sizes. layer: which of the model's blocks this is, from 0.

    Source: Gemma Team, "Gemma 3 Technical Report" (2025), section 2.
    """

    def __init__(self, config: GemmaConfig, layer: int = 0):
        super().__init__()
        norm = partial(GemmaNorm, eps=config.norm_eps)
        self.config, self.local = config, layer not in config.global_layers
        self.attention_norm = norm(config.d_model)
        self.attention = MultiHeadAttention(
            config.d_model, config.n_heads, n_kv_heads=config.n_kv_heads, d_head=config.d_head, qk_norm=norm,
            window=config.window if self.local else None, scale=config.attention_scale)
        self.attention_out_norm = norm(config.d_model)
        self.feed_forward_norm = norm(config.d_model)
        self.feed_forward = GatedFeedForward(config.d_model, config.d_hidden, partial(F.gelu, approximate="tanh"))
        self.feed_forward_out_norm = norm(config.d_model)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None, layer: int = 0,
                rotation: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        if rotation is None:
            rotation = self.rotation(x, cache)
        x = x + self.attention_out_norm(self.attention(self.attention_norm(x), cache, layer, rotation))
        return x + self.feed_forward_out_norm(self.feed_forward(self.feed_forward_norm(x)))

    def rotation(self, x: Tensor, cache: KeyValueCache | None) -> Callable[[Tensor], Tensor]:
        """What turns queries and keys of x, (batch, tokens, ...), which continues the cache."""
        tokens = x.shape[1]
        places = torch.arange(tokens, device=x.device) if cache is None else cache.positions(tokens)
        return rotation_at(places, self.config.frequencies(self.local, x.device))


class Gemma(nn.Module):
    """A decoder-only transformer like Gemma 3, with the interface of `GPT`: token ids in, logits out.

    Five of six layers see a window of tokens only, which keeps attention cheap on long texts; the others see all, and
    turn their queries and keys more slowly. The output layer is the token embedding again.

    Source: Gemma Team, "Gemma 3 Technical Report" (2025), section 2.
    """

    def __init__(self, config: GemmaConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(GemmaBlock(config, layer) for layer in range(config.n_layers))
        self.final_norm = GemmaNorm(config.d_model, config.norm_eps)
        self.output = None  # a quantised copy of the embedding, if `quantize` made one
        initialize_weights(self, config.n_layers)

    def forward(self, token_ids: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Token ids (batch, tokens) -> logits (batch, tokens, vocab_size); see `hidden_states`."""
        return self.lm_head(self.hidden_states(token_ids, cache))

    def hidden_states(self, token_ids: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Token ids (batch, tokens) -> features (batch, tokens, d_model), after the final norm. With a `cache`, ids
        continue what it holds and join it. Errors: see `check_token_ids`."""
        past = 0 if cache is None else cache.length
        check_token_ids(token_ids, self.config.vocab_size, self.config.context_length, past)
        x = self.token_embedding(token_ids)  # (batch, tokens, d_model)
        x = x * torch.tensor(self.config.d_model**0.5, dtype=x.dtype, device=x.device)
        return self.final_norm(self.run_blocks(x, cache=cache))

    def run_blocks(self, x: Tensor, first: int = 0, cache: KeyValueCache | None = None) -> Tensor:
        """Features that enter block `first`, (batch, tokens, d_model), through it and all later ones. The final norm is
        left to the caller. A `cache` goes with first = 0 only."""
        rotations: dict[bool, Callable[[Tensor], Tensor]] = {}  # one for the local layers, one for the others
        for layer in range(first, len(self.blocks)):
            block = self.blocks[layer]
            if block.local not in rotations:
                rotations[block.local] = block.rotation(x, cache)
            x = block(x, cache, layer, rotations[block.local])
        return x

    def lm_head(self, hidden: Tensor) -> Tensor:
        """Features (..., d_model) -> logits (..., vocab_size)."""
        return linear(hidden, self.token_embedding.weight) if self.output is None else self.output(hidden)

    def new_cache(self, batch_size: int, max_tokens: int | None = None, padding: Tensor | None = None) -> KeyValueCache:
        """An empty cache for `batch_size` texts of `max_tokens` (`context_length` if None).
        padding: (batch_size,), places at the left of each row without a token."""
        config, weight = self.config, self.token_embedding.weight
        return KeyValueCache(
            config.n_layers, batch_size, config.n_kv_heads,
            config.context_length if max_tokens is None else max_tokens, config.d_head,
            activation_dtype(weight), weight.device, padding)
