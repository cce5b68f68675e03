"""Checkpoints that a kill cannot break, several processes, data larger than memory, and what a step costs"""


import json
import math
import os
import random
import shutil
import signal
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..devices import is_sharded, own_part
from ..files import replace_file
from ..training import History, TrainingConfig
from .team import Team

FORMAT = 1
# These change where a run computes and what it shows, not what it computes.
NOT_COMPARED = ("device", "parallel", "progress")
WRITE_ERRORS = (OSError, SafetensorError)  # safetensors reports a full disk by an error of its own


def random_states() -> dict[str, Any]:
    """The states of every random number generator that training may use, ready for JSON."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    states = {"torch": _to_hex(torch.get_rng_state()), "python": [version, list(numbers), gauss],
              "numpy": [name, keys.tolist(), *rest]}
    if torch.cuda.is_available():
        states["cuda"] = [_to_hex(state) for state in torch.cuda.get_rng_state_all()]
    return states


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put the generators back where `random_states` found them."""
    torch.set_rng_state(_from_hex(states["torch"]))
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    if "cuda" in states and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_from_hex(state) for state in states["cuda"]])


def _to_hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _from_hex(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


class ResumableLoader:
    """A loader that knows its place: `state()` says it, `restore(state)` goes back there.

    A place is the state of the random generators at the beginning of the pass, and the number of
    batches taken since. A loader with a `state_dict` of its own is asked instead."""

    def __init__(self, loader: Iterable, val_loader: Iterable | None = None):
        self.loader, self.val_loader = loader, val_loader  # of the second, only what it draws from
        self.taken, self.skip, self.at_start, self.back = 0, 0, None, False
        self.has_own = hasattr(loader, "load_state_dict")

    def __iter__(self) -> Iterator:
        (skip, back, now), self.skip, self.back = (self.skip, self.back, random_states()), 0, False
        if skip:
            _set_draws(self.loader, self.at_start)
        self.at_start, self.taken = _draws(self.loader), 0
        for batch in self.loader:
            self.taken += 1
            if self.taken > skip:
                yield batch
            elif self.taken == skip:
                set_random_states(now)  # go on drawing as if nothing had been read again
        if self.taken < skip:
            raise ValueError(f"the loader gave {self.taken} batches, fewer than the {skip} before "
                             "the checkpoint: give it the data of the first run")
        if back and self.taken == skip:  # to the end of a pass
            yield from self

    def state(self) -> dict[str, Any]:
        return {"own": json.dumps(self.loader.state_dict()) if self.has_own else None,
                "taken": self.taken, "at_start": self.at_start, "val": _own_draws(self.val_loader)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.back = True
        _set_own_draws(self.val_loader, state["val"])
        if self.has_own:
            self.loader.load_state_dict(json.loads(state["own"]))
        else:
            self.skip, self.at_start = state["taken"], state["at_start"]


def _generators(loader: Iterable) -> list[torch.Generator]:
    """The generators that a DataLoader and its samplers draw from, each once."""
    holders = [loader, *(getattr(loader, name, None) for name in ("sampler", "batch_sampler"))]
    holders.append(getattr(holders[-1], "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _own_draws(loader: Iterable) -> list[str]:
    return [_to_hex(generator.get_state()) for generator in _generators(loader)]


def _set_own_draws(loader: Iterable, states: Sequence[str]) -> None:
    for generator, state in zip(_generators(loader), states):
        generator.set_state(_from_hex(state))


def _draws(loader: Iterable) -> dict[str, Any]:
    return {"everywhere": random_states(), "own": _own_draws(loader)}


def _set_draws(loader: Iterable, draws: Mapping[str, Any]) -> None:
    set_random_states(draws["everywhere"])
    _set_own_draws(loader, draws["own"])


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's weights and the buffers that belong to its state, by name. Nothing is copied."""
    kept = set(model.state_dict())
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    named = {**dict(model.named_parameters()), **buffers}
    return {f"model.{name}": tensor.detach() for name, tensor in named.items()}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What AdamW remembers of each parameter: step, exp_avg and exp_avg_sq."""
    return {f"optimizer.{key}.{name}": value.detach() for name, p in model.named_parameters()
            for key, value in optimizer.state.get(p, {}).items()}


def prepare_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer,
                      names: Collection[str]) -> None:
    """Give AdamW the memory that it makes at its first step, to be filled from `names`."""
    of_group = {p: group for group in optimizer.param_groups for p in group["params"]}
    for name, p in model.named_parameters():
        if p in of_group and f"optimizer.exp_avg.{name}" in names:
            step = torch.zeros((), device=p.device if of_group[p]["fused"] else "cpu")
            optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p),
                                  "exp_avg_sq": torch.zeros_like(p)}


def describe_loader(loader: Iterable) -> dict[str, Any]:
    """What can be said about a loader's data, to notice that it is not the data of before."""
    found = {"loader": type(loader).__name__, "batch_size": getattr(loader, "batch_size", None)}
    for name, thing in (("batches", loader), ("examples", getattr(loader, "dataset", None))):
        with suppress(TypeError):  # no length
            found[name] = len(thing)
    return found


def describe_run(model: nn.Module, loader: Iterable, config: TrainingConfig) -> dict[str, Any]:
    """The settings of a run, flat: what must be the same when it goes on."""
    settings = {name: value for name, value in asdict(config).items() if name not in NOT_COMPARED}
    about = getattr(model, "config", None)
    about = {"class": type(model).__name__,
             "parameters": sum(p.numel() for p in model.parameters()),
             "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
             **(asdict(about) if is_dataclass(about) else {})}
    settings.update({f"model.{name}": value for name, value in about.items()})
    settings.update({f"data.{name}": value for name, value in describe_loader(loader).items()})
    return json.loads(json.dumps(settings))  # as they would come back from a file


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any],
                allow: Collection[str] = ()) -> list[str]:
    """Every setting that differs, in words."""
    return [f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in {**before, **now}
            if name not in allow and before.get(name) != now.get(name)]


def _checksum(path: Path) -> int:
    """Of a file's content. CRC-32 notices damage; it is no protection against a forger."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


def write_part(tensors: Mapping[str, Tensor], path: Path) -> list[int]:
    """Write one process's tensors; returns the file's bytes and checksum once it is on the disk."""
    save_file(dict(tensors), path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    return [path.stat().st_size, _checksum(path)]


def problem_with(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None if they are as they were written."""
    try:
        about = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
        checksum = about.pop("checksum")
        if zlib.crc32(json.dumps(about).encode()) != checksum:
            return "the content of checkpoint.json is not what was written"
        if about["format"] != FORMAT:  # not damage
            raise RuntimeError(f"{checkpoint} has format {about['format']}, this llmbook reads "
                               f"{FORMAT}: use the version that wrote it")
        for name, (wanted, checksum) in about["parts"].items():
            size = (checkpoint / name).stat().st_size
            if size != wanted:
                return f"{name} has {size:,} bytes instead of {wanted:,}"
            if _checksum(checkpoint / name) != checksum:
                return f"the content of {name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except PermissionError:  # no damage either
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"checkpoint.json: {type(error).__name__}: {error}"
    return None


def tensor_names(checkpoint: Path) -> set[str]:
    """Of all tensors in a checkpoint's parts."""
    names = set()
    for path in checkpoint.glob("part-*.safetensors"):
        with safe_open(path, framework="pt") as part:
            names.update(part.keys())
    return names


def read_tensors(checkpoint: Path, tensors: Mapping[str, Tensor], rank: int = 0,
                 size: int = 1) -> None:
    """Fill tensors from a checkpoint, whoever wrote it: one process, or several with a part each.

    The parts hold rows of the whole tensor, in order. Of a sharded tensor, this process, number
    `rank` of `size`, takes its rows.
    """
    with ExitStack() as stack:
        paths = sorted(checkpoint.glob("part-*.safetensors"), key=part_number)
        parts = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
        held = [set(part.keys()) for part in parts]
        for name, tensor in tensors.items():
            pieces = [part.get_tensor(name) for part, names in zip(parts, held) if name in names]
            if not pieces:
                raise ValueError(f"{checkpoint} has no {name}: it is of another model")
            whole = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
            if is_sharded(tensor):  # as fully_shard divides: the last ones may get nothing
                chunks = whole.chunk(size)
                whole = chunks[rank] if rank < len(chunks) else whole[:0]
            if whole.shape != own_part(tensor).shape:
                raise ValueError(f"{checkpoint}: {name} has shape {tuple(whole.shape)} instead of "
                                 f"{tuple(own_part(tensor).shape)}: it is of another model")
            own_part(tensor).copy_(whole)


def part_number(path: Path) -> int:
    """Of `part-3-of-8.safetensors`: 3."""
    return int(path.name.split("-")[1])


WHOLE_NUMBERS = ("step", "examples")  # the rest of a record are fractions


def history_tensors(history: History) -> dict[str, Tensor]:
    """A column for each number of the records; nan where a record lacks it."""
    columns = dict.fromkeys(name for record in history.steps for name in record)
    return {f"history.{name}": torch.tensor([step.get(name, math.nan) for step in history.steps],
                                            dtype=torch.float64) for name in columns}


def history_records(checkpoint: Path, about: Mapping[str, Any]) -> list[dict[str, float]]:
    """The records again, from `history_tensors`' columns in a checkpoint."""
    columns = {f"history.{name}": torch.zeros(about["step"], dtype=torch.float64)
               for name in about["history"]}
    read_tensors(checkpoint, columns)
    rows = zip(*(column.tolist() for column in columns.values()))
    return [{name: int(number) if name in WHOLE_NUMBERS else number
             for name, number in zip(about["history"], row) if not math.isnan(number)}
            for row in rows]


class CheckpointFolder:
    """The checkpoints of one run: folders `step-00001000` of which the newest `keep` are kept."""

    def __init__(self, folder: str | Path, keep: int = 2):
        self.folder, self.keep = Path(folder), keep

    def found(self) -> list[Path]:
        """The checkpoints, the newest first, whole or not."""
        return sorted(self.folder.glob("step-" + "[0-9]" * 8), reverse=True)

    def newest(self) -> Path | None:
        """The newest whole checkpoint, or None if there are none; warns of damaged ones.

        Raises ValueError if all are damaged.
        """
        for checkpoint in self.found():
            problem = problem_with(checkpoint)
            if problem is None:
                return checkpoint
            warnings.warn(f"{checkpoint} is damaged ({problem}): taking the one before it",
                          stacklevel=2)
        if found := self.found():
            raise ValueError(f"none of the {len(found)} checkpoints in {self.folder} is whole: "
                             "choose another folder to begin again")
        return None

    def load(self, model: nn.Module) -> int:
        """Fill a model with the newest whole checkpoint's weights; returns its step. Raises
        FileNotFoundError if there is none, ValueError if it is of another model."""
        checkpoint = self.newest()
        if checkpoint is None:
            raise FileNotFoundError(f"no checkpoint in {self.folder}")
        tensors = named_tensors(model)
        held = {name for name in tensor_names(checkpoint) if name.startswith("model.")}
        if unknown := sorted(held - tensors.keys()):
            raise ValueError(f"{checkpoint} has {unknown[0]}: it is of another model")
        read_tensors(checkpoint, tensors)
        return step_of(checkpoint)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was made."""
    return int(checkpoint.name.split("-")[1])


def publish(folder: CheckpointFolder, step: int, parts: Sequence[Sequence[int]],
            about: Mapping[str, Any]) -> None:
    """Give a checkpoint whose parts are on the disk its name, and remove the oldest."""
    final = folder.folder / f"step-{step:08d}"
    temporary = unfinished(final)
    listed = {f"part-{rank}-of-{len(parts)}.safetensors": [int(number) for number in part]
              for rank, part in enumerate(parts)}
    content = {"format": FORMAT, **about, "parts": listed}
    content["checksum"] = zlib.crc32(json.dumps(content).encode())
    replace_file(temporary / "checkpoint.json", (json.dumps(content) + "\n").encode())
    sync_folder(temporary)
    remove(path for path in folder.found() if path.name >= final.name)  # they were damaged
    os.replace(temporary, final)
    sync_folder(folder.folder)
    remove(folder.found()[folder.keep :])


def unfinished(checkpoint: Path) -> Path:
    """The name that a checkpoint has while it is written."""
    return checkpoint.with_name(f".{checkpoint.name}")


def remove(checkpoints: Iterable[Path]) -> None:
    """Remove checkpoints, each under another name first, so that no half one is ever found."""
    for checkpoint in checkpoints:
        if checkpoint.exists():
            hidden = checkpoint.with_name(f".{checkpoint.name}.old")
            os.replace(checkpoint, hidden)
            shutil.rmtree(hidden)


def sync_folder(folder: Path) -> None:
    """Bring a renaming in a folder to the disk, where the system can."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows does not open folders
        return
    try:
        os.fsync(number)
    finally:
        os.close(number)


def own_folder(folder: CheckpointFolder) -> FileLock:
    """Take a folder for this run alone, and clean it. The lock of a process that dies is free.

    Raises RuntimeError if another run has it.
    """
    folder.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(f"another run writes its checkpoints to {folder.folder}: end that one, "
                           "or take another folder") from None
    clean(folder)
    return lock


def clean(folder: CheckpointFolder) -> None:
    """Remove what was half written or half removed."""
    for leftover in folder.folder.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


@dataclass
class RunState:
    """All that a checkpoint of a run is made of."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loader: ResumableLoader
    history: History
    settings: dict[str, Any]
    team: Team

    def copies(self) -> dict[str, Tensor]:
        """What this process writes, as copies on the CPU: training can go on meanwhile."""
        tensors = {**named_tensors(self.model), **optimizer_tensors(self.model, self.optimizer)}
        if self.team.leads:
            tensors.update(history_tensors(self.history))
        else:  # what is not divided, process 0 writes
            tensors = {name: tensor for name, tensor in tensors.items() if is_sharded(tensor)}
        return {name: own_part(t).to("cpu", copy=True).contiguous() for name, t in tensors.items()}

    def about(self) -> dict[str, Any]:
        """What is no tensor, for `checkpoint.json`."""
        columns = [name.removeprefix("history.") for name in history_tensors(self.history)]
        return {"step": len(self.history.steps), "settings": self.settings, "history": columns,
                "place": self.loader.state(), "random": random_states()}

    def resume(self, checkpoint: Path, allow: Collection[str] = ()) -> None:
        """Bring everything to where it was. Raises ValueError if a setting is another now."""
        about = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
        if changed := changed_settings(about["settings"], self.settings, allow):
            raise ValueError(f"{checkpoint} was made with other settings: {'; '.join(changed)}. "
                             "Set them back, take another folder, or name them in `allow`")
        prepare_optimizer(self.model, self.optimizer, tensor_names(checkpoint))
        tensors = {**named_tensors(self.model), **optimizer_tensors(self.model, self.optimizer)}
        read_tensors(checkpoint, tensors, self.team.rank, self.team.size)
        self.history.steps[:] = history_records(checkpoint, about)
        self.loader.restore(about["place"])
        set_random_states(about["random"])


class Writer:
    """Writes checkpoints: alone in a thread, while the training goes on; a team together."""

    def __init__(self, folder: CheckpointFolder, team: Team):
        self.folder, self.team = folder, team
        self.thread, self.writing = ThreadPoolExecutor(1, initializer=step_back), None

    def write(self, run: RunState) -> None:
        self.finish()  # of the one before: never more than one copy in memory
        self.step, copies, about = len(run.history.steps), run.copies(), run.about()
        if self.team.sharded:
            self._write_together(copies, about)
        elif self.team.leads:
            self.writing = self.thread.submit(self._write_alone, copies, about)

    def _write_part(self, copies: Mapping[str, Tensor], step: int, parts: int) -> list[int]:
        place = unfinished(self.folder.folder / f"step-{step:08d}")
        place.mkdir(exist_ok=True)
        return write_part(copies, place / f"part-{self.team.rank}-of-{parts}.safetensors")

    def _write_alone(self, copies: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        publish(self.folder, about["step"], [self._write_part(copies, about["step"], 1)], about)

    def _write_together(self, copies: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        try:
            wrote, failed = self._write_part(copies, about["step"], self.team.size), None
        except WRITE_ERRORS as error:
            wrote, failed = [0, 0], error
        parts = self.team.gather(wrote)  # waits for all
        if self.team.leads and all(size for size, _ in parts):
            self.writing = self.thread.submit(publish, self.folder, about["step"], parts, about)
        elif self.team.leads:
            report_failure(self.folder, about["step"], failed or "another process failed")

    def finish(self) -> None:
        """Wait for the disk. A checkpoint that fails is no reason to lose the run: it warns."""
        writing, self.writing = self.writing, None
        if writing is not None and (error := writing.exception()):
            report_failure(self.folder, self.step, error)


def step_back() -> None:
    """Let this thread work when others do not want the processor. (Linux knows threads apart.)"""
    with suppress(OSError, AttributeError):
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


class StopSignals:
    """Notices the first Ctrl-C or SIGTERM, to end a run in order; a second ends it at once.

    SIGTERM is what a machine that is about to be taken away sends. Outside the main thread,
    Python has no say in signals; then nothing is noticed.
    """

    def __init__(self):
        self.arrived, self.before = False, {}

    def watch(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._notice)

    def _notice(self, number: int, frame: Any) -> None:
        self.arrived = True
        self.restore()

    def restore(self) -> None:
        while self.before:
            signal.signal(*self.before.popitem())


def release(writer: Writer, signals: StopSignals, lock: FileLock | None) -> None:
    """Wait for the disk; then, even if that is interrupted, give back what the run has taken."""
    try:
        writer.finish()
    finally:
        writer.thread.shutdown(wait=False)
        signals.restore()
        if lock is not None:
            lock.release()


class Clock:
    """Says when a checkpoint is due: every so many steps, or minutes after the last one."""

    def __init__(self, every_steps: int | None, every_minutes: float | None):
        self.every_steps, self.every_minutes = every_steps, every_minutes

    def start(self, step: int) -> None:
        self.step, self.started = step, time.monotonic()

    def is_due(self, step: int, team: Team) -> bool:
        due = self.every_steps is not None and step % self.every_steps == 0
        if self.every_minutes is not None:
            late = time.monotonic() - self.started >= 60 * self.every_minutes
            # Clocks differ, and processes that write together must write the same step.
            due = due or bool(team.from_first(late) if team.sharded else late)
        return due


def report_failure(folder: CheckpointFolder, step: int, reason: BaseException | str) -> None:
    """Warn that a checkpoint failed, and remove what was written of it."""
    shutil.rmtree(unfinished(folder.folder / f"step-{step:08d}"), ignore_errors=True)
    last = next((path.name for path in folder.found()), "none")
    warnings.warn(f"a checkpoint could not be written to {folder.folder} ({reason}). The training "
                  f"goes on. The newest on the disk: {last}", stacklevel=3)


class RunKeeper(CheckpointFolder):
    """The part of `Checkpoints` that `train` calls."""

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer, loader: Iterable,
              history: History, config: TrainingConfig, team: Team,
              val_loader: Iterable | None = None) -> Iterable:
        """Go on from the newest checkpoint, if there is one; returns the loader, at its place."""
        self.run = RunState(model, optimizer, ResumableLoader(loader, val_loader), history,
                            describe_run(model, loader, config), team)
        self.writer, self.signals = Writer(self, team), StopSignals()
        self.lock = own_folder(self) if team.leads else None
        try:
            newest = self.newest() if team.leads else None
            step = int(team.from_first(0 if newest is None else step_of(newest)))
            if step:  # the same in all processes
                self.run.resume(self.folder / f"step-{step:08d}", self.allow)
        except BaseException:
            self.end()
            raise
        self.clock.start(step)
        if team.size == 1:  # a team ends together: torchrun sees to that
            self.signals.watch()
        return self.run.loader

    def after_step(self, last: bool) -> bool:
        """Write a checkpoint if it is time; returns True if the run has been asked to end."""
        stopping, step = self.signals.arrived, len(self.run.history.steps)
        due = self.clock.is_due(step, self.run.team) or last or stopping
        if due and step > self.clock.step:
            self.clock.start(step)
            self.writer.write(self.run)
        return stopping and not last

    def end(self) -> None:
        """Wait until all is on the disk."""
        release(self.writer, self.signals, self.lock)


class Checkpoints(RunKeeper):
    """Keeps a training run on the disk, so that `train` can go on after whatever ended it.

    Args:
        folder: one for each run. `train` goes on from its newest whole checkpoint, if there is one.
        every_steps, every_minutes: when to write one; every 10 minutes if both are None. One more
            follows the last step and, of one process, that during which Ctrl-C or SIGTERM arrives.
        keep: so many of the newest are kept.
        allow: settings that may differ from the checkpoint's, such as "learning_rate".

    A checkpoint is a folder of safetensors and JSON, no pickle. It is written under another name
    and renamed once all of it is on the disk: whatever ends the run leaves the last one whole.
    Raises ValueError for a number that is not above 0.
    """

    def __init__(self, folder: str | Path, every_steps: int | None = None,
                 every_minutes: float | None = None, keep: int = 2, allow: Collection[str] = ()):
        if every_steps is None and every_minutes is None:
            every_minutes = 10.0
        for name, number in (("every_steps", every_steps), ("every_minutes", every_minutes),
                             ("keep", keep)):
            if number is not None and not number > 0:
                raise ValueError(f"{name} is {number}: it must be above 0")
        super().__init__(folder, keep)
        self.clock, self.allow = Clock(every_steps, every_minutes), tuple(allow)
