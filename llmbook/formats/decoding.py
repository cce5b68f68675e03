"""Text from ids that come one by one."""

from __future__ import annotations

import codecs
from typing import Any

from .pretrained_tokenizer import adapt

__all__ = ["TextStream"]

_BYTES = 4  # of a character in UTF-8, at most
_LONGEST = 12  # tokens that are decoded together


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
            return self._shorten_window(text) if len(self._window) > _LONGEST else ""
        new, self._window = text[self._shown :], self._window[-1:]
        self._shown = len(self._window_text())
        return new

    def _shorten_window(self, text: str) -> str:
        """A long window still ends in U+FFFD, so that is the text, or bytes that are none. The last tokens may yet
        become a character. What is before them is certain: it is cut off where the two parts' texts are the whole's."""
        for place in range(len(self._window) - _BYTES, 0, -1):
            certain = self._tokenizer.decode(self._window[:place])
            if certain + self._tokenizer.decode(self._window[place:]) == text:
                new, self._window = certain[self._shown :], self._window[place:]
                self._shown = 0
                return new
        whole = text.rstrip("\ufffd")  # each token ends inside a character
        new, self._window = whole[self._shown :], self._window[-_BYTES:]
        self._shown = max(0, len(self._window_text()) - (len(text) - len(whole)))
        return new
