"""Files with a model's weights: what they all can do, and the safetensors files of a Hugging Face folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..extras import load_extra

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SafetensorsCheckpoint", "WeightFile", "is_pickle", "refuse_pickle", "weights_table"]

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class WeightFile(Protocol):
    """A file or folder with a model's weights: what there is, and a way to copy one tensor.

    `SafetensorsCheckpoint` and `llmbook.formats.gguf.GGUFCheckpoint` are such.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]  # of each tensor, by name
    formats: dict[str, str]  # of its numbers, such as "F32"

    def copy(self, name: str, target: Tensor) -> None:
        """Write the tensor's numbers into `target`, which has its shape."""


def is_pickle(path: Path) -> bool:
    """Whether a file's name says that it is a pickle."""
    return path.suffix in _PICKLES


def refuse_pickle(path: Path) -> None:
    """Raise the ValueError that says why a pickle is not opened and what to do."""
    raise ValueError(f"{path} is a pickle, which can run any program when it is opened, so it is refused. Convert it "
                     "where you trust it: load the model with transformers and call save_pretrained(folder), which "
                     "writes safetensors")


class SafetensorsCheckpoint:
    """The .safetensors files of a Hugging Face folder.

    Attributes:
        path: the folder. shapes: of each tensor, by name. formats: of its numbers.

    Raises ValueError if a file is damaged or is a pickle, FileNotFoundError if there is none.
    """

    def __init__(self, folder: Path):
        self.path = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.formats: dict[str, str] = {}
        self._files: dict[str, Path] = {}
        for file in self._find():
            try:
                with safe_open(file, framework="pt") as tensors:
                    for name in tensors.keys():
                        part = tensors.get_slice(name)
                        if name in self._files:
                            raise ValueError(f"{file} and {self._files[name].name} both hold {name}: download the "
                                             "model again")
                        self.shapes[name] = tuple(part.get_shape())
                        self.formats[name] = part.get_dtype()
                        self._files[name] = file
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{file} cannot be read ({error}): download it again") from None

    def copy(self, name: str, target: Tensor) -> None:
        """Write the tensor's numbers into `target`, which has its shape."""
        # opened for each tensor: closing gives back the memory that the file's pages take
        try:
            with safe_open(self._files[name], framework="pt") as tensors:
                target.copy_(tensors.get_tensor(name))
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{self._files[name]} cannot be read ({error}): download it again") from None
        except (KeyError, AttributeError, TypeError, RuntimeError, NotImplementedError) as error:
            # a number format that PyTorch lacks or cannot turn into another
            raise ValueError(f"{self._files[name]}: {name} is in the format {self.formats[name]}, which is not "
                             f"supported ({error}): convert the model to float32 or bfloat16") from None

    def _find(self) -> list[Path]:
        """The folder's safetensors files, as its index lists them if there is one."""
        index = self.path / "model.safetensors.index.json"
        if index.is_file():
            try:
                weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                names = sorted({Path(name).name for name in weight_map.values()})
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ValueError(f"{index} is not an index of weights ({error!r}): download it again") from None
            if missing := [name for name in names if not (self.path / name).is_file()]:
                raise FileNotFoundError(f"{self.path} lacks {missing[0]}, which its index lists: download it")
            return [self.path / name for name in names]
        if (file := self.path / "model.safetensors").is_file():
            return [file]
        if pickles := [path for path in sorted(self.path.iterdir()) if is_pickle(path)]:
            refuse_pickle(pickles[0])
        raise FileNotFoundError(f"{self.path} holds no model.safetensors: give a Hugging Face model's folder")


def weights_table(checkpoint: WeightFile) -> pd.DataFrame:
    """Name, shape, number format and count of numbers of each tensor in a checkpoint."""
    pandas = load_extra("pandas")
    rows = [{"tensor": name, "shape": shape, "format": checkpoint.formats[name], "numbers": math.prod(shape)}
            for name, shape in checkpoint.shapes.items()]
    return pandas.DataFrame(rows, columns=["tensor", "shape", "format", "numbers"])
