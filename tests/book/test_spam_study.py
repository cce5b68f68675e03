"""llmbook.book.spam_study: parts that share nothing, judging by hand, and the stored study."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from llmbook.book import spam_study
from llmbook.book.spam_study import (
    FEW,
    RIVALS,
    Judged,
    calibration_bins,
    draw_calibration,
    draw_few_labels,
    draw_labels,
    filter_study,
    judge_spam,
    rival_filter,
    spam_messages,
    spam_parts,
    thin_ham,
)
from llmbook.classification import TextClassifier, class_probabilities, prepare_texts
from llmbook.open_weights import load_pretrained


def messages(count: int = 400, spam_every: int = 5) -> pd.DataFrame:
    return pd.DataFrame({"label": ["spam" if place % spam_every == 0 else "ham" for place in range(count)],
                         "text": [f"message {'abcdefghij'[place % 10]} {'klmnopqrst'[place // 10 % 10]} "
                                  f"{'uvwxyz'[place // 100]}" for place in range(count)], "place": range(count)})


# --- parts -------------------------------------------------------------------------------------------------------

def test_the_test_parts_share_no_message_and_a_seed_learns_from_all_others():
    frame = messages()
    parts = [{name: set(part["place"]) for name, part in spam_parts(frame, seed).items()} for seed in range(3)]
    tests = [part["test"] for part in parts]
    assert all(tests) and sum(map(len, tests)) == len(set.union(*tests))
    for part in parts:
        assert part["validation"] == parts[0]["validation"] and part["validation"]
        assert not part["training"] & part["test"] and not part["validation"] & (part["training"] | part["test"])
        assert set.union(*part.values()) == set(frame["place"])


@pytest.mark.parametrize("seed", [-1, 3])
def test_a_seed_without_a_test_part_is_named(seed):
    with pytest.raises(ValueError, match=f"^seed is {seed}: give 0 to 2$"):
        spam_parts(messages(), seed)


def test_all_spam_is_kept_and_three_times_as_much_ham():
    frame = messages()
    thin = thin_ham(frame, 3, seed=1)
    assert thin["label"].value_counts().to_dict() == {"ham": 240, "spam": 80}
    assert thin["place"].is_unique and thin["label"].tolist() != sorted(thin["label"])
    assert thin.equals(thin_ham(frame, 3, seed=1)) and not thin.equals(thin_ham(frame, 3, seed=2))
    assert len(thin_ham(frame, 100)) == 400  # there is no more ham


def test_half_of_the_drawn_messages_is_spam():
    drawn = draw_labels(messages(), 50, seed=2)
    assert drawn["label"].value_counts().to_dict() == {"ham": 25, "spam": 25} and drawn["place"].is_unique
    assert drawn["label"].tolist() != sorted(drawn["label"])
    assert set(drawn["place"]) != set(draw_labels(messages(), 50, seed=3)["place"])


@pytest.mark.parametrize("n", [0, 7])
def test_an_odd_number_of_labels_is_named(n):
    with pytest.raises(ValueError, match=f"^n is {n}: give an even number, at least 2"):
        draw_labels(messages(), n, seed=0)


def test_one_rival_sees_words_and_the_other_runs_of_characters():
    texts, labels = ["call 0900 now", "call me now", "£5 won", "five won"], ["spam", "ham", "spam", "ham"]
    words, runs = (rival_filter(name, C=100).fit(texts, labels) for name in RIVALS)
    assert list(words[0].get_feature_names_out()) == ["0900", "5", "call", "five", "me", "now", "won"]
    assert {"£", "0", "090", " now"} <= set(runs[0].get_feature_names_out()) and not any(
        len(run) > 4 for run in runs[0].get_feature_names_out())
    new = ["come 0955", "£7 only"]  # no word of theirs was seen
    assert np.allclose(words.predict_proba(new), words.predict_proba([""]))
    assert list(runs.predict(new)) == ["spam", "spam"]


def test_weights_may_go_farther_with_a_larger_C():
    few, many = (np.abs(rival_filter("bag of words", C).fit(["a b", "c b"], ["ham", "spam"])[-1].coef_).sum()
                 for C in (0.1, 10))
    assert many > 2 * few


def test_a_rival_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="^the filter is 'words': it must be one of bag of words, runs of characters$"):
        rival_filter("words", 1)


# --- judging -----------------------------------------------------------------------------------------------------

def test_a_filter_is_judged_by_hand():
    found = judge_spam([0.9, 0.4, 0.6, 0.1, 0.5], [True, True, False, False, False])
    assert found == Judged(caught=1, spam=2, passed=2, ham=3)  # 0.5 is not above the threshold
    assert judge_spam([0.9, 0.4, 0.6, 0.1, 0.5], [True, True, False, False, False], 0.3) == Judged(2, 2, 1, 3)
    assert (found.recall, found.precision, found.f1) == (0.5, 0.5, 0.5)
    assert found.accuracy == 3 / 5 and found.balanced == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found + found == Judged(2, 4, 4, 6)


def test_precision_of_a_filter_that_calls_nothing_spam_is_0():
    found = judge_spam([0.0, 0.0], [True, False])
    assert (found.precision, found.recall, found.f1, found.balanced) == (0, 0, 0, 0.5)


def test_the_interval_adds_the_squares_of_two_wilson_intervals():
    found = Judged(caught=8, spam=10, passed=90, ham=100)
    # Wilson's intervals: 8 of 10 is 0.4902 to 0.9433, 90 of 100 is 0.8256 to 0.9448
    below, above = np.hypot(0.8 - 0.4902, 0.9 - 0.8256) / 2, np.hypot(0.9433 - 0.8, 0.9448 - 0.9) / 2
    assert found.interval == pytest.approx((0.85 - below, 0.85 + above), abs=2e-4)
    assert str(found) == "85.0 % (69.1 to 92.5)"


def test_more_messages_make_the_interval_narrower():
    few, many = Judged(9, 10, 95, 100), Judged(90, 100, 950, 1000)
    assert many.balanced == few.balanced
    assert many.interval[1] - many.interval[0] < 0.5 * (few.interval[1] - few.interval[0])


def test_answers_are_grouped_by_what_was_said():
    bins = calibration_bins([0.0, 0.1, 0.5, 0.6, 0.9, 1.0], [False, True, False, True, True, True],
                            [0, 0.5, 0.8, 0.9, 1])
    assert bins["n"].tolist() == [3, 1, 1, 1]  # an edge belongs to the group below it
    assert bins["said"].tolist() == pytest.approx([0.2, 0.6, 0.9, 1.0])
    assert bins["true"].tolist() == pytest.approx([1 / 3, 1, 1, 1])
    assert (bins["low"] < bins["true"]).all() and (bins["high"] >= bins["true"]).all()
    empty = calibration_bins([0.1, 0.9], [False, True], [0, 0.3, 0.6, 1])
    assert empty["n"].tolist() == [1, 1]


# --- the study ---------------------------------------------------------------------------------------------------

def test_the_study_is_read_or_what_makes_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(spam_study.resources, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match="classifiers.json is missing: make it with `python tools/classifiers"):
        filter_study()
    (tmp_path / "classifiers.json").write_text(json.dumps(
        {"choice": [], "few": [{"method": "last block", "seed": 0}],
         "all": [{"method": "adapters", "spam": [0, 10_000]}]}))
    study = filter_study()
    assert study["all"]["spam"][0].tolist() == [0.0, 1.0] and study["few"]["method"][0] == "last block"


def test_the_stored_study_is_whole():
    study = filter_study()
    runs, few = study["all"], study["few"]
    assert len(runs) == 15 and not runs.duplicated(["method", "seed"]).any() and set(runs["seed"]) == {0, 1, 2}
    assert len(few) == 4 * 3 * len(FEW) and not few.duplicated(["method", "seed", "labels"]).any()
    for seed, group in runs.groupby("seed"):
        lengths = {len(spam) for spam in group["spam"]}
        of = few[few["seed"] == seed]
        assert lengths == set(of["spam"] + of["ham"])
    assert all(0 <= spam.min() and spam.max() <= 1 for spam in runs["spam"])
    assert (few["caught"] <= few["spam"]).all() and (few["passed"] <= few["ham"]).all()


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_of_the_study_comes_out_again(name):
    few = filter_study()["few"]
    run = few[(few["method"] == name) & (few["labels"] == 20) & (few["seed"] == 1)].iloc[0]
    parts = spam_parts(spam_messages(), 1)
    drawn = draw_labels(parts["training"], 20, 1)
    filter_ = rival_filter(name, run["C"]).fit(drawn["text"], drawn["label"])
    found = judge_spam(filter_.predict_proba(parts["test"]["text"])[:, 1], parts["test"]["label"] == "spam")
    assert [found.spam, found.ham] == [run["spam"], run["ham"]]
    assert abs(found.caught - run["caught"]) <= 1 and abs(found.passed - run["passed"]) <= 3


@pytest.mark.slow  # SmolLM2 reads 32 messages
def test_one_run_of_the_study_comes_out_again():
    from tools.classifiers import KEPT, LABELS, train_filter

    stored = filter_study()["few"]
    run = stored[(stored["method"] == "frozen features") & (stored["labels"] == 20) & (stored["seed"] == 0)].iloc[0]
    parts = spam_parts(spam_messages(), 0)
    model, tokenizer = load_pretrained("smollm2-135m-instruct", device="cpu", dtype=torch.float32)
    reader = TextClassifier(model, 2, LABELS)
    training, test = (prepare_texts(reader, tokenizer, frame, 0, progress=False)
                      for frame in (draw_labels(parts["training"], 20, 0), parts["test"][:KEPT]))
    classifier = train_filter("frozen features", model, training, run["learning_rate"], int(run["epochs"]), 0)
    spam = class_probabilities(classifier, test, progress=False)[:, 1]
    assert np.abs(spam.numpy() - np.array(run["first"]) / 1e4).max() < 0.03


def test_pictures_show_each_run_and_each_group():
    rows = pd.DataFrame([{"method": method, "labels": n, "seed": seed, "balanced": 0.8 + 0.01 * seed}
                         for method in ("bag of words", "last block") for n in (20, 50) for seed in range(3)])
    ax = draw_few_labels(rows)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["bag of words", "last block"]
    means, points = ax.lines[0].get_ydata(), ax.lines[1].get_ydata()
    assert list(means) == pytest.approx([81, 81]) and len(points) == 6
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["20", "50"]
    bins = calibration_bins([0.1, 0.2, 0.9], [False, False, True], [0, 0.5, 1])
    ax = draw_calibration(bins)
    assert {text.get_text() for text in ax.texts} == {"2", "1"}
    plt.close("all")
