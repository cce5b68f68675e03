"""Chapter 7's tasks about stories: asking a model, counting what is right, and the stored study over several seeds."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from torch import nn

from ..extras import load_extra
from ..instructions import respond_all
from ..storyworld import Task, check, check_task
from ..storyworld.task_checks import words_of_the_world
from ..storyworld.words import NUMBER_WORDS, lexicon
from .few_shot import share_interval
from .storytelling import Share

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RULES", "STUDY_NAME", "answer_tasks", "as_entry", "beside_rule", "changed_kinds", "compare_scores",
           "count_faults", "entry_table", "instruction_study", "paired_p_value", "right_by_kind",
           "rule_answer", "rule_table", "share_of", "story_faults", "study_table"]

STUDY_NAME = "instructions.json"  # tools/instructions.py writes it
LONG, SHORT = 260, 40  # new tokens: for a story, and for everything else
RULES = {"who_has": "name", "who_did": "name", "where": "place", "felt": "feeling", "how_many": "number",
         "who_else": "name"}  # kind -> what a rule that understands nothing names


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


@cache
def _sorts() -> dict[str, frozenset[str]]:
    """name, place, feeling, number -> the words of the world that are one, in small letters."""
    words = lexicon()
    names = [agent.key.removeprefix("the ") for agent in [*words.people, *words.creatures]]
    names += [name for name, _ in words.animal_names]
    sorts = {"name": names, "place": [place.key for place in words.places],
             "feeling": [feeling.key for feeling in words.feelings], "number": NUMBER_WORDS[2:]}
    return {sort: frozenset(word.lower() for word in found) for sort, found in sorts.items()}


def rule_answer(task: Task) -> str:
    """The name, place, feeling or number that stands most often in a task's story and not in its question, as an
    answer; for `who_did` with the question's names after it. "" for a kind without a rule, and where nothing is found.

    The rule counts words and understands nothing, so a model has to beat it.
    """
    sort, asked = _sorts().get(RULES.get(task.kind, ""), frozenset()), words_of_the_world(task.instruction)
    found = Counter(word for word in words_of_the_world(task.story) if word in sort and word not in asked)
    if not found:
        return ""
    others = [word for word in asked if word in sort] if task.kind == "who_did" else []
    return " ".join([found.most_common(1)[0][0].capitalize(), *others]) + "."


def story_faults(task: Task, text: str) -> list[str]:
    """Why `check_task` refuses a story that answers a task of the kind "tell": what it lacks; empty if it is right."""
    report = check(text.strip())
    problems = {problem.kind for problem in report.problems}
    named = {str(value).removeprefix("the ") for event in report.events for value in event.roles.values()}
    faults = {"fewer than two sentences": len(report.sentences) < 2,
              "a sentence that the world cannot make": "unknown sentence" in problems,
              "no ending": not report.ending or "no ending" in problems,
              "without who or what was asked for": not set(task.wanted.right) <= named,
              "another ending than asked for": bool(report.ending and task.wanted.endings
                                                    and report.ending not in task.wanted.endings)}
    return [fault for fault, is_there in faults.items() if is_there]


def count_faults(asked: Sequence[Task], answers: Sequence[str]) -> dict[str, int]:
    """How many answers to the tasks of the kind "tell" have each of the `story_faults`, the most frequent first."""
    found = Counter(fault for task, answer in zip(asked, answers, strict=True) if task.kind == "tell"
                    for fault in story_faults(task, answer))
    return dict(found.most_common())


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
    """The stored study, as tools/instructions.py wrote it: "stories" and "entries", a row for each run, and "rules",
    one row about the same tasks as "stories"; no row of what has not been run yet."""
    path = resources.files(__package__) / STUDY_NAME
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {part: stored.get(part, []) for part in ("stories", "entries", "rules")}


def study_table(rows: Sequence[Mapping[str, Any]], by: str) -> pd.DataFrame:
    """Runs of a study, one line for each value of `by`: the shares of right answers over all seeds, with intervals.

    rows: each with `by`, "seed" and "right", kind -> [right, of]. "-" stands where a run was not asked a kind.
    """
    kinds, lines = list(dict.fromkeys(kind for row in rows for kind in row["right"])), []
    for value, runs in _by(rows, by).items():
        sums = _over_seeds(runs, "right")
        whole = Share(sum(share.right for share in sums.values()), sum(share.of for share in sums.values()))
        percent = {kind: f"{100 * sums[kind].value:.0f}" if kind in sums else "-" for kind in kinds}
        lines.append({by: value, "seeds": len(runs), **percent, "all": str(whole)})
    return load_extra("pandas").DataFrame(lines, columns=[by, "seeds", *kinds, "all"]).set_index(by)


def beside_rule(asked: Sequence[Task], answers: Sequence[str]) -> pd.DataFrame:
    """One line for each kind: the share of right answers with its interval, and the per cent of `rule_answer`."""
    rule = right_by_kind(asked, [rule_answer(task) for task in asked])
    return load_extra("pandas").DataFrame(
        {kind: {"right": str(share), "the rule": f"{100 * rule[kind].value:.0f} %" if kind in RULES else "-"}
         for kind, share in right_by_kind(asked, answers).items()}).T


def rule_table(study: Mapping[str, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """The kinds of `RULES`, one line each: per cent of right answers, with 95 % intervals, of each recipe of
    `instruction_study` over all seeds, and of `rule_answer`. The kinds that were kept out of training come last."""
    columns = {**_by(study["stories"], "recipe"), "rule": study["rules"]}
    found = {name: {**_over_seeds(runs, "right"), **_over_seeds(runs, "kept_out")} for name, runs in columns.items()}
    return load_extra("pandas").DataFrame(
        {name: {kind: _short(shares[kind]) for kind in RULES if kind in shares} for name, shares in found.items()})


def _by(rows: Sequence[Mapping[str, Any]], by: str) -> dict[Any, list[Mapping[str, Any]]]:
    return {value: [row for row in rows if row[by] == value] for value in dict.fromkeys(row[by] for row in rows)}


def _over_seeds(runs: Sequence[Mapping[str, Any]], part: str) -> dict[str, Share]:
    return {kind: Share(*map(sum, zip(*[run[part][kind] for run in runs]))) for kind in (runs[0][part] if runs else ())}


def _short(share: Share) -> str:
    low, high = share_interval(share.right, share.of)
    return f"{100 * share.value:.0f} ({100 * low:.0f} to {100 * high:.0f})"
