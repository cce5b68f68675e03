"""All that a checkpoint of a training run is made of."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..devices import is_sharded, own_part
from ..protocols import Team
from .checkpoint_folder import RunCheckpoint, patiently
from .packing import pack, unpack
from .random_states import random_states, set_random_states
from .resumable_loader import ResumableLoader

__all__ = ["RunState", "model_tensors"]

# These change where a run computes and what it shows, not what it computes.
NOT_COMPARED = ("device", "parallel", "progress", "compile")


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's weights and the buffers that belong to its state, by name. Nothing is copied."""
    kept = set(model.state_dict())
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    named = {**dict(model.named_parameters()), **buffers}
    return {f"model.{name}": tensor.detach() for name, tensor in named.items()}


def _defaults(config: Any) -> dict[str, Any]:
    """Of a dataclass's fields, those that have one."""
    found: dict[str, Any] = {}
    for item in fields(config) if is_dataclass(config) else ():
        if item.default is not MISSING:
            found[item.name] = item.default
        elif item.default_factory is not MISSING:
            found[item.name] = item.default_factory()
    return found


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As they would come back from a file."""
    return json.loads(json.dumps(settings, default=str))


class RunState:
    """What makes a run: weights, the optimizer's memory, the place in the data, random states, history and settings.

    Args:
        model, optimizer, loader, history, config, team, val_loader: as `train` has them. history: with `steps`, a list
            of records. config: a dataclass. optimizer: AdamW, or another that keeps tensors for each parameter.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loader: Iterable, history: Any, config: Any,
                 team: Team, val_loader: Iterable | None = None):
        self.model, self.optimizer, self.history, self.team = model, optimizer, history, team
        self.loader = ResumableLoader(loader, val_loader, team.device)
        about = getattr(model, "config", None)
        # A setting that an older version did not know was what is its default now.
        self.defaults = _plain({**_defaults(config), **{f"model.{k}": v for k, v in _defaults(about).items()}})
        self.settings = self._describe(loader, config, about)

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.history.steps)

    @property
    def sharded(self) -> bool:
        """Whether each process holds only its rows of the weights."""
        return any(is_sharded(p) for p in self.model.parameters())

    def _describe(self, loader: Iterable, config: Any, about: Any) -> dict[str, Any]:
        """The settings, flat: what must be the same when the run goes on."""
        settings = {name: value for name, value in asdict(config).items() if name not in NOT_COMPARED}
        model = {"class": type(self.model).__name__,
                 "parameters": sum(p.numel() for p in self.model.parameters()),
                 "trained": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
                 **(asdict(about) if is_dataclass(about) else {})}
        data = {"loader": type(loader).__name__, "batch_size": getattr(loader, "batch_size", None)}
        for name, thing in (("batches", loader), ("examples", getattr(loader, "dataset", None))):
            with suppress(TypeError):  # no length
                data[name] = len(thing)
        settings.update({f"model.{name}": value for name, value in model.items()})
        settings.update({f"data.{name}": value for name, value in data.items()})
        return _plain(settings)

    def changed(self, before: Mapping[str, Any], allow: Collection[str] = ()) -> list[str]:
        """Every setting that was another in a checkpoint, in words. One that the checkpoint lacks, because an older
        version wrote it, was what is now its default."""
        now, changes = self.settings, []
        for name in {**before, **now}:
            if name in allow or (name not in before and name not in self.defaults):
                continue
            was, is_now = before.get(name, self.defaults.get(name)), now.get(name)
            if was != is_now:
                changes.append(f"{name} was {was!r}, is {is_now!r}")
        return changes

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        """What AdamW remembers of each parameter: step, exp_avg and exp_avg_sq."""
        return {f"optimizer.{key}.{name}": value.detach() for name, p in self.model.named_parameters()
                for key, value in self.optimizer.state.get(p, {}).items()}

    def _history_tensors(self) -> dict[str, Tensor]:
        """A column for each number of the records; nan where a record lacks it."""
        records = self.history.steps
        columns = dict.fromkeys(name for record in records for name in record)
        return {f"history.{name}": torch.tensor([step.get(name, math.nan) for step in records], dtype=torch.float64)
                for name in columns}

    def random_states(self) -> dict[str, Any]:
        """This process's."""
        return random_states(self.team.device)

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What `checkpoint.json` says, and the tensors that this process writes, as copies on the CPU: training can go
        on meanwhile. Raises ValueError if the loader's state cannot be stored."""
        place, of_loader = pack(self.loader.state(), "loader")
        own = {**model_tensors(self.model), **self._optimizer_tensors()}
        history = self._history_tensors()
        if self.team.leads:
            own.update(history)
            own.update(of_loader)
        else:  # what is not divided, process 0 writes
            own = {name: tensor for name, tensor in own.items() if is_sharded(tensor)}
        about = {"step": self.step, "settings": self.settings,
                 "history": [name.removeprefix("history.") for name in history], "place": place}
        return about, {name: own_part(t).to("cpu", copy=True).contiguous() for name, t in own.items()}

    def check_loader(self) -> None:
        """Raises ValueError if the loader's own state could not be stored: before the run, and not after an hour."""
        if self.loader.has_own:
            before = self.random_states()  # some loaders draw when they are asked
            _, tensors = pack(self.loader.state()["own"], "loader.state_dict()")
            save(tensors)
            set_random_states(before, self.team.device)

    def resume(self, checkpoint: RunCheckpoint, allow: Collection[str] = ()) -> None:
        """Bring everything to where it was. Raises ValueError if a setting is another now."""
        about = checkpoint.about()
        if changed := self.changed(about["settings"], allow):
            raise ValueError(f"{checkpoint} was made with other settings: {'; '.join(changed)}. "
                             "Set them back, take another folder, or name them in `allow`")
        names = patiently(checkpoint.tensor_names)
        self._prepare_optimizer(names)
        tensors = {**model_tensors(self.model), **self._optimizer_tensors()}
        patiently(lambda: checkpoint.fill(tensors, self.team.rank, self.team.size))
        self.history.steps[:] = patiently(checkpoint.records)
        of_loader = patiently(lambda: checkpoint.read(name for name in names if name.startswith("loader.")))
        self.loader.restore(unpack(about["place"], of_loader))
        states = about["random"] if isinstance(about["random"], list) else [about["random"]]  # 0.1.0: process 0's only
        if self.team.rank < len(states):  # else there are more processes now, and this one keeps its own
            set_random_states(states[self.team.rank], self.team.device)

    def _prepare_optimizer(self, names: Collection[str]) -> None:
        """Give AdamW the memory that it makes at its first step, to be filled from the tensors of these names."""
        of_group = {p: group for group in self.optimizer.param_groups for p in group["params"]}
        for name, p in self.model.named_parameters():
            if p in of_group and f"optimizer.exp_avg.{name}" in names:
                step = torch.zeros((), device=p.device if of_group[p]["fused"] else "cpu")
                self.optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p),
                                           "exp_avg_sq": torch.zeros_like(p)}
