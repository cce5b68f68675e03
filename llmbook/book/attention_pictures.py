"""The pictures of chapter 3, narrow enough for a telephone: maps stacked, and matrices with their shapes."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from llmbook.book.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, heatmap

__all__ = ["causal_maps", "grouped_heads", "heads_cut", "matrix_chains"]

WIDTH = 5.4  # inches; at 390 pixels letters of size 10 are still 7 pixels high
HEADS = (BLUE, ORANGE, GREEN, PURPLE, SKY, GREY)


def causal_maps(maps: Sequence[tuple[str, Tensor]], rows: Sequence[str], columns: Sequence[str] | None = None,
                limits: tuple[float, float] | None = (0, 1), form: str | None = ".2f", xlabel: str = "attended to",
                ylabel: str = "attends", hide_future: bool = True) -> list[Axes]:
    """Draw matrices (rows, columns) one below the other, on one colour scale.

    Args:
        maps: title and matrix of each.
        rows, columns: labels; the columns' are those of the rows if None.
        hide_future: leave blank what lies above the diagonal that ends in the last corner.
        limits, form, xlabel, ylabel: as in `heatmap`.
    """
    columns = rows if columns is None else columns
    _, axes = plt.subplots(len(maps), 1, figsize=(WIDTH, (0.36 * len(rows) + 1.0) * len(maps)), squeeze=False)
    for ax, (title, matrix) in zip(axes[:, 0], maps, strict=True):
        matrix = torch.as_tensor(matrix).detach().float()
        if hide_future:
            later = torch.ones(matrix.shape, dtype=torch.bool).triu(matrix.shape[1] - matrix.shape[0] + 1)
            matrix = matrix.masked_fill(later, torch.nan)
        heatmap(matrix, rows, columns, title, xlabel, ylabel, form=form, limits=limits, ax=ax)
        if sum(map(len, columns)) > 30:  # labels would touch
            ax.tick_params(axis="x", rotation=45)
    return list(axes[:, 0])


def matrix_chains(chains: Sequence[Sequence[str | tuple[str, Tensor]]], title: str = "") -> Axes:
    """Draw equations of matrices, each matrix as a grid of its own numbers' colours with its shape below.

    Args:
        chains: one equation a row: pairs (name, 2-D tensor), and signs such as "@" and "=" between them. A sign may
            have words below it, after a line break.
        title: of the whole.
    """
    cell, gap, sign = 0.34, 0.2, 0.95  # in units of the axes
    heights = [max(len(part[1]) for part in chain if not isinstance(part, str)) * cell for chain in chains]
    widths = [sum((sign if isinstance(part, str) else part[1].shape[1] * cell) + gap for part in chain)
              for chain in chains]
    total = sum(heights) + 1.15 * len(chains)
    _, ax = plt.subplots(figsize=(WIDTH, WIDTH * total / max(widths) + 0.3))
    top = 0.0
    for chain, height in zip(chains, heights):
        x, middle = 0.0, top - 0.55 - height / 2
        for part in chain:
            if isinstance(part, str):
                mark, _, below = part.partition("\n")
                ax.text(x + sign / 2, middle, mark, ha="center", va="center", fontsize=12 if len(mark) == 1 else 8.5)
                ax.text(x + sign / 2, middle - 0.32, below, ha="center", va="top", fontsize=8, color=GREY)
                x += sign + gap
                continue
            name, matrix = part
            rows, columns = matrix.shape
            values = np.asarray(matrix.detach().float())
            limit = np.nanmax(np.abs(np.where(np.isfinite(values), values, np.nan))) or 1.0
            extent = (x, x + columns * cell, middle - rows * cell / 2, middle + rows * cell / 2)
            ax.imshow(values, extent=extent, cmap="PuOr", vmin=-limit, vmax=limit, zorder=1)
            for column in range(columns + 1):
                ax.plot([x + column * cell] * 2, extent[2:], color="white", linewidth=0.8, zorder=2)
            for row in range(rows + 1):
                ax.plot(extent[:2], [extent[2] + row * cell] * 2, color="white", linewidth=0.8, zorder=2)
            ax.text(x + columns * cell / 2, extent[3] + 0.1, name, ha="center", va="bottom", fontsize=10)
            ax.text(x + columns * cell / 2, extent[2] - 0.08, f"{rows}×{columns}", ha="center", va="top",
                    fontsize=8.5, color=GREY)
            x += columns * cell + gap
        top -= height + 1.15
    ax.set(xlim=(-0.1, max(widths)), ylim=(top + 0.15, 0.1), title=title)
    ax.set_aspect("equal")
    ax.axis("off")
    return ax


def heads_cut(tokens: int, n_heads: int, d_head: int) -> Axes:
    """Draw how the features of queries, (tokens, d_model), are cut into heads, (n_heads, tokens, d_head).

    Each head has a colour; after attention the same colours lie end to end again.
    """
    d_model = n_heads * d_head
    _, ax = plt.subplots(figsize=(WIDTH, 4.6))
    side, gap = 1.0, 1.5

    def grid(x: float, y: float, columns: Sequence[int]) -> None:
        for column, head in enumerate(columns):
            for token in range(tokens):
                ax.add_patch(Rectangle((x + column * side, y - (token + 1) * side), side, side, linewidth=0.8,
                                       edgecolor="white", facecolor=HEADS[head % len(HEADS)]))

    whole = [feature // d_head for feature in range(d_model)]
    spread = n_heads * d_head * side + (n_heads - 1) * gap
    left = (spread - d_model * side) / 2
    levels = (0.0, -tokens * side - 3.6, -2 * (tokens * side + 3.6))
    for level in (levels[0], levels[2]):
        grid(left, level, whole)
    for head in range(n_heads):
        x = head * (d_head * side + gap)
        grid(x, levels[1], [head] * d_head)
        centre = x + d_head * side / 2
        ax.text(centre, levels[1] - tokens * side - 0.2, f"head {head}", ha="center", va="top", fontsize=9)
        whole_centre = left + (head + 0.5) * d_head * side
        for start, end in (((whole_centre, levels[0] - tokens * side - 0.15), (centre, levels[1] + 0.15)),
                           ((centre, levels[1] - tokens * side - 1.1), (whole_centre, levels[2] + 0.15))):
            ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": GREY})
    texts = (f"one product gives every query: {tokens} × {d_model}", f"cut: {n_heads} × {tokens} × {d_head}",
             f"after attention, heads end to end: {tokens} × {d_model}")
    for level, text in zip((levels[0] + 0.25, levels[1] + 0.95, levels[2] - tokens * side - 1.3), texts):
        ax.text(spread / 2, level, text, ha="center", va="bottom", fontsize=9.5, zorder=5,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    ax.set(xlim=(-0.5, spread + 0.5), ylim=(levels[2] - tokens * side - 1.5, 1.6))
    ax.set_aspect("equal")
    ax.axis("off")
    return ax


def grouped_heads(n_heads: int, n_kv_heads: Sequence[int], names: Sequence[str]) -> Axes:
    """Draw which query heads share a head of keys and values, one row for each number of those.

    Args:
        n_heads: query heads.
        n_kv_heads: how many heads of keys and values each row has; each divides n_heads.
        names: of the rows.
    """
    _, ax = plt.subplots(figsize=(WIDTH, 1.75 * len(n_kv_heads)))
    for row, (shared, name) in enumerate(zip(n_kv_heads, names, strict=True)):
        y, group = -3.6 * row, n_heads // shared
        ax.text(-0.4, y + 1.75, f"{name}: {n_heads} query heads, {shared} of keys and values", fontsize=9.5,
                weight="bold")
        for head in range(n_heads):
            ax.add_patch(Rectangle((head - 0.32, y + 0.85), 0.64, 0.64, facecolor=BLUE))
            centre = (head // group + 0.5) * group - 0.5
            ax.plot([head, centre], [y + 0.85, y + 0.05], color=GREY, linewidth=1)
        for head in range(shared):
            ax.add_patch(Rectangle(((head + 0.5) * group - 0.82, y - 0.6), 0.64, 0.64, facecolor=ORANGE))
    ax.text(n_heads - 0.1, 1.17, "queries", va="center", fontsize=9, color=BLUE)
    ax.text(n_heads - 0.1, -0.28, "keys and\nvalues", va="center", fontsize=9, color="#8A5F00")
    ax.set(xlim=(-0.6, n_heads + 1.4), ylim=(-3.6 * (len(n_kv_heads) - 1) - 0.8, 2.3))
    ax.axis("off")
    return ax
