"""Gemma 3's text model in other people's files: on Hugging Face, and as GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from torch import Tensor

from ..gemma import GemmaConfig
from .configs import Fraction, RotarySettings, Settings, Size, read_settings
from .gguf import GGUFCheckpoint
from .layouts import GGUFHeader, Layout, TensorNames
from .llama import ATTENTION_NAMES, Base, LlamaMetadata, part_rows, read_metadata, rope_in_gguf

__all__ = ["LAYOUT"]

_BLOCK, _THEIRS = "blocks.{}.", "model.layers.{}."
_NAMES = {  # our name: the name, or the names of the parts, in a Hugging Face Gemma 3
    "token_embedding.weight": "model.embed_tokens.weight",
    **{ours: theirs for ours, theirs in ATTENTION_NAMES.items() if not ours.endswith("bias")},
    _BLOCK + "attention_norm.weight": _THEIRS + "input_layernorm.weight",
    _BLOCK + "attention_out_norm.weight": _THEIRS + "post_attention_layernorm.weight",
    _BLOCK + "feed_forward_norm.weight": _THEIRS + "pre_feedforward_layernorm.weight",
    _BLOCK + "feed_forward_out_norm.weight": _THEIRS + "post_feedforward_layernorm.weight",
    "final_norm.weight": "model.norm.weight",
}


class _BothRotations(Settings):
    """`rope_parameters`: one set for each kind of layer."""

    model_config = ConfigDict(extra="forbid")

    full_attention: RotarySettings | None = None
    sliding_attention: RotarySettings | None = None


class _GemmaSettings(Settings):
    """config.json of a Hugging Face Gemma 3 text model. The defaults are the library's; sizes have none."""

    vocab_size: Size
    max_position_embeddings: Size
    hidden_size: Size
    num_attention_heads: Size
    num_key_value_heads: Size = 4
    num_hidden_layers: Size
    intermediate_size: Size
    head_dim: Size = 256
    hidden_activation: Literal["gelu_pytorch_tanh", "gelu_new"] = "gelu_pytorch_tanh"
    rms_norm_eps: Fraction = 1e-6
    query_pre_attn_scalar: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 256
    sliding_window: Size = 4096
    sliding_window_pattern: Size = 6
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    attention_bias: Literal[False] = False
    attn_logit_softcapping: None = None
    final_logit_softcapping: None = None
    use_bidirectional_attention: Literal[False] | None = None
    tie_word_embeddings: Literal[True] = True
    rope_theta: Base | None = None
    rope_local_base_freq: Base | None = None
    rope_scaling: RotarySettings | None = None
    rope_parameters: _BothRotations | None = None
    partial_rotary_factor: Annotated[float, Field(ge=1, le=1)] | None = None


def _from_hugging_face(settings: Mapping[str, Any]) -> GemmaConfig:
    found = read_settings(_GemmaSettings, settings)
    both = found.rope_parameters or _BothRotations()
    everywhere = both.full_attention or RotarySettings()
    if found.rope_scaling is not None:  # it goes over the others, name by name
        everywhere = RotarySettings(**{**everywhere.model_dump(exclude_unset=True),
                                       **found.rope_scaling.model_dump(exclude_unset=True)})
    nearby = both.sliding_attention or RotarySettings()
    if nearby.kind != "default":
        raise ValueError(f"rope_parameters.sliding_attention.rope_type = {nearby.kind!r} is not supported "
                         "(only 'default')")
    count, every = found.num_hidden_layers, found.sliding_window_pattern
    kinds = found.layer_types
    if kinds is not None and len(kinds) < count:
        raise ValueError(f"layer_types has {len(kinds)} names for {count} layers: give one for each")
    if kinds is not None:
        full = [layer for layer in range(count) if kinds[layer] == "full_attention"]
    else:
        full = [layer for layer in range(count) if (layer + 1) % every == 0]
    context = found.max_position_embeddings
    return GemmaConfig(
        found.vocab_size, context, found.hidden_size, found.num_attention_heads, found.num_key_value_heads, count,
        found.intermediate_size, found.head_dim, found.sliding_window, full,
        float(everywhere.rope_theta or found.rope_theta or 1e6), everywhere.scaling(None, context),
        float(nearby.rope_theta or found.rope_local_base_freq or 1e4), float(found.query_pre_attn_scalar) ** -0.5,
        found.rms_norm_eps)


