"""A table of entries and responses: which are right by the entries' own checks, strictly and leniently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .answer_checks import check_answer, check_kind, contains_answer
from .extras import load_extra

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["score_responses"]


def score_responses(entries: pd.DataFrame, responses: Sequence[str]) -> pd.DataFrame:
    """One row per entry: kind of task, how it is checked ("content", "format" or None), whether the response is right,
    whether the right answer is in it, perhaps among other words (both None where nothing can be checked), and its
    words.

    entries: with the columns kind, output and check. Raises ValueError if the numbers differ.
    """
    if len(entries) != len(responses):
        raise ValueError(f"{len(entries)} entries, {len(responses)} responses: give one for each")
    rows = []
    for entry, response in zip(entries.to_dict("records"), responses, strict=True):
        checked = check_kind(entry["check"])
        right = checked and check_answer(response, entry["check"], entry["output"])
        inside = checked and contains_answer(response, entry["check"], entry["output"])
        rows.append((entry["kind"], checked, right, inside, len(response.split())))
    columns = ["kind", "checked", "right", "contained", "words"]
    return load_extra("pandas").DataFrame(rows, columns=columns, index=entries.index)
