"""The text side of an answer: pieces as they become certain, strings that end it, and how likely each token was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..formats.decoding import TextStream
from ..formats.pretrained_tokenizer import adapt

__all__ = ["AnswerText", "Ended", "Kept", "Piece", "Score", "token_text"]


@dataclass(frozen=True)
class Score:
    """How likely a token was, by the model itself: before temperature, top-k and top-p change anything.

    logprob: the natural logarithm of its probability. top: the likeliest tokens with theirs, the best first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """The next part of an answer's text, and the scores of its tokens where they were asked for."""

    text: str
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True)
class Ended:
    """The last event of a request.

    Args:
        reason: "stop", by a token or a string that ends answers; "length", cut by tokens, context or time; "cancelled",
            by whoever asked; "closed", since the engine ends; "error".
        prompt_tokens, reused: of the prompt, and how many of them had been read before.
        ids: all new tokens, the one that ended the answer included.
        error: what went wrong, if the reason is "error".
    """

    reason: str
    prompt_tokens: int
    reused: int = 0
    ids: tuple[int, ...] = ()
    error: Exception | None = None


class Kept(str):
    """A string that ends an answer and is a part of it, such as the mark that closes a call of a tool."""


@dataclass
class AnswerText:
    """Tokens in, pieces of text out. What may be the beginning of a stop string is held back until it is certain.

    Args:
        tokenizer: the model's.
        continues: whether the answer goes on from a text, see `llmbook.formats.decoding.TextStream`.
        stops: strings that end the answer, and are no part of it unless they are `Kept`.

    Attributes:
        stopped: whether one of them came.
    """

    tokenizer: Any
    continues: bool = False
    stops: Sequence[str] = ()
    stopped: bool = False
    _held: str = ""
    _scores: list[tuple[int, Score]] = field(default_factory=list)  # of tokens not told yet, and where each begins
    _told: int = 0  # characters

    def __post_init__(self) -> None:
        self._stream = TextStream(self.tokenizer, continues=self.continues, skip_special=True)

    def push(self, token: int, score: Score | None = None) -> Piece | None:
        """What a further token makes certain; None for nothing."""
        if score is not None:
            self._scores.append((self._told + len(self._held), score))
        self._held += self._stream.push(token)
        return self._tell(self._certain())

    def finish(self) -> Piece | None:
        """What is left at the end."""
        if self.stopped:
            return None
        self._held += self._stream.finish()
        certain = self._certain()
        return self._tell(certain if self.stopped else len(self._held), last=True)

    def _certain(self) -> int:
        """How many characters of those held can be told."""
        found = [(place, len(stop) if isinstance(stop, Kept) else 0) for stop in self.stops
                 if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return sum(min(found))
        longest = max(map(len, self.stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self.stops):
                return len(self._held) - size
        return len(self._held)

    def _tell(self, characters: int, last: bool = False) -> Piece | None:
        text, self._held = self._held[:characters], self._held[characters:]
        self._told += characters
        ready = [score for start, score in self._scores if start < self._told or (last and not self.stopped)]
        self._scores = self._scores[len(ready) :]
        return Piece(text, tuple(ready)) if text or ready else None


def token_text(tokenizer: Any, token: int) -> tuple[str, bytes]:
    """A token alone: its text, with U+FFFD for parts of characters, and its bytes."""
    part = adapt(tokenizer).token_bytes(token)
    part = tokenizer.decode([token]).encode() if part is None else part
    return part.decode("utf-8", "replace"), part
