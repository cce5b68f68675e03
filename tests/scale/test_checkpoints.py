"""Checkpoints: a run that was stopped, at any moment and however, ends as if it never had been."""

import errno
import json
import os
import pickle
import random
import shutil
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from llmbook import prefetching, training_run
from llmbook.instructions import instruction_loader, response_loss
from llmbook.scale import checkpoint_folder as module
from llmbook.scale import checkpoints as keeping
from llmbook.scale.checkpoints import Checkpoints
from llmbook.training import History, evaluate, next_token_loss, train
from tests.support import training_script as script
from tests.support.checkpoint_checks import Stop, contents, damage, is_whole, names, same, steps_kept, stop_at
from tests.support.training_script import Rows, forks, gpt, loader, quick, records, seed_all, wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills processes as only Unix can")


def unbroken(steps: int = 14, **changes) -> tuple[nn.Module, list[dict]]:
    model = gpt()
    return model, records(train(model, loader(), next_token_loss, quick(steps, **changes)))


# --- the same to the last bit ------------------------------------------------------------------------------------

class OwnPlace:
    """A loader that knows its place. Like those of torchdata, it says nothing more when it goes on after its last
    batch; and it hands out the very dictionary that it changes at the next batch."""

    def __init__(self):
        self.place, self.went_on = {"batch": 0, "pass": 0}, False
        self.batches = [batch for batch in loader(shuffle=False)]

    def state_dict(self):
        return self.place

    def load_state_dict(self, state):
        self.place, self.went_on = dict(state), True

    def __iter__(self):
        if not self.went_on:
            self.place["batch"] = 0
        self.went_on = False
        while self.place["batch"] < 5:
            self.place["batch"] += 1
            yield self.batches[(self.place["batch"] + self.place["pass"]) % 5]
        self.place["pass"] += 1


def drawing_loss(model, inputs, targets):
    """Draws from every generator, and keeps what it drew in the loss."""
    return next_token_loss(model, inputs, targets) * (1 + random.random() + np.random.rand() + torch.rand(()))


class Noisy(torch.utils.data.Dataset):
    """Draws from every generator when it is read."""

    def __len__(self):
        return 20

    def __getitem__(self, place):
        shift = random.randrange(11) + np.random.randint(11) + int(torch.randint(11, ()))
        ids = (torch.arange(9) * place + shift) % 11
        return ids[:-1], ids[1:]


def sampled():
    generator = torch.Generator().manual_seed(8)
    dataset = loader().dataset
    return DataLoader(dataset, batch_sampler=BatchSampler(RandomSampler(dataset, generator=generator), 4, False))


# name: (train_loader, val_loader, loss, settings)
CASES = {
    "seeded": (loader, None, next_token_loss, {}),
    "unseeded": (lambda: loader(seed=None), None, next_token_loss, {}),
    "unseeded, evaluated in order": (lambda: loader(seed=None), lambda: loader(shuffle=False), next_token_loss, {}),
    "evaluated on unseeded draws": (loader, lambda: loader(seed=None), next_token_loss, {"eval_batches": 2}),
    "evaluated on seeded draws": (loader, lambda: loader(seed=9), next_token_loss, {"eval_batches": 2}),
    "lengths": (lambda: instruction_loader(Rows(17), 4), lambda: instruction_loader(Rows(17), 6), response_loss, {}),
    "accumulation": (loader, None, next_token_loss, {"accumulation_steps": 2}),
    "accumulation, unseeded": (lambda: loader(seed=None), None, drawing_loss, {"accumulation_steps": 2}),
    "accumulation over ends of passes": (lambda: loader(seed=None), None, drawing_loss, {"accumulation_steps": 3}),
    "list": (lambda: [*loader(shuffle=False)], None, next_token_loss, {}),
    "own place": (OwnPlace, None, next_token_loss, {}),
    "draws in the loss": (loader, loader, drawing_loss, {}),
    "draws in the data": (lambda: DataLoader(Noisy(), 4, shuffle=True), None, drawing_loss, {}),
    "batch sampler": (sampled, None, next_token_loss, {}),
}


