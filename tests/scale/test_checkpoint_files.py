"""Checkpoints as files: those of other versions, disks that fail for a moment, loaders that keep tensors."""

import errno
import json
import os
import shutil
import warnings
from dataclasses import dataclass, make_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from llmbook.book.corpora import data_folder
from llmbook.gpt import GPT, GPTConfig
from llmbook.scale import checkpoint_folder as module
from llmbook.scale.checkpoint_folder import CheckpointFolder
from llmbook.scale.checkpoints import Checkpoints
from llmbook.scale.packing import pack, unpack
from llmbook.scale.random_states import random_states, set_random_states
from llmbook.scale.run_state import RunState
from llmbook.text import load_tokenizer, make_dataloader, read_text
from llmbook.training import History, OneProcess, TrainingConfig, next_token_loss, train
from tests.support.checkpoint_checks import Stop, contents, damage, is_whole, same, steps_kept, stop_at
from tests.support.repository import ROOT
from tests.support.training_script import gpt, loader, quick, records

OLD = ROOT / "tests" / "fixtures" / "v0_1_0"


# --- files of older versions -------------------------------------------------------------------------------------

def old_run(folder: Path) -> list[float]:
    """What `expected.json` says of the run that 0.1.0 did, from its checkpoint of step 3 on."""
    shutil.copytree(OLD / "checkpoints" / "step-00000003", folder / "step-00000003")
    tokenizer = load_tokenizer(OLD / "tokenizer.json")
    ids = tokenizer.encode(read_text(data_folder() / "twenty_in_hand.txt"))[:1980]
    config = TrainingConfig(max_steps=6, learning_rate=1e-2, precision="float32", device="cpu", progress=False)
    model = GPT(GPTConfig(300, 8, 16, 2, 1, 0.1))
    history = train(model, make_dataloader(ids, 8, 4, seed=0), next_token_loss, config, None, Checkpoints(folder, 1))
    return [step["loss"] for step in history.steps]


def test_a_run_of_0_1_0_goes_on_to_the_last_bit(folder):
    expected = json.loads((OLD / "expected.json").read_text())["losses"]
    assert old_run(folder) == expected
    assert steps_kept(folder) == [5, 6] and all(is_whole(path) for path in folder.glob("step-*"))
    assert json.loads((folder / "step-00000006" / "checkpoint.json").read_text())["format"] == 2


def test_weights_of_a_run_of_0_1_0(folder):
    shutil.copytree(OLD / "run" / "checkpoints", folder)
    loaded = GPT(GPTConfig(300, 8, 16, 2, 1, 0.0))
    assert Checkpoints(folder).load(loaded) == 4


def state_with(config, about) -> RunState:
    model = nn.Linear(2, 2)
    model.config = about
    return RunState(model, torch.optim.AdamW(model.parameters()), [], History(), config, OneProcess("cpu"))


def test_a_setting_that_the_file_lacks_was_its_default():
    old = make_dataclass("Config", [("rate", float)])
    new = make_dataclass("Config", [("rate", float), ("extra", int, 3), ("many", tuple, (1, 2))])
    model_old, model_new = make_dataclass("Sizes", [("d", int)]), make_dataclass("Sizes", [("d", int), ("w", int, 7)])
    before = state_with(old(0.1), model_old(4)).settings
    assert "extra" not in before and "model.w" not in before
    assert state_with(new(0.1), model_new(4)).changed(before) == []
    assert state_with(new(0.1, extra=4), model_new(4)).changed(before) == ["extra was 3, is 4"]
    assert state_with(new(0.1, many=(1, 3)), model_new(4)).changed(before) == ["many was [1, 2], is [1, 3]"]
    assert state_with(new(0.1), model_new(4, 8)).changed(before) == ["model.w was 7, is 8"]
    assert state_with(new(0.1, extra=4), model_new(4)).changed(before, allow=["extra"]) == []
    # The other way round: a setting that this version lacks cannot be the same.
    after = state_with(new(0.1), model_new(4)).settings
    assert state_with(old(0.1), model_new(4)).changed(after) == ["extra was 3, is None", "many was [1, 2], is None"]


