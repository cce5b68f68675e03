"""Checkpoints on the disk: one, and the folder of those of a run."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..devices import is_sharded, own_part
from ..files import replace_file

__all__ = ["CheckpointFolder", "RunCheckpoint", "patiently", "write_part"]

FORMAT = 2  # what is written; 1 is llmbook 0.1.0's
READABLE = (1, 2)
WAITS = (0.05, 0.5, 2.0)  # seconds before reading again what could not be read
WHOLE_NUMBERS = ("step", "examples")  # the rest of a record are fractions

Found = TypeVar("Found")


def patiently(read: Callable[[], Found]) -> Found:
    """What `read()` returns. An error of the system, as of a network drive for a moment, is no damage: it is tried
    again, and raised at last. That a file is not there, or closed to us, is an answer and raised at once."""
    for wait in WAITS:
        try:
            return read()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            time.sleep(wait)
    return read()


def checksum_of(path: Path) -> int:
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
    return [path.stat().st_size, checksum_of(path)]


class RunCheckpoint:
    """One checkpoint: a folder `step-00001000` with `checkpoint.json` and, for each process that wrote, a part of the
    tensors, `part-0-of-1.safetensors`. The parts hold rows of the whole tensors, in order."""

    def __init__(self, path: Path):
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def step(self) -> int:
        """The step after which it was made."""
        return int(self.path.name.split("-")[1])

    def about(self) -> dict[str, Any]:
        """What is no tensor: step, settings, names of the history's columns, place in the data, random states."""
        return json.loads(patiently((self.path / "checkpoint.json").read_bytes))

    def problem(self) -> str | None:
        """What is wrong with its files, or None if they are as they were written.

        Two readings must agree that something is. Raises OSError if the files cannot be read, which is no damage;
        RuntimeError if another version wrote them.
        """
        return patiently(self._look) and patiently(self._look)

    def _look(self) -> str | None:
        try:
            about = json.loads((self.path / "checkpoint.json").read_bytes())
            checksum = about.pop("checksum")
            if zlib.crc32(json.dumps(about).encode()) != checksum:
                return "the content of checkpoint.json is not what was written"
            if about["format"] not in READABLE:  # no damage
                raise RuntimeError(f"{self} has format {about['format']}, this llmbook reads "
                                   f"{', '.join(map(str, READABLE))}: use the version that wrote it")
            for name, (wanted, checksum) in about["parts"].items():
                size = (self.path / name).stat().st_size
                if size != wanted:
                    return f"{name} has {size:,} bytes instead of {wanted:,}"
                if checksum_of(self.path / name) != checksum:
                    return f"the content of {name} is not what was written"
        except FileNotFoundError as error:
            return f"{Path(error.filename).name} is missing"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return f"checkpoint.json: {type(error).__name__}: {error}"
        return None

    @contextmanager
    def _opened(self) -> Iterator[dict[str, list[Any]]]:
        """For each tensor's name, the open parts that hold its rows, in order. Nothing is read yet."""
        paths = sorted(self.path.glob("part-*.safetensors"), key=lambda path: int(path.name.split("-")[1]))
        if not paths:
            raise FileNotFoundError(f"{self} has no part-*.safetensors: another process has removed it")
        with ExitStack() as stack:
            holders: dict[str, list[Any]] = {}
            for path in paths:
                part = stack.enter_context(safe_open(path, framework="pt"))
                for name in part.keys():
                    holders.setdefault(name, []).append(part)
            yield holders

    def _whole(self, name: str, holders: Mapping[str, list[Any]]) -> Tensor:
        if name not in holders:
            raise ValueError(f"{self} has no {name}: it is of another model")
        pieces = [part.get_tensor(name) for part in holders[name]]
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def tensor_names(self) -> set[str]:
        """Of all tensors in its parts."""
        with self._opened() as holders:
            return set(holders)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """These tensors, whole. Raises ValueError if there is no such."""
        with self._opened() as holders:
            return {name: self._whole(name, holders).clone() for name in names}

    def fill(self, tensors: Mapping[str, Tensor], rank: int = 0, size: int = 1) -> None:
        """Fill tensors from it, whoever wrote it: one process, or several with a part each.

        Of a sharded tensor, this process, number `rank` of `size`, takes its rows.
        """
        with self._opened() as holders:
            for name, tensor in tensors.items():
                whole = self._whole(name, holders)
                if is_sharded(tensor):  # as fully_shard divides: the last ones may get nothing
                    chunks = whole.chunk(size)
                    whole = chunks[rank] if rank < len(chunks) else whole[:0]
                if whole.shape != own_part(tensor).shape:
                    raise ValueError(f"{self}: {name} has shape {tuple(whole.shape)} instead of "
                                     f"{tuple(own_part(tensor).shape)}: it is of another model")
                own_part(tensor).copy_(whole)

    def records(self) -> list[dict[str, float]]:
        """The history's records, from a column for each number; nan where a record lacks it."""
        names = self.about()["history"]
        columns = self.read(f"history.{name}" for name in names).values()
        rows = zip(*(column.tolist() for column in columns))
        return [{name: int(number) if name in WHOLE_NUMBERS else number
                 for name, number in zip(names, row) if not math.isnan(number)} for row in rows]


