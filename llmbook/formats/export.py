"""Models as files that other programs read."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..families import family_of

__all__ = ["save_for_hugging_face"]


def save_for_hugging_face(model: nn.Module, folder: str | Path) -> None:
    """Save a model so that the transformers library loads it: config.json and model.safetensors.

    Raises FileExistsError if the folder holds a model already, ValueError for a model that the library has no family
    for. `save_model(model, folder, layout="huggingface")` does this.
    """
    family_of(model).find_layout().save(model, folder)
