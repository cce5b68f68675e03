"""Models as files that other programs read."""

import json
from pathlib import Path
from typing import Any

import torch

from ..files import replace_file
from ..gpt import GPT, GPTConfig
from ..llama import Llama, LlamaConfig
from ..model_files import write_weights
from .names import _GPT2, _LLAMA, _is_turned_round, _part_rows, _sources


def save_for_hugging_face(model: GPT | Llama, folder: Path) -> None:
    """Save a model so that the transformers library loads it: config.json and model.safetensors.

    Raises FileExistsError if the folder holds a model already, ValueError for a model that the
    library has no family for.
    """
    if not {"GPT", "Llama"} & {kind.__name__ for kind in type(model).__mro__}:
        raise ValueError(f"no Hugging Face family computes what a {type(model).__name__} does")
    settings = _hugging_face_config(model.config)
    for name in ("config.json", "model.safetensors"):
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} exists: give an empty folder")
    family, state = _GPT2 if isinstance(model, GPT) else _LLAMA, {}
    for name, tensor in model.state_dict().items():
        sources = _sources(name, family)
        flip = family.transposed and _is_turned_round(name)
        parts = tensor.split(_part_rows(name, len(tensor), model.config, len(sources)))
        prefix = "transformer." if isinstance(model, GPT) else ""
        state |= {prefix + source: part.T if flip else part for source, part in zip(sources, parts)}
    if isinstance(model, GPT) and not model.config.qkv_bias:  # the library's GPT-2 always has them
        zeros = torch.zeros(3 * model.config.d_model, dtype=next(model.parameters()).dtype)
        state |= {f"transformer.h.{layer}.attn.c_attn.bias": zeros.clone()
                  for layer in range(model.config.n_layers)}
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(state, folder).rename(folder / "model.safetensors")
    settings["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    replace_file(folder / "config.json", (json.dumps(settings, indent=2) + "\n").encode())


def _hugging_face_config(config: GPTConfig | LlamaConfig) -> dict[str, Any]:
    """The config.json of the Hugging Face family that computes what a model of ours computes."""
    if isinstance(config, GPTConfig):
        return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"],
                "vocab_size": config.vocab_size, "n_positions": config.context_length,
                "n_embd": config.d_model, "n_head": config.n_heads, "n_layer": config.n_layers}
    if config.out_bias and not config.qkv_bias:
        raise ValueError("out_bias without qkv_bias: no Hugging Face family has that")
    scaling = dict(config.rope_scaling or {"rope_type": "default"})
    if scaling["rope_type"] == "factors":
        raise ValueError("rotary scaling by a list of factors: no Hugging Face setting says that")
    qwen2 = config.qkv_bias and not config.out_bias
    return {"model_type": "qwen2" if qwen2 else "llama",
            "architectures": ["Qwen2ForCausalLM" if qwen2 else "LlamaForCausalLM"],
            "vocab_size": config.vocab_size, "max_position_embeddings": config.context_length,
            "hidden_size": config.d_model, "num_attention_heads": config.n_heads,
            "num_key_value_heads": config.n_kv_heads, "num_hidden_layers": config.n_layers,
            "intermediate_size": config.d_hidden, "head_dim": config.d_head,
            "rms_norm_eps": config.norm_eps, "tie_word_embeddings": config.tie_embeddings,
            "rope_theta": config.rope_base, "rope_scaling": config.rope_scaling,
            "rope_parameters": {**scaling, "rope_theta": config.rope_base},
            **({} if qwen2 else {"attention_bias": config.qkv_bias})}
