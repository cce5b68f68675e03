"""Low-rank adapters on disk, in the layout of the PEFT library: adapter_config.json and adapter_model.safetensors.

PEFT keeps one pair of matrices for each of its model's linear layers. Ours has some of these layers as one: query, key
and value are a product together. So an adapter of ours is written once for each part: all parts get the same A, and
each the rows of B that are its own. The other way round, three pairs of rank r become one of rank 3 r, whose B has
each part's matrix in its own rows and columns and 0 elsewhere. Both compute the same numbers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..families import family_of
from ..files import read_json, replace_file
from .weight_files import is_pickle, refuse_pickle

__all__ = ["AdapterFile", "LowRankPair", "read_adapter", "write_adapter"]

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_PAIR = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight")
_HEAD = "score"  # what transformers calls the layer of a text classifier that we call `head`

# Settings of PEFT that make it compute something else, and their values that do not.
_PLAIN = {"bias": ("none",), "use_dora": (False,), "lora_bias": (False,), "layer_replication": (None,),
          "trainable_token_indices": (None,), "target_parameters": (None, []), "alora_invocation_tokens": (None,),
          "use_qalora": (False,), "use_bdlora": (None,), "arrow_config": (None,), "monteclora_config": (None,)}


@dataclass(frozen=True)
class LowRankPair:
    """What an adapter adds to one linear layer: x -> scale * B A x.

    Attributes: A: (rank, in). B: (out, rank). scale: a number.
    """

    A: Tensor
    B: Tensor
    scale: float


@dataclass(frozen=True)
class AdapterFile:
    """What a folder of an adapter holds, under our model's names.

    Attributes:
        pairs: name of a linear layer -> its pair of matrices.
        whole: name of a parameter that was trained whole -> its numbers.
        dropout: share of the inputs that training sets to 0.
    """

    pairs: Mapping[str, LowRankPair]
    whole: Mapping[str, Tensor] = field(default_factory=dict)
    dropout: float = 0.0


# --- names ---

def _inner(model: nn.Module) -> tuple[nn.Module, str]:
    """The language model, and what comes before its names: a text classifier keeps it as `model`."""
    inner = getattr(model, "model", None)
    return (inner, "model.") if isinstance(inner, nn.Module) else (model, "")


def _parts(model: nn.Module, layer: str, rows: int) -> list[tuple[str, int]]:
    """PEFT's linear layers that make up ours, top to bottom: the name of each and its rows."""
    inner, prefix = _inner(model)
    own = layer.removeprefix(prefix)
    names = family_of(inner).find_layout().hugging_face
    try:
        found = names.parts(own + ".weight", (rows,), inner.config)
    except KeyError:
        raise ValueError(f"{layer} has no name in a Hugging Face {type(inner).__name__}: adapt the layers of the "
                         "blocks only") from None
    return [(name.removesuffix(".weight"), count) for name, count in found]


def _whole_name(model: nn.Module, name: str, shape: tuple[int, ...]) -> str:
    """PEFT's name of a parameter that was trained whole."""
    inner, prefix = _inner(model)
    if prefix and name.startswith("head."):
        return f"{_HEAD}.{name.removeprefix('head.')}"
    if not name.startswith(prefix):
        raise ValueError(f"{name} has no name in PEFT's layout: train the head, or parts of the language model")
    parts = family_of(inner).find_layout().hugging_face.parts(name.removeprefix(prefix), shape, inner.config)
    if len(parts) > 1:
        raise ValueError(f"{name} is {len(parts)} tensors in PEFT's layout: adapt it, do not train it whole")
    return parts[0][0]


# --- writing ---

