"""What chapter 5a draws, and what it compares its model with. The chapter imports it; nothing here is taught."""

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from llmbook.book.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED
from llmbook.protocols import LossFunction

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["draw_costs", "draw_distribution", "draw_first_steps", "draw_kept", "draw_losses", "draw_repeats",
           "draw_scaling", "draw_schedule", "draw_skills", "draw_steps", "first_steps", "fit_power_law",
           "ngram_losses", "repeated_share", "split_pages", "tokens_and_bytes", "with_one_bad_batch"]


def ngram_losses(documents: Sequence[Sequence[int]], held_out: Sequence[Sequence[int]], vocab_size: int, end: int,
                 orders: Sequence[int] = (1, 2, 3)) -> dict[int, float]:
    """What counting gives: held-out nats per token of n-gram models with backoff, for each order n.

    The share of a token after n - 1 others is mixed with its share after n - 2, and so on down to all tokens alike. A
    context that was seen less, and before more different tokens, trusts the shorter one more (Witten and Bell, 1991).

    Args:
        documents: ids of each text to count, without `end`, which stands before and after each.
        held_out: ids of the texts to predict; their ends are predicted too.
    """
    most = max(orders)
    counts: list[dict[tuple[int, ...], Counter[int]]] = [defaultdict(Counter) for _ in range(most)]
    for row, place in _places(documents, most, end):
        for length in range(most):
            counts[length][tuple(row[place - length : place])][row[place]] += 1
    totals = [{context: sum(after.values()) for context, after in level.items()} for level in counts]
    losses, predicted = dict.fromkeys(orders, 0.0), 0
    for row, place in _places(held_out, most, end):
        share, predicted = 1 / vocab_size, predicted + 1
        for length in range(most):
            context = tuple(row[place - length : place])
            if context in totals[length]:
                after = counts[length][context]
                share = (after[row[place]] + len(after) * share) / (totals[length][context] + len(after))
            if length + 1 in losses:
                losses[length + 1] -= math.log(share)
    return {order: loss / predicted for order, loss in losses.items()}


def _places(documents: Sequence[Sequence[int]], most: int, end: int) -> Iterator[tuple[list[int], int]]:
    for document in documents:
        row = [end] * max(1, most - 1) + [*document, end]
        for place in range(max(1, most - 1), len(row)):
            yield row, place


