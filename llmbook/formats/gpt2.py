"""GPT-2 in other people's files: on Hugging Face, and as GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..gpt import GPTConfig
from .configs import Settings, Size, read_settings
from .gguf import GGUFCheckpoint
from .layouts import GGUFHeader, Layout, TensorNames

__all__ = ["LAYOUT"]

_BLOCK, _THEIRS = "blocks.{}.", "transformer.h.{}."
_NAMES = {  # our name: the name in a Hugging Face GPT-2
    "token_embedding.weight": "transformer.wte.weight",
    "position_embedding.weight": "transformer.wpe.weight",
    _BLOCK + "attention_norm.weight": _THEIRS + "ln_1.weight",
    _BLOCK + "attention_norm.bias": _THEIRS + "ln_1.bias",
    _BLOCK + "attention.qkv.weight": _THEIRS + "attn.c_attn.weight",
    _BLOCK + "attention.qkv.bias": _THEIRS + "attn.c_attn.bias",
    _BLOCK + "attention.out.weight": _THEIRS + "attn.c_proj.weight",
    _BLOCK + "attention.out.bias": _THEIRS + "attn.c_proj.bias",
    _BLOCK + "feed_forward_norm.weight": _THEIRS + "ln_2.weight",
    _BLOCK + "feed_forward_norm.bias": _THEIRS + "ln_2.bias",
    _BLOCK + "feed_forward.expand.weight": _THEIRS + "mlp.c_fc.weight",
    _BLOCK + "feed_forward.expand.bias": _THEIRS + "mlp.c_fc.bias",
    _BLOCK + "feed_forward.contract.weight": _THEIRS + "mlp.c_proj.weight",
    _BLOCK + "feed_forward.contract.bias": _THEIRS + "mlp.c_proj.bias",
    "final_norm.weight": "transformer.ln_f.weight",
    "final_norm.bias": "transformer.ln_f.bias",
}
_TURNED = frozenset(_BLOCK + name for name in ("attention.qkv.weight", "attention.out.weight",
                                               "feed_forward.expand.weight", "feed_forward.contract.weight"))


class _GPT2Settings(Settings):
    """config.json of a Hugging Face GPT-2. Sizes have no defaults: one that is missing is an error."""

    vocab_size: Size
    n_positions: Size
    n_embd: Size
    n_head: Size
    n_layer: Size
    n_inner: Size | None = None
    activation_function: Literal["gelu_new", "gelu_pytorch_tanh"] = "gelu_new"
    layer_norm_epsilon: float = Field(1e-5, ge=1e-5, le=1e-5)
    scale_attn_weights: Literal[True] = True
    scale_attn_by_inverse_layer_idx: Literal[False] = False
    tie_word_embeddings: Literal[True] = True
    add_cross_attention: Literal[False] = False


_OTHER_NAMES = {"hidden_size": "n_embd", "max_position_embeddings": "n_positions", "num_attention_heads": "n_head",
                "num_hidden_layers": "n_layer"}


def _from_hugging_face(settings: Mapping[str, Any]) -> GPTConfig:
    settings = dict(settings)
    for name, own in _OTHER_NAMES.items():  # the library takes either
        if name in settings and settings.setdefault(own, settings[name]) != settings[name]:
            raise ValueError(f"{name} = {settings[name]!r} contradicts {own} = {settings[own]!r}: take one of them out")
    found = read_settings(_GPT2Settings, settings)
    if found.n_inner not in (None, 4 * found.n_embd):
        raise ValueError(f"n_inner = {found.n_inner} is not supported (only None or {4 * found.n_embd})")
    return GPTConfig(found.vocab_size, found.n_positions, found.n_embd, found.n_head, found.n_layer, dropout=0.0,
                     qkv_bias=True)


def _to_hugging_face(config: GPTConfig) -> dict[str, Any]:
    return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": config.vocab_size,
            "n_positions": config.context_length, "n_embd": config.d_model, "n_head": config.n_heads,
            "n_layer": config.n_layers}


def _add_biases(state: dict[str, Tensor], config: GPTConfig) -> None:
    """The library's GPT-2 always has biases of queries, keys and values."""
    for layer in range(config.n_layers):
        weight = state[f"transformer.h.{layer}.attn.c_attn.weight"]
        state.setdefault(f"transformer.h.{layer}.attn.c_attn.bias", torch.zeros(weight.shape[1], dtype=weight.dtype))


class _GPT2Metadata(Settings):
    """The settings of a GGUF file, without the family's name before them."""

    context_length: Size
    embedding_length: Size
    feed_forward_length: Size | None = None
    block_count: Size
    head_count: Size = Field(alias="attention.head_count")
    norm_eps: float = Field(1e-5, alias="attention.layer_norm_epsilon", gt=9.9e-6, lt=1.01e-5)


def _from_gguf(checkpoint: GGUFCheckpoint, architecture: str) -> GPTConfig:
    own = {key.removeprefix(f"{architecture}."): value for key, value in checkpoint.metadata.items()
           if key.startswith(f"{architecture}.")}
    found = read_settings(_GPT2Metadata, own)
    if found.feed_forward_length not in (None, 4 * found.embedding_length):
        raise ValueError(f"feed_forward_length = {found.feed_forward_length} is not supported "
                         f"(only {4 * found.embedding_length})")
    if "token_embd.weight" not in checkpoint.shapes:
        raise ValueError("the tensor token_embd.weight is missing: download the file again")
    return GPTConfig(checkpoint.shapes["token_embd.weight"][0], found.context_length, found.embedding_length,
                     found.head_count, found.block_count, dropout=0.0, qkv_bias=True)


def _to_gguf(config: GPTConfig) -> GGUFHeader:
    """llama.cpp's GPT-2 always has biases of queries, keys and values."""
    none = {} if config.qkv_bias else {f"blk.{layer}.attn_qkv.bias": torch.zeros(3 * config.d_model)
                                       for layer in range(config.n_layers)}
    return GGUFHeader("gpt2", {
        "context_length": config.context_length, "embedding_length": config.d_model, "block_count": config.n_layers,
        "feed_forward_length": 4 * config.d_model, "attention.head_count": config.n_heads,
        "attention.layer_norm_epsilon": 1e-5}, none)


_TENSORS = TensorNames(_NAMES, transposed=_TURNED)
LAYOUT = Layout(_TENSORS, _from_hugging_face, _to_hugging_face,
                gguf=lambda config, architecture: _TENSORS.in_gguf(architecture, config.n_layers),
                config_from_gguf=_from_gguf, complete=_add_biases, config_to_gguf=_to_gguf)
"""Where everything of a GPT-2 is in other people's files."""
