"""How well a model tells stories: `llmbook.storyworld.check` reads them back, and what is right is counted.

    model, tokenizer = load_pretrained("storyteller")
    texts = tell_stories(model, tokenizer, 100)
    judge_stories(texts).consistent          # "93.0 % (86.3 to 96.6), n = 100"
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..documents import make_document_loader
from ..generation import generate
from ..storyworld import Problem, Report, Story, check, stories
from ..storyworld.grammar import all_kinds
from ..training import evaluate, next_token_loss
from .corpora import HELD_OUT_SEED, held_out_stories
from .ladder import bits_per_byte

__all__ = ["SKILLS", "Judgement", "Share", "asked_endings", "first_half", "judge_stories", "story_loss", "story_skills",
           "tell_stories"]

SKILLS = ("grammar", "names", "owners", "sums")
BATCH = 50  # stories that are sampled together
_OWNING, _COUNTING = {"holder", "owner"}, {"count"}


@dataclass(frozen=True)
class Share:
    """`right` of `of` cases."""

    right: int
    of: int

    @property
    def value(self) -> float:
        """The share, from 0 to 1; nan of no case."""
        return self.right / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Where the share of all such cases lies, by Wilson's interval of 95 %; (0, 1) of no case.

        Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (1927).
        """
        if not self.of:
            return 0.0, 1.0
        z, n, p = 1.96, self.of, self.value
        middle, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        return max(0.0, (middle - width) / scale), min(1.0, (middle + width) / scale)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({100 * low:.1f} to {100 * high:.1f}), n = {self.of}"


@dataclass(frozen=True)
class Judgement:
    """What `judge_stories` found: the share of stories without any problem, of those whose every sentence is known, and
    how many stories have a problem of each kind."""

    consistent: Share
    grammatical: Share
    problems: Counter[str]


def tell_stories(model: nn.Module, tokenizer: Any, n: int, temperature: float = 0.8, seed: int = 0,
         openings: Sequence[str] | None = None, top_p: float | None = None) -> list[str]:
    """Let a model tell `n` stories, each from `<|endoftext|>` to the next one, or as far as its context reaches.

    openings: n beginnings that it goes on from; they are part of what is returned. top_p: as for `generate`. The same
    seed tells the same stories on one machine. Raises ValueError if there are not `n` openings, or one leaves no room
    in the context.
    """
    openings = [""] * n if openings is None else list(openings)
    if len(openings) != n:
        raise ValueError(f"{len(openings)} openings for {n} stories: give one for each")
    end, device = tokenizer.eot_token, next(model.parameters()).device
    prompts = [torch.tensor([end, *tokenizer.encode_ordinary(text)], device=device) for text in openings]
    told = [""] * n
    order = sorted(range(n), key=lambda number: len(prompts[number]))  # those of a batch have about as much room
    for start in range(0, n, BATCH):
        numbers = order[start : start + BATCH]
        room = model.config.context_length - len(prompts[numbers[-1]])
        if room < 1:
            raise ValueError(f"an opening has {len(prompts[numbers[-1]])} tokens, the context has "
                             f"{model.config.context_length}: give a shorter one")
        rows = generate(model, [prompts[number] for number in numbers], room, temperature, top_p=top_p,
                        stop_tokens=[end], seed=seed + start, vocab_size=tokenizer.n_vocab)
        for number, row in zip(numbers, rows):
            told[number] = tokenizer.decode([token for token in row.tolist() if token != end])
    return told


def story_loss(model: nn.Module, tokenizer: Any, n: int = 200, texts: Sequence[str] | None = None
               ) -> tuple[float, float]:
    """Nats a token and bits a byte that a model needs for the first `n` held-out short stories, or for other `texts`,
    their ends included."""
    texts = held_out_stories(n, short=True) if texts is None else texts
    documents = [tokenizer.encode_ordinary(text) for text in texts]
    rows = make_document_loader(documents, model.config.context_length, 20, tokenizer.eot_token, shuffle=False,
                                drop_last=False)
    nats = evaluate(model, rows, next_token_loss, precision="float32")
    return nats, bits_per_byte(nats * sum(len(ids) + 1 for ids in documents), sum(len(text.encode()) for text in texts))


