"""Chapter 7's tasks about stories: asking a model, counting what is right, and the stored study over several seeds."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from torch import nn

from ..extras import load_extra
from ..instructions import respond_all
from ..storyworld import Task, check_task
from .storytelling import Share

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["STUDY_NAME", "answer_tasks", "as_entry", "changed_kinds", "compare_scores", "entry_table",
           "instruction_study", "paired_p_value", "right_by_kind", "share_of", "study_table"]

STUDY_NAME = "instructions.json"  # tools/instructions.py writes it
LONG, SHORT = 260, 40  # new tokens: for a story, and for everything else


def as_entry(task: Task) -> dict[str, str]:
    """A task as an entry of chapter 7: instruction, input, output, kind."""
    return {"instruction": task.instruction, "input": task.story, "output": task.answer, "kind": task.kind}


def answer_tasks(model: nn.Module, tokenizer: Any, tasks: Sequence[Task], style: str = "plain", batch_size: int = 25,
                 progress: bool = False) -> list[str]:
    """A model's answers to tasks, in their order, the likeliest token each time."""
    answers = [""] * len(tasks)
    for long in (False, True):
        places = [place for place, task in enumerate(tasks) if (task.kind in ("tell", "continue")) == long]
        entries = [as_entry(tasks[place]) for place in places]
        found = respond_all(model, tokenizer, entries, style, LONG if long else SHORT, batch_size, progress)
        for place, answer in zip(places, found):
            answers[place] = answer
    return answers


def share_of(right: Iterable[bool]) -> Share:
    """How many of these are True, of how many."""
    marks = list(map(bool, right))
    return Share(sum(marks), len(marks))


def right_by_kind(tasks: Sequence[Task], answers: Sequence[str]) -> dict[str, Share]:
    """Kind -> the share of its tasks with a right answer; the kinds in the order in which they come."""
    right: dict[str, list[bool]] = {}
    for task, answer in zip(tasks, answers, strict=True):
        right.setdefault(task.kind, []).append(check_task(task, answer))
    return {kind: share_of(marks) for kind, marks in right.items()}


def paired_p_value(before: Sequence[bool], after: Sequence[bool]) -> float:
    """How often luck alone would change as many answers as unevenly, to either side: the sign test's p value.

    before, after: whether each answer is right, in the same order. Source: Dixon and Mood, "The Statistical Sign Test"
    (1946).
    """
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    won = sum(new and not old for old, new in zip(before, after, strict=True))
    changed = lost + won
    return min(1.0, 2 * sum(math.comb(changed, few) for few in range(min(lost, won) + 1)) / 2**changed)


def compare_scores(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Two tables of `score_responses` for the same entries, compared: shares with intervals, how many answers are right
    only before and only after, and `paired_p_value`. Rows: "strict" and "contained" of the content checks, "format"."""
    lines = {}
    for name, sort, column in (("strict", "content", "right"), ("contained", "content", "contained"),
                               ("format", "format", "right")):
        chosen = before["checked"] == sort
        old, new = (scores[chosen][column].astype(bool).tolist() for scores in (before, after))
        lines[name] = {"before": str(share_of(old)), "after": str(share_of(new)),
                       "only before": sum(a and not b for a, b in zip(old, new)),
                       "only after": sum(b and not a for a, b in zip(old, new)),
                       "p": f"{paired_p_value(old, new):.3f}"}
    return load_extra("pandas").DataFrame(lines).T


def changed_kinds(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Counter[str]]:
    """"only before" and "only after" -> kinds of task, with how many of their answers are right only then."""
    changes: dict[str, Counter[str]] = {"only before": Counter(), "only after": Counter()}
    for kind, old, new in zip(before["kind"], before["right"], after["right"]):
        if old is not None and old != new:
            changes["only after" if new else "only before"][kind] += 1
    return changes


def entry_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Runs of the study on entries: for each measure "before -> after" by seed."""
    lines = [{"seed": row["seed"], **{name: f"{row['before'][name][0]} -> {row['after'][name][0]} of "
                                            f"{row['after'][name][1]}" for name in ("strict", "contained", "format")},
              **{name: f"{row['before'][name]} -> {row['after'][name]}" for name in ("loss", "words", "perplexity")}}
             for row in rows]
    return load_extra("pandas").DataFrame(lines).set_index("seed").T


def instruction_study() -> dict[str, list[dict[str, Any]]]:
    """The stored study, as tools/instructions.py wrote it: "stories" and "entries", a row for each run; no row of what
    has not been run yet."""
    path = resources.files(__package__) / STUDY_NAME
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {part: stored.get(part, []) for part in ("stories", "entries")}


def study_table(rows: Sequence[Mapping[str, Any]], by: str) -> pd.DataFrame:
    """Runs of a study, one line for each value of `by`: the shares of right answers over all seeds, with intervals.

    rows: each with `by`, "seed" and "right", kind -> [right, of].
    """
    lines = []
    for value in dict.fromkeys(row[by] for row in rows):
        runs = [row["right"] for row in rows if row[by] == value]
        sums = {kind: Share(*map(sum, zip(*[run[kind] for run in runs]))) for kind in runs[0]}
        whole = Share(sum(share.right for share in sums.values()), sum(share.of for share in sums.values()))
        percent = {kind: f"{100 * share.value:.0f}" for kind, share in sums.items()}
        lines.append({by: value, "seeds": len(runs), **percent, "all": str(whole)})
    return load_extra("pandas").DataFrame(lines).set_index(by)