def write_adapter(folder: str | Path, model: nn.Module, adapter: AdapterFile, base: str | None = None) -> None:
    """Write an adapter of a model so that `peft.PeftModel.from_pretrained` loads it.

    Args:
        folder: is made; must not hold an adapter or other people's files. model: the one that it adapts.
        base: where the model's own weights come from, for those who read the file.

    Raises FileExistsError for such a folder, ValueError for layers that PEFT's layout has no name for. Nothing is
    written then.
    """
    folder = Path(folder)
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file: give a folder")
    if folder.is_dir() and (others := sorted(path.name for path in folder.iterdir() if path.name[0] != ".")):
        raise FileExistsError(f"{folder} holds {others[0]} already: give an empty or a new folder")
    state: dict[str, Tensor] = {}
    ranks, alphas = {}, {}
    for layer, pair in adapter.pairs.items():
        parts = _parts(model, layer, len(pair.B))
        for (name, _), rows in zip(parts, pair.B.split([rows for _, rows in parts]), strict=True):
            state[f"{PREFIX}{name}.lora_A.weight"] = _copy(pair.A)
            state[f"{PREFIX}{name}.lora_B.weight"] = _copy(rows)
            ranks[name], alphas[name] = len(pair.A), pair.scale * len(pair.A)
    whole = {_whole_name(model, name, tuple(tensor.shape)): tensor for name, tensor in adapter.whole.items()}
    state.update({PREFIX + name: _copy(tensor) for name, tensor in whole.items()})
    rank, alpha = Counter(ranks.values()).most_common(1)[0][0], Counter(alphas.values()).most_common(1)[0][0]
    inner, prefix = _inner(model)
    turned = family_of(inner).find_layout().hugging_face.lies_turned
    settings = {
        "peft_type": "LORA", "task_type": "SEQ_CLS" if prefix else "CAUSAL_LM", "base_model_name_or_path": base,
        "inference_mode": True, "r": rank, "lora_alpha": alpha, "lora_dropout": adapter.dropout, "bias": "none",
        "target_modules": sorted(ranks), "use_rslora": False, "use_dora": False,
        "fan_in_fan_out": any(turned(layer.removeprefix(prefix) + ".weight") for layer in adapter.pairs),
        "rank_pattern": {name: number for name, number in ranks.items() if number != rank},
        "alpha_pattern": {name: number for name, number in alphas.items() if number != alpha},
        "modules_to_save": sorted({name.rsplit(".", 1)[0] for name in whole}) or None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / WEIGHTS_NAME, save(state, metadata={"format": "pt"}))
    replace_file(folder / CONFIG_NAME, (json.dumps(settings, indent=2) + "\n").encode())


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


# --- reading ---

def read_adapter(folder: str | Path, model: nn.Module) -> AdapterFile:
    """Read an adapter in PEFT's layout for a model, under the model's names.

    Raises FileNotFoundError if the folder is no adapter; ValueError if a file is damaged, if the adapter is for another
    model, or if PEFT would compute something with it that this book's adapters do not.
    """
    folder = Path(folder)
    settings, tensors = _read_settings(folder), _read_tensors(folder)
    layers = {name: module.weight.shape if isinstance(module, nn.Linear) else
              (module.out_features, module.in_features)
              for name, module in model.named_modules() if hasattr(module, "in_features")}
    layers = {name.removesuffix(".base"): tuple(shape) for name, shape in layers.items()}
    places = {}  # PEFT's name of a linear layer -> ours, the part's first row, its rows
    for layer, (rows, _) in layers.items():
        try:
            parts = _parts(model, layer, rows)
        except (ValueError, KeyError):
            continue  # no layer that PEFT could adapt
        start = 0
        for name, count in parts:
            places[name] = layer, start, count
            start += count
    found: dict[str, dict[str, Tensor]] = {}
    whole = {}
    for key, tensor in tensors.items():
        if match := _PAIR.fullmatch(key):
            found.setdefault(match.group(1), {})[match.group(2)] = tensor
        else:
            whole[key.removeprefix(PREFIX)] = tensor
    kind = type(_inner(model)[0]).__name__
    pieces: dict[str, list[tuple[int, LowRankPair]]] = {}
    for name, pair in found.items():
        if name not in places:
            raise ValueError(f"{folder} is an adapter for another model: this {kind} has no layer {name}")
        layer, start, rows = places[name]
        shapes = {which: tuple(matrix.shape) for which, matrix in pair.items()}
        rank = shapes.get("A", (0,))[0]
        wanted = {"A": (rank, layers[layer][1]), "B": (rows, rank)}
        if shapes != wanted:
            raise ValueError(f"{folder} is an adapter for another model: {name} has matrices {shapes}, and this {kind} "
                             f"needs {wanted}")
        pieces.setdefault(layer, []).append((start, LowRankPair(pair["A"], pair["B"], _scale(settings, name, rank))))
    pairs = {layer: _joined(layers[layer][0], parts) for layer, parts in pieces.items()}
    return AdapterFile(pairs, _read_whole(folder, model, whole), float(settings.get("lora_dropout", 0.0)))