def _to_hugging_face(config: GemmaConfig) -> dict[str, Any]:
    scalar = config.attention_scale**-2
    if abs(scalar - round(scalar)) > 1e-6 * scalar or round(scalar) < 1:
        raise ValueError(f"attention_scale = {config.attention_scale}: Hugging Face has 1 / sqrt(a whole number) only; "
                         "save it with layout='llmbook'")
    scaling = dict(config.rope_scaling or {"rope_type": "default"})
    if scaling.get("rope_type") == "factors":
        raise ValueError("rotary scaling by a list of factors: no Hugging Face setting says that; give the scaling by "
                         "its name")
    kinds = ["full_attention" if layer in config.global_layers else "sliding_attention"
             for layer in range(config.n_layers)]
    return {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "vocab_size": config.vocab_size,
            "max_position_embeddings": config.context_length, "hidden_size": config.d_model,
            "num_attention_heads": config.n_heads, "num_key_value_heads": config.n_kv_heads,
            "num_hidden_layers": config.n_layers, "intermediate_size": config.d_hidden, "head_dim": config.d_head,
            "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": config.norm_eps,
            "query_pre_attn_scalar": round(scalar), "sliding_window": config.window, "layer_types": kinds,
            "tie_word_embeddings": True,
            "rope_parameters": {"full_attention": {**scaling, "rope_theta": config.rope_base},
                                "sliding_attention": {"rope_type": "default", "rope_theta": config.local_rope_base}}}


class _GemmaMetadata(LlamaMetadata):
    """The settings of a GGUF file, without the family's name before them."""

    window: Size = Field(alias="attention.sliding_window")
    rope_base: Base = Field(1e6, alias="rope.freq_base")
    local_base: Base = Field(10000.0, alias="rope.freq_base_swa")


def _from_gguf(checkpoint: GGUFCheckpoint, architecture: str) -> GemmaConfig:
    found = read_metadata(_GemmaMetadata, checkpoint, architecture)
    if found.block_count == 62:  # llama.cpp knows by heart that the largest one scales otherwise
        raise ValueError("block_count = 62 is not supported: the file of the 27B model does not say how it scales "
                         "attention; load the model's Hugging Face folder instead")
    return GemmaConfig(
        checkpoint.shapes["token_embd.weight"][0], found.context_length, found.embedding_length, found.heads,
        found.kv_heads or found.heads, found.block_count, found.feed_forward_length, found.d_head, found.window,
        None, found.rope_base, found.rope_scaling(checkpoint), found.local_base, None, found.norm_eps)


def _less_one(name: str, part: int, rows: Tensor, config: GemmaConfig) -> None:
    """GGUF files hold the norms' scales, and a model the differences from 1."""
    if name.endswith("norm.weight"):
        rows -= 1


def _plus_one(name: str, part: int, rows: Tensor, config: GemmaConfig) -> None:
    if name.endswith("norm.weight"):
        rows += 1


def _to_gguf(config: GemmaConfig) -> GGUFHeader:
    """llama.cpp knows by heart which layers are global, and how attention is scaled."""
    if config.global_layers != (sixths := tuple(range(5, config.n_layers, 6))):
        raise ValueError(f"global_layers = {config.global_layers}: llama.cpp has only {sixths}; export "
                         "to='huggingface'")
    if config.n_layers == 62 or abs(config.attention_scale * config.d_head**0.5 - 1) > 1e-6:
        raise ValueError(f"attention_scale = {config.attention_scale} and n_layers = {config.n_layers}: llama.cpp has "
                         "only 1 / sqrt(d_head), and another for 62 layers; export to='huggingface'")
    rope, factors = rope_in_gguf(config)
    if factors:
        raise ValueError(f"rope_scaling = {config.rope_scaling!r:.60}: llama.cpp's Gemma has only linear scaling; "
                         "export to='huggingface'")
    return GGUFHeader("gemma3", {
        "context_length": config.context_length, "embedding_length": config.d_model, "block_count": config.n_layers,
        "feed_forward_length": config.d_hidden, "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads, "attention.key_length": config.d_head,
        "attention.value_length": config.d_head, "attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "attention.sliding_window": config.window, "rope.freq_base_swa": float(config.local_rope_base), **rope})


_TENSORS = TensorNames(_NAMES, part_rows)
LAYOUT = Layout(_TENSORS, _from_hugging_face, _to_hugging_face,
                gguf=lambda config, architecture: _TENSORS.in_gguf(architecture, config.n_layers, adjust=_less_one,
                                                                   adjust_back=_plus_one),
                config_from_gguf=_from_gguf, config_to_gguf=_to_gguf)
"""Where everything of a Gemma is in other people's files."""
