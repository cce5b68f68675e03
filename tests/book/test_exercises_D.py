"""The checks of appendix D's exercises: wrong answers are told why, right ones pass however written."""

import builtins
import io
import os
import random
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from llmbook.book.exercises import Wrong
from llmbook.book.exercises import chapter_D as check
from llmbook.files import replace_file
from tests.support.exercise_tests import exercise_tests


def writing(temporary=lambda path: path.with_name(path.name + ".tmp"), remove=True,
            sync=lambda file: os.fsync(file.fileno()), rename=lambda source, target: os.replace(source, target)):
    """`write_whole` as it should be, or with one thing different."""
    def write_whole(path, content):
        other = temporary(path)
        try:
            with open(other, "wb") as file:
                file.write(content)
                file.flush()
                sync(file)
            rename(other, path)
        finally:
            if remove:
                other.unlink(missing_ok=True)
    return write_whole


def write_by_mkstemp(path, content):
    number, name = tempfile.mkstemp(dir=path.parent)
    try:
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(number, rest):]
            os.fsync(number)
        finally:
            os.close(number)
        Path(name).replace(path)
        if os.name != "nt":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.remove(name)
        raise


def write_by_named_file(path, content):
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            file.close()
            os.unlink(file.name)
            raise


def write_in_a_folder(path, content):
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        inside = Path(folder, "new")
        inside.write_bytes(content)
        with open(inside, "rb+") as file:  # a second opening will do
            os.fsync(file.fileno())
        try:
            os.replace(inside, path)
        except OSError as error:
            raise RuntimeError(f"{path} was not written") from error


def write_in_place(path, content):
    path.write_bytes(content)


def write_in_place_and_restore(path, content):
    before = path.read_bytes() if path.exists() else None
    try:
        with open(path, "wb") as file:
            file.write(content)
            os.fsync(file.fileno())
    except BaseException:
        if before is not None:
            path.write_bytes(before)
        raise


def unlink_then_replace(source, target):
    target.unlink(missing_ok=True)
    os.replace(source, target)


def backup_then_replace(source, target):
    if target.exists():
        os.replace(target, target.with_name("backup"))
    os.replace(source, target)


