"""Chapter 8's storyteller, its stored stories, simulated votes, and the stored study over several seeds."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..extras import load_extra
from ..files import data_folder
from ..open_weights import load_pretrained
from ..storyworld.tastes import prefers_first, taste
from .storytelling import Share

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BETWEEN", "STUDY_NAME", "TEMPERATURE", "TOLD_NAME", "calm_teller", "draw_pairs", "draw_votes",
           "mean_with_error", "preference_study", "share_preferred", "spread_table", "study_text", "told_by",
           "told_stories"]

STUDY_NAME = "preferences.json"  # tools/preferences.py writes it, and
TOLD_NAME = "told_stories.txt.gz"  # this, in data/
PARTS = ("rewards", "dpo", "few votes", "reinforce", "real")
TEMPERATURE = 0.5
BETWEEN = "\n<|endoftext|>\n"  # stories in the file
Score = Callable[[str], float]


def calm_teller(temperature: float = TEMPERATURE, device: str = "cpu") -> tuple[torch.nn.Module, Any]:
    """The storyteller and its tokenizer; sampled at temperature 1, it now does what it did at `temperature`.

    Its logits are linear in what the last norm gives, so the norm's weights are divided by the temperature.
    """
    model, tokenizer = load_pretrained("storyteller", device=device)
    with torch.no_grad():
        model.final_norm.weight /= temperature
    return model, tokenizer


def _told() -> list[str]:
    path = data_folder() / TOLD_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: make it with `python tools/preferences.py --part told`")
    return gzip.decompress(path.read_bytes()).decode().split(BETWEEN)


def told_stories() -> list[str]:
    """Stories that `calm_teller` told, always the same. Raises FileNotFoundError if they have not been made."""
    return _told()[1:]


def told_by() -> str:
    """The name of the weights' file that told `told_stories`."""
    return _told()[0]


def draw_pairs(texts: Sequence[str], n: int, seed: int = 0) -> list[tuple[str, str]]:
    """`n` pairs of two different texts."""
    rng, pairs = random.Random(seed), []
    if len(set(texts)) < 2:
        raise ValueError(f"{len(set(texts))} different text: give at least 2, or no pair can be drawn")
    while len(pairs) < n:
        first, second = rng.sample(list(texts), 2)
        if first != second:
            pairs.append((first, second))
    return pairs


def draw_votes(texts: Sequence[str], n: int, seed: int = 0, score: Score | None = None) -> list[dict[str, str]]:
    """`n` votes on pairs of these texts: dictionaries with "prompt" (empty), "chosen" and "rejected".

    The voters are the simulated readers of `llmbook.storyworld.tastes`; or, with a `score`, somebody who always prefers
    the higher one, and tosses a coin where both are equal.
    """
    rng, votes = random.Random(10_000 + seed), []
    for first, second in draw_pairs(texts, n, seed):
        if score is None:
            won = prefers_first(first, second, rng)
        else:
            won = (score(first), rng.random()) > (score(second), 0.5)
        votes.append({"prompt": "", "chosen": first if won else second, "rejected": second if won else first})
    return votes


def share_preferred(texts: Sequence[str], others: Sequence[str], n: int = 500, seed: int = 0,
                    score: Score = lambda text: taste(text).score) -> Share:
    """How many of `n` pairs, one of `texts` and one of `others`, the score decides for the first.

    Pairs with equal scores are drawn again. Raises ValueError if all scores are equal.
    """
    rng, won, drawn = random.Random(seed), 0, 0
    ours, theirs = [score(text) for text in texts], [score(text) for text in others]
    if len({*ours, *theirs}) < 2:
        raise ValueError("all texts have the same score: no pair can be decided")
    while drawn < n:
        own, other = rng.choice(ours), rng.choice(theirs)
        drawn, won = drawn + (own != other), won + (own > other)
    return Share(won, n)


def mean_with_error(values: Tensor) -> str:
    """"1.23 ± 0.10": the mean of numbers (n,) and its standard error."""
    return f"{values.mean():.2f} ± {values.std() / len(values) ** 0.5:.2f}"


def preference_study() -> dict[str, list[dict[str, Any]]]:
    """The stored study, as tools/preferences.py wrote it, a row for each run; no row of what has not been run yet."""
    path = resources.files(__package__) / STUDY_NAME
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {part: stored.get(part, []) for part in PARTS}


def spread_table(rows: Sequence[Mapping[str, Any]], by: str | list[str], columns: Mapping[str, str]) -> pd.DataFrame:
    """Runs over several seeds, one line for each value of `by`.

    columns: heading -> name in the rows. Numbers become their mean and, in brackets, the lowest and the highest where
    there is more than one seed; [right, of] becomes the share over all seeds with its interval.
    """
    names = [by] if isinstance(by, str) else by
    lines = []
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        runs = [row for row in rows if tuple(row[name] for name in names) == key]
        line = {**dict(zip(names, key)), "seeds": len(runs)}
        for heading, name in columns.items():
            values = [run[name] for run in runs]
            if isinstance(values[0], list):
                line[heading] = str(Share(*map(sum, zip(*values))))
            else:
                spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
                line[heading] = f"{sum(values) / len(values):.2f}{spread}"
        lines.append(line)
    return load_extra("pandas").DataFrame(lines).set_index(names)


def study_text(rows: Sequence[Mapping[str, Any]], by: str | list[str], columns: Mapping[str, str]) -> str:
    """`spread_table` as text, or "not run yet" of no rows."""
    return spread_table(rows, by, columns).to_string() if rows else "not run yet"
