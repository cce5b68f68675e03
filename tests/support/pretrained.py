"""Tiny models of `transformers` whose every number matters, and what compares ours with them."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.support.repository import ROOT

STORY = (ROOT / "data" / "twenty_in_hand.txt").read_text(encoding="utf-8")

LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 48, "rope_theta": 1000.0}
SMALL = {"vocab_size": 61, "context_length": 96, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2,
         "d_hidden": 64, "rope_base": 1000.0}


def reference(family: str = "Llama", **changes) -> nn.Module:
    """A tiny model whose weights are all far from what they start with, so that mistakes show."""
    import transformers  # seconds, so only where it is needed

    sizes = {"vocab_size": 61, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
             "num_hidden_layers": 2, "intermediate_size": 64, "max_position_embeddings": 96,
             "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
    if family == "Mistral":
        sizes |= {"sliding_window": None, "head_dim": 8}
    if family == "GPT2":
        sizes = {"vocab_size": 61, "n_positions": 96, "n_embd": 32, "n_head": 4, "n_layer": 2}
    if family == "Qwen3":
        sizes |= {"head_dim": 8}
    name = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}.get(family, f"{family}ForCausalLM")
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = getattr(transformers, f"{family}Config")(**{**sizes, **ends, **changes})
    generator = torch.Generator().manual_seed(0)
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.4, generator=generator)
            if parameter.dim() == 1 and not name.endswith("bias") and family != "Gemma3Text":
                parameter += 1.0  # the scale of a norm (Gemma adds it itself)
    return model


def some_ids(batch: int, tokens: int, vocab_size: int = 61) -> torch.Tensor:
    return torch.randint(0, vocab_size, (batch, tokens), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def difference(ours: nn.Module, theirs: nn.Module, ids: torch.Tensor | None = None) -> float:
    """The largest between two models' logits."""
    ids = some_ids(2, 90) if ids is None else ids
    expected = theirs(ids).logits if hasattr(theirs, "generation_config") else theirs(ids)
    assert expected.std() > 1  # far from uniform
    return float((ours(ids).float() - expected).abs().max())


def saved(folder: Path, family: str = "Llama", **changes) -> nn.Module:
    model = reference(family, **changes)
    model.save_pretrained(folder)
    return model


def edit(folder: Path, **changes) -> None:
    """Change settings of config.json; `...` takes one out."""
    path = folder / "config.json"
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not ...}))


def change_weights(folder: Path, change) -> None:
    """Rewrite model.safetensors after `change(state)`."""
    path = folder / "model.safetensors"
    state = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(state) or state, path)


def shaken(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.empty_like(parameter).normal_(std=0.4, generator=generator)
    return model.eval()
