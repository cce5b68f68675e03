"""Which model and tokenizer a name means: a known model, a folder, a .gguf file, a run, or a checkpoint of one."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..files import replace_file
from .contents import saved_steps
from .device import find_device
from .errors import UsageError, naming

__all__ = ["FoundModel", "begins_with_end", "find_model", "keep_tokenizer", "open_model"]

_FINGERPRINT = "tokenizer_fingerprint.json"


@dataclass(frozen=True)
class FoundModel:
    """Where a model is.

    kind: "saved", a folder of `save_model`; "checkpoint", one of a run that is not finished; "other", what
        `load_pretrained` opens.
    """

    name: str
    kind: str
    path: Path
    run: Path | None = None


def find_model(name: str) -> FoundModel:
    """What a name means. A run's folder stands for its model, or its newest checkpoint while it has none."""
    if not name:
        raise UsageError("--model is empty: give a name, such as smollm2-135m-instruct, or a folder")
    path = Path(name).expanduser()
    if (path / "checkpoint.json").is_file():
        return FoundModel(name, "checkpoint", path, path.parent.parent)
    if (path / "run.json").is_file():
        return _of_run(name, path)
    if _is_saved(path):
        return FoundModel(name, "saved", path)
    if not path.exists() and (folder := _shipped(name)):
        return FoundModel(name, "saved", folder)
    return FoundModel(name, "other", path)


def _shipped(name: str) -> Path | None:
    """The folder of a model that comes with the package, None for any other name."""
    from ..formats.shipped import SHIPPED, shipped_folder

    return shipped_folder(name) if name in SHIPPED else None


def _is_saved(folder: Path) -> bool:
    config = folder / "config.json"
    if not config.is_file():
        return False
    with naming(config):
        return '"weights"' in config.read_text(encoding="utf-8")


def _of_run(name: str, path: Path) -> FoundModel:
    about = _read_json(path / "run.json")
    if about.get("finished") and _is_saved(path / "model"):
        return FoundModel(name, "saved", path / "model", path)
    folder = path / "checkpoints"
    if steps := saved_steps(folder):
        return FoundModel(name, "checkpoint", folder / f"step-{steps[0]:08d}", path)
    if _is_saved(path / "model"):
        return FoundModel(name, "saved", path / "model", path)
    raise ValueError(f"{name} is a run that has neither a model nor a checkpoint yet: wait for its first one, or name "
                     "the folder of its checkpoint")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with naming(path):
            return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): write or copy it again") from None


def open_model(name: str, tokenizer: str | None = None, device: str | None = None, dtype: str | None = None,
               training: bool = False) -> tuple[Any, Any]:
    """A model in evaluation mode, and its tokenizer.

    Args:
        name: see `find_model`.
        tokenizer: the name or file of the one to use; the model's own if None.
        device, dtype: as `llmbook.devices` describes: the best device, and there the number format for using a model,
            or float32 to train it (`training`).

    Raises ValueError for a model that writes no text, for one without a tokenizer, and for a tokenizer that is not the
    model's.
    """
    found = find_model(name)
    where, number_format = find_device(device, "--device"), None
    if dtype or training:
        number_format = _number_format(dtype or "float32")
    model, own = _load(found, where, number_format)
    if not hasattr(model, "lm_head") or not hasattr(model, "new_cache"):
        raise ValueError(f"{name} is a {type(model).__name__}, which writes no text: give a language model")
    if tokenizer is None and own is None:
        raise ValueError(f"{name} has no tokenizer: give --tokenizer gpt2, or the file of the one it was trained with")
    chosen = own if tokenizer is None else _given_tokenizer(tokenizer, name, own, found)
    if chosen.n_vocab > model.config.vocab_size:
        raise ValueError(f"the tokenizer has {chosen.n_vocab:,} tokens, {name} knows {model.config.vocab_size:,}: "
                         "they do not belong together, give the tokenizer that it was trained with")
    return model, chosen


def _number_format(name: str) -> Any:
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def _load(found: FoundModel, device: Any, dtype: Any) -> tuple[Any, Any]:
    """The model, and its tokenizer or None."""
    from ..devices import inference_dtype

    if found.kind == "other":
        return _load_other(found, device, dtype)
    model = _of_checkpoint(found) if found.kind == "checkpoint" else _load_saved(found.path)
    wanted = dtype or inference_dtype(device)
    return model.to(device=device, dtype=wanted).eval(), _own_tokenizer(found)


def _load_other(found: FoundModel, device: Any, dtype: Any) -> tuple[Any, Any]:
    from ..devices import inference_dtype
    from ..open_weights import load_pretrained

    # A path is given as an absolute one, so that no name of a known model comes before it.
    source = found.path.resolve() if found.path.exists() else found.name
    return load_pretrained(source, dtype=dtype or inference_dtype(device), device=device)


def _load_saved(folder: Path) -> Any:
    from ..training import load_model

    return load_model(folder, "cpu")


def _of_checkpoint(found: FoundModel) -> Any:
    """The model of a checkpoint, which may be one of a run that is going on: nothing is written or locked."""
    from ..scale.checkpoint_folder import RunCheckpoint

    for attempt in range(3):  # the run may remove a checkpoint while it is read
        path = found.path if attempt == 0 or found.run is None else _of_run(found.name, found.run).path
        try:
            checkpoint = RunCheckpoint(path)
            if problem := checkpoint.problem():
                if not path.exists():
                    continue
                raise ValueError(f"{path} is damaged ({problem}): give another checkpoint")
            model = _build_and_fill(checkpoint)
        except FileNotFoundError:
            continue
        if sys.stderr is not None:
            print(f"{found.name}: the model after step {checkpoint.step:,}, from a checkpoint", file=sys.stderr)
        return model
    raise ValueError(f"{found.name}: its checkpoints come and go faster than they can be read: try again")


