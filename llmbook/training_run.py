"""What surrounds the steps of `llmbook.training.train`: the batches, the processes, the history, and what makes a step
safe. The steps themselves are the chapter's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .compiling import compiled_loss
from .devices import Numbers, OneProcess, autocast, fast_products, guard_update, send, whole_tensor
from .diagnosis import check_training, explain_not_finite
from .extras import load_extra
from .prefetching import BatchesAhead
from .protocols import LossFunction, RunKeeper, Team

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["History", "TrainingConfig", "TrainingRun", "add_gradients", "clip_gradients", "count_targets",
           "endless", "target_counter", "update_weights"]


@dataclass(frozen=True)
class TrainingConfig:
    """How `llmbook.training.train` trains.

    Args:
        max_steps: optimizer steps; the loader is started again whenever it runs out.
        learning_rate: the highest one; reached after `warmup_steps`, then lowered along a cosine to `learning_rate *
            final_fraction` at the last step.
        weight_decay: AdamW's, on matrices only (see `llmbook.training.decay_groups`).
        betas: AdamW's memory of past gradients and of their squares, each in [0, 1).
        max_norm: gradients longer than this are scaled down to it; None for no limit.
        accumulation_steps: batches that together make one step, as if they were one large batch.
        eval_every, eval_batches: steps between evaluations (the last step always has one), and batches for each, all of
            them if None.
        precision, device: see `llmbook.devices`; the best device there is if None.
        compile: run the forward and backward pass through `torch.compile`: up to a minute or two before the first step,
            quicker steps afterwards.
        progress: show a progress bar.

    Raises ValueError for a number out of range.
    """

    max_steps: int
    learning_rate: float = 6e-4
    warmup_steps: int = 0
    final_fraction: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    max_norm: float | None = 1.0
    accumulation_steps: int = 1
    eval_every: int = 100
    eval_batches: int | None = None
    precision: str = "auto"
    device: str | None = None
    compile: bool = False
    progress: bool = True

    def __post_init__(self):
        check_training(self)


@dataclass
class History:
    """What happened in a training run.

    Attributes:
        steps: one record for each optimizer step: step (from 1), loss (nats), learning_rate, gradient_norm (before
            clipping), examples and seconds so far, and val_loss where one was measured. Seconds leave out the time of
            evaluations.
        interrupted: True if Ctrl-C ended the run early.
    """

    steps: list[dict[str, float]] = field(default_factory=list)
    interrupted: bool = False

    def add(self, examples: int, seconds: float, **numbers: float) -> dict[str, float]:
        """Append the record of one more step, which took so many examples and seconds."""
        before = self.steps[-1] if self.steps else {"examples": 0, "seconds": 0.0}
        self.steps.append({"step": len(self.steps) + 1, **numbers,
                           "examples": before["examples"] + examples,
                           "seconds": before["seconds"] + seconds})
        return self.steps[-1]

    def to_frame(self) -> pd.DataFrame:
        """The records as a table, one row a step; val_loss is NaN where it was not measured."""
        pd = load_extra("pandas")
        columns = ["loss", "val_loss", "learning_rate", "gradient_norm", "examples", "seconds"]
        return pd.DataFrame(self.steps, columns=["step", *columns]).set_index("step")


def count_targets(batch: Sequence[Tensor]) -> int:
    """How many targets of a batch its loss is the mean of. The last tensor holds the targets: ids that are not -100
    count; of a tensor that does not hold integers, its rows do."""
    targets = batch[-1]
    if targets.is_floating_point():
        return len(targets)
    return int((targets != -100).sum())


def target_counter(loss_fn: LossFunction) -> Callable[[Sequence[Tensor]], int]:
    """How a loss counts: by a rule of its own, its `count_targets`, or by that of this module."""
    return getattr(loss_fn, "count_targets", count_targets)


def endless(loader: Iterable) -> Iterator:
    """A loader's batches, again and again. Raises ValueError when a round gives none."""
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError("the training loader gave no batch: give it more data or a smaller batch_size, and a list "
                             "or DataLoader rather than an iterator")


def add_gradients(model: nn.Module, parts: Sequence[Sequence[Tensor]], loss_fn: LossFunction, counts: Sequence[int],
                  precision: str, team: Team) -> Tensor:
    """The backward passes of one step, over all its parts; returns the step's loss.

    That is the mean over all targets which the parts count, `counts`, in all processes. So each part's own mean is
    weighed by its share of them.
    """
    total, loss = max(1, sum(counts)), 0.0
    for number, (part, count) in enumerate(zip(parts, counts), 1):
        own = team.own_rows(part)
        share = (count if team.size == 1 else target_counter(loss_fn)(own)) / total
        batch = send(own, team.device)
        with team.exchange(last=number == len(parts)), fast_products(team.device):
            with autocast(team.device, precision):
                weighed = loss_fn(model, *batch) * share
            (weighed * team.size).backward()  # a team averages gradients over its processes
        loss = loss + weighed.detach()
    return team.sum(loss)


