"""The texts the chapters train on: stories, the book's own texts, and the English that comes with every Python.

None needs a download.
"""

from __future__ import annotations

import ast
import inspect
import math
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from ..extras import load_extra
from ..files import data_folder, read_json
from ..storyworld import Story, stories

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["data_folder", "held_out_stories", "package_docstrings", "python_documentation", "story_documents",
           "storyteller_log", "storyteller_skills", "storyteller_table"]

# Folders of the standard library that hold no documentation, or text that is not English prose.
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__", "pydoc_data",
            "turtledemo", "_vendor", "ensurepip"}


HELD_OUT_SEED = 2  # that of the loss ladder, too


def story_documents(n: int, seed: int = 1, split: Literal["train", "test"] | None = "train", short: bool = False
                    ) -> list[str]:
    """The texts of the first `n` stories of `llmbook.storyworld`: each is one document.

    split: "train" has no combination of name, thing and plot that is held out; each story of "test" has one; None: all.
    short: its short stories, which the loss ladder and the storyteller learn from. A training story takes about 0.5 ms
    the first time, a held-out one 5 ms; then they are kept. Errors as `stories`.
    """
    if n < 0:
        raise ValueError(f"n is {n}: ask for 0 stories or more")
    texts, more = _told.setdefault((seed, split, short),
                                    ([], stories(seed, sys.maxsize, split=split, short=short)))
    texts += [story.text for story in islice(more, max(0, n - len(texts)))]
    return texts[:n]


_told: dict[tuple[int, str | None, bool], tuple[list[str], Iterator[Story]]] = {}  # the first texts, the others


def held_out_stories(n: int = 200, short: bool = False) -> list[str]:
    """The first `n` stories of the test split that no setting was chosen with: each has a name, a thing and a plot that
    meet in no training story. Every held-out loss on stories that the book gives is of the first 200 short ones."""
    return story_documents(n, HELD_OUT_SEED, "test", short)


def storyteller_table() -> pd.DataFrame:
    """The storyteller's sizes and budgets, one row a training run, the smallest model first.

    Columns: parameters, d_model, n_layers, tokens (learned from), seconds (of training, on one core), loss (held-out
    nats a token), bits_per_byte; consistent: the share of sampled stories in which `check` finds no problem; ending:
    the share of held-out stories whose first half the model goes on from that get the ending they ask for. Each share
    lies in 0 to 1 and has its 95 % interval in `..._low` and `..._high`, and its number of stories in `..._n`.
    `python tools/storyteller.py table` makes it. Raises FileNotFoundError if it is not there.
    """
    return load_extra("pandas").DataFrame(_storyteller_rows("table.json"))


def storyteller_skills() -> pd.DataFrame:
    """What the storyteller could do when: the share of sampled stories that get a skill right, one row a checkpoint.

    Index: tokens (learned from). Columns: those of `llmbook.book.storytelling.SKILLS`, each with a column `..._of`, the
    number of stories that showed the skill at all. `python tools/storyteller.py skills` makes it. Raises
    FileNotFoundError if it is not there.
    """
    rows = [{"tokens": row["tokens"], **{name: pair[0] / pair[1] if pair[1] else math.nan for name, pair in row.items()
                                        if isinstance(pair, list)},
             **{f"{name}_of": pair[1] for name, pair in row.items() if isinstance(pair, list)}}
            for row in _storyteller_rows("skills.json")]
    return load_extra("pandas").DataFrame(rows).set_index("tokens")


def storyteller_log() -> pd.DataFrame:
    """The storyteller's training, some 300 of its steps: step, tokens, loss, val_loss (NaN where it was not measured;
    of held-out stories), learning_rate, seconds. Raises FileNotFoundError if it is not there."""
    return load_extra("pandas").read_csv(_storyteller_file("log.csv"))


def _storyteller_file(name: str) -> Path:
    path = data_folder() / "storyteller" / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: install llmbook again, or make it with tools/storyteller.py")
    return path


def _storyteller_rows(name: str) -> list[dict[str, Any]]:
    return read_json(_storyteller_file(name))


def python_documentation() -> list[str]:
    """English about Python that every Python installation carries, as a list of documents.

    First the language reference's topics (`pydoc_data.topics`, about 0.5 MB), then the docstrings of the
    standard library (about 1.6 MB), each document once, in a fixed order. The text differs a little from
    one Python version to the next. Nothing is imported or run: the sources are parsed.
    """
    return list(_python_documentation())


@lru_cache(maxsize=1)
def _python_documentation() -> tuple[str, ...]:
    from pydoc_data.topics import topics

    documents = [text.strip() for _, text in sorted(topics.items())]
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if _SKIPPED.isdisjoint(path.relative_to(library).parts):
            documents += _docstrings(path)
    return tuple(dict.fromkeys(text for text in documents if len(text) >= 40))  # once each, in order


def package_docstrings(package: ModuleType) -> list[str]:
    """The docstrings of 40 characters or more in a package's sources, each once, in the order of the files."""
    files = sorted(Path(package.__file__).parent.rglob("*.py"))
    found = [text for path in files if _SKIPPED.isdisjoint(path.parts[-3:]) for text in _docstrings(path)]
    return list(dict.fromkeys(text for text in found if len(text) >= 40))


def _docstrings(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):  # a few files are broken on purpose, or in another encoding
        return []
    nodes = (node for node in ast.walk(tree)
             if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)))
    return [inspect.cleandoc(text).strip() for node in nodes if (text := ast.get_docstring(node, clean=False))]
