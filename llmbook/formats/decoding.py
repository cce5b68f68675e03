"""Text from ids that come one by one."""

from __future__ import annotations

import codecs
from typing import Any

from .pretrained_tokenizer import adapt

__all__ = ["TextStream"]


class TextStream:
    """The text of ids as they come: each id is decoded once, and no character is shown before it is whole.

    Args:
        tokenizer: any tokenizer.
        continues: whether the ids go on from a text, as a generated continuation does. Then a space before the first
            word stays. Otherwise all pieces together are `tokenizer.decode(ids)`, where SentencePiece's kinds lose it.
        skip_special: leave out tokens that stand for no text.

    The pieces of `push`, and `finish` at the end, joined, are the whole text.
    """

    def __init__(self, tokenizer: Any, continues: bool = True, skip_special: bool = False):
        self._tokenizer = adapt(tokenizer)
        self._skipped = set(self._tokenizer.runner.special.values()) if skip_special else set()
        self._strips = self._tokenizer.runner.drops_first_space and not continues
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._window: list[int] = []  # where a token's text depends on its neighbours: those decoded together
        self._shown = 0  # characters of the window's text that were returned

    @property
    def unfinished(self) -> bool:
        """Whether the last character is not whole yet: bytes of it are still to come."""
        return bool(self._decoder.getstate()[0]) or self._window_text().endswith("\ufffd")

    def push(self, token: int) -> str:
        """The text that a further token makes certain, "" if it ends inside a character."""
        if int(token) in self._skipped:
            return ""
        part = self._tokenizer.token_bytes(int(token))
        if part is None:
            return self._push_to_window(int(token))
        if self._strips and part:
            part, self._strips = part.removeprefix(b" "), False
        return self._decoder.decode(part)

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that was cut, else ""."""
        rest = self._decoder.decode(b"", final=True) + self._window_text()[self._shown :]
        self._window, self._shown = [], 0
        return rest

    def _window_text(self) -> str:
        return self._tokenizer.decode(self._window) if self._window else ""

    def _push_to_window(self, token: int) -> str:
        """Decodes the last few tokens together: the one before gives the new one its space, and no more are needed."""
        self._window.append(token)
        text = self._window_text()
        if text.endswith("\ufffd"):
            return ""
        new, self._window = text[self._shown :], self._window[-1:]
        self._shown = len(self._window_text())
        return new
