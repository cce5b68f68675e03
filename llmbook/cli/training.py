"""What `pretrain` and `finetune` share: the settings of `train`, and the team of processes that trains."""

from __future__ import annotations

import inspect
from typing import Any

from ..files import process_place
from .device import find_device
from .settings import Settings

__all__ = ["check_device", "config_settings", "team_argument", "train_with_team"]


def config_settings(settings: Settings) -> dict[str, Any]:
    """What [training] gives to `TrainingConfig`: all but what the command itself uses."""
    from dataclasses import fields

    from ..training import TrainingConfig

    known = {item.name for item in fields(TrainingConfig)}
    return {key: value for key, value in settings.values["training"].items() if key in known}


def check_device(settings: Settings) -> None:
    """Raise UsageError if the device of [training] is not here."""
    find_device(settings.get("training", "device"), settings.place("training", "device"))


def team_argument(settings: Settings, function: Any) -> dict[str, Any]:
    """`team=` for `train`, or nothing where this process trains alone."""
    from ..scale.team import Team

    if process_place()[1] == 1 or "team" not in inspect.signature(function).parameters:
        return {}
    return {"team": Team(settings.get("training", "device"), settings.get("training", "parallel"))}


def train_with_team(settings: Settings, *arguments: Any, **more: Any) -> Any:
    """`llmbook.training.train`, with the processes that torchrun started, if it did."""
    from ..training import train

    return train(*arguments, **more, **team_argument(settings, train))
