"""Checks for the exercises of appendix D, training that survives, and grows."""

import builtins
import copy
import io
import os
import pathlib
import random
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmbook.book.corpora import data_folder
from llmbook.book.exercises import Wrong, close, exercise, expect, expect_tensor
from llmbook.gpt import GPT, GPTConfig
from llmbook.text import read_text
from llmbook.training import next_token_loss


def _hint(got: Tensor, mistakes: Iterable[tuple[Tensor, str]]) -> str:
    """The message of the first mistake that gives exactly this answer, with a space before it, or nothing."""
    return next((f" {text}" for values, text in mistakes if close(got, values)), "")


def _gradient(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Of the mean over the rows of a linear layer's squared errors: (outputs, inputs)."""
    weight = weight.clone().requires_grad_()
    (x @ weight.T - y).square().sum(1).mean().backward()
    return weight.grad


@exercise("D.1", "However the rows are divided, the model takes the same step.")
def exercise_1(mean_gradient: Callable[[Sequence[Tensor], Sequence[int]], Tensor]) -> None:
    for rows, (outputs, inputs) in (([4, 1, 2], (3, 3)), ([5, 2], (4, 3)), ([2, 2, 2, 2], (2, 5)), ([4], (3, 2)),
                                    ([1, 30, 7, 2], (6, 1))):
        n, total = len(rows), sum(rows)
        x, y, weight = torch.randn(total, inputs), torch.randn(total, outputs), torch.randn(outputs, inputs)
        right = _gradient(x, y, weight)
        gradients = [_gradient(*part, weight) for part in zip(x.split(rows), y.split(rows))]
        kept, kept_rows = [gradient.clone() for gradient in gradients], list(rows)
        answer = mean_gradient(gradients, rows)
        where = f"For {n} process{'es' * (n > 1)} with {kept_rows} rows"
        got = expect_tensor(answer, (outputs, inputs), f"{where}, the result")
        expect(all(torch.equal(a, b) for a, b in zip(gradients, kept)) and len(gradients) == n and rows == kept_rows,
               "Your function changed what it was given: += and *= write into their tensor. Begin with a new one.")
        if close(got, right, 1e-4):
            continue
        stack, weights = torch.stack(kept), torch.tensor(kept_rows, dtype=torch.float32)

        def weighted(by: Tensor, stack: Tensor = stack) -> Tensor:
            return (stack * by[:, None, None]).sum(0)

        mistakes = [
            (stack.mean(0), "That is the plain mean of the gradients. It lets a process with one row weigh as much as "
                            "one with many: weigh each by its rows."),
            (weighted(weights), "The weights do not add up to 1. Divide by the number of all rows."),
            (weighted(weights) / n, "You divided by the number of processes. Divide by the number of all rows, so that "
                                    "the weights add up to 1."),
            (weighted(weights / total) / n, "You divided by the number of all rows, and then by that of processes too. "
                                            "The rows' shares add up to 1 already."),
            (weighted(weights * n / total), "It is too large by the number of processes. These weights are right where "
                                            "a mean over processes follows; here add up with weights that sum to 1."),
            (weighted(weights / weights.max()), "You divided by the largest number of rows. Divide by all."),
            (stack.sum(0), "That is the sum of the gradients. Each is a mean over its own rows: weigh it by its share "
                           "of the rows."),
            (stack.sum(0) / total, "You divided the sum by the rows, but each gradient is a mean already: multiply it "
                                   "by its own rows first."),
            (weighted(1 / weights), "You divided each gradient by its rows. It is a mean already: multiply by them."),
            (weighted(1 / weights) / (1 / weights).sum(), "The weights are upside down: more rows should weigh more."),
            (weighted(weights.softmax(0)), "Shares of the rows are rows / all rows. A softmax makes others."),
            (weighted(weights**2 / weights.square().sum()), "The rows are squared: weigh by them once."),
            (stack[0], "That is the first process's gradient alone."),
            (stack.median(0).values, "That is the median."),
            (-right, "The sign is wrong."),
        ]
        if n == inputs:
            along = torch.stack([(stack * weights / total).sum(0), (stack * weights).sum(0) / n])
            mistakes += [(wrong, "The weights met the columns: (processes,) lines up with the last dimension of the "
                                 "stacked gradients. Give them the shape (processes, 1, 1).") for wrong in along]
        row, column = (~torch.isclose(got, right, rtol=1e-4, atol=1e-4)).nonzero()[0].tolist()
        raise Wrong(f"{where}, element ({row}, {column}) is {got[row, column].item():.4f}, expected "
                    f"{right[row, column].item():.4f}.{_hint(got, mistakes)}")


@contextmanager
def _generators_kept() -> Iterator[Callable[[], str]]:
    """Gives a function that names the shared generators that were touched; puts all back."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def touched() -> str:
        name, keys, *rest = np.random.get_state()
        if name != states[1][0] or not np.array_equal(keys, states[1][1]) or rest != list(states[1][2:]):
            return "NumPy's (np.random)"
        if random.getstate() != states[0]:
            return "Python's (random)"
        return "" if torch.equal(torch.get_rng_state(), states[2]) else "PyTorch's (torch.manual_seed, torch.randint)"

    try:
        yield touched
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _starts(answer: Any, batch_size: int) -> list[int]:
    if answer is None or answer is ...:
        raise NotImplementedError
    expect(isinstance(answer, (np.ndarray, list, tuple, Tensor)), f"Return an array of {batch_size} starts, not "
                                                                  f"{type(answer).__name__}.")
    array = np.asarray(answer)
    expect(array.ndim != 2, f"Your result has the shape {array.shape}. Return where the windows start, not the "
                            "windows.")
    expect(array.shape == (batch_size,), f"Your result has the shape {array.shape}, expected ({batch_size},): one "
                                         "start for each row of the batch.")
    expect(array.dtype.kind in "iu", f"The starts are of the type {array.dtype}. They are places: whole numbers.")
    return array.tolist()


def _check_range(batch: Callable[..., list[int]]) -> None:
    tokens, context, size = np.arange(11), 4, 4
    last = len(tokens) - context - 1
    count = Counter(start for seed in range(20) for i in range(30) for start in batch(seed, i, tokens, context, size))
    where = f"With {len(tokens)} tokens and windows of {context}, start"
    lowest, highest, usual = min(count), max(count), 600 * size / (last + 1)
    expect(lowest >= 0, f"{where} {lowest} came. Below 0, Python counts from the end.")
    expect(highest <= last, f"{where} {highest} came; the last possible one is {last}. "
           + ("A window needs one token more than its length: the target of its last place."
              if highest == last + 1 else "Room for the window and for one target more has to follow."))
    missing = [start for start in range(last + 1) if start not in count]
    hint = ""
    if missing == [last]:
        hint = " The upper end of `integers` is never drawn: give it one more."
    elif missing == [0]:
        hint = " The lower end is drawn: begin at 0."
    elif missing and all(start % context == 0 for start in count):
        hint = " Only multiples of the context length come. Windows may overlap, and start anywhere."
    expect(not missing, f"{where} {', '.join(map(str, missing))} never came in 600 batches of {size}.{hint}")
    start, times = max(count.items(), key=lambda item: abs(np.log(item[1] / usual)))  # the strangest
    if start in (0, last):
        hint = (" Rounding gives the two ends half as much as the others." if times < usual else
                " What is drawn beyond the end should not be cut to it.")
    expect(0.65 * usual < times < 1.4 * usual, f"{where} {start} came {times} times in 600 batches of {size}. If all "
           f"were equally likely, it would be about {usual:.0f}.{hint}")
    try:
        only = batch(3, 0, np.arange(5), 4, 1)
    except ValueError as error:
        raise Wrong(f"5 tokens have room for one window of 4 and its targets, start 0, but it stops with: {error}. The "
                    "number of possible starts is len(tokens) - context_length.") from None
    expect(only == [0], f"With 5 tokens and windows of 4, only start 0 is possible; you return {only[0]}.")


def _check_pure(batch: Callable[..., list[int]]) -> None:
    tokens, size = np.zeros(1_000_000, dtype=np.uint16), 8
    asked = [(seed, i) for seed in (0, 1, 2, 11) for i in (*range(21), 100)]
    asked += [(0, i) for i in (64, 256, 1000, 1024)]
    found = {key: tuple(batch(*key, tokens, 32, size)) for key in asked}
    for key in reversed(asked):
        expect(tuple(batch(*key, tokens, 32, size)) == found[key],
               f"Batch {key[1]} of seed {key[0]} was asked for twice, and was another one the second time. A generator "
               "without a seed, or one that lives on between the calls, remembers or forgets too much: make a new one "
               "in each call, from seed and i.")
    first: dict[tuple[int, ...], tuple[int, int]] = {}
    for seed, i in asked:
        starts = found[seed, i]
        expect(len(set(starts)) > 1, "All windows of a batch start at the same place: draw one start for each row.")
        if starts not in first:
            first[starts] = seed, i
            continue
        other_seed, other = first[starts]
        if seed == other_seed:
            raise Wrong(f"With seed {seed}, batches {other} and {i} are the same: the training would read one batch "
                        "again and again. Seed the generator with i too.")
        if i == other:
            raise Wrong(f"Batch {i} is the same with the seeds {other_seed} and {seed}. Seed the generator with the "
                        "seed too, in a way that works for i = 0.")
        raise Wrong(f"Batch {other} of seed {other_seed} is batch {i} of seed {seed}: two runs with different seeds "
                    "would meet. Such a sum or product mixes the two up; default_rng takes both: a list [seed, i].")
    for seed in (0, 1, 2, 11):
        for i in range(20):
            a, b = found[seed, i], found[seed, i + 1]
            expect(all(a[by:] != b[:-by] for by in range(1, size - 2)),
                   f"With seed {seed}, batch {i + 1} begins with the starts that batch {i} ends with. Each batch needs "
                   "draws of its own.")


@exercise("D.2", "The place in the data is one number now, and going back costs nothing.")
def exercise_2(batch_number: Callable[[int, int, Any, int, int], Any]) -> None:
    def batch(seed: int, i: int, tokens: np.ndarray, context_length: int, batch_size: int) -> list[int]:
        kept = tokens.copy() if len(tokens) < 100 else None
        starts = _starts(batch_number(seed, i, tokens, context_length, batch_size), batch_size)
        expect(kept is None or np.array_equal(tokens, kept), "Your function changed the tokens.")
        return starts

    with _generators_kept() as touched:
        batch(3, 5, np.arange(50), 4, 4)
        where = touched()
        expect(not where, f"Your function draws from a generator that the whole program shares, {where}, or seeds it. "
                          "Dropout and all others that use it would draw other numbers. Make one of your own: "
                          "np.random.default_rng(...).")
        _check_pure(batch)
        _check_range(batch)


_OLD, _NEW = b"old" * 20_000, bytes(range(256)) * 280
_PIECE = 30_000  # a disk may take less than it is given
_DOING = {"open": "opening a file", "write": "writing", "fsync": "os.fsync", "rename": "os.replace"}
_Stat = tuple[int, int]  # which file it is, under whatever name


class _Fault(OSError):
    """What a failing disk raises in these checks."""


class _Interrupt(KeyboardInterrupt):
    """Ctrl-C in these checks."""


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _identity(stat: os.stat_result) -> _Stat:
    return stat.st_dev, stat.st_ino


class _Disk:
    """Watches what a function does on its way from `old` to `_NEW` at `path`, and lets one step of it fail.

    steps: what it did, "open", "write", "fsync" or "rename". problem: the first thing that was wrong.
    """

    def __init__(self, path: Path, old: bytes | None, fail_at: int = -1, error: BaseException | None = None):
        self.path, self.old, self.fail_at, self.error = path, old, fail_at, error
        self.steps: list[str] = []
        self.problem: str | None = None
        self.raised: BaseException | None = None
        self.failed = ""
        self.synced: dict[_Stat, bytes | None] = {}
        self.descriptors: set[int] = set()
        self.thread: int | None = None

    def complain(self, problem: str) -> None:
        self.problem = self.problem or problem

    def look(self) -> None:
        """Whoever is killed here leaves what is at `path` now."""
        content = _read(self.path)
        if content in (self.old, _NEW):
            return
        if content is None:
            self.complain("There is a moment with no file at `path`: the old one is gone, and the new one does not "
                          "have its name yet. os.replace does both at once: leave the old one where it is.")
        self.complain(f"There is a moment when `path` holds neither the old content nor the new one, but "
                      f"{len(content or b''):,} bytes. A kill would leave that. Write the whole under another name.")

    def step(self, kind: str, action: Callable[[], Any], half: Callable[[], Any] = lambda: None) -> Any:
        if self.thread != threading.get_ident():  # another thread's, or after the check
            return action()
        self.look()
        self.steps.append(kind)
        again = self.failed == kind and isinstance(self.error, _Fault)  # a full disk stays full
        if self.error is not None and (again or len(self.steps) - 1 == self.fail_at):
            self.failed = kind
            half()
            raise self.error
        result = action()
        self.look()
        return result

    def opening(self, name: Any, action: Callable[[], Any]) -> Any:
        if self.thread == threading.get_ident() and Path(os.path.realpath(os.fsdecode(name))) == self.path:
            self.complain("You open `path` itself for writing, or copy to it. From then on its old content is lost, "
                          "and a kill leaves half a file. Write the whole under another name, then os.replace.")
        return self.step("open", action)

    def write(self, data: Any, action: Callable[[Any], int]) -> int:
        piece = memoryview(data).cast("B")[:_PIECE]
        return self.step("write", lambda: action(piece), half=lambda: action(piece[: len(piece) // 2]))

    def note_synced(self, number: int) -> None:
        if self.thread == threading.get_ident():
            which = _identity(os.fstat(number))
            for path in self.path.parent.rglob("*"):
                if path.is_file() and _identity(path.stat()) == which:
                    self.synced[which] = _read(path)

    def renaming(self, source: Any, target: Any, function: str) -> None:
        if self.thread != threading.get_ident() or Path(os.path.realpath(os.fsdecode(target))) != self.path:
            return
        source = Path(os.path.realpath(os.fsdecode(source)))
        content, size = _read(source), f"of {len(_NEW):,} bytes"
        if content is None:
            return  # the system will say so
        if self.path.parent not in source.parents:
            self.complain(f"The temporary file lies in {source.parent}, which may be another disk than that of `path`. "
                          "A rename between disks fails, or is a copy. Write it in path.parent.")
        if content != _NEW:
            why = (" You go on after a failure: let the exception through." if self.failed else
                   " The rest is still in Python's buffer (leave the `with` block, or call flush, before), or was "
                   "never written: os.write and unbuffered files may take less than they are given, and return how "
                   "much.")
            self.complain(f"When it gets its name, the new file holds {len(content):,} {size}.{why}")
        synced = self.synced.get(_identity(source.stat()))
        if synced != _NEW:
            if self.failed == "fsync":
                self.complain("os.fsync failed and the file is renamed all the same: nobody knows whether the disk has "
                              "it. Let the exception through.")
            if synced is None:
                self.complain("The file gets its name before the disk has its content: no os.fsync of this file comes "
                              "before the rename. After a power cut the name could stand on an empty file. Call "
                              "os.fsync(file.fileno()), by that name.")
            self.complain(f"When os.fsync is called, the file holds {len(synced or b''):,} {size}: the rest is in "
                          "Python's buffer, which os.fsync does not know. Call file.flush() first.")
        if function == "rename":
            self.complain("os.rename, and Path.rename, refuse on Windows if `path` exists. os.replace does the same "
                          "everywhere.")

    @contextmanager
    def watching(self) -> Iterator[None]:
        before = [(place, name, vars(place)[name]) for place, name in _places()]
        stand_ins = _stand_ins(self)
        self.thread = threading.get_ident()
        try:
            for place, name, function in before:
                stand_in = stand_ins["os.open" if place is os and name == "open" else name](function)
                setattr(place, name, staticmethod(stand_in) if isinstance(place, type) else stand_in)
            yield
        finally:
            self.thread = None
            for place, name, function in before:
                setattr(place, name, function)


def _places() -> list[tuple[Any, str]]:
    """Where the functions are kept that open, write, sync and rename."""
    places = [(builtins, "open"), (io, "open")]
    places += [(os, name) for name in ("open", "write", "fsync", "fdatasync", "replace", "rename") if hasattr(os, name)]
    # Some keep one of their own: Python 3.10's paths, and the `open` that a notebook has.
    accessor, shell = getattr(pathlib, "_NormalAccessor", None), sys.modules.get("IPython.core.interactiveshell")
    places += [(accessor, name) for name in ("open", "replace", "rename") if accessor is not None]
    return places + [(shell, "io_open")] * hasattr(shell, "io_open")


def _stand_ins(disk: _Disk) -> dict[str, Callable[[Callable], Callable]]:
    """For each function's name, what makes the watched one out of the system's."""

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            return disk.write(data, super().write)

    def make_open(original: Callable) -> Callable:
        def open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
            if disk.thread != threading.get_ident() or not set(mode) & set("wax+"):
                return original(file, mode, buffering, encoding, errors, newline, closefd, opener)

            def raw_file() -> Raw:
                return Raw(file, mode.replace("b", "").replace("t", ""), closefd, opener)

            # An opener calls os.open, which is watched too; a number has been opened already.
            known = isinstance(file, int) or opener is not None
            raw = raw_file() if known else disk.opening(file, raw_file)
            if buffering == 0:
                return raw
            buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)
        return open

    def make_os_open(original: Callable) -> Callable:
        def os_open(path, flags, *arguments, **named):
            def action():
                number = original(path, flags, *arguments, **named)
                disk.descriptors.add(number)
                return number

            writes = flags & (os.O_WRONLY | os.O_RDWR)
            return disk.opening(path, action) if writes else original(path, flags, *arguments, **named)
        return os_open

    def make_write(original: Callable) -> Callable:
        def write(number, data):
            if number not in disk.descriptors:
                return original(number, data)
            return disk.write(data, lambda piece: original(number, piece))
        return write

    def make_fsync(original: Callable) -> Callable:
        def fsync(file):
            number = file if isinstance(file, int) else file.fileno()
            disk.step("fsync", lambda: original(number))
            disk.note_synced(number)
        return fsync

    def make_rename(function: str) -> Callable[[Callable], Callable]:
        def make(original: Callable) -> Callable:
            def rename(source, target, **named):
                def action():
                    disk.renaming(source, target, function)
                    original(source, target, **named)

                disk.step("rename", action)
            return rename
        return make

    return {"open": make_open, "io_open": make_open, "os.open": make_os_open, "write": make_write, "fsync": make_fsync,
            "fdatasync": make_fsync, "replace": make_rename("replace"), "rename": make_rename("rename")}


def _try_write(write_whole: Callable[[Path, bytes], None], old: bytes | None, fail_at: int = -1,
               error: BaseException | None = None) -> tuple[_Disk, bytes | None, list[str]]:
    """Call it in a new folder. Returns what was seen, what is at the path in the end, and what else is left there."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(os.path.realpath(name))
        path, neighbour = folder / "model.bin", folder / "notes.txt"
        neighbour.write_bytes(b"not yours")
        if old is not None:
            path.write_bytes(old)
        disk = _Disk(path, old, fail_at, error)
        try:
            with disk.watching():
                write_whole(path, _NEW)
        except Exception as raised:
            disk.raised = raised
        except _Interrupt as raised:  # a KeyboardInterrupt of the reader's own goes through
            disk.raised = raised
        disk.look()
        if disk.problem:
            raise Wrong(disk.problem)
        expect(_read(neighbour) == b"not yours", "Another file of the folder, notes.txt, was changed or removed.")
        left = sorted(str(found.relative_to(folder)) for found in folder.rglob("*") if found not in (path, neighbour))
        return disk, _read(path), left


def _is_from(raised: BaseException | None, error: BaseException) -> bool:
    """Whether `raised` is `error`, or was raised `from` it."""
    while raised is not None and raised is not error:
        raised = raised.__cause__
    return raised is error


def _whole_without_trouble(write_whole: Callable[[Path, bytes], None], old: bytes | None) -> list[str]:
    """The steps that it takes when nothing fails."""
    disk, found, left = _try_write(write_whole, old)
    if isinstance(disk.raised, FileNotFoundError) and found == _NEW:
        raise Wrong("The new file is in its place, and then FileNotFoundError: after os.replace the temporary name is "
                    "gone. Remove it with unlink(missing_ok=True).")
    if isinstance(disk.raised, FileNotFoundError) and old is None:
        raise Wrong(f"With no file at `path` yet, it stops with {disk.raised}. The first time, there is no old one.")
    if disk.raised is not None:
        raise disk.raised
    if not disk.steps and found == old:
        raise NotImplementedError
    expect(found == _NEW, "Nothing failed, and yet `path` does not have the new content in the end"
           + (f": it is still in {left[0]}. Rename it with os.replace." if left else "."))
    expect("write" in disk.steps, "The new content is there, but the check saw no writing. Use open, Path.open or "
                                  "Path.write_bytes, by that name.")
    expect("rename" in disk.steps, "The new content is there, but the check saw no rename. Call os.replace, or "
                                   "Path.replace, by that name.")
    expect(not left, f"Nothing failed, and {', '.join(left)} stays behind in the folder.")
    return disk.steps


@exercise("D.3", "Whatever happens, there is a whole file: checkpoints are built on these lines.")
def exercise_3(write_whole: Callable[[Path, bytes], None]) -> None:
    for old in (_OLD, None):
        steps = _whole_without_trouble(write_whole, old)
        writes = [number for number, kind in enumerate(steps) if kind == "write"]
        for number, kind in enumerate(steps):
            if kind == "write" and number in writes[4:-4]:
                continue  # enough of them
            for error in (_Fault(28, "No space left on device (so this check says)"), _Interrupt()):
                broken = isinstance(error, _Fault)
                what = f"When {_DOING[kind]} fails" if broken else f"When Ctrl-C arrives at {_DOING[kind]}"
                disk, found, left = _try_write(write_whole, old, number, error)
                help = "" if broken else " A KeyboardInterrupt is no Exception, so `except Exception` misses it."
                expect(not left, f"{what}, {', '.join(left)} stays behind. Remove the temporary file in a `finally`, "
                                 f"around all from its opening to its renaming.{help}")
                if disk.raised is None:
                    expect(found == _NEW, f"{what}, the function returns as if the file were written. Let the "
                                          "exception through: the caller must know.")
                elif not _is_from(disk.raised, error):
                    raise Wrong(f"{what}, the caller gets {type(disk.raised).__name__}: {disk.raised}, instead of "
                                f"{'the OSError' if broken else 'KeyboardInterrupt'}, which says what happened. If it "
                                "is your removing that fails, use unlink(missing_ok=True).")


_BATCHES = 12  # that are read of a loader: more than two passes
_KEEPABLE = (Tensor, np.ndarray, int, float, str, bool, list, tuple)  # what a file can hold


def _made(answer: Callable[..., Any], methods: Sequence[str], *arguments: Any) -> Any:
    """An object of the reader's class; a stub without any of the methods is not started."""
    if isinstance(answer, type) and not any(hasattr(answer, method) for method in methods):
        raise NotImplementedError
    made = answer(*arguments)
    if made is None or made is ...:
        raise NotImplementedError
    for method in methods:
        expect(hasattr(made, method), f"{type(made).__name__} has no {method}.")
    return made


def _taken(rows: Any, count: int) -> list[tuple[int, ...]]:
    batches = []
    for _ in range(count):
        batch = next(rows)
        if batch is None or batch is ...:
            raise NotImplementedError
        batches.append(tuple(int(row) for row in batch))
    return batches


def _broken_after(n: int, batch_size: int, seed: int, done: int) -> list[tuple[int, ...]]:
    """What the exercise's broken loader reads after it has gone on from its state."""
    generator, a_pass = torch.Generator().manual_seed(seed), -(-n // batch_size)
    passes = max(0, done - 1) // a_pass + 1
    for _ in range(passes):
        torch.randperm(n, generator=generator)
    taken, batches = done - (passes - 1) * a_pass, []
    order = torch.randperm(n, generator=generator)
    while len(batches) < _BATCHES - done:
        if taken == a_pass:
            order, taken = torch.randperm(n, generator=generator), 0
        batches.append(tuple(order[taken * batch_size : (taken + 1) * batch_size].tolist()))
        taken += 1
    return batches


def _why_another(got: list[tuple[int, ...]], whole: list[tuple[int, ...]], n: int, size: int, seed: int,
                 done: int) -> str:
    """What is wrong with the batches after going on."""
    a_pass = -(-n // size)
    left = -done % a_pass  # batches of the pass that was stopped
    if got == _broken_after(n, size, seed, done):
        return ("That is what the broken loader reads: it saves the generator's state after the shuffle, so loading "
                "shuffles once more, and the place is one in another order. Which state gives this pass's order again?")
    if got[:left] == whole[done : done + left]:
        return ("The pass that was stopped is right, and the next is not: the generator has to stand where it stood "
                "after this pass's shuffle. Keeping the order alone is not enough.")
    if left and got[:1] == whole[done - done % a_pass : done - done % a_pass + 1]:
        return "It begins the pass again: `taken` is not put back."
    if got[: len(got) - 1] == whole[done + 1 :]:
        return "One batch is left out."
    if done and got[1:] == whole[done : done + len(got) - 1]:
        return "The last batch is read again."
    if got == whole[: len(got)]:
        return "It begins the whole run again: load_state_dict changes nothing."
    return ""


def _check_stop(answer: Callable[..., Any], n: int, size: int, seed: int, whole: list[tuple[int, ...]],
                done: int) -> None:
    first = _made(answer, ("__next__", "state_dict", "load_state_dict"), n, size, seed)
    _taken(first, done)
    state = first.state_dict()
    if state is None or state is ...:
        raise NotImplementedError
    expect(isinstance(state, dict) and all(isinstance(value, _KEEPABLE) for value in state.values()),
           "state_dict should return a dict of tensors, numbers, strings and lists, which have to go to the disk.")
    kept = copy.deepcopy(state)
    went_on = _taken(first, len(whole) - done)
    expect(went_on == whole[done:], "After state_dict was called, the loader goes on with other batches: asking for "
                                    "the state must not change it.")
    for given in (kept, state):
        second = _made(answer, ("__next__",), n, size, seed)
        second.load_state_dict(given)
        got = _taken(second, len(whole) - done)
        if got == whole[done:]:
            continue
        expect(given is kept, "The state that was saved changes while the loader goes on: it holds the loader's own "
                              "list or tensor. Save a copy.")
        a_pass = -(-n // size)
        begun, left = done - done % a_pass, -done % a_pass
        count = Counter(row for batch in whole[begun:done] + got[:left] for row in batch)
        twice = sorted(row for row, times in count.items() if times > 1)
        never = sorted(set(range(n)) - set(count)) if left else []
        read = f"reads the rows {twice} twice and {never} never" if twice or never else "reads other batches"
        raise Wrong(f"With {n} rows in batches of {size}, stopped after {done} batches and gone on, it {read}. "
                    f"{_why_another(got, whole, n, size, seed, done)}".rstrip())


@exercise("D.4", "No error, no odd curve: only a count of rows finds such a fault.")
def exercise_4(mended_rows: Callable[[int, int, int], Any]) -> None:
    for n, size, seed in ((10, 3, 0), (12, 4, 1), (7, 7, 2), (9, 2, 3)):
        before = torch.get_rng_state()
        rows = _made(mended_rows, ("__next__", "state_dict", "load_state_dict"), n, size, seed)
        whole, a_pass = _taken(rows, _BATCHES), -(-n // size)
        expect(torch.equal(before, torch.get_rng_state()), "Your class draws from the generator that the whole program "
                                                           "shares, or seeds it. Keep one of its own.")
        passes = [whole[begin : begin + a_pass] for begin in range(0, len(whole) - a_pass + 1, a_pass)]
        for number, batches in enumerate(passes, 1):
            seen = sorted(row for batch in batches for row in batch)
            expect(seen == list(range(n)), f"With {n} rows in batches of {size}, and never stopped, pass {number} has "
                                           f"the rows {seen}: each should come once, in batches of {size} and a rest.")
        expect(len({tuple(batches) for batches in passes}) > 1, "All passes have the same order: shuffle for each.")
        for done in (2, *range(len(whole))):  # first within a pass, where the fault is easiest to see
            _check_stop(mended_rows, n, size, seed, whole, done)


LAB_BYTES, LAB_CHANGE = 2.2, 0.05


@exercise("D.5", "A checkpoint of half the size, and the training goes on almost as if nothing had been rounded.")
def exercise_5(small_averages: Callable[[Tensor, Tensor], Any]) -> None:
    m, v = torch.randn(6, 50) / 100, torch.rand(6, 50) ** 4 / 1000
    kept = m.clone(), v.clone()
    _restored(_made(small_averages, ("restore",), m, v), m)
    expect(torch.equal(m, kept[0]) and torch.equal(v, kept[1]), "Your class changes the averages it is given: they are "
                                                                "the optimizer's own.")
    _restored(_made(small_averages, ("restore",), torch.zeros(3), torch.zeros(3)), torch.zeros(3))
    for seed in (0, 1):
        change, size, zeros, only_m = lab_change(small_averages, seed)
        expect(size <= LAB_BYTES, f"Your format takes {size:.2f} bytes per weight; the target is {LAB_BYTES}. "
               + ("Those are the exact numbers: 4 bytes each." if size > 7.9 else
                  "Two averages in bfloat16 take 4 bytes: what takes one byte each?" if size > 3.9 else
                  "Count what else you keep: scales for too small blocks, or whole numbers of more than 8 bits."))
        if change <= LAB_CHANGE:
            continue
        if zeros:
            hint = ("Where v is restored as 0, AdamW divides by almost nothing and takes a giant step. Small values of "
                    "v matter as much as large ones: round a root of v, or its logarithm.")
        elif only_m > LAB_CHANGE:
            hint = (f"With your m and the exact v it is {only_m:.0%}. One scale for a whole tensor rounds small ones "
                    "of m away: give each block of 64 or so a scale of its own.")
        else:
            hint = "With your m and the exact v it is below the target, so look at the relative error of your v."
        raise Wrong(f"With seed {seed}, the ten steps after your format differ from the exact ones by {change:.0%} of "
                    f"their length; the target is {LAB_CHANGE:.0%}. {hint}")


def _restored(small: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    answer = small.restore()
    if answer is None or answer is ...:
        raise NotImplementedError
    expect(isinstance(answer, (tuple, list)) and len(answer) == 2, "restore should return two tensors, m and v.")
    m, v = (expect_tensor(part, tuple(like.shape), name) for part, name in zip(answer, ("m", "v")))
    expect(bool(m.isfinite().all() and v.isfinite().all()), "Some restored numbers are not finite. What does your "
                                                            "format do where all of a tensor are 0?")
    expect(bool((v >= 0).all()), "Some restored numbers of v are negative; AdamW takes their root.")
    return m.float(), v.float()


def _bytes(kept: Any) -> int:
    """What an object's attributes take: 8 bytes for each number, and what tensors say."""
    if isinstance(kept, (Tensor, np.ndarray)):
        return kept.nbytes
    if isinstance(kept, dict):
        return sum(map(_bytes, kept.values()))
    if isinstance(kept, (list, tuple, torch.Size)):
        return sum(map(_bytes, kept))
    if kept is None or isinstance(kept, (bool, torch.dtype)):
        return 0
    expect(isinstance(kept, (int, float)), f"Keep tensors and numbers, not {type(kept).__name__}.")
    return 8


def lab_change(small_averages: Callable[[Tensor, Tensor], Any], seed: int) -> tuple[float, float, bool, float]:
    """Train the lab's GPT for 50 steps, put AdamW's averages through the format once, and take ten steps more.

    Returns how far the weights' move in these ten steps is from that with exact averages, as a share of its length; the
    format's bytes per weight; whether it restored a 0 in v that was none; and the first again, with v exact.
    """
    draw = torch.Generator().manual_seed(seed)
    torch.default_generator.manual_seed(seed)
    model = GPT(GPTConfig(vocab_size=256, context_length=32, d_model=32, n_heads=2, n_layers=1, dropout=0.0))
    ids = torch.tensor(list(read_text(data_folder() / "twenty_in_hand.txt").encode()))
    batches = [_windows(ids, 16, draw) for _ in range(60)]
    optimizer = _steps(model, batches[:50])
    averages = [(state["exp_avg"], state["exp_avg_sq"]) for state in map(optimizer.state.get, model.parameters())]
    size, zeros, rounded = 0, False, []
    for weight, (m, v) in zip(model.parameters(), averages):
        small = small_averages(m.clone(), v.clone())
        size += _bytes(vars(small))
        rounded.append(_restored(small, weight))
        zeros = zeros or bool(((rounded[-1][1] == 0) & (v > 0)).any())
    exact = _move(model, optimizer, averages, batches[50:])
    changes = [((_move(model, optimizer, given, batches[50:]) - exact).norm() / exact.norm()).item()
               for given in (rounded, [(m, v) for (m, _), (_, v) in zip(rounded, averages)])]
    return changes[0], size / sum(weight.numel() for weight in model.parameters()), zeros, changes[1]


def _steps(model: torch.nn.Module, batches: Iterable[tuple[Tensor, Tensor]],
           state: dict[str, Any] | None = None) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))
    if state is not None:
        optimizer.load_state_dict(state)
    for inputs, targets in batches:
        next_token_loss(model, inputs, targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def _move(model: torch.nn.Module, optimizer: torch.optim.AdamW, averages: Iterable[tuple[Tensor, Tensor]],
          batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """How far steps with these averages move the weights, as one vector; model and optimizer stay as they are."""
    state, trained = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model)
    for number, (m, v) in enumerate(averages):
        state["state"][number].update(exp_avg=m.clone(), exp_avg_sq=v.clone())
    _steps(trained, batches, state)
    return torch.cat([(after - before).detach().flatten()
                      for after, before in zip(trained.parameters(), model.parameters())])


def _windows(ids: Tensor, batch_size: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(ids) - 32, (batch_size, 1), generator=draw)
    rows = ids[starts + torch.arange(33)]  # (batch, 33)
    return rows[:, :-1], rows[:, 1:]
