"""Models as files that other programs read."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..families import family_of
from ..model_files import save_model
from .pretrained import open_pretrained

__all__ = ["convert_for_hugging_face", "save_for_hugging_face"]


def save_for_hugging_face(model: nn.Module, folder: str | Path) -> None:
    """Save a model so that the transformers library loads it: config.json and model.safetensors.

    Raises FileExistsError if the folder holds a model already, ValueError for a model that the library has no family
    for. `save_model(model, folder, layout="huggingface")` does this.
    """
    family_of(model).find_layout().save(model, folder)


def convert_for_hugging_face(source: str | Path, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a model's settings and weights as its Hugging Face folder: config.json and model.safetensors.

    Args:
        source: a .gguf file or a Hugging Face folder. folder: must be empty or new.
        dtype: number format of the weights that are written.

    Raises FileNotFoundError, ValueError as `open_pretrained`; FileExistsError if the folder holds something.
    """
    save_model(open_pretrained(Path(source)).build(dtype), folder, layout="huggingface")
