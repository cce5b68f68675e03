"""Text generation for GPUs: the pass that reads one token, compiled once and run as one piece.

On a GPU, a small model's layers take less time than Python needs to start them. `torch.compile` turns the pass into a
few kernels, and on a CUDA GPU these are recorded once and started together (CUDA graphs). Both need tensors whose
shapes do not change from token to token. So here the cache has room for a fixed number of tokens, and how many it holds
stands in a tensor. Places that are not filled yet are computed too, and hidden by a mask.

The idea is that of a static cache, as in PyTorch's gpt-fast (2023), https://github.com/meta-pytorch/gpt-fast.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from .attention import KeyValueCache, MultiHeadAttention
from .compiling import check_compiler
from .gpt import check_token_ids
from .protocols import Cache, LanguageModel

__all__ = ["CompiledDecoding", "StaticCache", "compile_decoding"]

FEWEST_PLACES = 256  # a cache begins with room for so many tokens; then it doubles


def compile_decoding(model: LanguageModel, backend: str | Callable = "inductor") -> CompiledDecoding:
    """A model that writes the same text as `model`, sooner on a GPU: hand it to `generate`, `stream` or `Chat`.

    Args:
        model: a `GPT`, `Llama` or other model whose blocks attend by `MultiHeadAttention`, on the device where it is to
            write. Its weights are shared, not copied; the model itself is not touched.
        backend: as for `torch.compile`.

    The first token is slow: that is when the pass is compiled, once for each batch size (rounded up to a power of two).
    Prompts are read by the model as it is.

    Raises TypeError for a model with another kind of attention or cache; RuntimeError if the compiler that PyTorch
    needs is not installed.
    """
    if backend == "inductor":
        check_compiler(next(model.parameters()).device, "compile_decoding", "or use the model as it is")
    return CompiledDecoding(model, backend)


class CompiledDecoding(nn.Module):
    """What `compile_decoding` returns: a `LanguageModel` for inference, always in evaluation mode."""

    def __init__(self, model: LanguageModel, backend: str | Callable = "inductor"):
        super().__init__()
        self.config, self.backend = model.config, backend
        self._original = [model]  # in a list: it is no part of this module
        self._storages: dict[tuple, _Storage] = {}  # free ones; a pass is recorded for the memory that it works on
        self._prepare()

    def _prepare(self) -> None:
        """Make the twin that is compiled anew where a layer or weight was exchanged since."""
        model = self._original[0]
        parts = [*model.modules(), *model.parameters(), *model.buffers()]
        if hasattr(self, "_parts") and len(parts) == len(self._parts) and all(
                new is old for new, old in zip(parts, self._parts)):
            return
        self._parts = parts
        self.model = _twin(model)
        self.train(False)
        self._step = _compiled_step(self.model, self.backend, next(model.parameters()).device)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.blocks

    def train(self, mode: bool = True) -> CompiledDecoding:
        """Stays in evaluation mode: train the model that was handed in."""
        return super().train(False)

    def forward(self, token_ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Token ids (batch, tokens) -> logits (batch, tokens, vocab_size)."""
        return self.lm_head(self.hidden_states(token_ids, cache))

    def hidden_states(self, token_ids: Tensor, cache: Cache | None = None) -> Tensor:
        """As the model's own. One token for each row, after a first pass, goes through the compiled pass."""
        one_token = token_ids.dim() == 2 and token_ids.shape[1] == 1
        if not (one_token and isinstance(cache, StaticCache) and cache.length):
            return self.model.hidden_states(token_ids, cache)
        check_token_ids(token_ids, self.config.vocab_size, self.config.context_length, cache.length)
        storage = cache.prepare_step(token_ids)
        with torch.inference_mode(False), torch.no_grad():  # another mode would be compiled once more
            if storage.keys.is_cuda:
                torch.compiler.cudagraph_mark_step_begin()
            hidden, keys, values = self._step(storage.token, storage.position, storage.padding, storage.keys,
                                              storage.values)
            cache.finish_step(keys, values)
            return hidden[: len(token_ids)].clone()  # the next step overwrites it

    def run_blocks(self, x: Tensor, first: int = 0, cache: Cache | None = None) -> Tensor:
        """As the model's own."""
        return self.model.run_blocks(x, first, cache)

    def lm_head(self, hidden: Tensor) -> Tensor:
        """As the model's own."""
        return self.model.lm_head(hidden)

    def new_cache(self, batch_size: int, max_tokens: int | None = None, padding: Tensor | None = None) -> StaticCache:
        """As the model's own; it holds a fixed number of places, more only when these are full."""
        self._prepare()
        plain = self.model.new_cache(batch_size, 1, padding)
        if not isinstance(plain, KeyValueCache):
            raise TypeError(f"the model keeps its past in a {type(plain).__name__}: compile_decoding knows a "
                            "KeyValueCache, so use the model as it is")
        return StaticCache(plain, self.config.context_length if max_tokens is None else max_tokens, self._storages)


# --- the cache ---

