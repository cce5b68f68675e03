"""Other people's settings as our configurations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..gpt import GPTConfig
from ..llama import LlamaConfig
from .gguf import GGUFCheckpoint


def _need(settings: Mapping[str, Any], path: Path, **allowed: Sequence[Any]) -> None:
    """ValueError that names a setting with a value that our models do not have."""
    for name, values in allowed.items():
        if name in settings and settings[name] not in values:
            raise ValueError(f"{path}: {name} = {settings[name]!r} is not supported "
                             f"(only {' or '.join(map(repr, values))})")


def _gpt2_config(settings: Mapping[str, Any], path: Path) -> GPTConfig:
    """From the config.json of a Hugging Face GPT-2."""
    size = settings["n_embd"]
    _need(settings, path, activation_function=("gelu_new", "gelu_pytorch_tanh"),
          layer_norm_epsilon=(1e-5,), n_inner=(None, 4 * size), scale_attn_weights=(True,),
          scale_attn_by_inverse_layer_idx=(False,), tie_word_embeddings=(True,),
          add_cross_attention=(False,))
    return GPTConfig(settings["vocab_size"], settings["n_positions"], size, settings["n_head"],
                     settings["n_layer"], dropout=0.0, qkv_bias=True)


def _llama_config(settings: Mapping[str, Any], path: Path) -> LlamaConfig:
    """From the config.json of a Hugging Face Llama, Mistral or Qwen2."""
    context, kind = settings["max_position_embeddings"], settings["model_type"]
    _need(settings, path, hidden_act=("silu",), mlp_bias=(False,), partial_rotary_factor=(1, None))
    window = settings.get("sliding_window") if settings.get("use_sliding_window", True) else None
    if window is not None and window < context:
        raise ValueError(f"{path}: sliding_window = {window} below the context of {context} is not "
                         "supported: set it to null and max_position_embeddings to at most that")
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    rope = {**rope, "rope_type": rope.get("rope_type", rope.get("type", "default"))}
    _need(rope, path, partial_rotary_factor=(1, None))
    base = rope.pop("rope_theta", settings.get("rope_theta", 10000.0))
    bias = settings.get("attention_bias", False)
    return LlamaConfig(
        settings["vocab_size"], context, settings["hidden_size"], settings["num_attention_heads"],
        settings.get("num_key_value_heads") or settings["num_attention_heads"],
        settings["num_hidden_layers"], settings["intermediate_size"], settings.get("head_dim"),
        float(base), None if rope["rope_type"] == "default" else rope,
        settings.get("rms_norm_eps", 1e-6), qkv_bias=bias or kind == "qwen2", out_bias=bias,
        tie_embeddings=settings.get("tie_word_embeddings", False))


def _gguf_config(checkpoint: GGUFCheckpoint, kind: str) -> GPTConfig | LlamaConfig:
    """From the metadata of a GGUF file."""
    own = {key.removeprefix(f"{kind}."): value for key, value in checkpoint.metadata.items()
           if key.startswith(f"{kind}.")}
    vocab_size = checkpoint.shapes["token_embd.weight"][0]
    context, size = own["context_length"], own["embedding_length"]
    heads = own["attention.head_count"]
    if kind == "gpt2":
        return GPTConfig(vocab_size, context, size, heads, own["block_count"], dropout=0.0,
                         qkv_bias=True)
    if not isinstance(heads, int):
        raise ValueError(f"attention.head_count = {heads!r} is not supported (only one number)")
    d_head = own.get("attention.key_length", size // heads)
    _need(own, checkpoint.path, **{
        "expert_count": (0,), "rope.dimension_count": (d_head,),
        "attention.sliding_window": (0, context), "attention.value_length": (d_head,),
        "rope.scaling.type": ("none", "linear")})
    scaling = None
    if own.get("rope.scaling.type") == "linear":
        scaling = {"rope_type": "linear", "factor": own["rope.scaling.factor"]}
    if "rope_freqs.weight" in checkpoint.shapes:
        factors = torch.empty(checkpoint.shapes["rope_freqs.weight"])
        checkpoint.copy("rope_freqs.weight", factors)
        scaling = {"rope_type": "factors", "factors": factors.tolist()}
    return LlamaConfig(
        vocab_size, context, size, heads, own.get("attention.head_count_kv", heads),
        own["block_count"], own["feed_forward_length"], d_head, own.get("rope.freq_base", 10000.0),
        scaling, own["attention.layer_norm_rms_epsilon"],
        qkv_bias="blk.0.attn_q.bias" in checkpoint.shapes,
        out_bias="blk.0.attn_output.bias" in checkpoint.shapes,
        tie_embeddings="output.weight" not in checkpoint.shapes)
