"""A run's folder: what it remembers, what it refuses, and what it mends."""

import json
import os
import shutil

import pytest
from filelock import FileLock

from llmbook import training_run
from llmbook.book.corpora import data_folder
from llmbook.training import load_model
from tests.cli.helpers import STORY, pretrain, rows, tree, weights
from tests.support.repository import ROOT

OLD = ROOT / "tests" / "fixtures" / "v0_1_0"


def test_a_finished_run_is_left_alone(place, call):
    code, out, err = pretrain(call)
    assert code == 0, err
    losses = [float(row["val_loss"]) for row in rows("out/log.csv") if row["val_loss"]]
    assert len(losses) == 2 and losses[1] < losses[0]
    before = tree(place)
    code, out, _ = pretrain(call)
    assert (code, out) == (0, "out is complete: 4 steps; the model is in out/model\n")
    assert tree(place) == before
    code, out, err = pretrain(call, "--learning-rate", 1e-3)
    assert (code, out) == (1, "")
    assert "out holds a run whose training.learning_rate is 0.005, not 0.001: choose another --out" in err
    assert tree(place) == before
    assert pretrain(call, "--device", "cuda", "--set", "training.progress=false")[1].startswith("out is complete")


def test_what_may_change_lets_a_run_go_on(place, call):
    assert pretrain(call, "--set", 'checkpoints.allow=["max_steps"]')[0] == 0
    code, out, err = pretrain(call, "--set", 'checkpoints.allow=["max_steps"]', "--max-steps", 6)
    assert code == 0, err
    assert "going on after step 4, from a checkpoint" in out
    assert [row["step"] for row in rows("out/log.csv")] == list("123456")
    assert pretrain(call, "--max-steps", 6)[1].startswith("out is complete: 6 steps")


def test_a_folder_with_other_files_is_refused(place, call):
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("years of work")
    before = tree(place)
    for arguments in (["pretrain", "run.toml"], ["finetune", "--data", data_folder() / "instructions.json"]):
        code, _, err = call(*arguments, "--out", "mine")
        assert (code, err) == (1, "llmbook: mine exists and is no run of llmbook: choose another --out\n")
    assert tree(place) == before


def test_a_damaged_note_is_named(place, call):
    (place / "out").mkdir()
    (place / "out" / "run.json").write_text('{"settings": ')
    assert "llmbook: out/run.json is damaged (" in pretrain(call)[2]


def test_a_changed_text_is_noticed(place, call):
    assert pretrain(call, "--set", 'checkpoints.allow=["max_steps"]')[0] == 0
    (place / "story.txt").write_text(STORY + "The end.")
    code, _, err = pretrain(call, "--set", 'checkpoints.allow=["max_steps"]', "--max-steps", 5)
    assert code == 1 and "out holds a run on other content of data.train, text 1" in err and "another --out" in err


def test_a_run_of_an_older_version_is_complete_as_it_is(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLD / "run", "run")
    shutil.copy(OLD / "run.toml", "run.toml")
    code, out, err = call("pretrain", "run.toml", "--out", "run")
    assert (code, out) == (0, "run is complete: 4 steps; the model is in run/model\n"), err


@pytest.mark.parametrize("setting", ["training.seed=0", "training.weight_decay=0.1", "model.dropout=0.1",
                                     'model.kind="gpt"', 'data.text_column="text"', "training.parallel=ddp",
                                     "training.compile=false"])
def test_a_setting_that_is_not_given_is_its_default(place, call, setting):
    assert pretrain(call)[0] == 0
    assert pretrain(call, "--set", setting)[1].startswith("out is complete")


def test_a_run_may_be_compiled_from_some_step_on(place, call, monkeypatch):
    """It computes the same. A run that an older version began knows nothing of it."""
    seen = []
    monkeypatch.setattr(training_run, "compiled_loss", lambda loss_fn, device: seen.append(str(device)) or loss_fn)
    assert pretrain(call, "--set", 'checkpoints.allow=["max_steps"]')[0] == 0 and not seen
    note = json.loads((place / "out" / "run.json").read_text())
    assert "training.compile" not in note["settings"]
    changes = ["--set", 'checkpoints.allow=["max_steps"]', "--set", "training.compile=true"]
    assert pretrain(call, *changes)[1].startswith("out is complete")
    code, _, err = pretrain(call, *changes, "--max-steps", 6)
    assert code == 0 and len(seen) == 1, err


