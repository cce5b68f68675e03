"""Packages that only some uses of llmbook need, so that installing it stays small: `pip install "llmbook[book]"`."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["load_extra"]


def load_extra(module: str, extra: str = "book") -> ModuleType:
    """Import a package that llmbook does without until it is used, such as pandas for a table.

    Args:
        module: the name to import: "pandas", "pyarrow.parquet".
        extra: the extra of `pyproject.toml` that installs it.

    Raises:
        ImportError: in one line that says how to install it, if it is not there.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # it is there, and something that it needs is not
        name = module.split(".")[0]
        raise ImportError(f"this needs the package {name}, which is not installed: "
                          f'pip install "llmbook[{extra}]"', name=name) from None
