"""The texts the chapters train on: the book's own, and the English that comes with every Python.

Neither needs a download.
"""

from __future__ import annotations

import ast
import inspect
import sysconfig
from functools import lru_cache
from importlib import resources
from pathlib import Path
from types import ModuleType

# Folders of the standard library that hold no documentation, or text that is not English prose.
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__", "pydoc_data",
            "turtledemo", "_vendor", "ensurepip"}


def data_folder() -> Path:
    """The folder of texts that the book ships: `llmbook/data` where a wheel was installed, and `data/` beside the
    package in a clone, installed as editable or not.

    Raises:
        FileNotFoundError: if neither is there.
    """
    package = Path(str(resources.files("llmbook")))
    for folder in (package / "data", package.parent / "data"):
        if (folder / "README.md").is_file():
            return folder
    raise FileNotFoundError(f"no data folder in or beside {package}: install llmbook again, `pip install .` in a clone")


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
