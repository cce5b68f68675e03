"""Where a text is: a path, or the name of one that comes with the book or with Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

__all__ = ["BUILT_IN", "HELD_OUT_STORIES", "STORIES", "STORY_NAMES", "Stories", "find_source"]

STORY_NAMES = ("stories", "short-stories")
BUILT_IN = (*STORY_NAMES, "python-documentation", "twenty-in-hand")
STORIES, HELD_OUT_STORIES = 20_000, 400  # where no number is given


@dataclass(frozen=True)
class Stories:
    """The first `n` stories of `llmbook.storyworld` on one side of the split, made anew each time they are read: the
    first ones of more stories are the same. `len()` is their number. `short` asks for its short stories."""

    n: int = STORIES
    split: str = "train"
    seed: int = 1
    short: bool = False

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[str]:
        from ..storyworld import stories

        return (story.text for story in stories(self.seed, self.n, split=self.split, short=self.short))

    def first(self, n: int) -> list[str]:
        """The first `n` of them, or all."""
        return list(islice(self, n))


def find_source(name: str, place: str, stories: Stories | None = None) -> list[str] | Stories | Path:
    """Documents, or the path of a text file, a folder, or token files.

    place: where the name stands, for a message. stories: how many, and of which split, a name of stories means.
    Raises ValueError if nothing is there, or the name could mean two things.
    """
    from ..book import corpora

    path = Path(name).expanduser()
    if name in BUILT_IN and path.exists():
        raise ValueError(f"{place}: {name} is a folder or file here and the name of a text of the book: give ./{name} "
                         "for the first, or run this in another folder for the second")
    if name in STORY_NAMES:
        return replace(stories or Stories(), short=name == "short-stories")
    if name == "python-documentation":
        return corpora.python_documentation()
    if name == "twenty-in-hand":
        return corpora.data_folder() / "twenty_in_hand.txt"
    if not path.exists():
        raise ValueError(f"{place}: {name} does not exist: give a text file, a folder, or {' or '.join(BUILT_IN)}")
    return path
