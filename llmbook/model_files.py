"""A saved model's folder: writing it so that it is always whole, and reading it so that nothing slips through.

`config.json` names the model's class, its configuration and the file of its weights. That file is a safetensors file
named `model-<beginning of its sha256>.safetensors`. So new weights never overwrite old ones, the moment in which
`config.json` is replaced is the one in which the new model takes the old one's place, and a damaged file is noticed.
`llmbook.training` offers `save_model` and `load_model` too, as chapter 5a does.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .devices import chosen_device, whole_state, without_weights
from .families import Family, family_named, family_of
from .files import is_first, read_json, replace_file, sha256_of

__all__ = ["build_config", "check_empty_folder", "check_own_folder", "check_whole", "describe_misfits", "load_model",
           "publish", "read_configuration", "read_description", "read_weights", "save_model", "write_weights"]

WEIGHTS_NAME = re.compile(r"model-([0-9a-f]{12})\.safetensors")
MAY_COME_FIRST = re.compile(r"(tokenizer|vocab|merges|chat_template|special_tokens).*|README.*|.*\.tmp")
OLD_SECONDS = 3600.0


# --- writing ---

def write_weights(state: Mapping[str, Tensor], folder: Path) -> Path:
    """Write tensors as `model-<hash of the content>.safetensors`; returns its path."""
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
                   metadata={"format": "pt"})
    path = folder / f"model-{sha256(content).hexdigest()[:12]}.safetensors"
    replace_file(path, content)
    return path


def publish(folder: Path, model: str, config: Any, weights: Path) -> None:
    """Replace config.json, so that from now on the folder holds this model; then remove the weights it had before, and
    what an interrupted save left an hour ago. Only files with the names of `write_weights` are removed; younger ones
    may be another process's."""
    before = None
    with suppress(FileNotFoundError, ValueError):
        *_, before = read_description(folder / "config.json")
    description = {"model": model, "config": dataclasses.asdict(config), "weights": weights.name}
    replace_file(folder / "config.json", (json.dumps(description, indent=2) + "\n").encode())
    for path in folder.iterdir():
        if path != weights and WEIGHTS_NAME.fullmatch(path.name):
            with suppress(FileNotFoundError):  # another process was quicker
                if path.name == before or time.time() - path.stat().st_mtime > OLD_SECONDS:
                    path.unlink()


def check_own_folder(folder: Path) -> None:
    """Raise FileExistsError if a folder holds something, and that is no model that `save_model` wrote.

    A tokenizer's files may be there, and what an interrupted `save_model` left.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: give a folder")
    if (folder / "config.json").exists():
        with suppress(ValueError):
            read_description(folder / "config.json")
            return
        raise FileExistsError(f"{folder} holds a config.json that save_model did not write, so somebody else's model: "
                              "give an empty or a new folder")
    _check_nothing_else(folder, WEIGHTS_NAME)


def check_empty_folder(folder: Path) -> None:
    """Raise FileExistsError if a folder holds anything but a tokenizer's files, and so perhaps a model."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: give a folder")
    if folder.exists():
        _check_nothing_else(folder, MAY_COME_FIRST)


def _check_nothing_else(folder: Path, ours: re.Pattern[str]) -> None:
    for path in sorted(folder.iterdir()):
        if not (ours.fullmatch(path.name) or MAY_COME_FIRST.fullmatch(path.name) or path.name.startswith(".")):
            raise FileExistsError(f"{folder} holds {path.name}, which save_model did not write: give an empty or a new "
                                  "folder")


# --- reading ---

