"""Chapter 8's pictures of the stored study: calibration, the best of n, and REINFORCE against reward models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

from ..preferences import best_of_n_kl
from .figures import BLUE, GREEN, GREY, ORANGE

__all__ = ["best_of_n_curves", "calibration_curves", "reinforce_curves"]

COLOURS = {50: ORANGE, 500: BLUE, 5000: GREEN}  # of reward models, by the votes that they have seen
FEWEST = 30  # votes in a bin that is drawn
SMOOTH = 5  # steps that a point is the mean of

Rows = Sequence[Mapping[str, Any]]


def calibration_curves(rows: Rows) -> Axes:
    """How often reward models are right, against how sure they are; all seeds together. rows: the study's "rewards"."""
    _, ax = plt.subplots(figsize=(5.2, 4))
    ax.plot([0.5, 1], [0.5, 1], color=GREY, label="calibrated")
    for votes, colour in COLOURS.items():
        cells = [row["calibration"] for row in rows if row["votes"] == votes]
        if cells:
            sums = torch.tensor(cells).sum(dim=0)  # (bins, 3): probabilities, right ones, votes
            sure, right, number = sums[sums[:, 2] >= FEWEST].T
            ax.plot(sure / number, right / number, "o-", color=colour, label=f"{votes:,} votes")
    ax.set(title="When it is surer, is it right more often?", xlabel="probability it gives",
           ylabel="share in which it is right")
    ax.legend()
    return ax


def best_of_n_curves(rows: Rows) -> Sequence[Axes]:
    """Learned and true score of the best of n stories, against the bound on their KL divergence: means over seeds, and
    bands from the lowest to the highest. rows: the study's "rewards"."""
    _, axes = plt.subplots(2, 1, figsize=(5.2, 6), sharex=True)
    for votes, colour in COLOURS.items():
        runs = [row for row in rows if row["votes"] == votes]
        for ax, name in zip(axes, ("best_learned", "best_true")):
            if runs:
                x, curves = list(map(best_of_n_kl, runs[0]["n"])), torch.tensor([run[name] for run in runs])
                ax.plot(x, curves.mean(dim=0), "o-", color=colour, label=f"{votes:,} votes")
                ax.fill_between(x, curves.amin(dim=0), curves.amax(dim=0), color=colour, alpha=0.2)
    axes[1].plot(list(map(best_of_n_kl, rows[0]["n"])), rows[0]["best_possible"], "--", color=GREY,
                 label="by the true taste")
    axes[0].set(title="Learned reward of the best of n", ylabel="deviations from the mean")
    axes[1].set(title="True score of the same stories", xlabel="bound on the KL divergence, nats", ylabel="points")
    for ax in axes:
        ax.legend()
    return axes


def reinforce_curves(rows: Rows) -> Sequence[Axes]:
    """Reward and true score of the stories of each step of REINFORCE, without a price for the KL divergence (lines) and
    with one (dashes). rows: the study's "reinforce"."""
    _, axes = plt.subplots(2, 1, figsize=(5.2, 6), sharex=True)
    for row in rows:
        dashed = "--" if row["beta"] else "-"
        label = f"{row['votes']:,} votes" + (f", β = {row['beta']:g}" if row["beta"] else "")
        for ax, name in zip(axes, ("reward", "true")):
            curve = torch.tensor(row[name], dtype=torch.float32)
            means = [float(curve[max(0, place - SMOOTH + 1) : place + 1].mean()) for place in range(len(curve))]
            ax.plot(range(1, len(means) + 1), means, dashed, color=COLOURS[row["votes"]], label=label)
    axes[0].set(title="What the reward model says of the stories", ylabel="reward, in deviations")
    axes[1].set(title="What the true taste says of the same stories", xlabel="step", ylabel="points")
    axes[0].legend()
    return axes