def run_in_pieces(folder: Path, case: str, stops: list[int]) -> tuple[nn.Module, History]:
    """Stopped in each step of `stops` without a word, and gone on with from the step before."""
    make, validation, loss, settings = CASES[case]
    write = module.save_file
    for number, stop in enumerate([*stops, 99]):
        model = gpt(seed=number)  # other weights and other random states each time
        with pytest.MonkeyPatch.context() as patch:
            if case == "own place":  # a slow disk
                patch.setattr(module, "save_file", lambda *given: (time.sleep(0.01), write(*given)))
            try:
                history = train(model, make(), loss, quick(**settings), validation and validation(),
                                Checkpoints(folder, every_steps=1), stop_at(stop))
            except Stop:
                pass
    return model, history


def slow_but(*quick_cases: str):
    return pytest.mark.parametrize("case", [case if case in quick_cases else pytest.param(case, marks=pytest.mark.slow)
                                            for case in CASES])


@pytest.fixture
def ahead(monkeypatch):
    """As on a GPU: the next step's batches are fetched before a step ends, and before its checkpoint."""
    monkeypatch.setattr(prefetching, "DEVICES", ("cpu",))


@slow_but("accumulation, unseeded", "own place", "draws in the loss")
def test_a_run_in_pieces_that_reads_ahead_is_the_unbroken_run(folder, case, ahead):
    test_a_run_in_pieces_is_the_unbroken_run(folder, case)


def test_reading_ahead_changes_no_batch_and_stops_at_the_end(ahead):
    """The same batches in the same order, and not one more than the run needs."""
    taken = []

    def noting(batches):
        for number, batch in enumerate(batches):
            taken.append(number)
            yield batch

    class Watched(list):
        def __iter__(self):
            return noting(super().__iter__())

    history = train(gpt(), Watched(loader(shuffle=False)), next_token_loss, quick(4, accumulation_steps=2))
    assert taken == [0, 1, 2, 3, 4, 0, 1, 2] and len(history.steps) == 4


def test_what_goes_wrong_ahead_belongs_to_the_next_step(ahead, folder):
    def loader_that_breaks():
        yield from [*loader(shuffle=False)][:2]
        raise OSError("the disk is gone")

    told = []
    with pytest.raises(OSError, match="the disk is gone"):
        train(gpt(), loader_that_breaks(), next_token_loss, quick(4), None, Checkpoints(folder, 1), told.append)
    assert [record["step"] for record in told] == [1, 2] and steps_kept(folder) == [1, 2]


@slow_but("seeded", "unseeded, evaluated in order", "accumulation, unseeded")
def test_a_run_in_pieces_is_the_unbroken_run(folder, case):
    make, validation, loss, settings = CASES[case]
    model = gpt()
    whole = train(model, make(), loss, quick(**settings), validation and validation())
    # A pass has 5 batches: go on after 1, 3 and 4 of them, after a whole pass, after the first of the next, ...
    pieces, history = run_in_pieces(folder, case, [2, 4, 5, 6, 7, 11, 13])
    assert records(history) == records(whole) and same(model, pieces)
    assert [step["seconds"] for step in history.steps] == sorted(step["seconds"] for step in history.steps)
    assert steps_kept(folder) == [13, 14]


def test_workers_that_read_ahead_change_nothing(folder):
    def make():
        return DataLoader(Noisy(), 4, shuffle=True, num_workers=1)

    model = gpt()
    whole = train(model, make(), next_token_loss, quick(7))
    for number, stop in enumerate([4, 99]):
        pieces = gpt(seed=number)
        try:
            history = train(pieces, make(), next_token_loss, quick(7), None, Checkpoints(folder, 1), stop_at(stop))
        except Stop:
            pass
    assert records(history) == records(whole) and same(model, pieces)