class CheckpointFolder:
    """The checkpoints of one run: folders `step-00001000`, of which the newest `keep` whole ones are kept.

    A checkpoint is written under another name, that begins with a dot, and renamed once all of it is on the disk. It
    is removed in the same way. So whatever bears a checkpoint's name was whole once.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        self.folder, self.keep = Path(folder), keep
        self.damaged: set[int] = set()  # steps of those that were found to be
        self.lock: FileLock | None = None

    def found(self) -> list[RunCheckpoint]:
        """The checkpoints, the newest first, whole or not."""
        try:
            names = patiently(lambda: os.listdir(self.folder))  # a glob would hide an error: "there are none"
        except FileNotFoundError:
            return []
        steps = sorted((name for name in names if name.startswith("step-") and len(name) == 13 and name[5:].isdigit()),
                       reverse=True)
        return [RunCheckpoint(self.folder / name) for name in steps]

    def newest(self) -> RunCheckpoint | None:
        """The newest whole checkpoint, or None if there are none; warns of damaged ones.

        Raises ValueError if all are damaged, OSError if one cannot be read.
        """
        found = self.found()
        for checkpoint in found:
            problem = checkpoint.problem()
            if problem is None:
                return checkpoint
            self.damaged.add(checkpoint.step)
            warnings.warn(f"{checkpoint} is damaged ({problem}): taking the one before it", stacklevel=2)
        if found:
            raise ValueError(f"none of the {len(found)} checkpoints in {self.folder} is whole: "
                             "choose another folder to begin again")
        return None

    def unfinished(self, step: int) -> Path:
        """The folder in which a checkpoint is while it is written."""
        return self.folder / f".step-{step:08d}"

    def publish(self, step: int, parts: Sequence[Sequence[int]], about: Mapping[str, Any]) -> None:
        """Give a checkpoint whose parts are on the disk its name, and remove the oldest.

        parts: bytes and checksum of each, as `write_part` returns them.
        """
        final, temporary = self.folder / f"step-{step:08d}", self.unfinished(step)
        listed = {f"part-{rank}-of-{len(parts)}.safetensors": list(part) for rank, part in enumerate(parts)}
        content = {"format": FORMAT, **about, "parts": listed}
        content["checksum"] = zlib.crc32(json.dumps(content).encode())
        replace_file(temporary / "checkpoint.json", (json.dumps(content) + "\n").encode())
        self._sync(temporary)
        # Only what was found to be damaged goes before the new one has its name.
        self._remove(old for old in self.found() if old.step in self.damaged and old.step >= step)
        os.replace(temporary, final)
        self._sync(self.folder)
        self.damaged.discard(step)
        whole = [old for old in self.found() if old.step not in self.damaged]
        self._remove(old for old in self.found() if old.step in self.damaged or old.step in
                     {each.step for each in whole[self.keep:]})

    def _remove(self, checkpoints: Iterable[RunCheckpoint]) -> None:
        """Under another name first, so that no half one is ever found."""
        for checkpoint in checkpoints:
            hidden = self.folder / f".{checkpoint.path.name}.old"
            os.replace(checkpoint.path, hidden)
            shutil.rmtree(hidden)

    @staticmethod
    def _sync(folder: Path) -> None:
        """Bring a renaming in a folder to the disk, where the system can."""
        try:
            number = os.open(folder, os.O_RDONLY)
        except OSError:  # Windows does not open folders
            return
        try:
            os.fsync(number)
        finally:
            os.close(number)

    def take(self) -> None:
        """Take the folder for this run alone, and remove what was half written or half removed. The lock of a process
        that dies is free. Raises RuntimeError if another run has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock", thread_local=False)  # the thread that writes may give it back
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(f"another run writes its checkpoints to {self.folder}: end that one, or take another "
                               "folder") from None
        self.lock = lock
        for leftover in self.folder.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def give_back(self) -> None:
        """Let others take the folder."""
        lock, self.lock = self.lock, None
        if lock is not None:
            lock.release()
