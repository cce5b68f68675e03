"""Blocks that read one new token with few operations, where text is generated on a CPU with 8 or 4 bits a weight.

The products of a small model are then so quick that the rest of a block takes longer: an operation costs microseconds
before it computes anything. So one token of one text goes a shorter way through a block than many do, with the same
weights and formulas:

- A norm is two operations. The root mean square of x, epsilon included, is the length of a vector with one feature
  more, that holds epsilon. PyTorch divides a vector by its length in one operation, which is there for weight
  normalisation; the second multiplies by the norm's weight and rounds for the product that follows.
- Queries and keys are turned by one product with a matrix, which is made once a token for all blocks.
- Query heads that share a key head lie side by side as if they were tokens: nothing is repeated, nothing masked.
- Working memory and the places of keys and values in the cache are looked up once a token for all blocks.
- What flows past the parts of a block stays in float32, and what flows between two products goes through bfloat16,
  which these products take and return.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..attention import KeyValueCache
from ..llama import LlamaBlock, LlamaConfig, rotary_table, rotate

__all__ = ["OneToken", "QuickLlamaBlock"]

_LARGEST_MATRIX = 128  # features of a head up to which a product with a matrix is the quickest way to turn it


class OneToken:
    """What all blocks share while one new token goes through them: its rotation, its places in the cache, and memory.

    A call turns queries and keys, (batch, heads, 1, d_head), as what `LlamaBlock.rotation` returns does.

    Args:
        config: the model's. frequencies: (d_head / 2,), see `rotary_frequencies`. cache: that the token goes to.
    """

    def __init__(self, config: LlamaConfig, frequencies: Tensor, cache: KeyValueCache):
        self.cache, self.tokens = cache, cache.length + 1
        place, d_model, d_head = cache.length, config.d_model, config.d_head
        heads, groups = config.n_heads, config.n_kv_heads
        self.cosine, self.sine = rotary_table(torch.tensor([place]), frequencies)  # each (1, d_head)
        self.matrix = _turning_matrix(self.cosine, self.sine) if d_head <= _LARGEST_MATRIX else None

        # Of each block: the token's places, (groups, d_head), and all until there, (1, groups, tokens, d_head).
        self.key_places, self.value_places = cache.keys[:, 0, :, place].unbind(), cache.values[:, 0, :, place].unbind()
        self.keys = cache.keys[:, :, :, : place + 1].unbind()
        self.values = cache.values[:, :, :, : place + 1].unbind()

        longer = torch.empty(1, d_model + 1)
        longer[0, d_model] = (d_model * config.norm_eps) ** 0.5
        self.longer, self.length = longer, torch.full((1, 1), d_model**0.5)
        self.stream = longer[:, :d_model]  # what flows past the parts of a block
        self.x = self.stream[None]  # the same, as a block takes and returns it
        self.longer_rows = torch.empty(1, d_model + 1, dtype=torch.bfloat16)
        self.rows = self.longer_rows[:, :d_model]

        self.qkv = torch.empty(1, (heads + 2 * groups) * d_head)
        self.matched, self.value = self.qkv.view(-1, d_head).split([heads + groups, groups])
        self.turned = torch.empty(heads + groups, d_head)
        query, self.key = self.turned.split([heads, groups])
        self.query = query.view(1, groups, heads // groups, d_head)
        self.context = torch.empty(1, heads * d_head, dtype=torch.bfloat16)
        self.context_heads = self.context.view(self.query.shape)

    def __call__(self, features: Tensor) -> Tensor:
        return rotate(features, self.cosine.to(features.dtype), self.sine.to(features.dtype))

    def norm(self, weight: Tensor) -> Tensor:
        """RMSNorm of the stream as a product takes it, (1, d_model) in bfloat16. weight: (d_model + 1,)."""
        unit, _ = torch._weight_norm_interface(self.longer, self.length, 0)
        torch.mul(unit, weight, out=self.longer_rows)
        return self.rows

    def attend(self, qkv: Tensor, layer: int, has_positions: bool, norms: tuple[nn.Module, nn.Module] | None,
               window: int | None, scale: float | None) -> Tensor:
        """Queries, keys and values, (1, all their features) -> what the heads gather, (1, heads' features), in
        bfloat16. The other arguments as in `MultiHeadAttention`."""
        self.qkv.copy_(qkv)
        if norms is not None:
            query, key = self.matched.split([len(self.matched) - len(self.key), len(self.key)])
            torch.cat([norms[0](query), norms[1](key)], out=self.matched)
        if not has_positions:
            self.turned.copy_(self.matched)
        elif self.matrix is not None:
            torch.mm(self.matched, self.matrix, out=self.turned)
        else:
            self.turned.copy_(self(self.matched))
        self.key_places[layer].copy_(self.key)
        self.value_places[layer].copy_(self.value)
        self.cache.fill(layer, self.tokens)
        keys, values = self.keys[layer], self.values[layer]
        if window is not None and window < self.tokens:
            keys, values = keys[:, :, -window:], values[:, :, -window:]
        self.context_heads.copy_(F.scaled_dot_product_attention(self.query, keys, values, scale=scale))
        return self.context


def _turning_matrix(cosine: Tensor, sine: Tensor) -> Tensor:
    """The matrix (d_head, d_head) whose product with features, from the left, is `rotate` by a table's one row."""
    half = cosine.shape[1] // 2
    matrix = torch.diag_embed(cosine[0])
    matrix.diagonal(half).copy_(sine[0, half:])  # the sines have their signs
    matrix.diagonal(-half).copy_(sine[0, :half])
    return matrix


class QuickLlamaBlock(LlamaBlock):
    """A `LlamaBlock` whose products have 8 or 4 bits a weight, with a short way for one new token of one text.

    It goes that way in float32 on the CPU where no gradient is wanted, with a plain cache without padding; all else
    goes as in `LlamaBlock`. Hooks on the block see every token, hooks on its parts none that goes the short way.

    Args:
        block: its parts become this block's, under the same names. Its linear layers have a method `product`, (1, in)
            in bfloat16 -> (1, out), as `Int4Linear` has.
    """

    def __init__(self, block: LlamaBlock):
        nn.Module.__init__(self)
        for name, value in vars(block).items():  # settings, and whether it is in training mode
            if not name.startswith("_"):
                setattr(self, name, value)
        for name, part in block.named_children():
            setattr(self, name, part)
        attention, feed_forward = block.attention, block.feed_forward
        # A look into a module's parts takes a microsecond: what a token needs lies ready.
        self._frequencies = block.config.frequencies()
        self._products = (attention.qkv.product, attention.out.product, feed_forward.expand.product,
                          feed_forward.contract.product)
        self._norms = _longer_weights(self)
        norms = None if attention.query_norm is None else (attention.query_norm, attention.key_norm)
        self._attention = self.has_positions, norms, attention.window, attention.scale
        self._activation = feed_forward.activation

    def rotation(self, x: Tensor, cache: KeyValueCache | None) -> Callable[[Tensor], Tensor]:
        """As `LlamaBlock.rotation`; for a token that goes the short way, its `OneToken`."""
        if (type(cache) is KeyValueCache and cache.padding is None and x.shape[:2] == (1, 1)
                and x.dtype == cache.keys.dtype == torch.float32 and x.device.type == cache.keys.device.type == "cpu"
                and cache.keys.shape[1:3] == (1, self.config.n_kv_heads) and cache.keys.shape[4] == self.config.d_head
                and not torch.is_grad_enabled() and cache.length < cache.max_tokens):
            return OneToken(self.config, self._frequencies, cache)
        return super().rotation(x, cache)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None, layer: int = 0,
                rotation: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        token = self.rotation(x, cache) if rotation is None else rotation
        if type(token) is not OneToken or token.cache is not cache or layer >= len(token.keys):
            return super().forward(x, cache, layer, token)
        if x is not token.x:
            token.stream.copy_(x[0])
        qkv, out, expand, contract = self._products
        if any(parameters["weight"].data_ptr() != longer.data_ptr() for parameters, longer in self._norms):
            self._norms = _longer_weights(self)  # this is a copy, or has other weights now
        (_, before_attention), (_, before_feed_forward) = self._norms
        context = token.attend(qkv(token.norm(before_attention)), layer, *self._attention)
        token.stream.add_(out(context))
        gate, content = expand(token.norm(before_feed_forward)).chunk(2, dim=1)
        token.stream.add_(contract(self._activation(gate).mul_(content)))
        return token.x.clone() if self._forward_hooks else token.x  # the next block writes over it


def _longer_weights(block: LlamaBlock) -> list[tuple[dict[str, nn.Parameter], Tensor]]:
    """For both norms, their parameters, and a vector (d_model + 1,) that is their weight and one number more.

    The weight becomes a part of that vector, so that who changes it changes both.
    """
    found = []
    for norm in (block.attention_norm, block.feed_forward_norm):
        longer = F.pad(norm.weight.detach(), (0, 1))
        norm.weight = nn.Parameter(longer[:-1], requires_grad=norm.weight.requires_grad)
        found.append((norm._parameters, longer))
    return found
