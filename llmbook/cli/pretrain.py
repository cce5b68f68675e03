"""`llmbook pretrain`: train a model from nothing on text."""

from __future__ import annotations

import argparse
from typing import Any

from .errors import UsageError
from .example import EXAMPLE

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Train as a file of settings says; returns the exit code."""
    if arguments.example:
        print(EXAMPLE, end="")
        return 0
    if arguments.settings is None:
        raise UsageError("give a file of settings: `llmbook pretrain --example > run.toml` writes one that runs")
    from .interrupts import import_torch

    import_torch()
    from .settings import Settings, changes_from

    settings = Settings(arguments.settings, changes_from(arguments))
    config = training_config(settings)
    if arguments.dry_run:
        from .cost import dry_run
        from .training import check_device

        check_device(settings)
        return dry_run(settings, config, settings.get("training", "batch_size"))
    return _train(settings, config)


def training_config(settings: Any) -> Any:
    """The `TrainingConfig` of the section [training]."""
    from ..training import TrainingConfig
    from .terminal import shows_progress
    from .training import config_settings

    settings.need("training", "max_steps")
    return settings.make("training", TrainingConfig, **{"progress": shows_progress(), **config_settings(settings)})


def _train(settings: Any, config: Any) -> int:
    import torch

    from .data import Data
    from .logs import Reports
    from .runs import Run
    from .training import check_device, train_with_team

    data = Data(settings)
    with Run("pretrain", settings, texts=data.content_paths()) as run:
        if run.finished:
            return run.say_finished()
        check_device(settings)
        checkpoints, reports = run.checkpoints(), Reports(run)
        tokenizer = data.tokenizer(folder := run.folder / "tokens")
        model_config = settings.model_config(tokenizer.n_vocab)
        run.write()
        seed = settings.get("training", "seed")
        loader, held_out = data.loaders(folder, tokenizer, model_config.context_length,
                                        settings.get("training", "batch_size"), seed, config.eval_batches or 20)
        torch.manual_seed(seed)
        model = settings.family.build(model_config)
        history = train_with_team(settings, model, loader, settings.family.loss_function, config, held_out,
                                  checkpoints=checkpoints, on_step=reports)
        return run.end(history, model, tokenizer)
