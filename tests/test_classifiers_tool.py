"""tools/classifiers.py: which settings it takes, what it writes, and that it goes on where it stopped."""

import json
import math

import pandas as pd
import pytest
import torch

from llmbook.book.spam_study import FEW
from llmbook.book.studies import KeptRuns
from tools import classifiers as tool


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "TABLE", tmp_path / "classifiers.json")
    study = object.__new__(tool.Study)  # without the model
    KeptRuns.__init__(study, tool.TABLE, ("choice", "few", "all"))
    frame = pd.DataFrame({"label": ["ham", "spam"] * 600, "text": "x", "place": range(1200)})
    study.parts = [{"training": frame, "validation": frame[:20], "test": frame[:30]}] * 3
    return study


def test_the_settings_with_the_lowest_validation_loss_are_taken(study):
    study.table["choice"] = [{"kind": "few", "method": "last block", "learning_rate": rate, "epochs": epochs,
                              "val_loss": loss}
                             for rate, epochs, loss in ((1e-3, 3, 0.4), (3e-3, 6, 0.2), (1e-2, 3, 0.3))]
    study.table["choice"].append({"kind": "all", "method": "last block", "learning_rate": 1.0, "epochs": 1,
                                  "val_loss": 0.0})
    assert study.settings("few", "last block") == {"learning_rate": 3e-3, "epochs": 6}


def test_both_classes_count_alike_in_the_loss_that_settings_are_chosen_by():
    spam = torch.tensor([0.5, 0.5, 0.5, 0.9])
    wanted = (math.log(2) - math.log(0.9)) / 2  # three ham, one spam
    assert tool.balanced_loss(spam, [0, 0, 0, 1]) == pytest.approx(wanted, abs=1e-6)
    assert tool.balanced_loss(torch.tensor([1.0, 0.0]), [0, 1]) < 20  # sure and wrong is not infinite


def test_it_writes_each_run_and_goes_on(study, monkeypatch):
    tried = sum(len(tool.TRIED[method]) for methods in tool.METHODS.values() for method in methods)
    runs, most = [], [tried + 5]

    def spam(method, training, held_out, settings, seed):
        if len(runs) == most[0]:
            raise TimeoutError
        assert settings in tool.TRIED[method]
        runs.append((method, len(training), len(held_out), seed))
        return torch.full((len(held_out),), 0.75), 10, 1.0

    monkeypatch.setattr(study, "spam", spam)
    with pytest.raises(TimeoutError):
        study.go()
    stored = json.loads(tool.TABLE.read_text())
    assert len(stored["choice"]) == tried == 34 and len(stored["few"]) + len(stored["all"]) == 5
    assert {held_out for _, _, held_out, _ in runs[:tried]} == {20}  # validation messages
    assert {held_out for _, _, held_out, _ in runs[tried:]} == {30}  # test messages
    study.table, before = stored, list(runs)
    runs[:], most[0] = [], 1000
    study.go()
    assert len(runs) + len(before) == tried + 15 + 3 * 4 * len(FEW)
    row = study.table["few"][0]
    assert (row["caught"], row["spam"], row["passed"], row["ham"]) == (15, 15, 0, 15) and row["first"] == [7500] * 12
    assert study.table["all"][0]["spam"] == [7500] * 30
    assert json.loads(tool.TABLE.read_text()) == study.table


def test_rivals_need_no_language_model(study, monkeypatch):
    monkeypatch.setattr(tool, "load_pretrained", None)
    frame = study.parts[0]["training"][:8].assign(text=["see you at six", "win £900 now"] * 4)
    for method in tool.RIVALS:
        spam, trained, _ = study.spam(method, frame, frame[:2], {"C": 10}, 0)
        assert spam.shape == (2,) and spam[0] < 0.5 < spam[1] and trained > 6
        assert set(tool.TRIED[method][0]) == {"C"} and all(method in methods for methods in tool.METHODS.values())


def test_it_begins_nothing_after_its_time(study):
    study.end = 0.0
    with pytest.raises(TimeoutError):
        study.choose("few", "last block")
