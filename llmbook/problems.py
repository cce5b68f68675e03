"""Small problems that need several steps, whose answers a program can check: what chapter 9's model reasons about.

Three kinds. A *story* has a number that changes several times ("Mira has 47 shells, finds 38, gives away 29."), a *box*
problem asks for a product ("347 boxes of 28 shells."), and *countdown* asks for a calculation that comes to a number
("Make 24 from 3, 5, 9."). A response is written in one of three ways: the answer alone, steps before it, or a
calculation that a program is asked to do (see `llmbook.calculator`):

     answer: 56
     think: 47+38=85; 85-29=56 answer: 56
     think: <calc>347*28</calc>9716 answer: 9716

Which part of the data a problem belongs to follows from its numbers: the parts share none, whatever names and things
are in the texts.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .answer_checks import arithmetic

__all__ = ["ANSWER", "END", "KINDS_OF_PROBLEM", "THINK", "PieceTokenizer", "WorkedProblem", "boxes", "countdown",
           "final_answer", "is_right", "is_worked_right", "number_stories", "true_steps"]

THINK, ANSWER, END = " think: ", " answer: ", "\n"
MOST = 20  # of a story's numbers
NAMES = ("Mira", "Pip", "Tom", "Ada", "Ben", "Nell", "Oskar", "Lena")
THINGS = ("shells", "kites", "apples", "stones", "buttons", "feathers", "acorns", "marbles")
GAINS, LOSSES = ("finds", "buys", "gets"), ("gives away", "loses", "sells")
KINDS_OF_PROBLEM = ("story", "boxes", "countdown")
PARTS = ("train", "val", "test")
_PIECES = (END, *map(str, range(MOST + 1)), *"+-*/=().", "; ", THINK, ANSWER, "<calc>", "</calc>", "error", *NAMES,
           " has ", *(f" {thing}" for thing in THINGS), *(f", {verb} " for verb in GAINS + LOSSES), " boxes of ",
           "Make ", " from ", ", ", " ")


@dataclass(frozen=True)
class WorkedProblem:
    """A question and what is known about its answer.

    Attributes: kind, one of `KINDS_OF_PROBLEM`; prompt, the question; steps, true calculations such as "7+8=15" that
    lead to the answer, in order; answer, as it is written; size, what makes a problem harder: the number of steps of a
    story or of countdown, the digits of a box problem's first number.
    """

    kind: str
    prompt: str
    steps: tuple[str, ...]
    answer: str
    size: int

    def at_once(self) -> str:
        """The response without steps."""
        return f"{ANSWER}{self.answer}{END}"

    def worked(self) -> str:
        """The response with steps."""
        return f"{THINK}{'; '.join(self.steps)}{ANSWER}{self.answer}{END}"

    def with_calls(self) -> str:
        """The response with steps that a program is asked to calculate."""
        steps = "; ".join("<calc>{}</calc>{}".format(*step.split("=")) for step in self.steps)
        return f"{THINK}{steps}{ANSWER}{self.answer}{END}"


def _whole(step: str) -> int:
    return int(arithmetic(step))


def _part_of(numbers: Any) -> str:
    """Of ten problems, eight are for training; decided by the numbers alone."""
    return {8: "val", 9: "test"}.get(zlib.crc32(repr(numbers).encode()) % 10, "train")


def _drawn(seed: int, n: int, part: str, draw: Any) -> Iterator[Any]:
    """`n` results of `draw(random)`, pairs (numbers, problem), of which the numbers belong to the part."""
    if part not in PARTS:
        raise ValueError(f"part is {part!r}: it must be one of {', '.join(PARTS)}")
    source = random.Random(f"{part} {seed}")
    while n > 0:
        numbers, problem = draw(source)
        if _part_of(numbers) == part:
            n -= 1
            yield problem


def number_stories(seed: int, n: int, part: str = "train",
                   steps: Collection[int] = (1, 2, 3, 4)) -> list[WorkedProblem]:
    """Problems of the kind "story": a number from 0 to 20 that changes so many times by 1 to 9.

    seed: another one gives other problems. part: "train", "val" or "test". Raises ValueError for another part and for a
    number of steps below 1.
    """
    if not steps or min(steps) < 1:
        raise ValueError(f"steps is {tuple(steps)}: give numbers of steps, at least 1 each")

    def draw(source: random.Random) -> tuple[tuple[int, ...], WorkedProblem]:
        now = source.randint(1, MOST)
        numbers, text, done = [now], f"{source.choice(NAMES)} has {now} {source.choice(THINGS)}", []
        for _ in range(source.choice(tuple(steps))):
            change = source.choice([by for by in range(-9, 10) if by and 0 <= now + by <= MOST])
            verb = source.choice(GAINS if change > 0 else LOSSES)
            text += f", {verb} {abs(change)}"
            done.append(f"{now}{change:+d}={now + change}")
            now += change
            numbers.append(change)
        return tuple(numbers), WorkedProblem("story", text + ".", tuple(done), str(now), len(done))

    return list(_drawn(seed, n, part, draw))


def boxes(seed: int, n: int, part: str = "train", digits: Collection[int] = (1, 2, 3)) -> list[WorkedProblem]:
    """Problems of the kind "boxes": a product of a number with so many digits and one of one or two digits."""
    if not digits or min(digits) < 1:
        raise ValueError(f"digits is {tuple(digits)}: give numbers of digits, at least 1 each")

    def draw(source: random.Random) -> tuple[tuple[int, int], WorkedProblem]:
        size = source.choice(tuple(digits))
        many, each = source.randrange(10 ** (size - 1), 10**size), source.randint(2, 99)
        text = f"{many} boxes of {each} {source.choice(THINGS)}."
        return (many, each), WorkedProblem("boxes", text, (f"{many}*{each}={many * each}",), str(many * each), size)

    return list(_drawn(seed, n, part, draw))


def countdown(seed: int, n: int, part: str = "train", numbers: int = 3, largest: int = 19) -> list[WorkedProblem]:
    """Problems of the kind "countdown": a target from 1 to 99 that is to be calculated from so many numbers, 1 to
    `largest`, each used once, by + - and *. One solution is known, without brackets; `is_right` accepts any.
    """
    if not 2 <= numbers <= 5 or not 1 < largest <= 19:
        raise ValueError(f"numbers is {numbers}, largest {largest}: give 2 to 5 numbers, up to 2 to 19")

    def draw(source: random.Random) -> tuple[tuple[int, ...], WorkedProblem]:
        while True:
            given = [source.randint(1, largest) for _ in range(numbers)]
            order = source.sample(given, numbers)
            way = str(order[0]) + "".join(f"{source.choice('+-*')}{number}" for number in order[1:])
            target = _whole(way)
            if 1 <= target <= 99:
                text = f"Make {target} from {', '.join(map(str, given))}."
                problem = WorkedProblem("countdown", text, (f"{way}={target}",), way, numbers - 1)
                return (target, *sorted(given)), problem

    return list(_drawn(seed, n, part, draw))


# --- checking --------------------------------------------------------------------------------------------------------

def final_answer(response: str) -> str:
    """What stands between the last " answer: " of a response and its end; "" if it has not both."""
    _, mark, rest = response.rpartition(ANSWER)
    answer, end, _ = rest.partition(END)
    return answer.strip() if mark and end else ""


def is_right(problem: WorkedProblem, response: str) -> bool:
    """Whether a response ends with the right answer. What comes before does not count.

    Countdown: any calculation that uses each number once and comes to the target. A response that is anything a model
    can write is never run; it takes time in proportion to its length.
    """
    answer = final_answer(response)
    if problem.kind != "countdown":
        return answer == problem.answer
    given = sorted(re.findall(r"\d+", problem.prompt.partition(" from ")[2]))
    written = re.fullmatch(r"[0-9+\-*() ]+", answer) and "**" not in answer  # no powers, and no other sign
    if not written or sorted(re.findall(r"\d+", answer)) != given:
        return False
    try:
        return arithmetic(answer) == _whole(problem.answer)
    except ValueError:
        return False


def is_worked_right(problem: WorkedProblem, response: str) -> bool:
    """Whether the answer is right and every calculation that the response states on the way is true, too."""
    true, stated = true_steps(response)
    return is_right(problem, response) and true == stated


def true_steps(response: str) -> tuple[int, int]:
    """How many calculations of a response are true, and how many it states, such as "7+8=15"."""
    stated = re.findall(r"([0-9+\-*/]*\d)=(-?\d+)", response)
    return sum(_true(*pair) for pair in stated), len(stated)


def _true(calculation: str, result: str) -> bool:
    try:
        return arithmetic(calculation) == int(result)
    except ValueError:
        return False


# --- tokens ----------------------------------------------------------------------------------------------------------

class PieceTokenizer:
    """The problems' texts as ids: a number up to 20, a mark, and each word or phrase that the texts know is a token.

    Larger numbers are several tokens: 347 is 3, 4, 7 and 1847 is 18, 4, 7. It is a `llmbook.protocols.Tokenizer` with
    80 tokens or fewer. `end` is the id of the token that ends a response.
    """

    def __init__(self):
        self.pieces = tuple(dict.fromkeys(_PIECES))
        self.n_vocab, self.special_tokens_set = len(self.pieces), set()
        self._ids = {piece: number for number, piece in enumerate(self.pieces)}
        longest_first = sorted(self.pieces, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        self.end = self._ids[END]

    def encode(self, text: str, *, allowed_special: Any = (), disallowed_special: Any = "all") -> list[int]:
        """Ids of a text. Raises ValueError for a character that no problem has."""
        ids, place = [], 0
        while place < len(text):
            found = self._pattern.match(text, place)
            if found is None:
                raise ValueError(f"{text[place : place + 12]!r} is in no problem: write digits, + - * / = ( ) and the "
                                 "words of llmbook.problems")
            ids.append(self._ids[found.group()])
            place = found.end()
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ids."""
        return "".join(self.pieces[int(token)] for token in tokens)