def _joined(rows: int, parts: list[tuple[int, LowRankPair]]) -> LowRankPair:
    """One pair for a layer whose parts have their own. Parts with the same A and scale share it."""
    parts = sorted(parts, key=lambda part: part[0])
    first = parts[0][1]
    if all(pair.scale == first.scale and torch.equal(pair.A, first.A) for _, pair in parts):
        B = first.B.new_zeros(rows, len(first.A))
        for start, pair in parts:
            B[start : start + len(pair.B)] = pair.B
        return LowRankPair(first.A, B, first.scale)
    A = torch.cat([pair.A for _, pair in parts])  # (sum of the ranks, in)
    B, column = first.B.new_zeros(rows, len(A)), 0
    for start, pair in parts:
        rank = len(pair.A)
        B[start : start + len(pair.B), column : column + rank] = pair.B * (pair.scale / first.scale)
        column += rank
    return LowRankPair(A, B, first.scale)


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no adapter: it has no {CONFIG_NAME}; give a folder that save_adapter or "
                                "PEFT wrote")
    settings = read_json(path)
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        kind = settings.get("peft_type") if isinstance(settings, dict) else settings
        raise ValueError(f"{path}: peft_type is {kind!r}; only 'LORA' is supported: give a LoRA adapter")
    for name, plain in _PLAIN.items():
        if name in settings and settings[name] not in plain:
            raise ValueError(f"{path}: {name} = {settings[name]!r} is not supported: train the adapter with "
                             f"{name} = {plain[0]!r}")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)):
        raise ValueError(f"{path}: r is {rank!r} and lora_alpha {alpha!r}, which must be numbers, r at least 1: take "
                         "the file from where it came from again")
    dropout = settings.get("lora_dropout", 0.0)
    if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ValueError(f"{path}: lora_dropout is {dropout!r}: it must be from 0 to below 1")
    return settings


def _scale(settings: Mapping[str, Any], layer: str, rank: int) -> float:
    """What PEFT multiplies B A x by: alpha / rank, or alpha / sqrt(rank)."""
    alpha = settings["lora_alpha"]
    for pattern, number in (settings.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", layer):
            alpha = number
            break
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        if pickles := [other for other in sorted(folder.iterdir()) if is_pickle(other)]:
            refuse_pickle(pickles[0])
        raise FileNotFoundError(f"{folder} is no adapter: it has no {WEIGHTS_NAME}; give a folder that save_adapter or "
                                "PEFT wrote")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}): save the adapter again, or copy it again") from None
    return tensors


def _read_whole(folder: Path, model: nn.Module, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters that were trained whole, under our names."""
    result = {}
    for name, parameter in model.named_parameters():
        try:
            theirs = _whole_name(model, name, tuple(parameter.shape))
        except (ValueError, KeyError):
            continue
        if theirs in stored:
            if stored[theirs].shape != parameter.shape:
                raise ValueError(f"{folder} is an adapter for another model: {theirs} has shape "
                                 f"{tuple(stored[theirs].shape)} instead of {tuple(parameter.shape)}")
            result[name] = stored[theirs]
    if unknown := sorted(set(stored) - {_whole_name(model, name, tuple(result[name].shape)) for name in result}):
        raise ValueError(f"{folder} is an adapter for another model: it holds {unknown[0]}, which this "
                         f"{type(model).__name__} has not")
    return result