def replace_or_copy(source, target):
    try:
        os.replace(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_and_sync_later(path, content):
    other = path.with_name("new")
    other.write_bytes(content)
    os.replace(other, path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sync_after_the_rename(source, target):
    os.replace(source, target)
    number = os.open(target, os.O_RDONLY)
    os.fsync(number)
    os.close(number)


def write_while_open(path, content):
    other = path.with_name("new")
    with open(other, "wb") as file:
        file.write(content[:100])
        os.fsync(file.fileno())
        os.replace(other, path)
        file.write(content[100:])


def write_without_buffer(path, content):
    other = path.with_name("new")
    with open(other, "wb", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())
    os.replace(other, path)


def write_small_pieces(path, content):
    other = path.with_name("new")
    with open(other, "wb") as file:
        for place in range(0, len(content), 100):
            file.write(content[place : place + 100])
        os.fsync(file.fileno())
    os.replace(other, path)


def write_and_catch(caught, then=None):
    def write_whole(path, content):
        other = path.with_name("new")
        try:
            writing(lambda path: other, remove=False)(path, content)
        except caught:
            other.unlink(missing_ok=True)
            if then is None:
                raise
            then()
    return write_whole


def write_and_remove_carelessly(path, content):
    other = path.with_name("new")
    try:
        writing(lambda path: other, remove=False)(path, content)
    except BaseException:
        os.remove(other)  # if it could not be opened, there is none
        raise


def write_and_always_remove(path, content):
    other = path.with_name("new")
    try:
        writing(lambda path: other, remove=False)(path, content)
    finally:
        os.remove(other)


def write_and_rename_what_failed(path, content):
    other = path.with_name("new")
    try:
        with open(other, "wb") as file:
            with suppress(OSError):
                file.write(content)
                file.flush()
            os.fsync(file.fileno())
        os.replace(other, path)
    finally:
        other.unlink(missing_ok=True)


def write_and_ignore_fsync(path, content):
    def sync(file):
        with suppress(OSError):
            os.fsync(file.fileno())
    writing(sync=sync)(path, content)


def write_for_the_second_time(path, content):
    mode = path.stat().st_mode
    writing()(path, content)
    path.chmod(mode)


def write_over_the_neighbour(path, content):
    writing(lambda path: path.with_name("notes.txt"))(path, content)


def write_unseen(path, content):
    other = path.with_name("new")
    with io.FileIO(other, "w") as file:
        file.write(content)
        os.fsync(file.fileno())
    os.replace(other, path)


def weighted(gradients, rows):
    return sum(gradient * count for gradient, count in zip(gradients, rows)) / sum(rows)


def weighted_by_einsum(gradients, rows):
    shares = torch.tensor(rows) / sum(rows)
    return torch.einsum("n,n...->...", shares, torch.stack(list(gradients)))


def weighted_in_place(gradients, rows):
    total = gradients[0]
    total *= rows[0]
    for gradient, count in zip(gradients[1:], rows[1:]):
        total += gradient * count
    return total / sum(rows)


def by(weights):
    return lambda gradients, rows: sum(g * w for g, w in zip(gradients, weights(torch.tensor(rows) * 1.0)))


def starts(seed=lambda seed, i: [seed, i], low=0, more=0, draw=None):
    def batch_number(s, i, tokens, context_length, batch_size):
        generator, end = np.random.default_rng(seed(s, i)), len(tokens) - context_length + more
        return draw(generator, end, batch_size) if draw else generator.integers(low, end, batch_size)
    return batch_number


def starts_one_by_one(seed, i, tokens, context_length, batch_size):
    own = random.Random(1_000_003 * seed + i)
    return [own.randint(0, len(tokens) - context_length - 1) for _ in range(batch_size)]


def starts_by_torch(seed, i, tokens, context_length, batch_size):
    own = torch.Generator().manual_seed(int(np.random.SeedSequence(seed, spawn_key=(i,)).generate_state(1)[0]))
    return torch.randint(len(tokens) - context_length, (batch_size,), generator=own)


def starts_by_going_there(seed, i, tokens, context_length, batch_size):
    own = np.random.default_rng(seed)
    for _ in range(i + 1):
        drawn = own.integers(len(tokens) - context_length, size=batch_size)
    return tuple(drawn.tolist())


def starts_with_memory():
    generator = np.random.default_rng(0)
    return lambda s, i, tokens, context, size: generator.integers(len(tokens) - context, size=size)


def starts_from_everyones(seed, i, tokens, context_length, batch_size):
    np.random.seed(1000 * seed + i)
    return np.random.randint(0, len(tokens) - context_length, batch_size)


def starts_from_pythons(seed, i, tokens, context_length, batch_size):
    random.seed(f"{seed} {i}")
    return [random.randrange(len(tokens) - context_length) for _ in range(batch_size)]


def starts_from_pytorchs(seed, i, tokens, context_length, batch_size):
    torch.manual_seed(1000 * seed + i)
    return torch.randint(len(tokens) - context_length, (batch_size,))


def starts_sliding(seed, i, tokens, context_length, batch_size):
    own = np.random.default_rng(seed)
    return own.integers(len(tokens) - context_length, size=i + batch_size)[i:]


def windows(seed, i, tokens, context_length, batch_size):
    return [tokens[s : s + context_length] for s in starts()(seed, i, tokens, context_length, batch_size)]


def starts_after_shuffling(seed, i, tokens, context_length, batch_size):
    np.random.default_rng(seed).shuffle(tokens)
    return starts()(seed, i, tokens, context_length, batch_size)


class Rows:
    """`MendedRows` as it should be: the state from before the shuffle, and the batches taken since."""

    def __init__(self, n, batch_size, seed):
        self.n, self.batch_size = n, batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.shuffle()

    def shuffle(self):
        self.before, self.taken = self.generator.get_state(), 0
        self.order = torch.randperm(self.n, generator=self.generator)

    def __next__(self):
        if self.taken * self.batch_size >= self.n:
            self.shuffle()
        start = self.taken * self.batch_size
        self.taken += 1
        return self.order[start : start + self.batch_size]

    def state_dict(self):
        return {"random": self.before, "taken": self.taken}

    def load_state_dict(self, state):
        self.generator.set_state(state["random"])
        self.shuffle()
        self.taken = state["taken"]


class RowsByOrder(Rows):
    """Keeps the order itself, and the generator's state after the shuffle."""

    def state_dict(self):
        return {"random": self.generator.get_state(), "order": self.order.tolist(), "taken": self.taken}

    def load_state_dict(self, state):
        self.generator.set_state(state["random"])
        self.order, self.taken = torch.tensor(state["order"]), state["taken"]


class RowsBySkipping(Rows):
    """Counts all batches, and reads so many again."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.done = 0

    def __next__(self):
        self.done += 1
        return super().__next__().tolist()

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        for _ in range(state["done"]):
            next(self)


class BrokenRows(Rows):
    def state_dict(self):
        return {"random": self.generator.get_state(), "taken": self.taken}


class RowsFromTheirBeginning(Rows):
    def load_state_dict(self, state):
        self.generator.set_state(state["random"])
        self.shuffle()


class RowsOfOneOrder(RowsByOrder):
    def load_state_dict(self, state):
        self.order, self.taken = torch.tensor(state["order"]), state["taken"]


class RowsWithoutOne(Rows):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        next(self)


class RowsWithOneAgain(Rows):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.taken = max(0, self.taken - 1)


class RowsFromTheStart(Rows):
    def load_state_dict(self, state):
        pass


class RowsThatShareTheirState(RowsByOrder):
    def shuffle(self):
        super().shuffle()
        self.state = getattr(self, "state", {})

    def state_dict(self):
        self.state.update(super().state_dict())
        return self.state

    def __next__(self):
        batch = super().__next__()
        self.state["taken"] = self.taken
        return batch


class RowsThatMoveWhenAsked(Rows):
    def state_dict(self):
        state = super().state_dict()
        torch.randperm(self.n, generator=self.generator)
        return state


class RowsOfEveryone(Rows):
    def shuffle(self):
        super().shuffle()
        torch.rand(1)


class RowsInOneOrderAlways(Rows):
    def shuffle(self):
        super().shuffle()
        self.order = torch.arange(self.n)


class RowsWithoutARest(Rows):
    def __next__(self):
        if (self.taken + 1) * self.batch_size > self.n:
            self.shuffle()
        return super().__next__()


class RowsWithAnIterator(Rows):
    def state_dict(self):
        return {"rows": iter(self.order), "taken": self.taken}


class RowsWithoutAState:
    def __init__(self, n, batch_size, seed):
        self.rows = Rows(n, batch_size, seed)

    def __next__(self):
        return next(self.rows)


def bits8(x, top):
    """A tensor as whole numbers of 8 bits and the size of one."""
    size = (x.abs().max() / top).clamp(min=1e-30)
    return (x / size).round().to(torch.int8 if top == 127 else torch.uint8), size


def blocks8(x, top):
    """A tensor as whole numbers of 8 bits, and a size of one for each 64 of them."""
    rows = torch.nn.functional.pad(x.flatten(), (0, -x.numel() % 64)).view(-1, 64)
    sizes = (rows.abs().amax(1, keepdim=True) / top).clamp(min=1e-30)
    kind = torch.int8 if top == 127 else torch.uint8
    return (rows / sizes).round().to(kind).flatten()[: x.numel()].view(x.shape), sizes


def whole(numbers, sizes):
    rows = torch.nn.functional.pad(numbers.flatten().float(), (0, -numbers.numel() % 64)).view(-1, 64) * sizes
    return rows.flatten()[: numbers.numel()].view(numbers.shape)


class Small:
    """`SmallAverages` as it should be: blocks of 64, the root of v."""

    def __init__(self, m, v):
        self.m, self.m_sizes = blocks8(m, 127)
        self.v, self.v_sizes = blocks8(v.sqrt().sqrt(), 255)

    def restore(self):
        return whole(self.m, self.m_sizes), whole(self.v, self.v_sizes) ** 4


class SmallByLogarithms(Small):
    """m in blocks of 64, and the logarithm of v with one scale."""

    def __init__(self, m, v):
        self.m, self.m_sizes = blocks8(m, 127)
        logs = v.clamp(min=1e-30).log()
        self.low = logs.min().item()
        self.v, self.v_size = bits8(logs - self.low, 255)

    def restore(self):
        return whole(self.m, self.m_sizes), (self.v.float() * self.v_size + self.low).exp()


class OneScaleForM(SmallByLogarithms):
    def __init__(self, m, v):
        super().__init__(m, v)
        self.m, self.m_sizes = bits8(m, 127)

    def restore(self):
        return self.m.float() * self.m_sizes, (self.v.float() * self.v_size + self.low).exp()


class Exact(Small):
    def __init__(self, m, v):
        self.kept = [m, v]

    def restore(self):
        return tuple(part.float() for part in self.kept)


class InBfloat16(Exact):
    def __init__(self, m, v):
        super().__init__(m.bfloat16(), v.bfloat16())


class WithRoom(Small):
    def __init__(self, m, v):
        super().__init__(m, v)
        self.v = self.v.short()


class Linear8(Small):
    def __init__(self, m, v):
        self.m, self.size = bits8(m, 127)
        self.v, self.step = bits8(v, 255)

    def restore(self):
        return self.m.float() * self.size, self.v.float() * self.step


class OneForAll(Small):
    def restore(self):
        m, v = super().restore()
        return m, v.mean().expand_as(v)


class Negative(Small):
    def restore(self):
        m, v = super().restore()
        return m, v - 1


class NotFinite(Small):
    def restore(self):
        m, v = super().restore()
        return m / m.abs().max(), v


class InPlace(Small):
    def __init__(self, m, v):
        super().__init__(m, v)
        v.sqrt_()


class OnlyM(Small):
    def restore(self):
        return super().restore()[0]


class Flat(Small):
    def restore(self):
        return tuple(part.flatten() for part in super().restore())


class Hidden(Small):
    def __init__(self, m, v):
        super().__init__(m, v)
        self.more = lambda: v


RIGHT = {
    "exercise_3": [writing(), replace_file, write_by_mkstemp, write_by_named_file, write_in_a_folder,
                   write_and_catch(BaseException), writing(sync=lambda file: os.fdatasync(file.fileno()))
                   if hasattr(os, "fdatasync") else writing()],
    "exercise_1": [weighted, weighted_by_einsum],
    "exercise_2": [starts(), starts_one_by_one, starts_by_torch, starts_by_going_there,
                   starts(draw=lambda g, end, size: np.sort(g.choice(end, size, replace=False)))],
    "exercise_4": [Rows, RowsByOrder, RowsBySkipping],
    "exercise_5": [Small, SmallByLogarithms],
}
WRONG = [
    ("exercise_3", write_in_place, "open `path` itself"),
    ("exercise_3", write_in_place_and_restore, "open `path` itself"),
    ("exercise_3", writing(rename=shutil.copyfile), "copy to it"),
    ("exercise_3", writing(rename=replace_or_copy), "copy to it"),
    ("exercise_3", writing(rename=unlink_then_replace), "no file at `path`"),
    ("exercise_3", writing(rename=backup_then_replace), "no file at `path`"),
    ("exercise_3", writing(sync=lambda file: None), "before the disk has its content"),
    ("exercise_3", writing(sync=lambda file: None, rename=sync_after_the_rename), "comes before the rename"),
    ("exercise_3", write_and_sync_later, "before the disk has its content"),
    ("exercise_3", write_small_pieces, "Call file.flush"),
    ("exercise_3", write_while_open, "still in Python's buffer"),
    ("exercise_3", write_without_buffer, "may take less"),
    ("exercise_3", write_unseen, "saw no writing"),
    ("exercise_3", writing(lambda path: Path(tempfile.gettempdir(), f"{path.parent.name}.tmp")), "in path.parent"),
    ("exercise_3", writing(rename=os.rename), "saw no rename"),
    ("exercise_3", writing(rename=lambda source, target: os.rename(source, target)), "refuse on Windows"),
    ("exercise_3", writing(rename=lambda source, target: source.rename(target)), "refuse on Windows"),
    ("exercise_3", writing(rename=lambda source, target: None), "does not have the new content in the end"),
    ("exercise_3", writing(rename=lambda source, target: None, remove=False), "still in model.bin.tmp"),
    ("exercise_3", writing(remove=False), r"When writing fails, model.bin.tmp stays"),
    ("exercise_3", write_and_catch(OSError), "Ctrl-C arrives at writing, new stays.*KeyboardInterrupt is no Exception"),
    ("exercise_3", write_and_catch(Exception, lambda: None), "as if the file were written"),
    ("exercise_3", write_and_catch(BaseException, lambda: {}["lost"]), "KeyError: 'lost', instead of the OSError"),
    ("exercise_3", write_and_remove_carelessly, r"opening a file fails, the caller gets FileNotFoundError.*missing_ok"),
    ("exercise_3", write_and_always_remove, "temporary name is gone"),
    ("exercise_3", write_and_rename_what_failed, "You go on after a failure"),
    ("exercise_3", write_and_ignore_fsync, "os.fsync failed and"),
    ("exercise_3", write_for_the_second_time, "there is no old one"),
    ("exercise_3", write_over_the_neighbour, "notes.txt"),
    ("exercise_1", lambda g, rows: torch.stack(g).mean(0), "plain mean"),
    ("exercise_1", by(lambda rows: rows), "do not add up to 1"),
    ("exercise_1", by(lambda rows: rows / len(rows)), "by the number of processes. Divide by the number of all"),
    ("exercise_1", by(lambda rows: rows / rows.sum() / len(rows)), "add up to 1 already"),
    ("exercise_1", by(lambda rows: rows / rows.mean()), "too large by the number of processes"),
    ("exercise_1", by(lambda rows: rows / rows.max()), "largest number of rows"),
    ("exercise_1", lambda g, rows: sum(g), "sum of the gradients"),
    ("exercise_1", lambda g, rows: sum(g) / sum(rows), "is a mean already: multiply it"),
    ("exercise_1", by(lambda rows: 1 / rows), "mean already: multiply by them"),
    ("exercise_1", by(lambda rows: 1 / rows / (1 / rows).sum()), "upside down"),
    ("exercise_1", by(lambda rows: rows.softmax(0)), "softmax"),
    ("exercise_1", by(lambda rows: rows**2 / (rows**2).sum()), "squared"),
    ("exercise_1", lambda g, rows: g[0], "first process's"),
    ("exercise_1", lambda g, rows: (torch.stack(g) * torch.tensor(rows) / sum(rows)).sum(0), "met the columns"),
    ("exercise_1", lambda g, rows: -weighted(g, rows), "sign"),
    ("exercise_1", lambda g, rows: weighted(g, rows).sum(), "has shape"),
    ("exercise_1", weighted_in_place, "changed what it was given"),
    ("exercise_2", starts(more=-1), "upper end of `integers` is never drawn"),
    ("exercise_2", starts(more=1), "one token more than its length"),
    ("exercise_2", lambda s, i, tokens, c, size: np.random.default_rng([s, i]).integers(len(tokens), size=size),
     "Room for the window"),
    ("exercise_2", starts(low=1), "begin at 0"),
    ("exercise_2", starts(low=-1), "counts from the end"),
    ("exercise_2", lambda s, i, tokens, c, size: np.random.default_rng([s, i]).integers(
        (len(tokens) - 1) // c, size=size) * c, "multiples of the context length"),
    ("exercise_2", starts(draw=lambda g, end, size: np.rint(g.random(size) * (end - 1)).astype(int)), "half as much"),
    ("exercise_2", starts(draw=lambda g, end, size: g.integers(end + 4, size=size).clip(max=end - 1)),
     "should not be cut"),
    ("exercise_2", lambda s, i, tokens, c, size: np.random.default_rng([s, i]).integers(
        max(len(tokens) - c, 2), size=size), "only start 0"),
    ("exercise_2", lambda s, i, tokens, c, size: np.random.default_rng([s, i]).integers(
        0, len(tokens) - c if len(tokens) > 5 else 0, size), "room for one window"),
    ("exercise_2", starts(lambda seed, i: None), "second time"),
    ("exercise_2", starts_with_memory(), "second time"),
    ("exercise_2", starts(lambda seed, i: seed), "batches 0 and 1 are the same"),
    ("exercise_2", starts(lambda seed, i: [i, i]), "is the same with the seeds 0 and 1"),
    ("exercise_2", starts(lambda seed, i: seed + i), "two runs with different seeds"),
    ("exercise_2", starts(lambda seed, i: 1000 * seed + i), "Batch 1000 of seed 0|batch 1000 of seed 0"),
    ("exercise_2", starts(lambda seed, i: (seed + 1) * i), "Batch 0 is the same with the seeds 0 and 1"),
    ("exercise_2", starts(lambda seed, i: int(f"{seed}{i}")), "two runs with different seeds"),
    ("exercise_2", starts(draw=lambda g, end, size: np.full(size, g.integers(end))), "one start for each row"),
    ("exercise_2", starts_sliding, "draws of its own"),
    ("exercise_2", starts_from_everyones, "NumPy's"),
    ("exercise_2", starts_from_pythons, "Python's"),
    ("exercise_2", starts_from_pytorchs, "PyTorch's"),
    ("exercise_2", windows, "not the windows"),
    ("exercise_2", lambda *given: starts()(*given) * 1.0, "whole numbers"),
    ("exercise_2", lambda *given: starts()(*given)[0], "array of 4 starts"),
    ("exercise_2", lambda *given: starts()(*given)[:3], "one start for each row"),
    ("exercise_2", starts_after_shuffling, "changed the tokens"),
    ("exercise_4", BrokenRows, r"after 2 batches and gone on, it reads the rows \[.*saves the generator's state after"),
    ("exercise_4", RowsFromTheirBeginning, "`taken` is not put back"),
    ("exercise_4", RowsOfOneOrder, "and the next is not"),
    ("exercise_4", RowsWithoutOne, "One batch is left out"),
    ("exercise_4", RowsWithOneAgain, "last batch is read again"),
    ("exercise_4", RowsFromTheStart, "begins the (pass|whole run) again"),
    ("exercise_4", RowsThatShareTheirState, "changes while the loader goes on"),
    ("exercise_4", RowsThatMoveWhenAsked, "must not change it"),
    ("exercise_4", RowsOfEveryone, "whole program shares"),
    ("exercise_4", RowsInOneOrderAlways, "the same order"),
    ("exercise_4", RowsWithoutARest, "each should come once"),
    ("exercise_4", RowsWithAnIterator, "have to go to the disk"),
    ("exercise_4", RowsWithoutAState, "has no state_dict"),
    ("exercise_5", Exact, "8.00 bytes per weight; the target is 2.2. Those are the exact numbers"),
    ("exercise_5", InBfloat16, "4.00 bytes per weight.*bfloat16"),
    ("exercise_5", WithRoom, "3.1. bytes per weight.*Count what else"),
    ("exercise_5", Linear8, "restored as 0, AdamW divides by almost nothing"),
    ("exercise_5", OneForAll, "look at the relative error of your v"),
    ("exercise_5", OneScaleForM, "a scale of its own"),
    ("exercise_5", Negative, "are negative"),
    ("exercise_5", NotFinite, "not finite"),
    ("exercise_5", InPlace, "the optimizer's own"),
    ("exercise_5", OnlyM, "two tensors, m and v"),
    ("exercise_5", Flat, "m has shape"),
    ("exercise_5", Hidden, "tensors and numbers, not function"),
]


test_right_answers_pass, test_wrong_answers, test_stubs_and_crashes = exercise_tests(check, RIGHT, WRONG)


def everything_shared():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    return states, builtins.open, io.open, os.open, os.write, os.fsync, os.replace, os.rename


@pytest.mark.parametrize("name, answer", [(name, answers[0]) for name, answers in RIGHT.items()]
                         + [("exercise_3", write_in_place), ("exercise_3", writing(remove=False)),
                            ("exercise_3", lambda path, content: 1 / 0), ("exercise_2", starts_from_everyones),
                            ("exercise_2", starts_from_pythons), ("exercise_2", starts_from_pytorchs)])
def test_the_readers_generators_and_file_functions_are_left_alone(name, answer):
    before = everything_shared()
    getattr(check, name)(answer)
    assert everything_shared() == before


def test_a_real_ctrl_c_goes_through():
    def interrupted(path, content):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        check.exercise_3(interrupted)


def test_every_step_fails_once_with_an_error_and_once_with_ctrl_c(monkeypatch):
    tried, whole = [], check._try_write

    def noted(write_whole, old, fail_at=-1, error=None):
        disk, *rest = whole(write_whole, old, fail_at, error)
        tried.append((fail_at, type(error).__name__, disk.failed))
        return disk, *rest
    monkeypatch.setattr(check, "_try_write", noted)
    check.exercise_3.verify(writing())
    kinds = {(error, kind) for _, error, kind in tried if error != "NoneType"}
    assert kinds == {(error, kind) for error in ("_Fault", "_Interrupt")
                     for kind in ("open", "write", "fsync", "rename")}
    assert sum(error == "NoneType" for _, error, _ in tried) == 2


def test_python_3_10s_pathlib_is_watched_too(monkeypatch):
    """Its paths call functions that a class of its own keeps."""
    class Accessor:
        replace = os.replace
        open = io.open

    keeper = Accessor()
    places = [*check._places(), (Accessor, "replace"), (Accessor, "open")]
    monkeypatch.setattr(check, "_places", lambda: places)

    @contextmanager
    def opened(path):
        with keeper.open(path, "wb") as file:
            yield file

    def write_whole(path, content):
        other = path.with_name("new")
        try:
            with opened(other) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            keeper.replace(other, path)
        finally:
            other.unlink(missing_ok=True)
    check.exercise_3.verify(write_whole)
    with pytest.raises(Wrong, match="open `path` itself"):
        check.exercise_3.verify(lambda path, content: keeper.open(path, "wb").close())
    assert vars(Accessor)["replace"] is os.replace


def test_a_notebooks_own_open_is_watched_too():
    shell = pytest.importorskip("IPython.core.interactiveshell")

    def write_whole(path, content):
        other = path.with_name("new")
        with shell._modified_open(other, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(other, path)
    with pytest.raises(Wrong, match="When writing fails, new stays behind"):
        check.exercise_3.verify(write_whole)
    with pytest.raises(Wrong, match="open `path` itself"):
        check.exercise_3.verify(lambda path, content: shell._modified_open(path, "wb").close())


def test_the_wrong_answers_are_many_for_each():
    for name in RIGHT:
        assert len({message for exercise, _, message in WRONG if exercise == name}) >= 3
