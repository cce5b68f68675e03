"""Checks for the exercises of appendix D, training that survives, and grows."""

import builtins
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

from llmbook.book.exercises import Wrong, close, exercise, expect, expect_number, expect_tensor


@exercise("D.1", "You can say whether a model fits before you rent the machine.")
def exercise_1(bytes_in_each_process: Callable[[int, int, str], float]) -> None:
    for parameters, processes, way in ((124_000_000, 5, "ddp"), (124_000_000, 5, "fsdp"), (7, 1, "ddp"), (7, 1, "fsdp"),
                                       (8_030_000_000, 64, "fsdp"), (1_560_000_000, 3, "ddp")):
        sharing = processes if way == "fsdp" else 1
        got = expect_number(bytes_in_each_process(parameters, processes, way), "The number of bytes") / parameters
        if abs(got * sharing - 16) < 1e-9:
            continue
        n = processes
        mistakes = [
            (12 / sharing, "12 bytes a parameter are what a checkpoint holds. A process that trains holds the "
                           "gradients too, 4 bytes each; and AdamW keeps two averages, not one."),
            (8 / sharing, "8 bytes a parameter are half of it: weights and gradients take 4 each, AdamW's two averages "
                          "8. All are float32, which takes 4 bytes, not 2."),
            (4 / sharing, "Those are the weights alone. Each has a gradient and two averages of AdamW."),
            (20 / sharing, "20 bytes a parameter are too many: one weight, one gradient, two averages."),
            (4 / sharing / processes, "This has one number of 4 bytes a parameter, and shares it out once too often."),
        ]
        if way == "ddp":
            mistakes += [(16 / n, "Under DDP the processes share the batch, not the model: each holds all of it."),
                         (12 / n, "Under DDP each process holds the whole model; and the gradients are missing."),
                         (8 + 8 / n, "Under DDP each process holds all that AdamW remembers too.")]
        else:
            mistakes += [
                (16, "Under FSDP each process keeps only its rows of every matrix, of their gradients and of AdamW's "
                     "averages. You return what DDP takes."),
                (12, "Under FSDP all is shared out; and the gradients are missing."),
                (12 + 4 / n, "You shared out the weights alone. Their gradients and AdamW's averages have the same "
                             "rows, and are shared out with them."),
                (8 + 8 / n, "You shared out only half of it. Weights, gradients and AdamW's two averages are all "
                            "shared out."),
                (4 + 12 / n, "The weights are shared out too: a block has whole ones only while it computes."),
                (16 / n**2, "You divided by the number of processes twice."),
            ]
        mistakes += [(16 * n, "That is what all processes hold together, under DDP. The question is about each."),
                     (128 / sharing, "Those are bits: a byte has eight."),
                     (16 / sharing / 1e9, "Those are gigabytes. Return bytes."),
                     (16 / sharing / 2**30, "Those are gibibytes. Return bytes."),
                     (16 / sharing / 1e6, "Those are megabytes. Return bytes.")]
        hint = next((f" {text}" for value, text in mistakes if abs(got - value) < 1e-6 * value), "")
        raise Wrong(f"For {parameters:,} parameters, {processes} process{'es' * (n > 1)} and {way!r} you return "
                    f"{got * parameters:,.0f}, expected {16 * parameters / sharing:,.0f}.{hint}")


@exercise("D.2", "A run that can say this about itself can go on there.")
def exercise_2(place_after: Callable[[int, int, int], Sequence[int]]) -> None:
    for step, batches, accumulation in ((70, 100, 4), (4, 11, 4), (30, 45, 1), (3, 45, 1), (8, 12, 3), (45, 45, 1),
                                        (0, 10, 2), (7, 1, 2), (2, 3, 8)):
        answer = place_after(step, batches, accumulation)
        if answer is None or answer is ...:
            raise NotImplementedError
        expect(isinstance(answer, (tuple, list, Tensor, np.ndarray)) and np.ndim(answer) == 1 and len(answer) == 2,
               "Return two numbers: the whole passes, and the batches taken since.")
        passes, taken = (expect_number(part, what) for part, what in zip(answer, ("The passes", "The batches taken")))
        got, total = (passes, taken), step * accumulation
        right = divmod(total, batches)
        if got == right:
            continue
        where = (f"After step {step}, with {batches} batches a pass and {accumulation} batches a step, you return "
                 f"({passes:g}, {taken:g}), expected {right}.")
        if total and got == (right[0] - 1, batches) and right[1] == 0:
            raise Wrong(f"{where} The {total} batches are exactly {right[0]} passes. By this exercise's convention a "
                        "pass whose last batch was taken is whole, and of the next one 0 are taken.")
        if passes != int(passes) or taken != int(taken):
            raise Wrong(f"{where} Both are whole numbers: // leaves the fraction out, / does not.")
        a_pass = max(1, batches // accumulation)  # steps, if what is left of a pass were dropped
        mistakes = [
            (divmod(step, batches), "You counted steps. Each step takes several batches: the accumulation is missing."),
            ((step // batches, right[1]), "In the passes, the accumulation is missing: each step takes several "
                                          "batches."),
            ((right[0], step % batches), "In the batches taken, the accumulation is missing: each step takes several."),
            (divmod(step // accumulation, batches), "A step takes several batches, so the batches are more than the "
                                                    "steps: multiply, don't divide."),
            ((step // batches, step % batches * accumulation), "Multiply first, then divide: you took passes of so "
                                                               "many steps, not batches."),
            (divmod(total - 1, batches), "One batch too few: you return the place of the last batch taken, counted "
                                         "from 0, not how many were taken."),
            (divmod(total + 1, batches), "One batch too many: `step` steps are done, and the next is not begun."),
            (divmod(total - accumulation, batches), "One step too few: `step` steps are done, counted from 1."),
            (divmod(total + accumulation, batches), "One step too many: `step` is the number of steps done."),
            ((right[1], right[0]), "The two are exchanged: the passes come first."),
            ((right[0], batches - right[1]), "Those are the batches still to come in the pass. Return those taken."),
            ((right[0], total), "The second number is counted from the beginning of the pass, not of the run."),
            ((right[0] + 1, right[1]), "One pass too many: the pass that is going on is not whole yet."),
            ((step // a_pass, step % a_pass * accumulation), "You began a new pass with a new step. No batch is left "
             "out here: a step takes the last batches of one pass and the first of the next."),
        ]
        raise Wrong(f"{where}{next((f' {text}' for value, text in mistakes if got == value), '')}")


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


def _hint(got: Tensor, mistakes: Iterable[tuple[Tensor, str]]) -> str:
    """The message of the first mistake that gives exactly this answer, with a space before it, or nothing."""
    return next((f" {text}" for values, text in mistakes if close(got, values)), "")


def _gradient(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Of the mean over the rows of a linear layer's squared errors: (outputs, inputs)."""
    weight = weight.clone().requires_grad_()
    (x @ weight.T - y).square().sum(1).mean().backward()
    return weight.grad


@exercise("D.4", "However the rows are divided, the model takes the same step.")
def exercise_4(mean_gradient: Callable[[Sequence[Tensor], Sequence[int]], Tensor]) -> None:
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


@exercise("D.5", "The place in the data is one number now, and going back costs nothing.")
def exercise_5(batch_number: Callable[[int, int, Any, int, int], Any]) -> None:
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