def judge_stories(texts: Sequence[str]) -> Judgement:
    """Read stories back and count."""
    reports = [check(text) for text in texts]
    problems = Counter(kind for report in reports for kind in {problem.kind for problem in report.problems})
    return Judgement(Share(sum(report.consistent for report in reports), len(reports)),
                     Share(sum(report.grammatical for report in reports), len(reports)), problems)


def first_half(story: Story) -> str:
    """The first half of a story's sentences."""
    count = max(1, len(story.sentences) // 2)
    return "".join(gap + text for gap, text in zip(story.gaps[:count], story.sentences))


def asked_endings(model: nn.Module, tokenizer: Any, n: int, temperature: float = 0.8, seed: int = 0
                  ) -> dict[str, Share]:
    """Give a model the first halves of `n` held-out short stories and look at how it ends them.

    Returns "asked": the last sentence is of the kind with which the held-out story ends, for which its first half asks,
    and nothing is wrong with it; "any": it is of any kind that ends stories, and nothing is wrong with it. A first half
    may leave several endings open, so "asked" need not reach 100 %.
    """
    originals = list(stories(HELD_OUT_SEED, n, split="test", short=True))
    reports = list(map(check, tell_stories(model, tokenizer, n, temperature, seed, list(map(first_half, originals)))))
    fits = [_ends_well(report) for report in reports]
    asked = [fit and report.ending == story.ending for fit, report, story in zip(fits, reports, originals)]
    return {"asked": Share(sum(asked), n), "any": Share(sum(fits), n)}


def _ends_well(report: Report) -> bool:
    last = len(report.sentences) - 1
    return bool(report.ending) and not any(problem.kind == "no ending" or problem.sentence == last
                                           for problem in report.problems)


def story_skills(texts: Sequence[str]) -> dict[str, Share]:
    """What stories get right, each by itself: skill -> share of the stories that show it.

    "grammar": every sentence is one of this world. Among the stories with a sentence that is known: "names": nobody
    acts before being introduced, every pronoun stands for somebody, and who is named first still occurs in the last
    third. Among those that say who has or owns a thing: "owners": it is who has it. Among those that count: "sums": the
    numbers are right.
    """
    reports = list(map(check, texts))
    found = {"grammar": Share(sum(report.grammatical for report in reports), len(reports))}
    shown = {"names": [report for report in reports if report.events],
             "owners": [report for report in reports if _states(report, _OWNING)],
             "sums": [report for report in reports if _states(report, _COUNTING)]}
    for skill, these in shown.items():
        right = [report for report in these if not any(_skill_of(problem) == skill for problem in report.problems)]
        if skill == "names":
            right = list(filter(_keeps_its_hero, right))
        found[skill] = Share(len(right), len(these))
    return found


def _states(report: Report, relations: set[str]) -> bool:
    """Whether a sentence of a story needs one of these relations, or (for counting) compares numbers."""
    for kind in {event.kind for event in report.events}:
        for need in all_kinds()[kind].needs_text:
            first = need.removeprefix("not ").split()[0]
            if first in relations or relations is _COUNTING and first in ("N", "K", "M"):
                return True
    return False


def _skill_of(problem: Problem) -> str:
    """The skill that a problem is a lack of."""
    first = problem.message.split()[0]
    if problem.kind == "unknown sentence":
        return "grammar"
    if problem.kind == "unclear pronoun" or first == "known" or problem.message.endswith("one name for two"):
        return "names"
    if first in _OWNING:
        return "owners"
    return "sums" if first in _COUNTING or first.isdigit() else "other"


def _keeps_its_hero(report: Report) -> bool:
    """Whether the first who is named still occurs in the last third."""
    agents = all_kinds()[report.events[0].kind].agents
    hero = next((report.events[0].roles[role] for role in agents if role in report.events[0].roles), None)
    late = [event for event in report.events if event.sentence >= 2 * len(report.sentences) / 3]
    return hero is not None and any(hero in event.roles.values() for event in late)
