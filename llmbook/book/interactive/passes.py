"""Generation with and without a key-value cache, token by token, in one attention head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from ..figures import GREEN, ORANGE
from .frame import STILL_WIDTH, Interactive, visible
from .heads import number_rows

__all__ = ["cache_picture", "computed_rows"]

MOST_TOKENS = 16


def cache_picture(tokens: Sequence[str], query: Tensor, key: Tensor, value: Tensor, prompt: int = 2,
                  start: int | None = None) -> Interactive:
    """A text grows token by token: which keys, values and scores are computed without a cache and with one, counted.

    Args:
        tokens: the text in the end, n strings, at most 16.
        query, key: (n, d_head), of one head.
        value: (n, d_head).
        prompt: tokens that are read in the first pass.
        start: tokens generated when the picture opens; half of them if None.

    Raises:
        ValueError: if the shapes do not fit the tokens, or `prompt` is not in 1 ... n.

    Source: Shazeer, "Fast Transformer Decoding: One Write-Head is All You Need" (2019), section 2.
    """
    n = len(tokens)
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 2 or tensor.shape != query.shape or len(tensor) != n:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: {n} tokens need ({n}, d_head), all three alike")
    if not 1 <= n <= MOST_TOKENS:
        raise ValueError(f"{n} tokens: give 1 to {MOST_TOKENS}, so that each has its row")
    if not 1 <= prompt <= n:
        raise ValueError(f"prompt is {prompt}: give 1 to {n} tokens")
    start = (n - prompt + 1) // 2 if start is None else start
    if not 0 <= start <= n - prompt:
        raise ValueError(f"start is {start}: {prompt} of {n} tokens are the prompt, so give 0 to {n - prompt}")
    query, key, value = (number_rows(tensor.detach().float().cpu()) for tensor in (query, key, value))
    data = {"tokens": list(tokens), "query": query, "key": key, "value": value, "prompt": prompt, "start": start}
    without, cached = computed_rows(n, prompt)[-1]
    return Interactive("cache", data, lambda: _still(tokens, prompt, start),
                       f"Reading {n} tokens, the first {prompt} as a prompt and then one per step: without a cache "
                       f"{without} keys and values are computed in all, with a cache {cached}.")


def computed_rows(n: int, prompt: int) -> list[tuple[int, int]]:
    """After each pass, how many rows of keys and values were computed in all, without and with a cache."""
    lengths = np.arange(prompt, n + 1)
    return list(zip(lengths.cumsum().tolist(), lengths.tolist()))


def _still(tokens: Sequence[str], prompt: int, start: int) -> Figure:
    """One step as tables of what is computed, and the growing counts of all steps."""
    names = [visible(token.strip() or token) for token in tokens]
    n, length = len(tokens), prompt + start
    figure = Figure(figsize=(STILL_WIDTH, 7.4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[3.2, 2])
    read = length - 1 if start else 0
    title = f"Reading token {length}, “{names[length - 1]}”" if start else "Reading the prompt"
    upper.suptitle(title, fontsize=10, x=0.02, ha="left")
    colours = ListedColormap(["white", "#E4E4E4", ORANGE, GREEN])  # nothing, computed earlier, now, from the cache
    for axes, kept, title in zip(upper.subplots(1, 2, sharey=True), (0, read), ("without a cache", "with a cache")):
        picture = np.zeros((n, n + 2))
        for row in range(length):
            picture[row, 0] = 3 if row < kept else 2
            picture[row, 2 : row + 3] = 1 if row < kept else 2
        axes.pcolormesh(np.arange(n + 3) - 0.5, np.arange(n + 1) - 0.5, picture, cmap=colours, vmin=0, vmax=3,
                        edgecolors="white", linewidth=1.5)
        axes.tick_params(length=0)
        axes.set_xticks([0, 1 + (n + 1) / 2], ["k, v", "scores"])
        axes.set_yticks(range(n), names)
        axes.set_title(title)
        axes.set_ylim(n - 0.5, -0.5)
        for spine in axes.spines.values():
            spine.set_visible(False)
    upper.legend(handles=[Patch(color=ORANGE, label="computed in this step"),
                          Patch(color=GREEN, label="from the cache"), Patch(color="#E4E4E4", label="computed earlier")],
                 loc="outside lower center", ncols=3, fontsize=8, frameon=False, columnspacing=1, handlelength=1.2)
    axes = lower.subplots()
    for which, colour, label in ((0, ORANGE, "without a cache: {}"), (1, GREEN, "with a cache: {}")):
        totals = [pair[which] for pair in computed_rows(n, prompt)]
        axes.plot(range(prompt, n + 1), totals, "o-", color=colour, markersize=3)
        axes.annotate(label.format(totals[-1]), (n, totals[-1]), xytext=(-6, 5 if which else -2), ha="right",
                      va="bottom", textcoords="offset points")
    axes.set(title="keys and values computed in all", xlabel="tokens read", ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure
