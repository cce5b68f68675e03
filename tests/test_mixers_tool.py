"""tools/mixers.py: which runs it makes, which learning rate it takes, and that it goes on where it stopped."""

import json

import pytest
import torch

from llmbook.book.mixers import KINDS, STORY_SIZES, mixer_model
from llmbook.experts import ExpertsConfig, ExpertsLlama
from llmbook.gpt import count_parameters
from tools import mixers as tool


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "TABLE", tmp_path / "mixers.json")
    monkeypatch.setattr(tool, "fit", lambda *arguments: 0.1)
    for name, value in (("validation_bits", 1.0), ("held_out_bits", 2.0), ("expert_shares", [torch.ones(8) / 8])):
        monkeypatch.setattr(tool, name, lambda *arguments, value=value: value)
    return tool.Study(float("inf"))


def test_each_kind_is_trained_with_each_seed_once(study):
    for _ in range(2):  # the second time nothing is left
        for seed in tool.SEEDS:
            for part in tool.PARTS:
                getattr(study, part)(seed)
    stored = json.loads(tool.TABLE.read_text())
    assert [len(stored[part]) for part in tool.PARTS] == [4, 18, 18, 12]
    assert {(row["kind"], row["seed"]) for row in stored["stories"]} == {(k, s) for k in KINDS for s in range(3)}
    assert all(row["right"]["24"][1] == 1000 for row in stored["recall"])


def test_nothing_begins_after_the_time(study):
    study.end = 0.0
    with pytest.raises(TimeoutError):
        study.recall(0)


def test_the_rate_with_the_lower_sum_is_taken(study):
    study.table["choice"] = [{"kind": kind, "rate": rate, "bits": bits} for kind, rate, bits in (
        ("attention", 4e-3, 1.0), ("attention", 1e-2, 1.1), ("gated delta", 4e-3, 2.0), ("gated delta", 1e-2, 1.8))]
    assert study.rate() == 1e-2
    study.table["choice"].pop()
    with pytest.raises(SystemExit, match="no learning rate is chosen yet: run --part choice first"):
        study.rate()


def test_mixtures_have_the_active_parameters_of_the_dense_model():
    dense = count_parameters(mixer_model("attention", 0, **STORY_SIZES))
    routers = STORY_SIZES["n_layers"] * STORY_SIZES["d_model"] * 8
    for sizes, _ in filter(None, tool.MIXTURES.values()):
        model = ExpertsLlama(ExpertsConfig(**{**STORY_SIZES, "n_kv_heads": 2, **sizes}))
        assert tool.active_parameters(model) == dense + routers
    width = tool.EXPERTS["n_experts"] * tool.EXPERTS["d_expert"]
    whole = count_parameters(mixer_model("attention", 0, **{**STORY_SIZES, "d_hidden": width}))
    model = ExpertsLlama(ExpertsConfig(**{**STORY_SIZES, "n_kv_heads": 2, **tool.EXPERTS}))
    assert count_parameters(model) == whole + routers


@pytest.mark.slow
def test_a_cell_of_the_stored_study_comes_out_again(tmp_path, monkeypatch):
    stored = next(row for row in json.loads(tool.TABLE.read_text())["recall"] if row["kind"] == "attention")
    monkeypatch.setattr(tool, "TABLE", tmp_path / "mixers.json")
    monkeypatch.setattr(tool, "KINDS", ("attention",))
    study = tool.Study(float("inf"))
    study.recall(0)
    again = study.table["recall"][0]
    assert again["parameters"] == stored["parameters"]
    assert abs(again["right"]["24"][0] - stored["right"]["24"][0]) <= 50