class Odd(nn.Module):
    """Weights of every kind: tied, frozen, never used, not contiguous; and buffers, one of them of whole numbers."""

    def __init__(self):
        super().__init__()
        seed_all(int.from_bytes(os.urandom(3), "big"))
        self.first, self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.third.weight = nn.Parameter(self.third.weight.detach().t())
        self.third.bias.requires_grad_(False)
        self.never = nn.Parameter(torch.rand(3))
        self.norm = nn.BatchNorm1d(8)
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, x):
        return self.third(self.norm(self.second(self.first(x.float()))))


def odd_loss(model, inputs, targets):
    return (model(inputs) - targets).pow(2).mean()


def test_weights_and_buffers_of_every_kind_go_on(folder):
    first = Odd()
    start = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    whole = train(first, loader(), odd_loss, quick(6))
    second, third = Odd(), Odd()
    second.load_state_dict(start)
    with pytest.raises(Stop):
        train(second, loader(), odd_loss, quick(6), None, Checkpoints(folder, 1), stop_at(4))
    history = train(third, loader(), odd_loss, quick(6), None, Checkpoints(folder, 1))
    assert records(history) == records(whole) and same(first, third)
    loaded = Odd()
    assert Checkpoints(folder).load(loaded) == 6 and same(loaded, first)


def test_what_is_done_is_done(folder):
    model = gpt()
    history = train(model, loader(), next_token_loss, quick(5), checkpoints=Checkpoints(folder))
    before, again, told = contents(folder), gpt(seed=3), []
    repeated = train(again, loader(), next_token_loss, quick(5), checkpoints=Checkpoints(folder), on_step=told.append)
    assert not told and repeated.steps == history.steps and same(model, again) and contents(folder) == before
    longer = train(gpt(seed=4), loader(), next_token_loss, quick(7), None, Checkpoints(folder, allow=["max_steps"]))
    assert len(longer.steps) == 7 and longer.steps[:5] == history.steps


def test_checkpoints_change_nothing_about_the_run(folder):
    model, expected = unbroken()
    other = gpt()
    assert records(train(other, loader(), next_token_loss, quick(), checkpoints=Checkpoints(folder, 2))) == expected
    assert same(model, other)