class _Storage:
    """Memory of a fixed shape: what the compiled pass reads.

    keys, values: (n_layers, rows, n_heads, places, d_head). token: (rows, 1), to be read. position: how many places are
    filled. padding: (rows,). A CUDA graph works on these addresses and no others.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device):
        self.shape = (*shape, dtype, device)
        with torch.inference_mode(False):  # usable inside and outside of it
            self.keys = torch.zeros(shape, dtype=dtype, device=device)  # a weight of 0 does not hide nan
            self.values = torch.zeros_like(self.keys)
            self.token = torch.zeros(shape[1], 1, dtype=torch.int64, device=device)
            self.position = torch.zeros((), dtype=torch.int64, device=device)
            self.padding = torch.zeros(shape[1], dtype=torch.int64, device=device)
        for tensor in (self.keys, self.values, self.token, self.position, self.padding):
            torch._dynamo.mark_static_address(tensor, guard=False)
        for tensor in (self.keys, self.values):
            torch._dynamo.maybe_mark_dynamic(tensor, 3)  # one compilation for all lengths


class StaticCache(KeyValueCache):
    """A `KeyValueCache` whose memory has few possible shapes, so that few passes are compiled and recorded.

    Args:
        plain: a cache of the model's own, which says the number of layers, rows and heads, and the padding.
        max_tokens: the most it will hold. Memory is taken as it fills, doubled each time.
        free: storages that other caches have left; this one leaves its own there when it is no longer used.
    """

    def __init__(self, plain: KeyValueCache, max_tokens: int, free: dict[tuple, _Storage]):
        n_layers, rows, n_heads, _, d_head = plain.keys.shape
        super().__init__(n_layers, rows, n_heads, 1, d_head, plain.keys.dtype, plain.keys.device, plain.padding)
        self.max_tokens, self._free = max_tokens, free
        self._storage, self._leave = None, None
        self._move(rows, min(max_tokens, FEWEST_PLACES))

    def _move(self, rows: int, tokens: int, taken: Tensor | None = None) -> None:
        """Into a storage for `rows` rows, those numbered `taken` (all if None), with places for `tokens`."""
        places = FEWEST_PLACES
        while places < tokens:
            places *= 2
        n_layers, _, n_heads, _, d_head = self.keys.shape
        shape = (n_layers, _row_places(rows), n_heads, places, d_head)
        kind = (self.keys.dtype, self.keys.device)
        storage = self._free.pop((*shape, *kind), None) or _Storage(shape, *kind)
        filled = max(self._lengths) if self._storage is not None else 0
        old = (self.keys, self.values)
        self.keys, self.values = storage.keys[:, :rows], storage.values[:, :rows]
        with torch.inference_mode(False), torch.no_grad():
            for new, held in zip((self.keys, self.values), old):
                if filled:
                    held = held[:, :, :, :filled]
                    new[:, :, :, :filled] = held if taken is None else held[:, taken]
            storage.padding.zero_()
        if self._leave is not None:
            self._leave()
        self._storage = storage
        self._leave = weakref.finalize(self, self._free.__setitem__, storage.shape, storage)
        self._pad()

    def _pad(self) -> None:
        if self.padding is not None:
            with torch.inference_mode(False), torch.no_grad():
                self._storage.padding[: len(self.padding)] = self.padding

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As `KeyValueCache.append`."""
        if 0 <= layer < len(self._lengths):
            self._make_room(self._lengths[layer] + keys.shape[2])
        return super().append(layer, keys, values)

    def _make_room(self, tokens: int) -> None:
        if tokens > self.max_tokens:
            raise ValueError(f"{tokens} tokens do not fit a cache of {self.max_tokens}: make it with more max_tokens")
        if tokens > self.keys.shape[3]:
            self._move(self.keys.shape[1], tokens)

    def select(self, rows: Tensor) -> None:
        """As `KeyValueCache.select`. Fewer rows stay where there was room for more: no new shape, no new pass."""
        before = self.keys.shape[1]
        rows = torch.as_tensor(rows, device=self.keys.device)
        if rows.dim() == 1 and rows.dtype == torch.int64 and _row_places(len(rows)) > len(self._storage.token):
            self.padding = None if self.padding is None else self.padding[rows]
            self._move(len(rows), self.keys.shape[3], rows)
            self._mask = None
            return
        super().select(rows)  # copies
        keys, values = self.keys, self.values
        filled, kept = max(self._lengths), keys.shape[1]
        self.keys, self.values = self._storage.keys[:, :kept], self._storage.values[:, :kept]
        with torch.inference_mode(False), torch.no_grad():
            self.keys[:, :, :, :filled] = keys[:, :, :, :filled]
            self.values[:, :, :, :filled] = values[:, :, :, :filled]
            self._storage.padding[kept:before] = 0
        self._pad()

    def prepare_step(self, token_ids: Tensor) -> _Storage:
        """The storage, with one token for each row, (rows, 1), and the position where they stand."""
        rows = self.keys.shape[1]
        if len(token_ids) != rows:
            raise ValueError(f"a batch of {len(token_ids)} does not fit a cache made for {rows}: make one for each "
                             "batch size")
        self._make_room(self.length + 1)
        self._storage.token[:rows] = token_ids
        self._storage.position.fill_(self.length)
        return self._storage

    def finish_step(self, keys: Tensor, values: Tensor) -> None:
        """Store the keys and values that the pass made for all rows, each (n_layers, row places, n_heads, d_head)."""
        place = self.length
        self._storage.keys[:, :, :, place] = keys
        self._storage.values[:, :, :, place] = values
        self._lengths = [place + 1] * len(self._lengths)