def test_ddp_and_fsdp_device_and_progress_are_no_settings():
    @dataclass
    class Config:
        device: str
        parallel: str
        progress: bool
        rate: float

    settings = state_with(Config("cpu", "ddp", True, 0.1), None).settings
    assert "rate" in settings and not {"device", "parallel", "progress"} & settings.keys()


# --- a disk that fails for a moment ------------------------------------------------------------------------------

def run_to(folder, steps=4, **changes):
    return train(gpt(), loader(), next_token_loss, quick(steps, **changes), None, Checkpoints(folder, every_steps=2))


class Failing:
    """Stands in for a function; raises an error at the first `times` calls."""

    def __init__(self, function, times, error=None):
        self.function, self.left, self.calls = function, times, 0
        self.error = error or OSError(errno.EIO, "Input/output error")

    def __call__(self, *given, **options):
        self.calls += 1
        if self.left > 0:
            self.left -= 1
            raise self.error
        return self.function(*given, **options)


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr(module, "WAITS", (0, 0, 0))


@pytest.mark.parametrize("name", ["checksum_of", "listdir", "safe_open"])
def test_an_error_that_passes_is_no_damage(folder, monkeypatch, no_waiting, name):
    run_to(folder)
    owner = module.os if name == "listdir" else module
    failing = Failing(getattr(owner, name), 2)
    monkeypatch.setattr(owner, name, failing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = run_to(folder)
    assert len(again.steps) == 4 and failing.left == 0 and steps_kept(folder) == [2, 4]


@pytest.mark.parametrize("name", ["checksum_of", "listdir"])
def test_an_error_that_stays_ends_the_run_and_costs_no_checkpoint(folder, monkeypatch, no_waiting, name):  # A5
    run_to(folder)
    before = contents(folder)
    owner = module if name == "checksum_of" else module.os
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, Failing(getattr(owner, name), 1000))
        with pytest.raises(OSError, match="Input/output error"):
            train(gpt(), loader(), next_token_loss, quick(8), None, Checkpoints(folder, 1, allow=["max_steps"]))
    assert contents(folder) == before
    history = train(gpt(1), loader(), next_token_loss, quick(5), None, Checkpoints(folder, 1, allow=["max_steps"]))
    assert len(history.steps) == 5  # and not begun anew; the folder is free again


def test_damage_is_what_two_readings_say(folder, monkeypatch, no_waiting):
    run_to(folder)
    once, original = [True], module.checksum_of

    def wrong_once(path):
        return 0 if once and once.pop() else original(path)

    monkeypatch.setattr(module, "checksum_of", wrong_once)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Checkpoints(folder).newest().name == "step-00000004" and not once


def test_only_what_was_found_damaged_makes_room(folder):
    """A checkpoint of a later step than the one just written is not removed, unless it is known to be damaged."""
    run_to(folder, 6)
    files = CheckpointFolder(folder, keep=2)
    os.rename(folder / "step-00000004", folder / "step-00000009")
    about = {"step": 5, "settings": {}, "history": [], "place": {}, "random": []}
    files.unfinished(5).mkdir()
    part = module.write_part({"model.x": torch.zeros(2)}, files.unfinished(5) / "part-0-of-1.safetensors")
    files.publish(5, [part], about)
    assert steps_kept(folder) == [6, 9]
    damage(folder / "step-00000009" / "part-0-of-1.safetensors")
    with pytest.warns(UserWarning, match="step-00000009 is damaged"):
        assert files.newest().step == 6
    files.unfinished(7).mkdir()
    part = module.write_part({"model.x": torch.zeros(2)}, files.unfinished(7) / "part-0-of-1.safetensors")
    files.publish(7, [part], about)
    assert steps_kept(folder) == [6, 7]


def test_a_checkpoint_that_is_removed_while_it_is_read(folder, monkeypatch):
    """By the run that writes them, while another program loads the weights."""
    run_to(folder, 4)
    original = module.RunCheckpoint.tensor_names

    def removed(checkpoint):
        if checkpoint.step == 4:
            shutil.rmtree(checkpoint.path)
        return original(checkpoint)

    monkeypatch.setattr(module.RunCheckpoint, "tensor_names", removed)
    assert Checkpoints(folder).load(gpt(1)) == 2


