"""For chapter 6: parts of the messages, how a filter is judged, and the stored study of filters."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from ..assets import fetch
from ..classification import drop_repeats, read_labelled_texts, split_by_key
from ..extras import load_extra
from .few_shot import share_interval
from .figures import BLUE, GREEN, GREY, ORANGE, PURPLE

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline

__all__ = ["FEW", "FOLDS", "RIVALS", "STUDY_NAME", "Judged", "calibration_bins", "draw_calibration",
           "draw_few_labels", "draw_labels", "filter_study", "judge_spam", "rival_filter", "spam_messages",
           "spam_parts", "thin_ham"]

STUDY_NAME = "classifiers.json"  # tools/classifiers.py writes it
FOLDS = (0.1, 0.2, 0.2, 0.2, 0.3)  # validation; the test messages of seeds 0, 1 and 2; always for training
FEW = (20, 50, 100, 200, 400)  # labels, in the study of few labels
RIVALS = ("bag of words", "runs of characters")  # filters without a language model
COLOURS = {"bag of words": GREY, "runs of characters": PURPLE, "frozen features": GREEN, "last block": BLUE,
           "adapters": ORANGE}


# --- the messages ------------------------------------------------------------------------------------------------

def spam_messages() -> pd.DataFrame:
    """The SMS Spam Collection without repeats: label, text, and place, the number of the row."""
    frame = drop_repeats(read_labelled_texts(fetch("sms-spam"), ("ham", "spam")))
    return frame.assign(place=range(len(frame)))


def spam_parts(messages: pd.DataFrame, seed: int) -> dict[str, pd.DataFrame]:
    """The messages as "training", "validation" and "test". The validation messages are the same for the seeds 0, 1
    and 2, and no message is in the test parts of two of them. Raises ValueError for another seed."""
    folds = split_by_key(messages, FOLDS)
    tests = folds[1:4]
    if seed not in range(len(tests)):
        raise ValueError(f"seed is {seed}: give 0 to {len(tests) - 1}")
    training = [*tests[:seed], *tests[seed + 1 :], folds[4]]
    return {"training": load_extra("pandas").concat(training, ignore_index=True), "validation": folds[0],
            "test": tests[seed]}


def thin_ham(frame: pd.DataFrame, per_spam: int = 3, seed: int = 0) -> pd.DataFrame:
    """All spam of a table and `per_spam` times as much ham, drawn by `seed`, in random order."""
    spam, ham = frame[frame["label"] == "spam"], frame[frame["label"] == "ham"]
    kept = load_extra("pandas").concat([spam, ham.sample(n=min(len(ham), per_spam * len(spam)), random_state=seed)])
    return kept.sample(frac=1, random_state=seed).reset_index(drop=True)


def draw_labels(frame: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """`n` rows, half of each label, drawn by `seed`, in random order. Raises ValueError if `n` is odd."""
    if n % 2 or n < 2:
        raise ValueError(f"n is {n}: give an even number, at least 2, since half is drawn of each label")
    drawn = frame.groupby("label").sample(n=n // 2, random_state=seed)
    return drawn.sample(frac=1, random_state=seed).reset_index(drop=True)


def rival_filter(name: str, C: float) -> Pipeline:
    """A filter without a language model, untrained: logistic regression on counts. `fit(texts, labels)` trains it.

    Args:
        name: "bag of words" counts words; "runs of characters" weighs runs of one to four characters by tf-idf.
        C: how far the weights may go from 0, the larger the farther. Raises ValueError for another name.
    """
    if name not in RIVALS:
        raise ValueError(f"the filter is {name!r}: it must be one of {', '.join(RIVALS)}")
    text = load_extra("sklearn.feature_extraction.text")
    counts = (text.CountVectorizer(token_pattern=r"\w+") if name == "bag of words" else
              text.TfidfVectorizer(analyzer="char", ngram_range=(1, 4)))
    regression = load_extra("sklearn.linear_model").LogisticRegression(C=C, max_iter=1000)
    return load_extra("sklearn.pipeline").make_pipeline(counts, regression)


# --- judging -----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Judged:
    """How many messages of each class a filter got right: `caught` of `spam`, `passed` of `ham`."""

    caught: int
    spam: int
    passed: int
    ham: int

    def __add__(self, other: Judged) -> Judged:
        return Judged(self.caught + other.caught, self.spam + other.spam, self.passed + other.passed,
                      self.ham + other.ham)

    @property
    def recall(self) -> float:
        """The share of spam that was caught."""
        return self.caught / self.spam

    @property
    def precision(self) -> float:
        """The share of spam in what was called spam; 0 if nothing was."""
        called = self.caught + self.ham - self.passed
        return self.caught / called if called else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.caught / (self.caught + self.ham - self.passed + self.spam)

    @property
    def accuracy(self) -> float:
        """The share of right answers among all messages."""
        return (self.caught + self.passed) / (self.spam + self.ham)

    @property
    def balanced(self) -> float:
        """Balanced accuracy: the mean of the shares of spam and of ham that were got right."""
        return (self.recall + self.passed / self.ham) / 2

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the balanced accuracy: Wilson's intervals of the two shares, squared and added.

        Source: Newcombe, "Interval Estimation for the Difference Between Independent Proportions" (1998), method 10,
            for a sum instead of a difference.
        """
        ends = [(right / of, *share_interval(right, of)) for right, of in
                ((self.caught, self.spam), (self.passed, self.ham))]
        below = math.hypot(*(share - low for share, low, _ in ends)) / 2
        above = math.hypot(*(high - share for share, _, high in ends)) / 2
        return self.balanced - below, self.balanced + above

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.balanced:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def judge_spam(spam: Sequence[float], is_spam: Sequence[bool], threshold: float = 0.5) -> Judged:
    """Compare probabilities of spam (n,) with the truth (n,): what is above the threshold is called spam."""
    truth, called = np.asarray(is_spam, dtype=bool), np.asarray(spam) > threshold
    return Judged(int((called & truth).sum()), int(truth.sum()), int((~called & ~truth).sum()), int((~truth).sum()))


