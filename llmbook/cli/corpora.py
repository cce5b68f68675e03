"""Where a text is: a path, or the name of one that comes with the book or with Python."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BUILT_IN", "find_source"]

BUILT_IN = ("python-documentation", "twenty-in-hand")


def find_source(name: str, place: str) -> list[str] | Path:
    """Documents, or the path of a text file, a folder, or token files.

    place: where the name stands, for a message. Raises ValueError if nothing is there.
    """
    from ..book import corpora

    if name == "python-documentation":
        return corpora.python_documentation()
    if name == "twenty-in-hand":
        return corpora.data_folder() / "twenty_in_hand.txt"
    if not (path := Path(name).expanduser()).exists():
        raise ValueError(f"{place}: {name} does not exist: give a text file, a folder, or {' or '.join(BUILT_IN)}")
    return path
