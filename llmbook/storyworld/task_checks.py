"""Whether a text answers a task of `tasks`: the names, places and things in it are found and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from .checks import check
from .words import NUMBER_WORDS, lexicon

__all__ = ["Wanted", "says", "words_of_the_world"]

LONGEST = 20  # words of an answer to a question
_DENIALS = frozenset("not never no or isn't wasn't don't doesn't didn't cannot".split())
MARKS = '.,!?;:"()'


@dataclass(frozen=True)
class Wanted:
    """What a good answer has.

    how: "fact" for a sentence that names `right` in this order, perhaps some of `allowed`, and nothing else of the
    world; "exact" for a text that is `right[0]` word by word; "story" and "continuation" for sentences of this world
    that name all of `right` and come to one of `endings` (any, if there are none).
    """

    how: str
    right: tuple[str, ...]
    allowed: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()


def says(text: str, wanted: Wanted, before: str = "") -> bool:
    """Whether a text has what is wanted; `before` is the beginning that a continuation continues."""
    if wanted.how == "fact":
        return _is_fact(text, wanted)
    if wanted.how == "exact":
        return _words(text) == _words(wanted.right[0])
    return _is_story(text, wanted, before)


def _words(text: str) -> list[str]:
    return "".join(" " if mark in MARKS else mark for mark in text.lower()).replace("'s ", " ").split()


@cache
def _phrases() -> Mapping[str, list[tuple[str, ...]]]:
    """First word -> what the world knows that begins with it, the longest first."""
    words = lexicon()
    known = {agent.key.removeprefix("the ") for agent in [*words.people, *words.creatures]}
    known |= {name for name, _ in words.animal_names} | {group[0].key for group in words.things}
    known |= {place.key for place in words.places} | {small.key for small in words.countables}
    known |= {small.one for small in words.countables} | {feeling.key for feeling in words.feelings}
    known |= {*NUMBER_WORDS[2:], "nobody", "somebody", "everybody"}
    found: dict[str, list[tuple[str, ...]]] = {}
    for phrase in sorted(known, key=lambda phrase: (-len(phrase.split()), phrase)):
        parts = tuple(phrase.lower().split())
        found.setdefault(parts[0], []).append(parts)
    return found


def words_of_the_world(text: str) -> list[str]:
    """The names, things, places, small things, numbers and feelings in a text, in order, in small letters, without
    articles."""
    tokens, found, position = _words(text), [], 0
    while position < len(tokens):
        longest = next((parts for parts in _phrases().get(tokens[position], ())
                        if tuple(tokens[position : position + len(parts)]) == parts), None)
        if longest:
            found.append(" ".join(longest))
        position += len(longest or (0,))
    return found


def _is_fact(text: str, wanted: Wanted) -> bool:
    words = text.split()
    if not words or len(words) > LONGEST or _DENIALS & set(_words(text)):
        return False
    if any(mark in text.rstrip().rstrip('."!') for mark in ".?!"):
        return False  # more than one sentence
    right, allowed = [name.lower() for name in wanted.right], {name.lower() for name in wanted.allowed}
    return [word for word in words_of_the_world(text) if word not in allowed] == right


def _is_story(text: str, wanted: Wanted, before: str) -> bool:
    begun = before if wanted.how == "continuation" else ""
    report = check(f"{begun} {text.strip()}".strip())
    old = check(begun).sentences if begun else []
    last = len(report.sentences) - 1
    if len(report.sentences) < len(old) + 2 or not report.ending:
        return False
    if any(problem.kind == "unknown sentence" for problem in report.problems):
        return False
    if any(problem.kind == "no ending" for problem in report.problems):
        return False
    if begun and any(problem.message.startswith("known ") and problem.sentence >= len(old)
                     for problem in report.problems if problem.sentence is not None):
        return False  # somebody or something nobody has heard of
    named = {str(value).removeprefix("the ") for event in report.events[len(old) :] for value in event.roles.values()}
    return set(wanted.right) <= named and (not wanted.endings or report.ending in wanted.endings) and last > 0
