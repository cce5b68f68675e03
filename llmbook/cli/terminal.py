"""Writing to the terminal: only the first of several processes does, and above a progress bar."""

from __future__ import annotations

import sys

from ..files import is_first
from .errors import naming

__all__ = ["remark", "say", "shows_progress"]


def say(text: str) -> None:
    """Print a line, from the first process only, above a progress bar if one is shown."""
    if is_first():
        from tqdm import tqdm

        with naming("the standard output"):
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()


def remark(text: str) -> None:
    """Tell a person at the terminal what is being waited for; nothing where no person reads."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def shows_progress() -> bool:
    """Whether a progress bar would reach a person."""
    return is_first() and sys.stderr is not None and sys.stderr.isatty()
