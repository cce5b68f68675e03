"""`llmbook finetune`: train a model that exists to follow instructions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .errors import UsageError, naming

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Train on a file of instructions; returns the exit code."""
    from .interrupts import import_torch

    import_torch()
    from .runs import Run
    from .settings import Settings, changes_from

    for name in ("data", "model"):
        if not getattr(arguments, name):
            raise UsageError(f"--{name} is empty: give a {'file' if name == 'data' else 'name or folder'}")
    if arguments.epochs < 1:
        raise UsageError(f"--epochs is {arguments.epochs}: it must be at least 1")
    share, held_out_file = _share_or_path(arguments.validation)
    settings = Settings(None, changes_from(arguments), ("", "training", "checkpoints", "log"), _defaults())
    source = str(Path(arguments.model).resolve()) if Path(arguments.model).exists() else arguments.model
    asked = {name: getattr(arguments, name) for name in ("data", "validation", "epochs", "style", "tokenizer")}
    texts = {"data": arguments.data, **({"validation": held_out_file} if held_out_file else {})}
    with Run("finetune", settings, {"model": source, **asked}, texts) as started:
        if started.finished:
            return started.say_finished()
        return _train(arguments, settings, started, source, share, held_out_file)


def _defaults() -> dict[str, dict[str, Any]]:
    """The settings of [training] that `finetune_instructions` sets by itself. What it computes is None."""
    import inspect
    from dataclasses import fields

    from ..instructions import finetune_instructions
    from ..training import TrainingConfig

    known = inspect.signature(finetune_instructions).parameters
    own = {name: known[name].default for name in ("batch_size", "learning_rate", "seed") if name in known}
    return {"training": {**{item.name: None for item in fields(TrainingConfig)}, **own}}


def _share_or_path(text: str) -> tuple[float, str | None]:
    try:
        share = float(text)
    except ValueError:
        if not text:
            raise UsageError("--validation is empty: give a share, such as 0.1, or a file") from None
        return 0.0, text
    if not 0 < share < 1:
        raise UsageError(f"--validation is {text}: a share must be above 0 and below 1")
    return share, None


def _entries(arguments: argparse.Namespace, share: float, held_out_file: str | None, seed: int) -> list[Any]:
    """The entries to train on and those held out."""
    from ..instructions import read_instructions, split_instructions

    with naming(arguments.data):
        entries = read_instructions(arguments.data)
    if held_out_file:
        with naming(held_out_file):
            parts = [entries, read_instructions(held_out_file)]
    else:
        parts = split_instructions(entries, (1 - share, share), seed)
    if not all(map(len, parts)):
        raise ValueError(f"{arguments.data}: --validation {arguments.validation} leaves {len(parts[0])} entries to "
                         f"train on and {len(parts[1])} held out, and both need some: change it, or give more entries")
    return parts


def _train(arguments: argparse.Namespace, settings: Any, started: Any, source: str, share: float,
           held_out_file: str | None) -> int:
    import torch

    from ..files import is_first
    from ..instructions import InstructionDataset, finetune_instructions, held_out_loss
    from ..training import TrainingConfig, load_model
    from .logs import Reports
    from .models import open_model
    from .terminal import remark, say, shows_progress
    from .training import check_device, config_settings, team_argument

    check_device(settings)
    given = {"progress": shows_progress(), **config_settings(settings)}
    settings.make("training", TrainingConfig, **{"max_steps": 1, **given})
    batch_size, seed = settings.get("training", "batch_size"), settings.get("training", "seed")
    parts = _entries(arguments, share, held_out_file, seed)
    checkpoints, reports = started.checkpoints(), Reports(started)
    remark(f"loading {source} ...")
    model, tokenizer = open_model(source, arguments.tokenizer, settings.get("training", "device"), training=True)
    training, validation = (InstructionDataset(part, tokenizer, model.config.context_length, arguments.style)
                            for part in parts)
    say(f"{len(training):,} entries to train on, {len(validation):,} held out, in the style {training.style!r}")
    started.write()
    before = held_out_loss(model, validation)
    say(f"held-out loss before: {before:.3f} nats a token")
    torch.manual_seed(seed)
    history = finetune_instructions(model, training, validation, arguments.epochs, batch_size, seed=seed, **given,
                                    checkpoints=checkpoints, on_step=reports,
                                    **team_argument(settings, finetune_instructions))
    code = started.end(history, model, tokenizer)
    if code == 0 and is_first():
        after = held_out_loss(load_model(started.folder / "model", next(model.parameters()).device), validation)
        say(f"held-out loss after: {after:.3f} nats a token (before: {before:.3f})")
    return code