def _row_places(rows: int) -> int:
    """For how many rows memory is taken: the next power of two, above 64 the next multiple of 64."""
    return 1 << (rows - 1).bit_length() if rows <= 64 else -(-rows // 64) * 64


# --- the pass ---

class _Past:
    """The cache as the compiled pass sees it: tensors of fixed shape, and what to store afterwards."""

    length = 0  # of the checks that a model makes, which were made before

    def __init__(self, position: Tensor, padding: Tensor, keys: Tensor, values: Tensor):
        self.position, self.padding, self.keys, self.values = position, padding, keys, values
        self.places = torch.arange(keys.shape[3], device=keys.device)
        self.filled = (self.places < position) & (self.places >= padding[:, None])  # (rows, places)
        self.new_keys: list[Tensor] = []
        self.new_values: list[Tensor] = []

    def positions(self, tokens: int) -> Tensor:
        """Where the new tokens stand in their texts, (rows, 1)."""
        return (self.position - self.padding)[:, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None,
               scale: float) -> Tensor:
        """Context vectors of one token for each row, (rows, n_heads, 1, d_head). As `causal_attention`, but the number
        of places is fixed, and the token's own key and value are not in the cache yet."""
        rows, heads, _, features = query.shape
        query = query.reshape(rows, key.shape[1], -1, features)  # those that share a key next to each other
        filled = self.filled if window is None else self.filled & (self.places > self.position - window)
        seen = (query @ self.keys[layer].transpose(2, 3) * scale).float()  # (rows, n_kv_heads, shared, places)
        seen = seen.masked_fill(~filled[:, None, None], float("-inf"))
        itself = (query * key * scale).float().sum(dim=-1, keepdim=True)
        weights = torch.cat([seen, itself], dim=-1).softmax(dim=-1).to(value.dtype)
        context = weights[..., :-1] @ self.values[layer] + weights[..., -1:] * value
        self.new_keys.append(key[:, :, 0])
        self.new_values.append(value[:, :, 0])
        return context.reshape(rows, heads, 1, features)


class _Attention(nn.Module):
    """Stands in for a `MultiHeadAttention` in the twin: the same, and it can read a `_Past`."""

    def __init__(self, attention: MultiHeadAttention):
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, cache: Any = None, layer: int = 0,
                rotate: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        attention = self.attention
        if not isinstance(cache, _Past):
            return attention(x, cache, layer, rotate)
        query, key, value = attention.project(x, rotate)
        scale = attention.d_head**-0.5 if attention.scale is None else attention.scale
        context = cache.attend(layer, query, key, value, attention.window, scale)
        return attention.out(context.transpose(1, 2).flatten(2))


def _twin(model: LanguageModel) -> nn.Module:
    """The same layers and the same weights, not copied, with `_Attention` in place of each attention."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    twin = copy.deepcopy(model, shared)
    found = [(module, name, child) for module in twin.modules() for name, child in module.named_children()
             if isinstance(child, MultiHeadAttention)]
    if len(found) != len(twin.blocks):
        raise TypeError(f"{len(found)} of the model's {len(twin.blocks)} blocks attend by MultiHeadAttention: "
                        "compile_decoding knows no other kind, so use the model as it is")
    for module, name, child in found:
        setattr(module, name, _Attention(child))
    return twin


def _compiled_step(model: nn.Module, backend: str | Callable, device: torch.device) -> Callable:
    """The pass that reads one token for each row: (token, position, padding, keys, values) -> features (rows, 1,
    d_model) and the token's keys and values of all layers, each (n_layers, rows, n_heads, d_head)."""

    def step(token: Tensor, position: Tensor, padding: Tensor, keys: Tensor, values: Tensor
             ) -> tuple[Tensor, Tensor, Tensor]:
        past = _Past(position, padding, keys, values)
        hidden = model.hidden_states(token, past)
        return hidden, torch.stack(past.new_keys), torch.stack(past.new_values)

    # PyTorch counts how often it compiled a piece of code, and gives up at eight. So each model has its own.
    own = FunctionType(step.__code__.replace(), step.__globals__, step.__name__, None, step.__closure__)
    mode = "reduce-overhead" if backend == "inductor" and device.type == "cuda" else None
    return torch.compile(own, fullgraph=True, dynamic=False, backend=backend, mode=mode)