def calibration_bins(spam: Sequence[float], is_spam: Sequence[bool], edges: Sequence[float]) -> pd.DataFrame:
    """Answers grouped by the probability of spam that was said: one row a group that is not empty.

    Columns: n, said (mean probability), true (share of spam), low and high (95 % interval of that share).

    Args:
        spam, is_spam: (n,). edges: from 0 to 1, rising; an edge belongs to the group below it, and 0 to the first.
    """
    said, truth = np.asarray(spam, dtype=float), np.asarray(is_spam, dtype=bool)
    places = np.searchsorted(np.asarray(edges)[1:-1], said, side="left")
    rows = []
    for place in np.unique(places):
        inside = places == place
        low, high = share_interval(int(truth[inside].sum()), int(inside.sum()))
        rows.append({"n": int(inside.sum()), "said": said[inside].mean(), "true": truth[inside].mean(), "low": low,
                     "high": high})
    return load_extra("pandas").DataFrame(rows)


# --- the study and its pictures ----------------------------------------------------------------------------------

def filter_study() -> dict[str, pd.DataFrame]:
    """What tools/classifiers.py measured, as tables, one row a run.

    "choice": kind, method, its settings (learning_rate and epochs, or C for `RIVALS`), n, val_loss. "few": method,
    seed, labels, caught, spam, passed, ham.
    "all": method, seed, labels, trained (parameters), spam, an array of the probabilities of spam of the seed's test
    messages in the order of `spam_parts`. Raises FileNotFoundError if it has not been run.
    """
    table = resources.files(__package__).joinpath(STUDY_NAME)
    if not table.is_file():
        raise FileNotFoundError(f"{table} is missing: make it with `python tools/classifiers.py`, half an hour of one "
                                "core")
    stored: dict[str, list[dict[str, Any]]] = json.loads(table.read_text(encoding="utf-8"))
    frame = load_extra("pandas").DataFrame
    runs = [{**row, "spam": np.array(row["spam"]) / 1e4} for row in stored["all"]]
    return {"choice": frame(stored["choice"]), "few": frame(stored["few"]), "all": frame(runs)}


def draw_few_labels(rows: pd.DataFrame) -> Axes:
    """Balanced accuracy against labels: a point each run, a line through the means. Columns: method, labels,
    balanced, from 0 to 1; one row a run."""
    _, ax = plt.subplots(figsize=(5.5, 3.6))
    for name, runs in rows.groupby("method", sort=False):
        means = 100 * runs.groupby("labels")["balanced"].mean()
        ax.plot(means.index, means, "o-", color=COLOURS[name], label=name)
        ax.plot(runs["labels"], 100 * runs["balanced"], ".", color=COLOURS[name], alpha=0.6)
    ax.set_xscale("log")
    ax.set_xticks(sorted(rows["labels"].unique()), [str(n) for n in sorted(rows["labels"].unique())])
    ax.minorticks_off()
    ax.set(xlabel="labelled messages", ylabel="balanced accuracy, %")
    ax.legend(loc="lower right")
    return ax


def draw_calibration(bins: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The groups of `calibration_bins`: share of spam against what was said, with its interval and the counts."""
    ax = plt.subplots(figsize=(4.6, 4))[1] if ax is None else ax
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="perfect calibration")
    ends = np.stack([bins["true"] - bins["low"], bins["high"] - bins["true"]]).clip(min=0)
    ax.errorbar(bins["said"], bins["true"], ends, fmt="o", color=BLUE, capsize=3, label="test messages, 95 %")
    for _, row in bins.iterrows():
        ax.annotate(f"{row['n']:,.0f}", (row["said"], row["true"]), xytext=(6, -12), textcoords="offset points")
    ax.set(xlabel="probability of spam, as said", ylabel="share of spam among them", xlim=(-0.03, 1.14),
           ylim=(-0.1, 1.06))  # room for the counts
    ax.legend(loc="upper left")
    return ax
