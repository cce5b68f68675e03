"""The pictures of chapter 4: the block with its shapes, the loop that writes, and curves over depth."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from llmbook.book.figures import BLUE, GREEN, ORANGE, PURPLE, RED, heatmap
from llmbook.book.figures.board import Board

__all__ = ["block_diagram", "draw_lines", "draw_histograms", "draw_influence", "draw_stacked_bars",
           "generation_loop", "measure_influence"]

WIDTH = 5.4  # inches, as in chapter 3
MARKS = ("o-", "s--", "^-.", "D:", "v-")


def block_diagram() -> Axes:
    """Draw a GPT's transformer block: two parts beside the skip connection, the shape on every arrow.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.3.
    """
    board = Board(478, "Data-flow diagram of a transformer block: norm and attention, added to the input; then norm, "
                       "a linear layer to 4 d_model, GELU and a linear layer back, added again.")
    features, wide = "(tokens, d_model)", "(tokens, 4 × d_model)"
    board.box(16, 8, 200, 28, "one vector per token", data=True)
    board.arrow([(56, 36), (56, 158)])
    board.arrow([(56, 174), (56, 392)])
    board.text(62, 300, "skip\nconnection", size=8.5)
    board.arrow([(56, 62), (190, 62)], True)
    board.shape(64, 50, features, True)
    board.box(190, 46, 100, 32, "norm", True)
    board.arrow([(240, 78), (240, 104)], True)
    board.shape(250, 91, features, True)
    board.box(132, 104, 216, 34, "attention: tokens exchange", True, size=9)
    board.arrow([(240, 138), (240, 166), (64, 166)], True)
    board.shape(250, 154, features, True)
    board.plus(56, 166, True)
    board.arrow([(56, 204), (190, 204)], True)
    board.shape(64, 192, features, True)
    board.box(190, 188, 100, 32, "norm", True)
    board.arrow([(240, 220), (240, 244)], True)
    board.shape(250, 231, features, True)
    for y, name, after in ((244, "linear", wide), (294, "GELU", wide), (344, "linear", features)):
        board.box(132, y, 216, 28, name, True)
        board.shape(250, y + 38, after, True)
    board.arrow([(240, 272), (240, 294)], True)
    board.arrow([(240, 322), (240, 344)], True)
    board.arrow([(240, 372), (240, 400), (64, 400)], True)
    board.text(184, 224, "feed-forward:\neach token by itself", size=8.5, ha="right")
    board.plus(56, 400, True)
    board.arrow([(56, 408), (56, 442)])
    board.shape(66, 425, features + ": into the next block")
    board.box(16, 442, 200, 28, "one vector per token", data=True)
    return board.ax


def generation_loop(words: str, token_ids: Sequence[int], vocab_size: int, new: str) -> Axes:
    """Draw how a model writes: scores for each position, the last row, a choice, and once more with the longer text.

    Args:
        words: the text so far; token_ids: its ids.
        vocab_size: how many scores each position gets.
        new: the token that was chosen.
    """
    board = Board(382, f"The loop that writes: {words!r} becomes ids, the model gives each position "
                       f"{vocab_size} scores, the last row is kept, its largest score chosen: {new!r}, and appended.")
    tokens = len(token_ids)
    board.box(60, 8, 330, 28, words, data=True)
    board.arrow([(110, 36), (110, 76)])
    board.shape(121, 48, f"token ids (1, {tokens})")
    board.text(121, 63, "  ".join(map(str, token_ids)), size=8.5, family="monospace")
    board.box(60, 76, 330, 40, "GPT", True)
    board.arrow([(110, 116), (110, 144)], True)
    board.shape(121, 130, f"logits (1, {tokens}, {vocab_size:,}), a row for each position", True)
    board.box(60, 144, 330, 30, "keep the row of the last position", True)
    board.arrow([(110, 174), (110, 202)], True)
    board.shape(121, 188, f"logits (1, {vocab_size:,})", True)
    board.box(60, 202, 330, 30, "choose: here the largest (greedy)", True)
    board.arrow([(110, 232), (110, 260)], True)
    board.shape(121, 246, "one token id (1, 1)", True)
    board.box(60, 260, 330, 28, new, data=True)
    board.arrow([(110, 288), (110, 316)], True)
    board.box(60, 316, 330, 28, f"append: token ids (1, {tokens + 1})", True)
    board.arrow([(60, 330), (26, 330), (26, 96), (60, 96)], True, dashed=True)
    board.text(14, 214, "and again", size=8.5, rotation=90, ha="center")
    board.text(225, 364, "until there are enough tokens, or one ends the text", size=8.5, ha="center")
    return board.ax


def draw_lines(x: Sequence[float], lines: Mapping[str, Sequence[float] | Sequence[Sequence[float]]], title: str,
           xlabel: str, ylabel: str, log: bool = False, **limits: tuple[float | None, float | None]) -> Axes:
    """Draw lines of equal length over x, told apart by colour, mark and dashes.

    Args:
        lines: label -> values; a list of several lines (seeds) is drawn as their mean and a band from least to most.
        log: whether the vertical axis is logarithmic.
        limits: `ylim` or `xlim`, for matplotlib.
    """
    _, ax = plt.subplots(figsize=(WIDTH, 3.5 + 0.2 * (len(lines) > 2)))
    for (label, values), marks, colour in zip(lines.items(), MARKS, (BLUE, RED, ORANGE, GREEN, PURPLE)):
        table = torch.as_tensor(values, dtype=torch.float64).detach()
        table = table[None] if table.dim() == 1 else table
        ax.plot(x, table.mean(dim=0), marks, color=colour, label=label, markersize=4)
        if len(table) > 1:
            ax.fill_between(x, table.amin(dim=0), table.amax(dim=0), color=colour, alpha=0.2)
    if log:
        ax.set_yscale("log")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel, **limits)
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    return ax


def draw_histograms(tables: Mapping[str, Tensor], labels: Sequence[str], xlabel: str, ylabel: str) -> list[Axes]:
    """Draw how the numbers in each row of several tables are spread, a panel for each table, one below the other.

    Args:
        tables: title -> (rows, numbers).
        labels: one for each row.
    """
    _, axes = plt.subplots(len(tables), 1, figsize=(WIDTH, 2.5 * len(tables)), squeeze=False)
    for ax, (title, table) in zip(axes[:, 0], tables.items()):
        looks = zip((BLUE, RED, ORANGE), ("-", "--", ":"))
        numbers = table.detach().numpy()
        bins = np.linspace(numbers.min(), numbers.max(), 61)  # the same for all rows, so that heights compare
        for row, label, (colour, dashes) in zip(numbers, labels, looks):
            ax.hist(row, bins=bins, histtype="step", linewidth=2, color=colour, linestyle=dashes, label=label)
        ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes[0, 0].legend()
    return list(axes[:, 0])


@torch.no_grad()
def measure_influence(layer: nn.Module, x: Tensor) -> Tensor:
    """How far output `row` of a layer moves when token `column` of its input changes by 1 in every feature.

    x: (1, tokens, d_model). Returns (tokens, tokens), lengths.
    """
    before, moved = layer(x), []
    for column in range(x.shape[1]):
        changed = x.clone()
        changed[0, column] += 1
        moved.append((layer(changed) - before)[0].norm(dim=-1))
    return torch.stack(moved, dim=1)


def draw_influence(maps: Mapping[str, Tensor], words: Sequence[str]) -> list[Axes]:
    """Draw several results of `measure_influence`, one below the other, with their titles and one colour scale."""
    most = max(float(moved.max()) for moved in maps.values())
    _, axes = plt.subplots(len(maps), 1, figsize=(WIDTH, 2.9 * len(maps)), squeeze=False)
    for ax, (title, moved) in zip(axes[:, 0], maps.items()):
        heatmap(moved, words, words, title, "token changed", "output that moves", form=".1f",
                limits=(0, most), colorbar=False, ax=ax)
    return list(axes[:, 0])


def draw_stacked_bars(parts: Mapping[str, Mapping[str, float]], title: str, xlabel: str) -> Axes:
    """Draw a bar for each name, put together from its parts, which all names share; at its end stands the sum and, in
    brackets, the share of the first part.

    Args:
        parts: name -> part -> how much.
    """
    _, ax = plt.subplots(figsize=(WIDTH, 0.5 * len(parts) + 1.7))
    ends, rows = dict.fromkeys(parts, 0.0), list(parts.values())
    colours = (BLUE, PURPLE, ORANGE, GREEN, RED)
    for part, colour in zip(next(iter(parts.values())), colours):
        ax.barh(list(parts), [row[part] for row in parts.values()], left=list(ends.values()), color=colour, label=part)
        ends = {name: ends[name] + row[part] for name, row in parts.items()}
    most = max(ends.values())
    for place, end in enumerate(ends.values()):
        share = next(iter(rows[place].values())) / end
        total = f"{end:,.0f}" if most >= 100 else f"{end:.1f}"
        ax.text(end + 0.01 * most, place, f"{total} ({share:.0%})", va="center", fontsize=9)
    ax.set(title=title, xlabel=xlabel, xlim=(0, 1.25 * most))
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return ax