def test_the_sizes_of_a_preset_are_the_same_by_name_or_by_number(place, call):
    from llmbook.cli.settings import Settings

    settings = Settings(None)
    named, written = ({"model.preset": "gpt2"}, {"model.d_model": 768, "model.n_heads": 12, "model.n_layers": 12,
                                                 "model.qkv_bias": True})
    assert settings.complete(named) == settings.complete(written)
    assert settings.complete({"model.preset": "gpt2-xl"}) != settings.complete(written)


@pytest.mark.parametrize("name, setting", [("story.txt", "data.train, text 1"), ("held.txt", "data.validation"),
                                           ("tokenizer.json", "data.tokenizer")])
def test_a_finished_run_notices_that_a_text_has_changed(place, call, name, setting):
    (place / "held.txt").write_text(STORY[:4000], encoding="utf-8")
    given = ("--set", "data.validation=held.txt")
    assert pretrain(call, *given)[0] == 0
    os.utime(place / name)  # only touched: the same
    assert pretrain(call, *given)[1].startswith("out is complete")
    content = (place / name).read_bytes()
    (place / name).write_bytes(content.replace(b"name", b"eman", 1) if name == "tokenizer.json" else content[:-9])
    before = tree(place)
    code, out, err = pretrain(call, *given)
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert f"other content of {setting}" in err and "another --out" in err
    assert tree(place) == before
    (place / name).write_bytes(content)
    assert pretrain(call, *given)[1].startswith("out is complete")


@pytest.mark.parametrize("damage", ["folder", "weights", "config", "a byte"])
def test_a_model_that_is_gone_is_written_again(place, call, damage):
    assert pretrain(call)[0] == 0
    whole, model = weights(place / "out"), place / "out" / "model"
    if damage == "folder":
        shutil.rmtree(model)
    elif damage == "config":
        (model / "config.json").write_text("{}")
    elif damage == "weights":
        (model / whole).unlink()
    else:
        content = bytearray((model / whole).read_bytes())
        content[-1] ^= 1
        (model / whole).write_bytes(content)
    code, out, err = pretrain(call)
    assert code == 0, err
    assert "out was complete, but of its model" in out and "from the last checkpoint" in out
    assert out.endswith("the model is in out/model\n") and weights(place / "out") == whole
    load_model(model)
    assert pretrain(call)[1] == "out is complete: 4 steps; the model is in out/model\n"


def test_a_model_that_is_gone_with_its_checkpoints_is_no_success(place, call):
    assert pretrain(call)[0] == 0
    shutil.rmtree(place / "out" / "model")
    shutil.rmtree(place / "out" / "checkpoints")
    code, out, err = pretrain(call)
    assert (code, out) == (1, "")
    assert "config.json is missing" in err and "no checkpoint is left" in err and "another --out" in err


def test_a_run_that_failed_before_its_first_step_owns_nothing(place, call):
    code, _, err = pretrain(call, "--set", "model.context_length=100000", "--set", "model.n_layers=2")
    assert code == 1 and "context_length" in err
    code, out, err = pretrain(call, "--set", "data.tokenizer=300")
    assert code == 0, err
    assert json.loads((place / "out" / "run.json").read_text())["finished"] == {"steps": 4}


def test_two_processes_do_not_share_a_run(place, call):
    assert pretrain(call, "--set", 'checkpoints.allow=["max_steps"]')[0] == 0
    with FileLock(place / "out" / ".lock"):
        code, out, err = pretrain(call, "--set", 'checkpoints.allow=["max_steps"]', "--max-steps", 6)
        assert (code, out) == (1, "") and "another process works on out" in err and "another --out" in err
    assert pretrain(call, "--set", 'checkpoints.allow=["max_steps"]', "--max-steps", 6)[0] == 0


def test_an_interruption_names_the_step_that_is_saved(place, call, monkeypatch):
    from llmbook.cli.logs import CsvLog

    write = CsvLog.__call__

    def interrupt_at_3(log, record):
        write(log, record)
        if record["step"] == 3:  # as a second Ctrl-C does: nothing more is saved
            raise KeyboardInterrupt

    monkeypatch.setattr(CsvLog, "__call__", interrupt_at_3)
    code, out, _ = pretrain(call, "--set", "checkpoints.every_steps=2")
    assert code == 130
    assert out.endswith("interrupted after step 3; step 2 is saved: the same command goes on from that one\n")
    code, out, _ = pretrain(call, out="other")
    assert out.endswith("interrupted after step 3; no step is saved: the same command begins again\n")
