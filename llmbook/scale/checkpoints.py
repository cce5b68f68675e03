"""Checkpoints of a training run, which a kill at any moment cannot break."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..protocols import Team
from .checkpoint_folder import CheckpointFolder, RunCheckpoint, write_part
from .run_state import RunState, model_tensors
from .signals import StopSignals

__all__ = ["Checkpoints"]


class Checkpoints:
    """Keeps a training run on the disk, so that `train` can go on after whatever ended it.

    Args:
        folder: one for each run. `train` goes on from its newest whole checkpoint, if there is one.
        every_steps, every_minutes: when to write one; every 10 minutes if both are None. One more follows the last
            step, and the step during which Ctrl-C or SIGTERM arrives (see `llmbook.scale.signals.StopSignals`).
        keep: so many of the newest are kept.
        allow: settings that may differ from the checkpoint's, such as "learning_rate".

    Attributes: saved_step, the step of the newest whole checkpoint that is known to be on the disk, in process 0; 0 if
    there is none. It says from where the run can go on, whatever else was done.

    A checkpoint is a folder of safetensors and JSON, no pickle. It is written under another name and renamed once all
    of it is on the disk: whatever ends the run leaves the last one whole. It holds weights, AdamW's memory, the place
    in the data, each process's random states, the history and the settings. So on a CPU a run in pieces is the
    unbroken run to the last bit, with as many processes as before.

    Raises ValueError for a number that is not above 0.
    """

    def __init__(self, folder: str | Path, every_steps: int | None = None, every_minutes: float | None = None,
                 keep: int = 2, allow: Collection[str] = ()):
        if every_steps is None and every_minutes is None:
            every_minutes = 10.0
        for name, number in (("every_steps", every_steps), ("every_minutes", every_minutes), ("keep", keep)):
            if number is not None and not number > 0:
                raise ValueError(f"{name} is {number}: it must be above 0")
        self.every_steps, self.every_minutes, self.allow = every_steps, every_minutes, tuple(allow)
        self.files = CheckpointFolder(folder, keep)
        self.saved_step = 0
        self._thread: ThreadPoolExecutor | None = None
        self._writing: tuple[int, Future] | None = None  # the step whose checkpoint is being written
        self._last_step, self._last_time = 0, 0.0  # of the last checkpoint that was begun

    @property
    def folder(self) -> Path:
        return self.files.folder

    def newest(self) -> Path | None:
        """The newest whole checkpoint, or None if there are none; warns of damaged ones. Only reads.

        Raises ValueError if all are damaged, OSError if one cannot be read.
        """
        checkpoint = self.files.newest()
        return None if checkpoint is None else checkpoint.path

    def load(self, model: nn.Module) -> int:
        """Fill a model with the newest whole checkpoint's weights; returns its step. Only reads: the run whose
        checkpoints they are may go on meanwhile.

        Raises FileNotFoundError if there is none, ValueError if it is of another model.
        """
        for attempt in range(3):
            checkpoint = self.files.newest()
            if checkpoint is None:
                raise FileNotFoundError(f"no checkpoint in {self.folder}: give the folder of a run that wrote one")
            try:
                tensors = model_tensors(model)
                held = {name for name in checkpoint.tensor_names() if name.startswith("model.")}
                if unknown := sorted(held - tensors.keys()):
                    raise ValueError(f"{checkpoint} has {unknown[0]}: it is of another model")
                checkpoint.fill(tensors)
                return checkpoint.step
            except FileNotFoundError:  # the run has just removed it, so it has a newer one
                if attempt == 2:
                    raise
        raise AssertionError("not reached")

    # --- what `train` calls (see `llmbook.protocols.RunKeeper`) ---

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer, loader: Iterable, history: Any, config: Any,
              team: Team, val_loader: Iterable | None = None) -> Iterable:
        """Go on from the newest checkpoint, if there is one; returns the loader, at its place.

        Raises ValueError if a setting is another now (unless in `allow`), if all checkpoints are damaged, or if the
        loader's `state_dict` holds what cannot be stored; RuntimeError if another run has the folder.
        """
        self.run, self.team = RunState(model, optimizer, loader, history, config, team, val_loader), team
        self.signals, self.saved_step, self._writing = StopSignals(), 0, None
        self._thread = ThreadPoolExecutor(1, initializer=_step_back)
        try:
            self.run.check_loader()
            step = self._agree_where_to_begin()
            if step:
                self.run.resume(RunCheckpoint(self.folder / f"step-{step:08d}"), self.allow)
        except BaseException:
            self.end()
            raise
        self.saved_step = self._last_step = step
        self._last_time = time.monotonic()
        self.signals.watch()
        return self.run.loader

    def after_step(self, last: bool) -> bool:
        """Write a checkpoint if it is time; returns True if the run has been asked to end."""
        step, stopping = self.run.step, self.signals.arrived
        late = self.every_minutes is not None and time.monotonic() - self._last_time >= 60 * self.every_minutes
        if self.team.size > 1:  # signals reach some and clocks differ; all must do the same after the same step
            wishes = self.team.gather([stopping, late])
            stopping, late = any(wish[0] for wish in wishes), bool(wishes[0][1])
        due = self.every_steps is not None and step % self.every_steps == 0
        if (due or late or last or stopping) and step > self._last_step:
            self._last_step, self._last_time = step, time.monotonic()
            self._write()
        return stopping and not last

    def end(self) -> None:
        """Wait until all is on the disk; then, even if that is interrupted, give back what the run has taken."""
        try:
            self._finish()
        finally:
            thread, self._thread = self._thread, None
            self.signals.restore()
            if thread is not None:
                # After whatever it still writes: only then may another run clean the folder.
                thread.submit(self.files.give_back)
                thread.shutdown(wait=self._writing is None)

    # --- within ---

    def _agree_where_to_begin(self) -> int:
        """The step of the checkpoint to go on from, the same in all processes; 0 for none. Process 0 takes the folder
        and looks; what it cannot do is an error in all of them."""
        step, error = 0, None
        if self.team.leads:
            try:
                self.files.take()
                newest = self.files.newest()
                step = 0 if newest is None else newest.step
            except Exception as reason:
                error = reason
        if self.team.size > 1:
            [step, failed] = self.team.gather([step, error is not None])[0]
            if failed and error is None:
                error = RuntimeError("process 0 cannot begin with its checkpoints: its own message says why")
        if error is not None:
            raise error
        return int(step)

    def _write(self) -> None:
        """Begin a checkpoint: one process writes it in a thread, while the training goes on; of a model that several
        processes share, each writes its part first."""
        self._finish()  # the one before: never more than one copy in memory
        step, team, wrote, error = self.run.step, self.team, [0, 0], None
        about: dict[str, Any] = {}
        copies: dict[str, Tensor] = {}
        try:
            about, copies = self.run.snapshot()
            if self.run.sharded:
                wrote = self._write_part(copies, step)
        except Exception as reason:  # the others wait for this process's word
            error = reason
        word = {"random": self.run.random_states(), "wrote": wrote, "error": error and str(error)}
        words = [word]
        if team.size > 1:
            words = [json.loads(content) for content in team.gather_bytes(json.dumps(word).encode())]
        if not team.leads:
            return
        about["random"] = [each["random"] for each in words]
        failed = [f"process {rank}: {each['error']}" for rank, each in enumerate(words) if each["error"]]
        if failed:
            self._report(step, error or failed[0])
        elif self.run.sharded:
            self._submit(step, self._publish, step, [each["wrote"] for each in words], about)
        else:
            self._submit(step, self._write_alone, copies, about)

    def _submit(self, step: int, function: Any, *arguments: Any) -> None:
        self._writing = step, self._thread.submit(function, *arguments)

    def _write_part(self, copies: Mapping[str, Tensor], step: int) -> list[int]:
        parts = self.team.size if self.run.sharded else 1
        place = self.files.unfinished(step)
        place.mkdir(exist_ok=True)
        return write_part(copies, place / f"part-{self.team.rank}-of-{parts}.safetensors")

    def _write_alone(self, copies: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        self._publish(about["step"], [self._write_part(copies, about["step"])], about)

    def _publish(self, step: int, parts: list[list[int]], about: Mapping[str, Any]) -> None:
        self.files.publish(step, parts, about)
        self.saved_step = step

    def _finish(self) -> None:
        """Wait for the disk. A checkpoint that fails is no reason to lose the run: it warns."""
        if self._writing is None:
            return
        step, writing = self._writing
        error = writing.exception()  # an interruption here leaves it as "being written"
        self._writing = None
        if error is not None:
            self._report(step, error)

    def _report(self, step: int, reason: BaseException | str) -> None:
        """Warn that a checkpoint failed, and remove what was written of it."""
        shutil.rmtree(self.files.unfinished(step), ignore_errors=True)
        newest = f"step-{self.saved_step:08d}" if self.saved_step else "none"
        warnings.warn(f"a checkpoint could not be written to {self.folder} ({reason}). The training goes on. The "
                      f"newest on the disk: {newest}", stacklevel=3)


def _step_back() -> None:
    """Let this thread work when others do not want the processor. (Linux knows threads apart.)"""
    with suppress(OSError, AttributeError):
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
