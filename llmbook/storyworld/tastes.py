"""A taste in stories that is known exactly, and readers who vote by it: the truth behind chapter 8's preferences.

    taste(text).score                       # how much a reader with this taste likes a story
    prefers_first(first, second, Random(1)) # the vote of such a reader, who sometimes wavers

The taste is made up, so that each part of it can be read off a text:

| what | points |
|---|---|
| a kind ending: somebody gives, shares, takes somebody in or makes up (`KIND_ENDINGS`) | 2 |
| each spoken passage, up to four | 0.5 |
| each who is left sad, cross, ashamed, afraid or the like | -1 |
| each ten words above 120 | -0.5 |

It says nothing about whether a story holds together. That is for `check`, so that one can see what becomes of what no
reader was asked about. A text that is no story of this world gets the points for what it has of these things.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cache, lru_cache

from .checks import check
from .words import lexicon

__all__ = ["ENOUGH_WORDS", "KIND_ENDINGS", "MOST_PASSAGES", "Taste", "chance_to_prefer", "prefers_first", "taste"]

KIND_ENDINGS = frozenset("end_" + name for name in (
    "accused birthday boxes carried claimed counted favour given_up mended nest never present present_knew pretext "
    "promise_late quarrel thief_fed turns w_guest_gift w_guest_roof window wish wish_both").split())
MOST_PASSAGES, ENOUGH_WORDS = 4, 120


@dataclass(frozen=True)
class Taste:
    """What a reader's taste looks at in a story, and the `score` that they come to, in points."""

    kind_ending: bool
    spoken_passages: int
    left_unhappy: int
    words: int

    @property
    def score(self) -> float:
        """The points of the table above."""
        return (2.0 * self.kind_ending + 0.5 * min(self.spoken_passages, MOST_PASSAGES) - self.left_unhappy
                - 0.05 * max(0, self.words - ENOUGH_WORDS))


@lru_cache(maxsize=20_000)  # the same stories are compared again and again
def taste(text: str) -> Taste:
    """What is to a reader's taste in a text, and what is not."""
    report = check(text)
    feelings = [value for relation, value in report.state.items() if relation[0] == "feels"]
    return Taste(report.ending in KIND_ENDINGS, text.count('"') // 2, sum(value in _bad_moods() for value in feelings),
                 len(text.split()))


@cache
def _bad_moods() -> frozenset[str]:
    return frozenset(word.key for word in lexicon().feelings if "bad" in word.tags)


def chance_to_prefer(first: str, second: str, wavering: float = 0.5) -> float:
    """The probability that a reader prefers the first of two texts.

    It is the logistic function of the difference of their scores, divided by `wavering`: near 0, the reader always
    votes by the scores; 0.5 makes one point of difference a vote of 88 in 100. Raises ValueError unless it is above 0.

    Source: Bradley and Terry, "Rank Analysis of Incomplete Block Designs: I. The Method of Paired Comparisons" (1952).
    """
    if not wavering > 0:
        raise ValueError(f"wavering is {wavering}: it must be above 0; 0.01 is a reader who hardly ever wavers")
    difference = (taste(first).score - taste(second).score) / wavering
    return 1 / (1 + math.exp(-difference)) if difference > -700 else 0.0  # exp would overflow


def prefers_first(first: str, second: str, rng: random.Random, wavering: float = 0.5) -> bool:
    """The vote of a reader who wavers: whether the first text is preferred. See `chance_to_prefer`."""
    return rng.random() < chance_to_prefer(first, second, wavering)