def test_adamw_remembers(folder):
    """Without its memory the first step after the break would be the very first one again, of full length."""
    seen = []
    original = torch.optim.AdamW.step

    def step(self, *given, **options):
        seen.append({key: [self.state[p][key].clone() for group in self.param_groups for p in group["params"]]
                     for key in ("step", "exp_avg", "exp_avg_sq")} if self.state else {})
        return original(self, *given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        train(gpt(), loader(), next_token_loss, quick(6))
        with pytest.raises(Stop):
            train(gpt(), loader(), next_token_loss, quick(6), None, Checkpoints(folder, 1), stop_at(5))
        train(gpt(seed=1), loader(), next_token_loss, quick(6), None, Checkpoints(folder, 1))
    assert len(seen) == 6 + 5 + 2 and not seen[0] and set(seen[4]["step"]) and float(seen[4]["step"][0]) == 4
    for key in ("step", "exp_avg", "exp_avg_sq"):
        assert all(torch.equal(a, b) for a, b in zip(seen[4][key], seen[11][key]))


# --- killed ------------------------------------------------------------------------------------------------------

def outcome(out: Path) -> tuple[list[dict], dict[str, torch.Tensor]]:
    return json.loads(Path(f"{out}.json").read_text()), load_file(f"{out}.safetensors")


def equal(first, second) -> bool:
    return first[0] == second[0] and all(torch.equal(first[1][name], second[1][name]) for name in first[1])


def check_after_a_kill(folder: Path) -> None:
    """All that bears a checkpoint's name is whole, and the newest is found."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        newest = Checkpoints(folder).newest()
    found = sorted(folder.glob("step-*"))
    assert all(is_whole(path) for path in found) and newest == (found[-1] if found else None)


@pytest.mark.parametrize("wanted", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_leave_no_trace(folder, tmp_path, wanted):
    steps, draw, kills, runs = 30, random.Random(wanted), 0, 0
    forks()  # started before the clock
    start = time.monotonic()
    assert forks().wait(forks().start(script.keep_training, tmp_path / "printed", folder=str(folder / "whole"),
                                      out=str(tmp_path / "whole"), steps=steps)) == 0
    taken = time.monotonic() - start
    expected = outcome(tmp_path / "whole")
    assert len(expected[0]) == steps
    while kills < wanted:
        runs += 1
        run, out = folder / str(runs), tmp_path / str(runs)
        while not Path(f"{out}.json").exists():
            process = forks().start(script.keep_training, tmp_path / "printed", folder=str(run), out=str(out),
                                    steps=steps)
            if kills < wanted:
                code = forks().kill_after(process, draw.uniform(0.02, 0.4) * taken)
            else:
                code = forks().wait(process)
            assert code in (0, -signal.SIGKILL), (tmp_path / "printed").read_text()
            kills += code != 0
            if run.exists():
                check_after_a_kill(run)
        assert equal(outcome(out), expected)
        assert steps_kept(run) == [steps - 1, steps]


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_point_of_writing_leaves_no_trace(folder, tmp_path, every):
    call, code, leftovers = 0, None, set()
    while code != 0:
        run, out = folder / str(call), tmp_path / str(call)
        code = forks().wait(forks().start(script.killed_before, tmp_path / "printed", folder=str(run), out=str(out),
                                          call=call))
        assert code in (0, -signal.SIGKILL), (tmp_path / "printed").read_text()
        check_after_a_kill(run)
        leftovers |= {name for name in names(run) if name.startswith(".")}
        call += every
    expected = outcome(out)  # the last one was not killed
    assert call > 25  # several writings, several points in each
    if every == 1:
        assert any(name.endswith(".old") for name in leftovers) and ".step-00000004" in leftovers
    for number in range(every % 5, call - every, 4 * every):  # going on from each would take long
        run, out = folder / str(number), tmp_path / f"{number}-on"
        assert forks().wait(forks().start(script.keep_training, tmp_path / "printed", folder=str(run), out=str(out),
                                          steps=4)) == 0
        assert equal(outcome(out), expected) and steps_kept(run)[-2:] == [3, 4]


# --- a full disk -------------------------------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("owner, name, error", [
    (module, "save_file", SafetensorError("Error while serializing: No space left on device (os error 28)")),
    (module, "save_file", FULL), (module, "replace_file", FULL), (module.os, "replace", FULL),
    (module.os, "fsync", FULL), (Path, "mkdir", FULL)])
def test_a_full_disk_costs_a_checkpoint_and_not_the_run(folder, monkeypatch, owner, name, error):
    model, expected = unbroken(8)
    original, full, warned = getattr(owner, name), [], []

    def failing(*given, **options):
        if full and threading.current_thread() is not threading.main_thread():
            raise error
        return original(*given, **options)

    def on_step(record):
        if record["step"] in (3, 5):
            keeper._finish()  # what was begun before
        full[:] = [True] if record["step"] in (3, 4) else []
        if record["step"] == 5:
            assert warned and steps_kept(folder) == [2]

    def show(message, *_):
        warned.append(str(message))
        assert steps_kept(folder) == [2] and is_whole(folder / "step-00000002")

    keeper = Checkpoints(folder, every_steps=2)
    monkeypatch.setattr(owner, name, failing)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        history = train(gpt(), loader(), next_token_loss, quick(8), None, keeper, on_step)
    assert len(warned) == 1 and "could not be written" in warned[0] and "goes on" in warned[0]
    assert "No space left" in warned[0] and "step-00000002" in warned[0]
    assert records(history) == expected and steps_kept(folder) == [6, 8]
    assert is_whole(folder / "step-00000006") and is_whole(folder / "step-00000008")


def test_a_disk_that_is_full_at_the_end(folder, monkeypatch):
    model, expected = unbroken(4)
    original = module.save_file

    def full(tensors, path):  # from the second on
        original(tensors, path if "step-00000002" in str(path) else folder / "no" / "folder")

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_file", full)
        with pytest.warns(UserWarning, match="could not be written.*The newest on the disk: step-00000002"):
            history = train(gpt(), loader(), next_token_loss, quick(4), None, Checkpoints(folder, 2))
    assert records(history) == expected and steps_kept(folder) == [2]
    again = gpt(seed=1)
    assert records(train(again, loader(), next_token_loss, quick(4), None, Checkpoints(folder, 2))) == expected
    assert same(model, again) and steps_kept(folder) == [2, 4]


def test_a_limit_of_the_system(folder, tmp_path):
    process = forks().start(script.with_a_full_disk, tmp_path / "printed", folder=str(folder),
                            out=str(tmp_path / "out"))
    assert forks().wait(process) == 0, (tmp_path / "printed").read_text()
    told = json.loads((tmp_path / "out").read_text())
    assert told["records"] == unbroken(8)[1] and steps_kept(folder) == [2, 8]
    assert len(told["warnings"]) == 2 and all("could not be written" in text for text in told["warnings"])
    assert all("step-00000002" in seen for seen in told["seen"][4:]) and is_whole(folder / "step-00000008")
    assert ".step-00000004" not in told["seen"][-1]  # what was half written does not stay


# --- damage ------------------------------------------------------------------------------------------------------

def truncate(checkpoint):
    part = checkpoint / "part-0-of-1.safetensors"
    part.write_bytes(part.read_bytes()[:-100])


DAMAGES = {
    "truncated": (truncate, r"part-0-of-1.safetensors has [\d,]+ bytes instead of [\d,]+"),
    "a bit of the part": (lambda c: damage(c / "part-0-of-1.safetensors"), "content of part-0-of-1.safetensors is not"),
    "no part": (lambda c: (c / "part-0-of-1.safetensors").unlink(), "part-0-of-1.safetensors is missing"),
    "no description": (lambda c: (c / "checkpoint.json").unlink(), "checkpoint.json is missing"),
    "empty description": (lambda c: (c / "checkpoint.json").write_text(""), "checkpoint.json"),
    "garbled description": (lambda c: (c / "checkpoint.json").write_bytes(b"\xff\x00{"), "checkpoint.json"),
    "another description": (lambda c: (c / "checkpoint.json").write_text("[]"), "checkpoint.json"),
    "a bit of the description": (lambda c: damage(c / "checkpoint.json"), "checkpoint.json"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_costs_the_steps_since_the_one_before(folder, name):
    harm, message = DAMAGES[name]
    model, expected = unbroken(7)
    with pytest.raises(Stop):
        train(gpt(), loader(), next_token_loss, quick(7), None, Checkpoints(folder, 2), stop_at(6))
    harm(folder / "step-00000004")
    other, told = gpt(seed=1), []
    with pytest.warns(UserWarning, match=f"step-00000004.*{message}.*before it"):
        history = train(other, loader(), next_token_loss, quick(7), None, Checkpoints(folder, 2), told.append)
    assert told[0]["step"] == 3 and records(history) == expected and same(model, other)
    assert steps_kept(folder) == [6, 7] and is_whole(folder / "step-00000006")
    for checkpoint in folder.glob("step-*"):
        harm(checkpoint)
    before = contents(folder)
    with pytest.warns(UserWarning, match=message), pytest.raises(ValueError, match="none of the 2 checkpoints.*whole"):
        train(gpt(), loader(), next_token_loss, quick(7), None, Checkpoints(folder, 2))
    assert contents(folder) == before


def test_a_damaged_checkpoint_pushes_no_whole_one_out(folder):
    train(gpt(), loader(), next_token_loss, quick(6), checkpoints=Checkpoints(folder, 3))
    truncate(folder / "step-00000006")
    with pytest.warns(UserWarning, match="step-00000006 is damaged"), pytest.raises(Stop):
        train(gpt(), loader(), next_token_loss, quick(6), None, Checkpoints(folder, 1, keep=1), stop_at(6))
    assert steps_kept(folder) == [5] and is_whole(folder / "step-00000005")


# --- other settings ----------------------------------------------------------------------------------------------

LONGER = script.IDS + script.IDS


@pytest.mark.parametrize("model, batches, changes, message", [
    ({}, {}, {"learning_rate": 0.5}, "learning_rate was 0.01, is 0.5"),
    ({}, {}, {"betas": (0.9, 0.99)}, r"betas was \[0.9, 0.95\], is \[0.9, 0.99\]"),
    ({"d_model": 32}, {}, {}, "model.d_model was 16, is 32"),
    ({"n_layers": 1}, {}, {}, "model.n_layers was 2, is 1"),
    ({}, {"token_ids": LONGER}, {}, "data.examples was 20, is 40"),
    ({}, {"batch_size": 5}, {}, "data.batch_size was 4, is 5"),
])
def test_other_settings_are_refused(folder, model, batches, changes, message):
    def batch():
        return script.make_dataloader(**{"token_ids": script.IDS, "context_length": 8, "batch_size": 4, "seed": 5,
                                         **batches})

    train(gpt(), loader(), next_token_loss, quick(2), checkpoints=Checkpoints(folder))
    before, kept = contents(folder), []
    for _ in range(2):  # the first leaves no lock behind, though its error lives on
        with pytest.raises(ValueError, match=f"other settings: .*{message}.*`allow`") as error:
            train(gpt(**model), batch(), next_token_loss, quick(2, **changes), checkpoints=Checkpoints(folder))
        kept.append(error.value)
    assert contents(folder) == before
    with pytest.raises(ValueError, match="max_steps was 2, is 3"):
        train(gpt(), loader(), next_token_loss, quick(3), checkpoints=Checkpoints(folder, allow=["learning_rate"]))
    if not model:
        allow = ["max_steps", *changes, "data.examples", "data.batches", "data.batch_size"]
        history = train(gpt(), batch(), next_token_loss, quick(4, **changes), None, Checkpoints(folder, allow=allow))
        assert len(history.steps) == 4


def test_less_data_than_before_is_noticed(folder):
    """Where a loader does not tell its length."""
    class Stream:
        def __init__(self, length):
            self.length = length

        def __iter__(self):
            return iter([*loader(shuffle=False)][:self.length])

    train(gpt(), Stream(5), next_token_loss, quick(4), checkpoints=Checkpoints(folder))
    with pytest.raises(ValueError, match="gave 3 batches, fewer than the 4 before the checkpoint"):
        train(gpt(), Stream(3), next_token_loss, quick(6), None, Checkpoints(folder, allow=["max_steps"]))


def test_a_run_may_go_on_compiled(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(training_run, "compiled_loss", lambda loss_fn, device: asked.append(device) or loss_fn)
    train(gpt(), loader(), next_token_loss, quick(2), checkpoints=Checkpoints(folder))
    history = train(gpt(), loader(), next_token_loss, quick(4, compile=True),
                    checkpoints=Checkpoints(folder, allow=["max_steps"]))
    assert len(history.steps) == 4 and len(asked) == 1


def test_device_and_progress_may_differ(folder, capsys):
    train(gpt(), loader(), next_token_loss, quick(2), checkpoints=Checkpoints(folder))
    history = train(gpt(), loader(), next_token_loss, quick(2, device=None, progress=True),
                    checkpoints=Checkpoints(folder))
    assert len(history.steps) == 2 and "2/2" in capsys.readouterr().err


@pytest.mark.parametrize("settings, message", [
    ({"every_steps": 0}, "every_steps is 0"), ({"every_minutes": 0}, "every_minutes is 0"), ({"keep": 0}, "keep is 0"),
    ({"every_steps": -2}, "every_steps is -2"), ({"every_minutes": float("nan")}, "every_minutes is nan")])
def test_bad_arguments_are_named(folder, settings, message):
    with pytest.raises(ValueError, match=f"{message}: it must be above 0"):
        Checkpoints(folder, **settings)
    assert not folder.exists()


# --- when, and how many ------------------------------------------------------------------------------------------

def test_every_so_many_steps_and_the_last(folder):
    train(gpt(), loader(), next_token_loss, quick(8), checkpoints=Checkpoints(folder, every_steps=3, keep=9))
    assert steps_kept(folder) == [3, 6, 8]
    shutil.rmtree(folder)
    train(gpt(), loader(), next_token_loss, quick(7), checkpoints=Checkpoints(folder, every_steps=1, keep=3))
    assert steps_kept(folder) == [5, 6, 7] and all(is_whole(path) for path in folder.glob("step-*"))


@pytest.mark.parametrize("settings, expected", [
    ({"every_minutes": 2}, [3, 6, 8]), ({"every_minutes": 2, "every_steps": 4}, [3, 4, 7, 8]),
    ({}, [8]), ({"every_minutes": 0.5}, [*range(1, 9)])])
def test_every_so_many_minutes(folder, monkeypatch, settings, expected):
    now = [1000.0]
    monkeypatch.setattr(keeping, "time", SimpleNamespace(monotonic=lambda: now[0]))
    train(gpt(), loader(), next_token_loss, quick(8), None, Checkpoints(folder, keep=9, **settings),
          lambda record: now.__setitem__(0, now[0] + 40))
    assert steps_kept(folder) == expected


def test_ten_minutes_if_nothing_is_said(folder, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(keeping, "time", SimpleNamespace(monotonic=lambda: now[0]))
    train(gpt(), loader(), next_token_loss, quick(8), None, Checkpoints(folder, keep=9),
          lambda record: now.__setitem__(0, now[0] + 200))
    assert steps_kept(folder) == [3, 6, 8]


def test_training_goes_on_while_the_disk_writes(folder, monkeypatch):
    """What is written is the step's, though weights, history and random states have moved on."""
    ready, original, told = threading.Event(), module.save_file, []

    def slow(*given):
        assert ready.wait(10)
        original(*given)

    def on_step(record):
        told.append(record["step"])
        if record["step"] == 6:
            ready.set()

    monkeypatch.setattr(module, "save_file", slow)
    train(gpt(), loader(), next_token_loss, quick(7), None, Checkpoints(folder, every_steps=4), on_step)
    assert is_whole(folder / "step-00000004")
    shutil.rmtree(folder / "step-00000007")
    again = gpt(seed=1)
    model, expected = unbroken(7)
    assert records(train(again, loader(), next_token_loss, quick(7), None, Checkpoints(folder))) == expected
    assert same(model, again)


def test_a_number_that_is_not_finite_leaves_the_last_checkpoint(folder):
    calls = []

    def spoiled(model, *batch):
        calls.append(None)
        return next_token_loss(model, *batch) * (float("nan") if len(calls) == 6 else 1.0)

    with pytest.raises(FloatingPointError, match="step 6"):
        train(gpt(), loader(), spoiled, quick(8), None, Checkpoints(folder, every_steps=2))
    assert steps_kept(folder) == [2, 4] and is_whole(folder / "step-00000004")
    loaded = gpt(seed=1)
    assert Checkpoints(folder).load(loaded) == 4 and all(p.isfinite().all() for p in loaded.parameters())
    model, expected = unbroken(8)
    again = gpt(seed=2)
    assert records(train(again, loader(), next_token_loss, quick(8), None, Checkpoints(folder, 2))) == expected
    assert same(model, again)


# --- the lock -------------------------------------------------------------------------------------------------------

def test_two_runs_do_not_share_a_folder(folder, tmp_path):
    def second_run(record):
        with pytest.raises(RuntimeError, match="another run writes its checkpoints to"):
            train(gpt(), loader(), next_token_loss, quick(9), None, Checkpoints(folder))
        refused.append(record["step"])

    refused: list[int] = []
    train(gpt(), loader(), next_token_loss, quick(2), None, Checkpoints(folder), second_run)
    assert refused == [1, 2]
    train(gpt(), loader(), next_token_loss, quick(2), None, Checkpoints(folder))  # and it is free again


@pytest.mark.parametrize("workers", [0, 1])
def test_the_lock_of_a_killed_run_is_free(folder, tmp_path, workers):
    process = forks().start(script.until_a_signal, tmp_path / "printed", folder=str(folder),
                            out=str(tmp_path / "out"), hold=True, workers=workers)
    wait_for(f"{tmp_path / 'out'}.ready")
    with pytest.raises(RuntimeError, match="another run"):
        train(gpt(), loader(), next_token_loss, quick(3), None, Checkpoints(folder))
    os.kill(process, signal.SIGKILL)
    forks().wait(process)
    train(gpt(), loader(), next_token_loss, quick(3), None, Checkpoints(folder))
    assert steps_kept(folder) == [3]


# --- files -------------------------------------------------------------------------------------------------------

def test_no_pickle(folder, monkeypatch):
    def refuse(*given, **options):
        raise AssertionError("pickle")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "dump"), (pickle, "dumps"), (torch, "load"),
                        (torch, "save")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    monkeypatch.setattr(pickle, "Pickler", refuse)
    with pytest.raises(Stop):
        train(gpt(), loader(), next_token_loss, quick(5), None, Checkpoints(folder, 2), stop_at(3))
    assert len(train(gpt(), loader(), next_token_loss, quick(5), None, Checkpoints(folder, 2)).steps) == 5
    assert Checkpoints(folder).load(gpt(seed=1)) == 5
    assert {path.suffix for path in folder.glob("step-*/*")} == {".json", ".safetensors"}