# --- loaders that keep tensors -----------------------------------------------------------------------------------

class StatefulLike:
    """Keeps what torchdata's StatefulDataLoader keeps: nested dictionaries, with tensors, tuples and None; and, like
    it, draws when an iterator is made."""

    def __init__(self, extra=None):
        self.generator, self.at, self.order, self.extra = torch.Generator().manual_seed(4), 0, None, extra
        self.batches = [*loader(shuffle=False)]

    def state_dict(self):
        return {"_snapshot": {"_sampler": {"generator": self.generator.get_state(), "order": self.order}, 3: (1, None)},
                "at": np.int64(self.at), "steps": np.arange(self.at, dtype=np.float32), "name": b"\x00a",
                **({"extra": self.extra} if self.extra is not None else {})}

    def load_state_dict(self, state):
        assert state["_snapshot"][3] == (1, None) and state["name"] == b"\x00a" and len(state["steps"]) == state["at"]
        self.generator.set_state(state["_snapshot"]["_sampler"]["generator"])
        self.at, self.order = int(state["at"]), state["_snapshot"]["_sampler"]["order"]

    def __iter__(self):
        torch.rand(())  # the seed of the workers
        return self._rest()

    def _rest(self):
        if self.order is None:
            self.order = torch.randperm(5, generator=self.generator)
        while self.at < 5:
            self.at += 1
            yield self.batches[self.order[self.at - 1]]
        self.at, self.order = 0, None


@pytest.mark.parametrize("stop", [2, 4, 6, 7, 13])
def test_a_loader_that_keeps_tensors_goes_on(folder, stop):
    whole = gpt()
    expected = train(whole, StatefulLike(), next_token_loss, quick())
    with pytest.raises(Stop):
        train(gpt(), StatefulLike(), next_token_loss, quick(), None, Checkpoints(folder, 1), stop_at(stop))
    model = gpt(1)
    history = train(model, StatefulLike(), next_token_loss, quick(), None, Checkpoints(folder, 1))
    assert records(history) == records(expected) and same(whole, model)
    assert {path.suffix for path in folder.glob("step-*/*")} == {".json", ".safetensors"}


def test_torchdata(folder):
    """To the end of the pass: of the next one's order torchdata promises nothing, since it draws once more when it
    goes on."""
    StatefulDataLoader = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def make():
        return StatefulDataLoader(loader().dataset, 4, shuffle=True, generator=torch.Generator().manual_seed(2))

    whole = gpt()
    expected = train(whole, make(), next_token_loss, quick(10))
    with pytest.raises(Stop):
        train(gpt(), make(), next_token_loss, quick(10), None, Checkpoints(folder, 1), stop_at(8))
    model = gpt(1)
    assert records(train(model, make(), next_token_loss, quick(10), None, Checkpoints(folder, 1))) == records(expected)
    assert same(whole, model)


@pytest.mark.parametrize("extra, name", [({1, 2}, "set"), (object(), "object"), ({"deep": [iter([])]}, "list_iterator"),
                                         (np.array([None]), "ndarray")])
def test_a_loader_state_that_cannot_be_stored_is_refused_before_the_run(folder, extra, name):
    told = []
    with pytest.raises(ValueError, match=f"state_dict.*'extra'.* is a {name}, which cannot be stored"):
        train(gpt(), StatefulLike(extra), next_token_loss, quick(), None, Checkpoints(folder), told.append)
    assert not told
    train(gpt(), loader(), next_token_loss, quick(1), None, Checkpoints(folder))  # nothing is left behind


def test_a_state_that_becomes_impossible_later_costs_checkpoints_and_not_the_run(folder):
    class Later(StatefulLike):
        def state_dict(self):
            return {**super().state_dict(), **({"extra": object()} if self.at > 2 else {})}

    with pytest.warns(UserWarning, match="could not be written.*is a object, which cannot be stored.*step-00000002"):
        history = train(gpt(), Later(), next_token_loss, quick(4), None, Checkpoints(folder, 1))
    assert len(history.steps) == 4 and steps_kept(folder) == [1, 2]


