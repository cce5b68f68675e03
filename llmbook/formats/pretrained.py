"""Somebody else's model as it lies on the disk: which family it is of, its configuration, weights and tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..devices import without_weights
from ..families import Family, family_of_kind
from ..files import read_json
from .gguf import GGUFCheckpoint
from .gguf_tokenizers import tokenizer_of_gguf
from .layouts import TensorNames, load_state
from .tokenizers import Tokenizer, tokenizer_of_folder
from .weight_files import SafetensorsCheckpoint, WeightFile, is_pickle, refuse_pickle

__all__ = ["Pretrained", "open_pretrained"]


@dataclass(frozen=True)
class Pretrained:
    """A model that can be built and filled.

    Attributes:
        path: the file or folder. family: the entry in `llmbook.families`. config: our configuration. weights: the file.
        names: which tensor is which. tokenizer: None for a folder without tokenizer.json.
    """

    path: Path
    family: Family
    config: Any
    weights: WeightFile
    names: TensorNames
    tokenizer: Tokenizer | None

    def build(self, dtype: torch.dtype) -> nn.Module:
        """The model with its weights, on the CPU. Raises ValueError if a tensor is missing, left over or damaged."""
        with without_weights():
            model = self.family.build(self.config)
        load_state(model, self.weights, self.names, dtype)
        return model


def open_pretrained(path: Path) -> Pretrained:
    """Read all of a .gguf file or a Hugging Face folder but the weights.

    Raises FileNotFoundError if there is nothing, ValueError for a model that is not supported, files that are damaged
    or do not belong together, or pickled weights.
    """
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_gguf(path)
    raise FileNotFoundError(f"{path} does not exist: give a .gguf file or a Hugging Face folder")


def _open_gguf(path: Path) -> Pretrained:
    if is_pickle(path):
        refuse_pickle(path)
    weights = GGUFCheckpoint(path)
    kind = weights.metadata.get("general.architecture")

    def read() -> Pretrained:
        family = family_of_kind(kind, "gguf") if isinstance(kind, str) else None
        layout = None if family is None else family.find_layout()
        if layout is None or layout.config_from_gguf is None or layout.gguf is None:
            raise ValueError(f"general.architecture = {kind!r} is not supported: load the model's Hugging Face folder")
        config = layout.config_from_gguf(weights, kind)
        tokenizer = tokenizer_of_gguf(weights, config.vocab_size)
        return Pretrained(path, family, config, weights, layout.gguf(config, kind), tokenizer)

    return _naming(path, read)


def _open_folder(folder: Path) -> Pretrained:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a Hugging Face model's folder")
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds no JSON object: download it again")
    kind = settings.get("model_type")

    def read() -> tuple[Family, Any]:
        if "model_type" not in settings and {"model", "weights"} <= set(settings):
            raise ValueError("save_model wrote it: open the folder with load_model")
        family = family_of_kind(kind, "hugging_face") if isinstance(kind, str) else None
        if family is None:
            raise ValueError(f"model_type = {kind!r} is not supported: give the folder of a Hugging Face model")
        if settings.get("quantization_config") is not None:
            raise ValueError(f"quantization_config = {settings['quantization_config']!r} is not supported: take the "
                             "model's original weights")
        return family, family.find_layout().config_from_hugging_face(settings)

    family, config = _naming(path, read)
    tokenizer = tokenizer_of_folder(folder, config.vocab_size)
    names = family.find_layout().hugging_face
    return Pretrained(folder, family, config, SafetensorsCheckpoint(folder), names, tokenizer)


def _naming(path: Path, read: Callable[[], Any]) -> Any:
    """What `read` returns; its errors name the file."""
    try:
        return read()
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError) as error:
        what = f"the setting {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(what if str(path) in what else f"{path}: {what}") from None
