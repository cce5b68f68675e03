"""llmbook.book.few_shot: questions with examples before them, what counts as right, and how sure that is."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from llmbook.book import few_shot
from llmbook.book.few_shot import (
    TASKS,
    answer_words,
    ask,
    draw_shares,
    few_shot_questions,
    share_interval,
    sign_test_of_pairs,
)
from llmbook.text import train_bpe
from tests.support.scripted import Scripted


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_twenty_questions_and_five_other_words_as_examples(task):
    examples, asked = TASKS[task].split()
    assert len(examples) == 5 and len(asked) == 20
    assert len({question for question, _ in examples + asked}) == 25
    assert all(answer_words(answer) == [answer] for _, answer in examples + asked)


def test_examples_stand_before_the_question_in_its_form():
    text, answer = few_shot_questions("plural", 2)[0]
    assert text == ("Give the plural of the word.\n\nWord: child\nPlural: children\n\nWord: mouse\nPlural: mice\n\n"
                    "Word: foot\nPlural:")
    assert answer == "feet"
    assert few_shot_questions("into French", 0)[1] == (
        "Translate the English word into French.\n\nEnglish: tree\nFrench:", "arbre")


@pytest.mark.parametrize(("task", "n_examples", "message"), [
    ("dual", 1, "no task 'dual': choose one of plural, past tense, into French"),
    ("plural", 6, "n_examples is 6: the tasks have 0 to 5"), ("plural", -1, "n_examples is -1")])
def test_what_the_tasks_do_not_have_is_named(task, n_examples, message):
    with pytest.raises(ValueError, match=message):
        few_shot_questions(task, n_examples)


@pytest.mark.parametrize(("text", "words"), [
    ("The past tense is **Flew**.", ["the", "past", "tense", "is", "flew"]), ("tête!", ["tête"]),
    ("Don't 5 geese_", ["don't", "geese"]), ("", [])])
def test_answer_words(text, words):
    assert answer_words(text) == words


def test_answers_are_what_stands_between_prompt_and_end(monkeypatch):
    tokenizer, asked = train_bpe("the kettle sang because it boiled " * 20, 280), []
    end = tokenizer.encode("<|endoftext|>", allowed_special="all")

    def fake(model, prompts, max_new_tokens, **settings):
        asked.append(len(prompts))
        assert settings == {"temperature": 0, "stop_tokens": end} and max_new_tokens == 7
        return [torch.cat([prompt, torch.tensor([*tokenizer.encode(f" n{len(prompt)} "), *end])]) for prompt in prompts]

    monkeypatch.setattr(few_shot, "generate", fake)
    prompts = [("kettle " * count).strip() for count in range(1, 13)]
    answers = ask(Scripted(100), tokenizer, prompts, end, 7)
    assert asked == [10, 2]
    assert answers == [f"n{len(tokenizer.encode(prompt))}" for prompt in prompts]


@pytest.mark.parametrize(("right", "n", "low", "high"), [
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)])
def test_intervals_of_known_counts(right, n, low, high):
    assert share_interval(right, n) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(("right", "n"), [(0, 0), (-1, 4), (5, 4)])
def test_impossible_counts_are_named(right, n):
    with pytest.raises(ValueError, match=f"{right} right of {n}: give 0 <= right <= n"):
        share_interval(right, n)


@pytest.mark.parametrize(("gained", "lost", "same", "p"), [
    (6, 0, 3, 2 / 64), (0, 6, 0, 2 / 64), (5, 1, 9, 2 * 7 / 64), (3, 3, 1, 1.0), (0, 0, 4, 1.0)])
def test_the_sign_test_counts_what_changed(gained, lost, same, p):
    before = [False] * gained + [True] * lost + [True] * same
    after = [True] * gained + [False] * lost + [True] * same
    assert sign_test_of_pairs(before, after) == pytest.approx(p)


def test_the_sign_test_takes_many_marks_of_numpy():
    marks = np.arange(80) < 20  # 2**80 is no integer of NumPy's any more
    assert 0 < sign_test_of_pairs(list(marks), list(~marks)) < 1e-4


def test_the_sign_test_needs_the_same_cases():
    with pytest.raises(ValueError, match=re.escape("2 cases before and 1 after: give the same cases")):
        sign_test_of_pairs([True, False], [True])


def test_the_bars_are_shares_with_their_intervals():
    right = {("a", "none"): [True, False], ("a", "five"): [True, True], ("b", "none"): [False, False],
             ("b", "five"): [True, False]}
    ax = draw_shares(right)
    assert ax.get_title(loc="left") + ax.get_title() == "Right answers of 2, with 95 % intervals"
    assert [bar.get_height() for bar in ax.patches] == [50, 0, 100, 50]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["none", "five"]
    assert [text.get_text() for text in ax.texts] == ["1", "0", "2", "1"]  # how many, for a bar of 0 too
    assert list(ax.lines[1].get_ydata()) == pytest.approx([100 * end for end in share_interval(0, 2)])
