"""Questions with one right answer each, for chapter 5b: how much do examples in the prompt help?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import comb, sqrt
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import nn
from tqdm import tqdm

from llmbook.book.figures import BLUE, GREEN, GREY, ORANGE
from llmbook.formats.tokenizers import Tokenizer
from llmbook.generation import generate

__all__ = ["TASKS", "FewShotTask", "answer_words", "ask", "draw_shares", "few_shot_questions", "share_interval",
           "sign_test_of_pairs"]

class FewShotTask(NamedTuple):
    """An instruction, names for a question and its answer, and pairs of both; the first five are kept as examples."""

    instruction: str
    asked: str
    wanted: str
    pairs: str  # "question answer|question answer|..."

    def split(self) -> tuple[list[list[str]], list[list[str]]]:
        """The five examples and the questions, each as [question, answer]."""
        pairs = [pair.split() for pair in self.pairs.split("|")]
        return pairs[:5], pairs[5:]


TASKS = {
    "plural": FewShotTask(
        "Give the plural of the word.", "Word", "Plural",
        "child children|mouse mice|leaf leaves|city cities|box boxes|foot feet|man men|knife knives|baby babies|"
        "tooth teeth|goose geese|wife wives|bus buses|party parties|wolf wolves|dish dishes|woman women|half halves|"
        "story stories|tomato tomatoes|shelf shelves|church churches|ox oxen|fly flies|glass glasses"),
    "past tense": FewShotTask(
        "Give the past tense of the verb.", "Verb", "Past",
        "walk walked|go went|see saw|take took|play played|run ran|eat ate|write wrote|sing sang|buy bought|"
        "think thought|stop stopped|fall fell|keep kept|speak spoke|know knew|drink drank|try tried|leave left|"
        "make made|come came|break broke|fly flew|hope hoped|swim swam"),
    "into French": FewShotTask(
        "Translate the English word into French.", "English", "French",
        "dog chien|cat chat|house maison|water eau|bread pain|book livre|tree arbre|night nuit|day jour|red rouge|"
        "white blanc|milk lait|king roi|sun soleil|moon lune|hand main|head tête|door porte|winter hiver|friend ami|"
        "school école|cheese fromage|horse cheval|flower fleur|green vert"),
}


def few_shot_questions(task: str, n_examples: int) -> list[tuple[str, str]]:
    """The twenty questions of a task, each a text with `n_examples` solved ones before it, and its right answer.

    Raises ValueError for a task that is not in `TASKS`, or more than five examples.
    """
    if task not in TASKS:
        raise ValueError(f"no task {task!r}: choose one of {', '.join(TASKS)}")
    if not 0 <= n_examples <= 5:
        raise ValueError(f"n_examples is {n_examples}: the tasks have 0 to 5")
    instruction, asked, wanted, _ = TASKS[task]
    examples, unsolved = TASKS[task].split()
    shown = "".join(f"{asked}: {word}\n{wanted}: {answer}\n\n" for word, answer in examples[:n_examples])
    return [(f"{instruction}\n\n{shown}{asked}: {word}\n{wanted}:", answer) for word, answer in unsolved]


def answer_words(text: str) -> list[str]:
    """The words of an answer in small letters, without what stands around them."""
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.lower())


def ask(model: nn.Module, tokenizer: Tokenizer, prompts: Sequence[str], stop_tokens: Sequence[int],
        max_new_tokens: int = 24) -> list[str]:
    """A model's greedy answers to prompts, in which special tokens are such. A bar shows how far it is.

    The prompts are read in batches of ten, in which unequal ones are padded.
    """
    ids = [torch.tensor(tokenizer.encode(prompt, allowed_special="all")) for prompt in prompts]
    found: list[str] = []
    for start in tqdm(range(0, len(ids), 10), desc="questions", unit="batch", leave=False):
        batch = ids[start : start + 10]
        rows = generate(model, batch, max_new_tokens, temperature=0, stop_tokens=stop_tokens)
        for prompt, row in zip(batch, rows, strict=True):
            new = row[len(prompt) :].tolist()
            ends = [place for place, token in enumerate(new) if token in stop_tokens]
            found.append(tokenizer.decode(new[: ends[0]] if ends else new).strip())
    return found


def share_interval(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """A 95 % interval for a share of which `right` of `n` cases were seen.

    Raises ValueError unless 0 <= right <= n and n > 0.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (1927).
    """
    if not 0 <= right <= n or n == 0:
        raise ValueError(f"{right} right of {n}: give 0 <= right <= n, and n above 0")
    share, weight = right / n, z**2 / n
    middle = (share + weight / 2) / (1 + weight)
    half = z * sqrt(share * (1 - share) / n + weight / (4 * n)) / (1 + weight)
    return middle - half, middle + half


def sign_test_of_pairs(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Two-sided p value that as many cases became right as wrong, if nothing had changed but luck.

    before, after: whether each case was right, in the same order. Raises ValueError if their lengths differ.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} cases before and {len(after)} after: give the same cases in the same order")
    pairs = [(bool(b), bool(a)) for b, a in zip(before, after)]  # NumPy's integers would overflow in 2**changed
    gained = sum(b < a for b, a in pairs)
    changed = gained + sum(b > a for b, a in pairs)
    tail = sum(comb(changed, k) for k in range(max(gained, changed - gained), changed + 1)) / 2**changed
    return min(1.0, 2 * tail)


def draw_shares(right: Mapping[tuple[str, str], Sequence[bool]]) -> Axes:
    """Draw the share of right answers for each task and way of asking, with its 95 % interval and their number.

    Args:
        right: (task, way of asking) -> whether each answer is right. At most four ways of asking.
    """
    tasks, ways = (list(dict.fromkeys(key[part] for key in right)) for part in (0, 1))
    counts = sorted({len(answers) for answers in right.values()})
    _, ax = plt.subplots(figsize=(5.4, 3.6))
    for column, (way, colour) in enumerate(zip(ways, (GREEN, GREY, ORANGE, BLUE), strict=False)):
        for row, task in enumerate(tasks):
            answers = right[task, way]
            low, high = share_interval(sum(answers), len(answers))
            x = row + 0.21 * (column - (len(ways) - 1) / 2)
            ax.bar(x, 100 * sum(answers) / len(answers), 0.19, color=colour, label=None if row else way)
            ax.plot([x, x], [100 * low, 100 * high], color="black", linewidth=1)
            ax.text(x, 100 * high + 1, str(sum(answers)), ha="center", fontsize=8)
    ax.set(title=f"Right answers of {' or '.join(map(str, counts))}, with 95 % intervals", ylabel="right (%)",
           xticks=range(len(tasks)), xticklabels=tasks, ylim=(0, 138), yticks=range(0, 101, 20))
    ax.legend(loc="upper center", ncols=2, fontsize=8)
    return ax