def test_load_fills_a_model_with_the_newest_weights(folder):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        Checkpoints(folder).load(gpt())
    model, other = gpt(), gpt(seed=1)
    train(model, loader(), next_token_loss, quick(4), checkpoints=Checkpoints(folder, 2))
    assert Checkpoints(folder).load(other) == 4 and same(model, other)
    batch = [*loader(shuffle=False)]
    assert evaluate(model, batch, next_token_loss) == evaluate(other, batch, next_token_loss)
    truncate(folder / "step-00000004")
    with pytest.warns(UserWarning, match="step-00000004 is damaged"):
        assert Checkpoints(folder).load(other) == 2 and not same(model, other)


@pytest.mark.parametrize("changes", [{"n_layers": 3}, {"n_layers": 1}, {"d_model": 32}, {"vocab_size": 12}])
def test_load_refuses_another_model(folder, changes):
    train(gpt(), loader(), next_token_loss, quick(1), checkpoints=Checkpoints(folder))
    with pytest.raises(ValueError, match="another model"):
        Checkpoints(folder).load(gpt(**changes))


def test_another_format_and_a_closed_file_are_no_damage(folder, monkeypatch):
    """Else the next run would take the checkpoint before, and remove this one."""
    train(gpt(), loader(), next_token_loss, quick(4), checkpoints=Checkpoints(folder, every_steps=2))
    monkeypatch.setattr(module, "READABLE", (1,))
    with pytest.raises(RuntimeError, match=r"step-00000004 has format 2, this llmbook reads 1: use the version"):
        Checkpoints(folder).newest()
    monkeypatch.undo()

    def closed(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(module, "checksum_of", closed)
    with pytest.raises(PermissionError):
        Checkpoints(folder).newest()
    assert steps_kept(folder) == [2, 4]


def test_an_end_that_is_interrupted_gives_back_the_folder_and_the_signals(folder, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def interrupted(keeper):
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "_finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(gpt(), loader(), next_token_loss, quick(1), checkpoints=Checkpoints(folder, every_steps=2))
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) is before
    train(gpt(), loader(), next_token_loss, quick(2), checkpoints=Checkpoints(folder, every_steps=2))
    assert steps_kept(folder) == [2]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows threads apart")
def test_the_writing_thread_steps_back_and_the_training_does_not(folder, monkeypatch):
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def watched(*given):
        writing.append(priority())
        return whole(*given)

    writing, whole, before = [], module.save_file, priority()
    monkeypatch.setattr(module, "save_file", watched)
    train(gpt(), loader(), next_token_loss, quick(4), checkpoints=Checkpoints(folder, every_steps=2))
    assert writing == [19, 19] and priority() == before
