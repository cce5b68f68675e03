"""tools/translator.py: the recipe, which rows are made, and that training goes on where it stopped."""

from __future__ import annotations

import functools

import pytest
import torch

from llmbook.book.studies import KeptRuns
from llmbook.encoder_decoder import PAD, START
from llmbook.text import train_bpe
from llmbook.training import load_model
from llmbook.translation_parts import END
from llmbook.translations import Pair, PairSplit
from tools import translator as tool

PAIRS = tuple(Pair(f"Delete the {name} page now", f"Die Seite {name} jetzt löschen", "a") for name in
              ("red", "blue", "green", "old", "new", "big", "small", "good"))
SPLIT = PairSplit(PAIRS[:6], PAIRS[6:7], PAIRS[7:])


class Clock:
    """Shows 0 so many times, then 1."""

    def __init__(self, looks: int):
        self.looks = looks

    def monotonic(self) -> float:
        self.looks -= 1
        return float(self.looks < 0)


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "TABLE", tmp_path / "translating.json")
    monkeypatch.setattr(tool, "RUN", tmp_path / "run")
    monkeypatch.setattr(tool, "HOME", tmp_path / "home")
    monkeypatch.setattr(tool, "VOCABULARY", 300)
    monkeypatch.setattr(tool, "BATCH", 2)
    monkeypatch.setattr(tool, "EVERY", 2)
    monkeypatch.setattr(tool, "LONG", {"n_layers": 1, "dropout": 0.1, "max_steps": 6})
    study = object.__new__(tool.Study)
    KeptRuns.__init__(study, tool.TABLE, ("val", "test"))
    texts = [text for pair in SPLIT.train for text in (pair.english, pair.german)]
    study.split, study.tokenizer = SPLIT, train_bpe(texts, 300, special_tokens=(PAD, START, END))
    return study


def test_the_model_is_the_same_whether_or_not_its_training_was_cut(study, tmp_path, monkeypatch):
    study.make_model()
    whole = load_model(tool.HOME, "cpu", torch.float32)
    monkeypatch.setattr(tool, "HOME", tmp_path / "pieces")
    for kept in (2, 4):
        study.end = 0.5
        monkeypatch.setattr(tool, "time", Clock(2))  # the time is over in the third step of each turn
        with pytest.raises(TimeoutError):
            study.make_model()
        assert not tool.HOME.exists() and (tool.RUN / f"step-{kept:08}").exists()
    study.end = float("inf")
    study.make_model()
    pieces = load_model(tool.HOME, "cpu", torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), pieces.parameters(), strict=True))
    assert not tool.RUN.exists()


def test_rows_are_added_once_and_say_what_was_trained(study, monkeypatch):
    made = []

    def quick(split, tokenizer, seed, n_layers, dropout, max_steps):
        made.append(seed)
        torch.manual_seed(seed)
        config = tool.TranslatorConfig(300, tokenizer.encode_single_token(PAD), 96, 16, 2, 1, 0.0)
        return tool.Translator(config).eval()

    monkeypatch.setattr(tool, "train_translator", quick)
    monkeypatch.setattr(tool, "load_translator", functools.partial(quick, SPLIT, study.tokenizer, 0, 1, 0.0, 1))
    monkeypatch.setattr(tool, "translate_all", lambda model, tokenizer, pairs, beams: [pair.german for pair in pairs])
    study.scores()
    assert made == [1, 2, 0]
    for part in ("val", "test"):
        names = [row["system"] for row in study.table[part]]
        assert set(names[:2]) == {"copying", tool.NEAREST} and len(names) == len(set(names)) == 8
    row = study.table["test"][-1]
    assert row["system"] == "longer, four beams, seed 0" and row["BLEU"] == 100 and row["blocks"] == 1
    before = len(made)
    study.scores()
    assert made[before:] == [0] and len(study.table["test"]) == 8  # only the shipped one is loaded again