def read_description(path: Path) -> tuple[str, dict[str, Any], str]:
    """The model's class, its settings and the name of the weights' file, as `publish` wrote them.

    Raises FileNotFoundError if there is no such file, ValueError if it is not one of `save_model`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a folder that save_model wrote")
    description = read_json(path)
    kinds = {"model": str, "config": dict, "weights": str}
    for key, kind in kinds.items():
        if not isinstance(description, dict) or not isinstance(description.get(key), kind):
            raise ValueError(f"{path} is not a description from save_model, which has {', '.join(kinds)}: give a "
                             "folder that save_model wrote (load_pretrained reads those of other programs)")
    if not WEIGHTS_NAME.fullmatch(weights := description["weights"]):
        raise ValueError(f"{path} names the weights {weights!r}: they must be a file model-<12 digits of its "
                         "sha256>.safetensors inside the folder; save the model again")
    return description["model"], description["config"], weights


def read_configuration(path: Path) -> tuple[Family, Any, Path]:
    """What config.json describes: the model's family, its configuration, and where its weights are.

    What the settings lack has its default: an older version did not know it yet. Raises FileNotFoundError if there is
    no such file; ValueError for an unknown class or setting, one that has no default, and what the class refuses.
    """
    name, settings, weights = read_description(path)
    try:
        family = family_named(name)
        return family, build_config(family.config_class, settings), path.with_name(weights)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def build_config(config_class: type, settings: Mapping[str, Any]) -> Any:
    """A configuration from settings; what is missing has its default. ValueError for unknown and for needed keys."""
    known = {field.name: field for field in dataclasses.fields(config_class)}
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"unknown configuration keys {unknown}; {config_class.__name__} has {sorted(known)}")
    needed = {name for name, field in known.items()
              if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING}
    if missing := sorted(needed - set(settings)):
        raise ValueError(f"missing configuration keys {missing}: {config_class.__name__} has no default for them")
    return config_class(**settings)


def read_weights(path: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The tensors of a file of `write_weights`, in memory: what becomes of the file later does not matter. Numbers with
    a fraction are turned into `dtype`, if it is given, tensor by tensor: no second copy of the model exists.

    Raises ValueError if it cannot be read or if its content is not what its name says.
    """
    remedy = "save the model again, or copy the whole folder again"
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: _copied(file.get_tensor(name), dtype) for name in file.keys()}
        found = sha256_of(path)[:12]
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}): {remedy}") from None
    if found != (named := WEIGHTS_NAME.fullmatch(path.name).group(1)):
        raise ValueError(f"{path} is damaged: the sha256 of its content begins with {found}, not {named}: {remedy}")
    return state


def _copied(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype if tensor.is_floating_point() else None, copy=True)


def describe_misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """What keeps tensors from fitting a model: names and shapes; "" if they fit."""
    wrong = []
    if missing := sorted(expected.keys() - found.keys()):
        wrong.append(f"missing {missing}")
    if unknown := sorted(found.keys() - expected.keys()):
        wrong.append(f"unknown {unknown}")
    for name in sorted(expected.keys() & found.keys()):
        if expected[name].shape != found[name].shape:
            wrong.append(f"{name} has shape {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}")
    return "; ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")


# --- a model's folder, whole ---

def check_whole(model: nn.Module) -> Family:
    """The family of a model whose tensors are those of its configuration. Raises ValueError for one that was changed,
    as by quantising it, and for a class that is not registered (see `llmbook.families`)."""
    family = family_of(model)
    if type(model).__name__ != family.name:  # a chapter's own copy of the class is as good
        raise ValueError(f"the class {type(model).__name__} would come back as {family.name}: "
                         "register_family(Family(...)) of llmbook.families first")
    with without_weights():
        described = family.build(model.config).state_dict()  # shapes only
    if misfits := describe_misfits(described, model.state_dict()):
        raise ValueError(f"this {family.name} is not what its config describes ({misfits}): save it before it is "
                         "changed")
    return family


def save_model(model: nn.Module, folder: str | Path, layout: str = "llmbook") -> None:
    """Save a model with a dataclass `config` as `config.json` and one `model-<hash>.safetensors`.

    An interrupted save leaves the model that was in the folder before, whole. Of several processes all must call this,
    and the first writes. With layout="huggingface" the folder is one that the transformers library loads (chapter 5b).

    Raises, with nothing written, FileExistsError for a folder that holds something else than a model from here, and
    ValueError if the model's tensors are not those of its configuration, as after quantising; if its class is not
    registered (see `llmbook.families`); for another layout.
    """
    family, folder = check_whole(model), Path(folder)
    if layout == "huggingface":
        check_empty_folder(folder)
        return family.find_layout().save(model, folder)
    if layout != "llmbook":
        raise ValueError(f"layout is {layout!r}: it must be 'llmbook' or 'huggingface'")
    state = whole_state(model)  # several processes gather it together
    if is_first():
        check_own_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        publish(folder, family.name, model.config, write_weights(state, folder))


def load_model(folder: str | Path, device: torch.device | str | None = None,
               dtype: torch.dtype | None = None) -> nn.Module:
    """Load what `save_model` saved, in evaluation mode. Reads JSON and safetensors, never a pickle.

    device: where to; the best one there is if None. dtype: of the weights, as they were saved if None. What the
    configuration does not say, because an older version did not know it, has its default.

    Raises FileNotFoundError if the folder holds no saved model; ValueError if a file is damaged, the class unknown, or
    configuration and weights do not fit (the message names unknown and missing keys and wrong shapes).
    """
    family, config, weights = read_configuration(Path(folder) / "config.json")
    with without_weights():
        model = family.build(config)
    state = read_weights(weights, dtype)  # compares the content with the hash in the name
    if misfits := describe_misfits(model.state_dict(), state):
        raise ValueError(f"{weights} does not fit the model in config.json: {misfits}")
    model.load_state_dict(state, assign=True)
    return model.to(chosen_device(device)).eval()
