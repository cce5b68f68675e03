"""Putting a trained model into the book's data: in bfloat16, under the name that says what is in it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from ..cli.models import keep_tokenizer
from ..files import replace_file
from ..training import save_model

__all__ = ["pack_model"]


def pack_model(model: nn.Module, tokenizer: Any, target: Path) -> None:
    """Write a model, which becomes bfloat16, and its tokenizer into `target`.

    Until the new one is complete the model that was there before can be loaded; then its weights are removed.
    """
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        save_model(model.to(torch.bfloat16), folder)
        new = sorted(Path(folder).iterdir(), key=lambda path: path.name == "config.json")  # which names the weights
        for path in new:
            replace_file(target / path.name, path.read_bytes())
    for path in target.glob("model-*.safetensors"):
        if path.name not in {item.name for item in new}:
            path.unlink()
    keep_tokenizer(tokenizer, target, begins_with_end=True)
