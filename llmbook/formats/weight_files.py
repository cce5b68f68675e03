"""The safetensors files of a Hugging Face folder, and what they hold."""

import json
import math
from pathlib import Path
from typing import Protocol

import pandas as pd
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .gguf import GGUFCheckpoint


class Checkpoint(Protocol):
    """A file or folder with a model's weights: what there is, and a way to copy one tensor."""

    path: Path
    shapes: dict[str, tuple[int, ...]]

    def copy(self, name: str, target: Tensor) -> None:
        """Write the tensor's numbers into `target`, which has its shape."""


class SafetensorsCheckpoint:
    """The .safetensors files of a Hugging Face folder.

    Attributes:
        path: the folder. shapes: of each tensor, by name. formats: of its numbers.

    Raises ValueError if a file is damaged, FileNotFoundError if there is none.
    """

    def __init__(self, folder: Path):
        self.path, self.shapes, self.formats, self._files = folder, {}, {}, {}
        for file in _weight_files(folder):
            try:
                with safe_open(file, framework="pt") as tensors:
                    for name in tensors.keys():
                        part = tensors.get_slice(name)
                        self.shapes[name] = tuple(part.get_shape())
                        self.formats[name], self._files[name] = part.get_dtype(), file
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{file} cannot be read ({error}): download it again") from None

    def copy(self, name: str, target: Tensor) -> None:
        # opened for each tensor: closing gives back the memory that the file's pages take
        with safe_open(self._files[name], framework="pt") as tensors:
            target.copy_(tensors.get_tensor(name))


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a Hugging Face folder, as its index lists them if there is one."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted({Path(name).name for name in weight_map.values()})
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{index} is not an index of weights: {error!r}") from None
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise FileNotFoundError(f"{folder} lacks {missing[0]}, which its index lists: "
                                    "download it")
        return [folder / name for name in names]
    if files := [file for file in [folder / "model.safetensors"] if file.is_file()]:
        return files
    if pickles := sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*")):
        raise ValueError(
            f"{pickles[0]} is a pickle, which can run any program when it is opened, so it is "
            "refused. Convert it where you trust it: load the model with transformers and call "
            "save_pretrained(folder), which writes safetensors")
    raise FileNotFoundError(f"{folder} holds no model.safetensors: "
                            "give a Hugging Face model's folder")


def weights_table(checkpoint: SafetensorsCheckpoint | GGUFCheckpoint) -> pd.DataFrame:
    """Name, shape, number format and count of numbers of each tensor in a checkpoint."""
    rows = [{"tensor": name, "shape": shape, "format": checkpoint.formats[name],
             "numbers": math.prod(shape)} for name, shape in checkpoint.shapes.items()]
    return pd.DataFrame(rows, columns=["tensor", "shape", "format", "numbers"])