def repeated_share(ids: Sequence[int], n: int = 4) -> float:
    """Share of a text's n-grams that have stood in it before; 0 for a text shorter than n."""
    grams = [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """(a, b) of the line log y = log a - b log x of least squares: y = a / x**b."""
    slope, height = np.polyfit(np.log(np.asarray(x, float)), np.log(np.asarray(y, float)), 1)
    return float(np.exp(height)), float(-slope)


def first_steps(model: nn.Module, optimizer: type[torch.optim.Optimizer], **settings: Any) -> list[float]:
    """How far an optimizer's first step moves each parameter, on average over its numbers. The model has its gradients
    and stays as it is: a copy is moved."""
    moved = copy.deepcopy(model)
    for theirs, parameter in zip(moved.parameters(), model.parameters()):
        theirs.grad = parameter.grad.clone()
    optimizer(moved.parameters(), **settings).step()
    return [(new - old).abs().mean().item() for new, old in zip(moved.parameters(), model.parameters())]


def with_one_bad_batch(loss_fn: LossFunction, at: int, times: float) -> LossFunction:
    """The same loss, but `times` as large at its call number `at`, as a broken record might make it."""
    calls = []

    def spoiled(model: nn.Module, *batch: Tensor) -> Tensor:
        calls.append(None)
        return loss_fn(model, *batch) * (times if len(calls) == at else 1)

    return spoiled


def split_pages(documents: Sequence[str], n: int, n_held_out: int) -> tuple[list[str], list[str]]:
    """Of the documents of 400 to 1,500 characters `n` to train on and others to hold out, both from all over."""
    pages = [page for page in documents if 400 <= len(page) <= 1500]
    apart = len(pages) // n_held_out
    held_out = pages[::apart][:n_held_out]
    rest = [page for number, page in enumerate(pages) if number % apart]
    return rest[:: max(1, len(rest) // n)][:n], held_out


def tokens_and_bytes(rows: Sequence[Sequence[int]], texts: Sequence[str]) -> tuple[int, int]:
    """Tokens that a model predicts in texts, their ends included, and the bytes of the texts."""
    return sum(len(row) + 1 for row in rows), sum(len(text.encode()) for text in texts)


# --- pictures ---

def draw_costs(right: Tensor, words: Sequence[str]) -> Axes:
    """-log p as a curve, and on it the probabilities that the right tokens got, (n,)."""
    p = np.linspace(0.001, 1, 400)
    _, ax = plt.subplots(figsize=(7, 3))
    ax.plot(p, -np.log(p), color=GREY)
    for word, value, colour in zip(words, right.tolist(), (BLUE, GREEN, RED)):
        ax.plot(value, -math.log(value), "o", color=colour, markersize=9, label=word)
    ax.set(title="The less probability the right token got, the more it costs",
           xlabel="probability given to the right token", ylabel="cost (nats)")
    ax.legend(title="right token")
    return ax


def draw_steps(gradients: Sequence[float], steps: Mapping[str, Sequence[float]]) -> Axes:
    """How far each parameter moved, against the size of its gradient, for each optimizer."""
    _, ax = plt.subplots(figsize=(7, 3.4))
    for (name, sizes), colour, mark in zip(steps.items(), (ORANGE, BLUE), ("s", "o")):
        ax.loglog(gradients, sizes, mark, color=colour, label=name, markersize=5)
    ax.set(title="AdamW's first step is as long for small gradients as for large ones",
           xlabel="mean size of the gradient, one mark per tensor", ylabel="mean size of the step")
    ax.legend()
    return ax


def draw_first_steps(model: nn.Module) -> tuple[list[float], tuple[list[float], list[float]]]:
    """Draw the first steps of gradient descent and of AdamW from a model that has its gradients and stays as it is.

    Returns the mean size of each parameter's gradient, and of its step with the one and the other.
    """
    gradients = [parameter.grad.abs().mean().item() for parameter in model.parameters()]
    sgd = first_steps(model, torch.optim.SGD, lr=0.1)
    adamw = first_steps(model, torch.optim.AdamW, lr=1e-3, weight_decay=0)
    draw_steps(gradients, {"gradient descent, rate 0.1": sgd, "AdamW, rate 0.001": adamw})
    return gradients, (sgd, adamw)


def draw_schedule(rates: Sequence[float]) -> Axes:
    """The learning rate of each step."""
    _, ax = plt.subplots(figsize=(7, 2.6))
    ax.plot(rates, color=BLUE)
    ax.set(title="The learning rate warms up, then falls along a cosine", xlabel="training step",
           ylabel="learning rate")
    return ax


def draw_losses(table: pd.DataFrame, title: str, lines: Mapping[str, float] | None = None, smooth: int = 1) -> Axes:
    """The training loss of a history's table, its held-out loss where it was measured, and levels to compare with."""
    _, ax = plt.subplots(figsize=(7.5, 4))
    ax.plot(table["loss"].rolling(smooth, min_periods=1).mean(), color=BLUE,
            label="training" + (f" (mean of {smooth})" if smooth > 1 else ""))
    ax.plot(table["val_loss"].dropna(), "o-", color=ORANGE, label="held out")
    for (name, loss), style in zip((lines or {}).items(), (":", "--", "-.", (0, (1, 4)))):
        ax.axhline(loss, color=GREY, linestyle=style, linewidth=1.5, label=name)
    ax.set(title=title, xlabel="training step", ylabel="loss (nats per token)", ylim=(0, None))
    ax.legend(fontsize=8)
    return ax


def draw_distribution(pieces: Sequence[str], probabilities: Sequence[float], title: str) -> Axes:
    """The likeliest next tokens and their probabilities, as bars."""
    _, ax = plt.subplots(figsize=(7, 3.4))
    ax.barh([repr(piece) for piece in pieces], probabilities, color=BLUE)
    ax.invert_yaxis()
    ax.set(title=title, xlabel="probability", ylabel="next token")
    return ax


def draw_kept(before: Sequence[float], after: Mapping[str, Sequence[float]]) -> list[Axes]:
    """Probabilities of the likeliest tokens as they were, and under each setting: panels one above the other."""
    _, axes = plt.subplots(len(after), 1, figsize=(6, 1.5 * len(after) + 0.6), sharex=True, sharey=True)
    for ax, (name, values) in zip(axes, after.items()):
        ax.bar(range(len(before)), before, color=GREY, alpha=0.35, label="as it was")
        ax.bar(range(len(before)), values, color=BLUE, width=0.5, label="now")
        ax.set_title(name)
    axes[0].legend()
    axes[-1].set(xlabel="rank of the token")
    axes[len(axes) // 2].set(ylabel="probability")
    return list(axes)


def draw_repeats(shares: Mapping[str, Mapping[float, Sequence[float]]], title: str, level: float | None = None) -> Axes:
    """For each line, temperature -> shares of repeated n-grams of several texts: means and 95 % intervals, which end at
    0. level: the share in real texts, as a grey line."""
    _, ax = plt.subplots(figsize=(7, 3.6))
    for (name, points), colour, mark in zip(shares.items(), (BLUE, ORANGE, GREEN), "os^"):
        means = [100 * float(np.mean(values)) for values in points.values()]
        errors = [196 * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
                  for values in points.values()]
        below = [min(mean, error) for mean, error in zip(means, errors)]
        ax.errorbar(list(points), means, [below, errors], color=colour, marker=mark, capsize=3, label=name)
    if level is not None:
        ax.axhline(100 * level, color=GREY, linestyle="--", label="real stories")
    ax.set(title=title, xlabel="temperature (0: always the likeliest)", ylabel="repeated 4-grams (%)", ylim=(0, None))
    ax.legend()
    return ax


def draw_scaling(table: pd.DataFrame) -> tuple[Axes, tuple[float, float]]:
    """Held-out loss against tokens read, a line per size, and the fit through the best of each budget, as `(a, b)`.

    Only budgets that all sizes were given are fitted. The line goes on to the longer runs, which did not shape it.
    """
    _, ax = plt.subplots(figsize=(7, 4))
    for (size, rows), colour, mark in zip(table.groupby("parameters"), (ORANGE, BLUE, GREEN, PURPLE), "os^d"):
        rows = rows.sort_values("tokens")
        ax.loglog(rows["tokens"], rows["loss"], marker=mark, color=colour, label=f"{size / 1e6:.1f}M parameters")
    budgets = table.groupby("tokens")
    best = budgets["loss"].min()[budgets["parameters"].nunique() == table["parameters"].nunique()]
    a, b = fit_power_law(best.index, best.to_numpy())
    ends = np.array([table["tokens"].min(), table["tokens"].max()], float)
    ax.loglog(ends, a / ends**b, color=GREY, linestyle="--",
              label=f"fit to {best.index.max() / 1e6:.1f}M tokens: {a:.3g} / tokens^{b:.2f}")
    ax.set(title="Held-out loss falls with the tokens read", xlabel="tokens read",
           ylabel="held-out loss (nats per token)")
    ax.legend(fontsize=8)
    return ax, (a, b)


def draw_skills(table: pd.DataFrame) -> Axes:
    """Shares of stories with each skill (a column each, 0 to 1) against tokens read (the index)."""
    _, ax = plt.subplots(figsize=(7, 4))
    for name, colour, mark in zip(table.columns, (BLUE, ORANGE, GREEN, RED, PURPLE, GREY), "os^dv*"):
        ax.plot(table.index / 1e6, 100 * table[name], color=colour, marker=mark, label=name)
    ax.set(title="Skills appear one after the other", xlabel="tokens read (millions)",
           ylabel="share of stories (%)", ylim=(0, 102))
    ax.legend()
    return ax
