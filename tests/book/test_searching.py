"""llmbook.book.searching and llmbook.book.questions: passages, BM25, ranks, intervals, checkable answers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from llmbook.book import searching
from llmbook.book.few_shot import share_interval
from llmbook.book.searching import (
    BM25,
    MOST_WORDS,
    QUESTIONS,
    STUDY_FILE,
    Passage,
    Question,
    answer_prompt,
    answer_table,
    collect_passages,
    mean_interval,
    reciprocal_ranks,
    score_passages,
)

TEXTS = ["the cat sat", "the dog sat and sat", "the bird sang a long long song to the cat"]
PASSAGES = [Passage(name, name, name) for name in "abc"]


def question(*places: str, answers: tuple[str, ...] = ("x",)) -> Question:
    return Question("which?", places, answers)


def test_bm25_is_its_formula():
    found = BM25(TEXTS, k1=1.5, b=0.6).scores("Sat?")
    weight = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))  # in two of three texts
    for score, often, words in zip(found.tolist(), (1, 2, 0), (3, 5, 10), strict=True):
        assert score == pytest.approx(weight * often * 2.5 / (often + 1.5 * (0.4 + 0.6 * words / 6)), abs=1e-6)


def test_rare_words_count_more_and_unknown_ones_nothing():
    search = BM25(TEXTS)
    rows = search.all_scores(["the dog", "zebra"])
    assert rows.shape == (2, 3) and rows[0].argmax() == 1 and rows[1].abs().max() == 0
    assert torch.equal(rows[0], search.scores("the dog"))


def test_the_rank_is_that_of_the_best_right_passage_and_ties_count_against_it():
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [2.0, 2.0, 1.0]])
    found = reciprocal_ranks(scores, PASSAGES, [question("b", "c"), question("c"), question("a")])
    assert torch.allclose(found, torch.tensor([1 / 2, 1 / 3, 1 / 2]))


def test_a_question_without_a_right_passage_is_named():
    with pytest.raises(ValueError, match="no passage is called d or e: the question 'which[?]' has no right answer"):
        reciprocal_ranks(torch.zeros(1, 3), PASSAGES, [question("d", "e")])


def test_the_interval_is_that_of_a_mean():
    values = torch.tensor([0.0, 1.0] * 50)
    mean, low, high = mean_interval(values)
    assert mean == 0.5 and low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.015)
    assert high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.015) and mean_interval(torch.ones(5)) == (1, 1, 1)


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    return collect_passages()


def test_passages_are_numbered_sections_and_topics_once_each(passages):
    names = [passage.name for passage in passages]
    assert len(names) == len(set(names)) > 180 and {"3.5", "9.2", "D.6", "lambda"} < set(names)
    assert not any(name.startswith("10.") for name in names)  # this chapter quotes the questions
    for passage in passages:  # its title, then so many words
        title = passage.title.split()
        assert passage.text.startswith(" ".join(title)) and len(passage.text.split()) < MOST_WORDS + len(title)
    assert not any("Exercise" in passage.title or "Summary" in passage.title for passage in passages)


def test_passages_come_from_the_folder_that_is_given(tmp_path):
    cells = [{"cell_type": "markdown", "source": ["## 3.1 One\n", "**Bold** text.\n"]},
             {"cell_type": "code", "source": ["x = 1\n"]}, {"cell_type": "markdown", "source": ["goes on\n"]},
             {"cell_type": "markdown", "source": ["## Summary\n", "not this\n"]}]
    (tmp_path / "03_x.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    (tmp_path / "10_x.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert collect_passages(tmp_path)[0] == Passage("3.1", "One", "One. Bold text. goes on")
    assert sum(passage.name == "3.1" for passage in collect_passages(tmp_path)) == 1
    with pytest.raises(FileNotFoundError, match="holds no chapters: give the book's folder of notebooks"):
        collect_passages(tmp_path / "elsewhere")


def test_each_question_has_passages_that_answer_it(passages):
    texts = {passage.name: passage.text for passage in passages}
    assert len(QUESTIONS) == len({each.text for each in QUESTIONS}) == 50
    assert {place for each in QUESTIONS for place in each.places} <= set(texts)
    assert all(each.answers and all(each.answers) for each in QUESTIONS)


def test_an_answer_must_stand_as_words_of_its_own():
    asked = question("a", answers=("None", "-1"))
    assert asked.is_answered_by("It returns none.") and asked.is_answered_by("It is -1, of course")
    assert not asked.is_answered_by("nonetheless") and not asked.is_answered_by("-12")
    (special,) = [each for each in QUESTIONS if "special token" in each.text]
    assert special.is_answered_by("It is <|endoftext|>.") and not special.is_answered_by("It is </s>.")


def test_a_model_is_asked_alone_or_after_a_passage():
    alone, read = answer_prompt(QUESTIONS[0]), answer_prompt(QUESTIONS[0], Passage("2.2", "T", "A text."))
    assert QUESTIONS[0].text in alone and alone.count("\n") == 0
    assert read.startswith("A text.\n") and read.endswith(QUESTIONS[0].text)


def test_the_kept_answers_are_counted_with_their_intervals():
    rows = json.loads(Path(searching.__file__).with_name(STUDY_FILE).read_text(encoding="utf-8"))["answers"]
    assert [row["question"] for row in rows] == [each.text for each in QUESTIONS]
    for row, asked in zip(rows, QUESTIONS, strict=True):
        assert row["is_right"] == {way: asked.is_answered_by(row[way]) for way in ("alone", "found", "right")}
    right = sum(row["is_right"]["found"] for row in rows)
    low, high = share_interval(right, 50)
    assert list(answer_table().loc["the passage that MiniLM finds first"]) == [
        f"{right} of 50", f"{2 * right} %", f"{100 * low:.0f} to {100 * high:.0f} %"]


def test_scores_are_cosines_of_questions_and_texts(monkeypatch):
    def embed(model, tokenizer, texts, batch_size=32, most_tokens=256):
        vectors = torch.tensor([[float("a" in text), float("b" in text)] for text in texts])
        return torch.nn.functional.normalize(vectors, dim=1)

    monkeypatch.setattr(searching, "embed_texts", embed)
    found = score_passages(None, None, ["a", "ab", "b"], ["ba", "a"])
    assert torch.allclose(found, torch.tensor([[0.5**0.5, 1.0, 0.5**0.5], [1.0, 0.5**0.5, 0.0]]))
