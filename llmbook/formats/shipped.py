"""The models that come with the package: nothing is fetched for them."""

from __future__ import annotations

from pathlib import Path

import tiktoken
import torch
from torch import nn

from ..files import data_folder
from ..text import load_tokenizer
from ..training import load_model

__all__ = ["SHIPPED", "load_shipped", "refuse_two_meanings", "shipped_folder"]

SHIPPED = {"storyteller": "a small language model that tells short stories in simple English, trained by this book"}
"""Name -> what it is. Each is a folder of `save_model` in the book's data."""


def refuse_two_meanings(name: str | Path) -> None:
    """Raise ValueError if the name of a known model is also that of something in the current folder."""
    if Path(name).exists():
        raise ValueError(f"{str(name)!r} is a folder or file here and the name of a model that llmbook brings or "
                         f"fetches: give ./{name} for the first, or call from another folder for the second")


def shipped_folder(name: str) -> Path:
    """Where a model that comes with the package lies.

    Raises ValueError if the name is also that of something in the current folder, FileNotFoundError if the model is not
    there.
    """
    refuse_two_meanings(name)
    folder = data_folder() / name
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model: install llmbook again, or `git checkout -- {name}` in the "
                                "data folder of a clone")
    return folder


def load_shipped(name: str, dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, tiktoken.Encoding]:
    """Such a model, in evaluation mode, and its tokenizer. Raises as `shipped_folder`, or ValueError if a file is
    damaged."""
    folder = shipped_folder(name)
    return load_model(folder, device, dtype), load_tokenizer(folder / "tokenizer.json")