def test_packing_gives_back_what_it_was_given():
    value = {"a": [1, 2.5, None, True, "x"], "t": (1, (2, b"\xff")), 5: {"@": 1}, ("k", 1): float("inf"),
             "bf": torch.tensor([1.5], dtype=torch.bfloat16), "empty": np.zeros((0, 3)), "n": np.float32(2.5),
             "s": np.array(["a", "bc"]), "g": torch.Generator().get_state(), "whole": 10**30}
    packed, tensors = pack(value, "loader")
    found = unpack(json.loads(json.dumps(packed)), tensors)
    assert found.keys() == value.keys()
    for key in value:
        if isinstance(value[key], torch.Tensor):
            assert torch.equal(found[key], value[key]) and found[key].dtype == value[key].dtype
        elif isinstance(value[key], np.ndarray):
            assert np.array_equal(found[key], value[key]) and found[key].dtype == value[key].dtype
        else:
            assert found[key] == value[key] and type(found[key]) is type(value[key])


# --- small things ------------------------------------------------------------------------------------------------

def test_a_run_that_fails_in_its_first_step_owns_nothing(folder):
    def broken(model, *batch):
        raise RuntimeError("broken")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="^broken"):
            train(gpt(), loader(), broken, quick(2), None, Checkpoints(folder))
    assert Checkpoints(folder).newest() is None
    other = train(gpt(d_model=32), loader(), next_token_loss, quick(2, learning_rate=0.5), None, Checkpoints(folder))
    assert len(other.steps) == 2 and steps_kept(folder) == [2]


def test_saved_step_is_what_is_on_the_disk(folder, monkeypatch):
    keeper, seen = Checkpoints(folder, every_steps=2), []

    def on_step(record):
        keeper._finish()
        seen.append(keeper.saved_step)

    train(gpt(), loader(), next_token_loss, quick(5), None, keeper, on_step)
    assert seen == [0, 0, 2, 2, 4] and keeper.saved_step == 5
    again = Checkpoints(folder, every_steps=2, allow=["max_steps"])
    assert again.saved_step == 0  # nothing was begun
    train(gpt(), loader(), next_token_loss, quick(5), None, again)
    assert again.saved_step == 5

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.warns(UserWarning, match="newest on the disk: step-00000005"):
        history = train(gpt(), loader(), next_token_loss, quick(7), None, again)
    assert len(history.steps) == 7 and again.saved_step == 5


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_the_generators_of_graphics_cards(monkeypatch, kind):
    """Stand-ins for them: neither is here."""
    card = {"state": torch.arange(16, dtype=torch.uint8)}
    own = getattr(torch, kind)
    monkeypatch.setattr(own, "get_rng_state", lambda *device: card["state"].clone())
    monkeypatch.setattr(own, "set_rng_state", lambda state, *device: card.update(state=state.clone()))
    saved = json.loads(json.dumps(random_states(kind)))
    expected = card["state"].clone()
    card["state"] = torch.zeros(16, dtype=torch.uint8)
    set_random_states(saved, kind)
    assert torch.equal(card["state"], expected)
    card["state"] = torch.zeros(16, dtype=torch.uint8)
    set_random_states(saved, "cpu")  # goes on elsewhere
    assert not card["state"].any()
    old = {**{name: saved[name] for name in ("torch", "python", "numpy")}, "cuda": [saved["device"]["state"]] * 2}
    set_random_states(old, torch.device(kind, 1) if kind == "cuda" else kind)  # as 0.1.0 wrote them
    assert torch.equal(card["state"], expected) == (kind == "cuda")


def test_a_data_loader_without_generator_goes_on_with_workers_seeds(folder):
    """An iterator draws its workers' seed from the shared generator; going on must draw as often."""
    def make():
        return DataLoader(loader().dataset, 4, shuffle=True)

    whole = gpt()
    expected = train(whole, make(), next_token_loss, quick(9))
    with pytest.raises(Stop):
        train(gpt(), make(), next_token_loss, quick(9), None, Checkpoints(folder, 1), stop_at(6))
    model = gpt(1)
    assert records(train(model, make(), next_token_loss, quick(9), None, Checkpoints(folder, 1))) == records(expected)
    assert same(whole, model)
