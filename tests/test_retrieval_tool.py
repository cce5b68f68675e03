"""tools/retrieval.py: which passage each way gives, what is judged, and that it goes on where it stopped."""

from __future__ import annotations

import pytest
import torch

from llmbook.book.searching import Passage, Question
from llmbook.book.studies import KeptRuns
from tools import retrieval as tool

PASSAGES = [Passage("a", "A", "text of a"), Passage("b", "B", "text of b")]
ASKED = (Question("one?", ("a",), ("yes",)), Question("two?", ("b",), ("yes",)))


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "TABLE", tmp_path / "retrieval.json")
    monkeypatch.setattr(tool, "QUESTIONS", ASKED)
    study = object.__new__(tool.Study)
    KeptRuns.__init__(study, tool.TABLE, ("search", "answers"))
    study.passages = PASSAGES
    study.scores = {"BM25": torch.tensor([[2.0, 1.0], [2.0, 1.0]]), "MiniLM": torch.tensor([[2.0, 1.0], [3.0, 1.0]])}
    return study


def test_ranks_and_their_differences_are_kept_once(study):
    study.search()
    study.search()
    rows = {row["search"]: row["mrr"] for row in study.table["search"]}
    assert rows == {"BM25": 0.75, "MiniLM": 0.75, "MiniLM - BM25": 0.0} and len(study.table["search"]) == 3


def test_each_way_gets_its_passage_and_the_same_prompt_is_asked_once(study):
    asked = []

    def say(prompt: str) -> str:
        asked.append(prompt)
        return "yes" if "text of" in prompt else "no"

    study.answers(say)
    first, second = study.table["answers"]
    assert first["found_right"] and first["is_right"] == {"alone": False, "found": True, "right": True}
    assert not second["found_right"] and second["passage"] == "a"
    assert [("text of a" in prompt, "text of b" in prompt) for prompt in asked] == [
        (False, False), (True, False), (False, False), (True, False), (False, True)]
    study.answers(say)
    assert len(asked) == 5  # nothing is asked again


def test_a_study_that_was_cut_goes_on(study):
    asked = []

    def say(prompt: str) -> str:
        asked.append(prompt)
        if len(asked) == 3:  # the first of the second question's
            raise TimeoutError
        return "yes"

    with pytest.raises(TimeoutError):
        study.answers(say)
    (first,) = study.table["answers"]
    study.answers(lambda prompt: "no")
    assert len(study.table["answers"]) == 2 and study.table["answers"][0] == first
    assert KeptRuns(tool.TABLE, ("search", "answers")).table == study.table
