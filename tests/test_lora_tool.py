"""tools/lora.py: which learning rate it takes, what it writes, and that it goes on where it stopped."""

import json
import math

import pytest

from llmbook.book.studies import KeptRuns
from tools import lora as tool


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "TABLE", tmp_path / "lora.json")
    study = object.__new__(tool.Study)  # without the model
    KeptRuns.__init__(study, tool.TABLE, ("choice", "runs"))
    return study


def test_the_rate_with_the_lowest_validation_loss_is_taken_for_all_ranks(study):
    study.table["choice"] = [{"method": "rank 8", "learning_rate": rate, "val_loss": loss}
                             for rate, loss in ((1e-3, 0.4), (3e-3, 0.2), (1e-2, 0.3))]
    assert study.rate("rank 8") == study.rate("rank 64") == 3e-3
    assert study.rate("head") == 1e-2


def test_it_writes_each_run_and_goes_on(study, monkeypatch):
    runs = []

    def run(method, seed, rate, judged):
        if len(runs) == 10:
            raise TimeoutError
        runs.append((method, seed, judged))
        return {"method": method, "seed": seed, "learning_rate": rate, "loss": rate, "n": 40}

    monkeypatch.setattr(study, "run", run)
    with pytest.raises(TimeoutError):
        study.go()
    stored = json.loads(tool.TABLE.read_text())
    assert len(stored["choice"]) == 8 and len(stored["runs"]) == 2
    assert [judged for *_, judged in runs] == ["validation"] * 8 + ["test"] * 2
    study.table, done = stored, len(runs)
    monkeypatch.setattr(study, "run", lambda method, seed, rate, judged: runs.append((method, seed, judged)) or {
        "method": method, "seed": seed})
    study.go()
    after = runs[done:]
    assert len(after) == len({*after}) == 28 and ("rank 8", 0, "test") not in after


def test_it_begins_nothing_after_its_time(study):
    study.end = 0.0
    with pytest.raises(TimeoutError):
        study.run("rank 8", 0, 1e-3, "test")


@pytest.mark.slow
def test_a_cell_of_the_stored_study_comes_out_again(tmp_path, monkeypatch):
    stored = json.loads(tool.TABLE.read_text())["runs"]
    monkeypatch.setattr(tool, "TABLE", tmp_path / "lora.json")
    monkeypatch.setattr(tool, "FEATURES", tmp_path / "features")
    study = tool.Study(math.inf)
    [row] = [row for row in stored if (row["method"], row["seed"]) == ("rank 8", 0)]
    again = study.run("rank 8", 0, row["learning_rate"], "test")
    assert (again["trained"], again["n"]) == (row["trained"], row["n"])
    assert abs(again["right"] - row["right"]) <= 2 and abs(again["loss"] - row["loss"]) < 0.03