def _build_and_fill(checkpoint: Any) -> Any:
    """The model that a checkpoint describes, with its weights."""
    from ..families import family_named
    from ..scale.run_state import model_tensors

    settings = {key.removeprefix("model."): value for key, value in checkpoint.about()["settings"].items()
                if key.startswith("model.")}
    family = family_named(str(settings.get("class")))
    known = {item.name for item in fields(family.config_class)}
    model = family.build(family.config_class(**{key: value for key, value in settings.items() if key in known}))
    checkpoint.fill(model_tensors(model))
    return model


def _own_tokenizer(found: FoundModel) -> Any:
    """The tokenizer beside a model of ours, None if there is none."""
    if found.kind == "saved" and (found.path / "tokenizer_of.json").is_file():  # as 0.1.0 wrote it
        of = _read_json(found.path / "tokenizer_of.json").get("model")
        if not isinstance(of, str):
            raise ValueError(f"{found.path / 'tokenizer_of.json'} names no model: give --tokenizer")
        return _tokenizer_of(find_model(of))
    if found.kind == "saved":
        return _read_tokenizer(found.path)
    tokens = found.run / "tokens" if found.run is not None else None
    if tokens is not None and (tokens / "tokenizer.json").is_file():
        return _read_tokenizer(tokens)
    run = found.run / "run.json" if found.run is not None else None
    if run is not None and run.is_file():
        settings = _read_json(run).get("settings", {})
        given = settings.get("tokenizer")
        if isinstance(given, str):
            from ..text import load_tokenizer

            return load_tokenizer(given)
        if isinstance(settings.get("model"), str):  # a fine-tuning: the tokenizer of what it began with
            return _tokenizer_of(find_model(settings["model"]))
    return None


def _read_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder, in the book's format or in that of Hugging Face. None if there is none."""
    from ..formats.tokenizers import tokenizer_of_folder
    from ..text import load_tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    with naming(path):
        own = '"tokens":' in path.read_bytes()[:100_000_000].decode("utf-8")
    return load_tokenizer(path) if own else tokenizer_of_folder(folder)


def _tokenizer_of(found: FoundModel) -> Any:
    """The tokenizer of any model, without its weights."""
    from ..assets import fetch
    from ..formats.tokenizers import tokenizer_of

    if found.kind != "other":
        return _own_tokenizer(found)
    return tokenizer_of(found.path if found.path.exists() else fetch(found.name))


_PROBE = ("The clock in the captain's kitchen said 12:45, and nobody (not even Mira) looked up.\n"
          "  na\u00efve caf\u00e9s, 300 words; def f(x): return x**2 \u2014 "
          "\u0441\u043b\u043e\u0432\u043e \u4f60\u597d")


def _given_tokenizer(name: str, model: str, own: Any, found: FoundModel) -> Any:
    """The tokenizer that --tokenizer names, if it is the one that the model was trained with."""
    from ..scale.encoding import tokenizer_fingerprint
    from ..text import load_tokenizer

    path = Path(name).expanduser()
    chosen = _read_tokenizer(path) if path.is_dir() else load_tokenizer(name)
    if chosen is None:
        raise ValueError(f"{name} holds no tokenizer.json: give a file, or gpt2")
    expected = None
    if own is None and (kept := found.path / _FINGERPRINT).is_file():
        expected = _read_json(kept).get("fingerprint")
    elif own is not None:
        expected = tokenizer_fingerprint(own)
    if expected is None or expected == tokenizer_fingerprint(chosen):
        return chosen
    if own is None or own.n_vocab != chosen.n_vocab or (
            own.encode(_PROBE, disallowed_special=()) != chosen.encode(_PROBE, disallowed_special=())):
        raise ValueError(f"--tokenizer {name} is not the tokenizer that {model} was trained with: leave --tokenizer "
                         "out, or give that one")
    return chosen


def begins_with_end(name: str) -> bool:
    """Whether each text that a model of ours was trained on began with `<|endoftext|>`, so that a prompt should too."""
    found = find_model(name)
    if found.kind == "saved" and (kept := found.path / _FINGERPRINT).is_file():
        return _read_json(kept).get("begins_with_end") is True
    if found.kind == "checkpoint" and found.run is not None and (found.run / "run.json").is_file():
        return _read_json(found.run / "run.json").get("settings", {}).get("data.documents") is True
    return False


def keep_tokenizer(tokenizer: Any, folder: Path, begins_with_end: bool = False) -> None:
    """Write a tokenizer into a model's folder, and what it can be recognised by: the book's own in its format, other
    people's in that of Hugging Face. begins_with_end: see the function of that name."""
    from ..formats.tokenizers import PretrainedTokenizer, save_tokenizer_files
    from ..scale.encoding import tokenizer_fingerprint
    from ..text import save_tokenizer

    if isinstance(tokenizer, PretrainedTokenizer):
        save_tokenizer_files(tokenizer, folder)
    else:
        save_tokenizer(tokenizer, folder / "tokenizer.json")
    (folder / "tokenizer_of.json").unlink(missing_ok=True)
    about = {"fingerprint": tokenizer_fingerprint(tokenizer), "tokens": tokenizer.n_vocab}
    if begins_with_end:
        about["begins_with_end"] = True
    replace_file(folder / _FINGERPRINT, json.dumps(about).encode())
