"""Text from the standard input and from arguments, which must be UTF-8."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from .errors import UsageError

__all__ = ["check_text", "input_lines", "whole_input"]


def check_text(text: str, what: str) -> None:
    """Raise UsageError for text that has no UTF-8: a shell hands on any bytes, as half characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not UTF-8 (its character {error.start + 1:,} is {text[error.start]!r}): convert "
                         "it first, or take the character out") from None


def whole_input() -> str:
    """All of the standard input. Raises UsageError if it is closed or not UTF-8."""
    if sys.stdin is None:
        raise UsageError("the standard input is closed: give the prompt as an argument")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None


def input_lines() -> Iterator[str]:
    """The lines of the standard input as they come. Raises UsageError for one that is not UTF-8."""
    try:
        yield from sys.stdin
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None


def _not_utf8(error: UnicodeDecodeError) -> UsageError:
    return UsageError(f"the standard input is not UTF-8 (byte {error.start:,} is 0x{error.object[error.start]:02x}): "
                      "convert it first")
