"""Reading the files that a learner brings along to fine-tune on, line by line, so that an error names its place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import load_extra

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_instructions", "read_labelled_texts"]


def read_labelled_texts(path: str | Path, labels: Sequence[str]) -> pd.DataFrame:
    """Lines of `label<tab>text`, in UTF-8, as a table with the columns label and text.

    Empty lines are left out. Raises ValueError, with the line's number, for bytes that are not UTF-8, a line without a
    tab, a label that is not one of `labels`, or an empty text.
    """
    pd = load_extra("pandas")
    rows = []
    content = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")  # the mark some programs write
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            label, tab, text = line.removesuffix(b"\r").decode("utf-8").partition("\t")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: byte {line[error.start]:#x} is not UTF-8: save the file as "
                             "UTF-8") from None
        if not line.strip():
            continue
        if not tab:
            raise ValueError(f"{path}, line {number} has no tab between label and text: put one after the label")
        if label not in labels:
            raise ValueError(f"{path}, line {number}: the label {label!r} is none of {', '.join(labels)}: correct it")
        if not text.strip():
            raise ValueError(f"{path}, line {number}: the text is empty: fill it in or take it out")
        rows.append((label, text))
    return pd.DataFrame(rows, columns=["label", "text"])


def read_instructions(path: str | Path) -> pd.DataFrame:
    """A JSON list of entries, or JSON Lines with one entry a line, as a table.

    Each entry is an object with the texts instruction and output, and input if there is one ("" if not). Other keys
    are kept as they are. Raises ValueError, with the entry's number from 1, for anything else.
    """
    pd = load_extra("pandas")
    try:
        text = Path(path).read_bytes().decode("utf-8").removeprefix("\ufeff")  # the mark some programs write
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    whole = text.lstrip().startswith("[")
    parts = {"": text} if whole else {f", line {number}": line for number, line in enumerate(text.split("\n"), 1)}
    entries: list[Any] = []
    for where, part in parts.items():
        try:
            entries += json.loads(part) if whole else [json.loads(part)] if part.strip() else []
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}{where} is not JSON ({error}): give a JSON list of entries, or JSON Lines with "
                             "one entry a line") from None
    if not entries:
        raise ValueError(f"{path} holds no entry: give one at least")
    for place, entry in enumerate(entries, 1):
        _check_entry(entry, f"{path}, entry {place}")
    return pd.DataFrame([{**entry, "input": entry.get("input", "")} for entry in entries])


def _check_entry(entry: Any, where: str) -> None:
    """Raise ValueError unless an entry has an instruction and an output that can be trained on."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} is {json.dumps(entry)[:40]}: it must be an object with instruction, input and "
                         "output")
    begins = entry.get("instruction")
    where += f" ({begins[:40]!r})" if isinstance(begins, str) and begins.strip() else ""
    for key in ("instruction", "output"):
        if entry.get(key) is None:
            raise ValueError(f"{where} has no {key}: add it, or take the entry out")
    for key in ("instruction", "input", "output"):
        if not isinstance(text := entry.get(key, ""), str):
            raise ValueError(f"{where}: {key} is {json.dumps(text, default=str)[:40]}, of type {type(text).__name__}: "
                             "it must be text, in quotation marks")
        if key != "input" and not text.strip():
            raise ValueError(f"{where}: {key} is empty: fill it in, or take the entry out")
