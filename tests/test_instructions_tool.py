"""tools/instructions.py: what each recipe learns from, which rate is taken, and that it goes on where it stopped."""

import json
import math

import pytest

from llmbook.book.story_tasks import STUDY_NAME, rule_answer
from llmbook.book.storytelling import story_loss
from llmbook.open_weights import load_pretrained
from llmbook.storyworld import check_task, tasks
from llmbook.storyworld.tasks import KEPT_OUT, KINDS
from tests.support.repository import ROOT
from tools import instructions as tool


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "TABLE", tmp_path / "instructions.json")
    monkeypatch.setattr(tool, "asked_tasks", lambda seen: {"right": [], "kept_out": []})
    return tool.Study(math.inf)


def test_the_rules_are_asked_once_what_the_model_is_asked(study, monkeypatch):
    some = list(tasks(4, 6, kinds=("where", "who_has")))
    calls = []
    monkeypatch.setattr(tool, "asked_tasks", lambda seen: calls.append(seen) or {"right": some, "kept_out": some[:2]})
    monkeypatch.setattr(tool.Study, "run", lambda *run: None)
    for _ in range(2):
        study.go(("stories",))
    assert calls == [tuple(KINDS)]
    row = json.loads(tool.TABLE.read_text())["rules"][0]
    right = sum(check_task(task, rule_answer(task)) for task in some)
    assert sum(count for count, _ in row["right"].values()) == right > 0
    assert {kind: of for kind, (_, of) in row["kept_out"].items()} == {"where": 1, "who_has": 1}


def test_the_recipes_differ_in_the_stories_that_are_learned():
    _, tokenizer = load_pretrained("storyteller", device="cpu")
    rows = {recipe: tool.story_rows(recipe, 0, tokenizer, 512, talks=24).rows for recipe in tool.RECIPES}
    assert [len(rows[recipe]) for recipe in ("mixed", "longer", "questions only", "replay")] == [24, 240, 24, 30]
    learned = {recipe: sum(int(own.sum()) for _, own in these) for recipe, these in rows.items()}
    assert learned["questions only"] < learned["mixed"] < learned["replay"]
    assert all(own.all() for _, own in rows["replay"][24:]) and not any(own.all() for _, own in rows["mixed"])
    assert not set(tool.ASKED) & {"tell", "continue"} and not set(KINDS) & set(KEPT_OUT)


def test_the_rate_with_the_lowest_validation_loss_is_measured_once_and_kept(study, monkeypatch):
    tried = []
    monkeypatch.setattr(tool, "story_validation", lambda rate: tried.append(rate) or abs(rate - 2e-3))
    assert study.rate("stories") == study.rate("stories") == 2e-3
    assert tried == list(tool.RATES["stories"])
    assert len(json.loads(tool.TABLE.read_text())["choice"]) == 3


def test_it_writes_each_run_and_goes_on(study, monkeypatch):
    runs = []

    def run(value, seed, rate):
        if len(runs) == 4:
            raise TimeoutError
        runs.append((value, seed))
        return {"right": {}}

    monkeypatch.setattr(tool.Study, "rate", lambda self, part: 1e-3)
    monkeypatch.setattr(tool, "story_run", run)
    monkeypatch.setattr(tool, "entry_run", run)
    with pytest.raises(TimeoutError):
        study.go(("stories", "entries"))
    again = tool.Study(math.inf)
    assert len(again.table["stories"]) == 4
    monkeypatch.setattr(tool, "story_run", lambda *run: runs.append(run[:2]) or {})
    monkeypatch.setattr(tool, "entry_run", lambda *run: runs.append(run[:2]) or {})
    again.go(("stories", "entries"))
    assert len(runs) == len(set(runs)) == 3 * len(tool.RECIPES) + 3


def test_it_begins_nothing_after_its_time(study):
    study.end = 0.0
    with pytest.raises(TimeoutError):
        study.go(("stories",))


@pytest.mark.slow
def test_the_stored_study_is_of_the_storyteller_that_is_shipped():
    path = ROOT / "llmbook" / "book" / STUDY_NAME
    rows = json.loads(path.read_text(encoding="utf-8"))["stories"] if path.is_file() else []
    if not rows:
        pytest.skip("not run yet: python tools/instructions.py")
    model, tokenizer = load_pretrained("storyteller", device="cpu")
    measured = story_loss(model, tokenizer, tool.STORIES)[0]
    for row in rows:
        assert row["story_loss_before"] == pytest.approx(measured, abs=2e-3), "the storyteller is another: run it again"
        assert sum(of for _, of in row["right"].values()) == tool.HELD_OUT_TASKS
        assert sum(of for _, of in row["kept_out"].values()) == tool.KEPT_OUT_TASKS
    assert len(json.loads(path.read_text(encoding="utf-8"))["rules"]) == 1