def clip_gradients(model: nn.Module, max_norm: float | None) -> Tensor:
    """Scale a model's gradients down to `max_norm` together; returns how long they were."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return whole_tensor(nn.utils.clip_grad_norm_(trainable, max_norm or math.inf))


def update_weights(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """One step of the optimizer; then the gradients are cleared."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class TrainingRun:
    """One run of `train`: a context in which Ctrl-C ends the run and the history stays.

    Args:
        model, loss_fn, config, team: see `llmbook.training.train`. The model is moved to the team's device.

    Attributes: `history`; `loss_fn`, compiled and shared with the team where that was asked; `fused`, whether AdamW has
    a fused kernel on this device, with which nothing waits for a GPU.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFunction, config: TrainingConfig, team: Team | None = None):
        self.model, self.config, self.history = model, config, History()
        self.team = OneProcess(config.device) if team is None else team
        device = self.team.device
        model.to(device).train()
        if config.compile:
            loss_fn = compiled_loss(loss_fn, device)
        self.count = target_counter(loss_fn)
        self.loss_fn = self.team.share(model, loss_fn)
        self.fused = device.type in ("cpu", "cuda")

    def over(self, train_loader: Iterable, optimizer: torch.optim.Optimizer, val_loader: Iterable | None = None,
             checkpoints: RunKeeper | None = None) -> TrainingRun:
        """Make ready for the steps; `checkpoints` may bring everything to where an earlier run was."""
        self.optimizer, self.checkpoints = optimizer, checkpoints
        if checkpoints is not None:
            train_loader = checkpoints.begin(self.model, optimizer, train_loader, self.history, self.config, self.team,
                                             val_loader)
        self.batches = BatchesAhead(train_loader, endless(train_loader), self.config.accumulation_steps,
                                    self.team.device)
        return self

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> bool:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.history.interrupted = interrupted
        self.optimizer.zero_grad(set_to_none=True)
        if self.checkpoints is not None:
            self.checkpoints.end()
        return interrupted

    def steps(self) -> Iterator[int]:
        """The numbers of the steps that are still to be done, from 0, under a progress bar."""
        done, most = len(self.history.steps), self.config.max_steps
        hidden = not (self.config.progress and self.team.leads)
        self.bar = tqdm(range(done, most), initial=done, total=most, unit="step", disable=hidden)
        yield from self.bar

    def is_over(self) -> bool:
        """Whether the step that was just recorded was the last one."""
        return len(self.history.steps) == self.config.max_steps

    def backward(self) -> Tensor:
        """Fetch a step's batches and add up their gradients; returns the step's loss."""
        self.start = time.perf_counter()
        self.parts = self.batches.take()
        self.counts = [self.count(part) for part in self.parts]
        return add_gradients(self.model, self.parts, self.loss_fn, self.counts, self.config.precision, self.team)

    def update(self, learning_rate: float, loss: Tensor, norm: Tensor) -> dict[str, float]:
        """One step of the optimizer, then the gradients are cleared; returns the step's record in the history.

        Nothing moves if the loss or the gradients' norm is not finite: raises FloatingPointError, which says why.
        """
        if len(self.history.steps) + 1 < self.config.max_steps:
            self.batches.fetch_ahead()  # a GPU is still at work
        numbers = Numbers(loss, norm)
        guard_update(self.optimizer, numbers)
        update_weights(self.optimizer, learning_rate)
        loss, norm = numbers.wait()  # the step's one wait for the device
        if not math.isfinite(loss + norm):
            raise FloatingPointError(explain_not_finite(self.model, self.parts, self.counts, loss, norm,
                                                        self.history.steps, self.config.learning_rate))
        examples = sum(len(part[0]) for part in self.parts)
        record = self.history.add(examples, time.perf_counter() - self.start, loss=loss, learning_rate=learning_rate,
                                  gradient_norm=norm)
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        return record

    def is_time_to_evaluate(self) -> bool:
        """Whether the step that was just recorded is followed by an evaluation."""
        return self.is_over() or len(self.history.steps) % self.config.eval_every == 0

    def tell(self, record: dict[str, float], on_step: Callable[[dict[str, float]], None] | None) -> None:
        """Hand a step's record to whoever listens, and let checkpoints be written. Raises KeyboardInterrupt if the run
        was asked to end."""
        if on_step is not None and self.team.leads:
            on_step(record)
        if self.checkpoints is not None and self.checkpoints.after_step(self.is_over()):
            raise KeyboardInterrupt
