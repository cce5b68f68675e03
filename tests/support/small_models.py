"""Language models of a few thousand weights, the same each time."""

import torch

from llmbook.gpt import GPT, GPTConfig
from llmbook.llama import Llama, LlamaConfig


def small_model(family: str, width: int, context_length: int, spread: float | None = None, **changes) -> GPT | Llama:
    """Two blocks of `width` features and 300 tokens. With a `spread`, all weights are far from what they start with, so
    that mistakes show. changes: further settings of the config."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "context_length": context_length, "d_model": width, "n_heads": width // 8,
             "n_layers": 2}
    if family == "GPT":
        model = GPT(GPTConfig(**{**sizes, "dropout": 0.0, **changes}))
    else:
        model = Llama(LlamaConfig(**{**sizes, "n_kv_heads": width // 16, "d_hidden": 2 * width, **changes}))
    if spread:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.normal_(std=spread)
                if "norm" in name and name.endswith("weight"):
                    parameter += 1.0
    return model
