"""What appendix D draws. The chapter imports it; nothing here is taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from llmbook.book.figures import BLUE, GREEN, GREY, ORANGE

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["draw_averages", "draw_curves", "draw_forgetting", "draw_held", "draw_intervals", "draw_lives",
           "draw_memory", "draw_step_times"]

WIDTH = 5.4  # inches: on a telephone of 390 pixels, words of 9 points are then 9 pixels high


def draw_held(runs: Mapping[str, Sequence[pd.Series]], title: str) -> Axes:
    """Held-out losses by step, one line for each seed; the first kind of run is blue, the second orange."""
    _, axes = plt.subplots(figsize=(WIDTH, 3))
    for colour, (name, lines) in zip((BLUE, ORANGE), runs.items()):
        for number, line in enumerate(lines):
            axes.plot(line.index, line.to_numpy(), color=colour, label=name if number == 0 else None)
    axes.set(title=title, xlabel="training step", ylabel="held-out loss (nats per token)")
    axes.legend(title=f"{len(next(iter(runs.values())))} seeds each")
    return axes


def draw_forgetting(behind: Mapping[str, Sequence[float]]) -> Axes:
    """For each thing that is lost, how much higher the held-out loss ends: a dot for each seed, a line at the mean."""
    _, axes = plt.subplots(figsize=(WIDTH, 0.7 + 0.4 * len(behind)))
    for row, values in enumerate(behind.values()):
        axes.plot(values, [row] * len(values), "o", color=ORANGE, markersize=6)
        axes.plot([np.mean(values)] * 2, [row - 0.25, row + 0.25], color="black")
    axes.axvline(0, color=BLUE, label="nothing lost")
    axes.set(title="What is lost, and how much worse the run ends", yticks=range(len(behind)), yticklabels=list(behind),
             xlabel="held-out loss, above that of the same seed (nats per token)")
    axes.invert_yaxis()
    axes.legend(loc="lower left", fontsize=9)
    return axes


def draw_averages(gradients: Sequence[float], kept: Tensor, lost: Tensor, cut: int) -> list[Axes]:
    """A weight's gradients with AdamW's two averages, and the step that follows, with and without a power cut.

    Args:
        gradients: one for each step.
        kept, lost: (steps, 3), the two averages, made up for their start at 0, the second as its root; and their
            quotient. `lost` begins again after step `cut`.
    """
    _, (upper, lower) = plt.subplots(2, 1, figsize=(WIDTH, 5), sharex=True)
    steps, after = range(1, len(gradients) + 1), range(cut + 1, len(gradients) + 1)
    edge = 1.05 * float(kept[:, 1].max())  # a gradient far outside would press all else into a line
    beyond = {step: edge if g > 0 else -edge for step, g in zip(steps, gradients) if abs(g) > edge}
    upper.plot(steps, gradients, "o", color=GREY, markersize=4, label="gradient $g$")
    upper.plot(list(beyond), list(beyond.values()), "v", color=GREY, label="$g$ beyond the edge", clip_on=False)
    for place, name, line in ((0, r"$\hat m$", "-"), (1, r"$\sqrt{\hat v}$", "--")):
        upper.plot(steps, kept[:, place], line, color=BLUE, label=f"{name}, kept")
        upper.plot(after, lost[cut:, place], line, color=ORANGE, label=f"{name}, lost")
    upper.set(title="One weight's gradients and AdamW's averages", ylim=(-edge, edge))
    upper.legend(ncols=3, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.04))
    lower.plot(steps, kept[:, 2], color=BLUE)
    lower.plot(after, lost[cut:, 2], color=ORANGE)
    lower.set(title=r"$\hat m$ over $\sqrt{\hat v}$: the step is minus this", xlabel="training step",
              ylabel="in learning rates", ylim=(-1.3, 1.3))
    for axes in (upper, lower):
        axes.axvline(cut + 0.5, color="black", linewidth=1, linestyle=":")
    return [upper, lower]


def draw_lives(lives: Sequence[Sequence[int]], killed: Sequence[bool]) -> Axes:
    """A bar for each life of a run, from its first step to its last; blue if it finished, orange if it was killed."""
    _, axes = plt.subplots(figsize=(WIDTH, 0.8 + 0.45 * len(lives)))
    for row, (steps, died) in enumerate(zip(lives, killed)):
        axes.barh(row, steps[-1] - steps[0] + 1, left=steps[0] - 1, color=ORANGE if died else BLUE, height=0.6)
        words = f"{'killed' if died else 'finished'} after step {steps[-1]}"
        late = steps[-1] > 0.6 * lives[-1][-1]
        axes.text(steps[0] - 7 if late else steps[-1] + 6, row, words, va="center", ha="right" if late else "left",
                  fontsize=9)
    axes.set(title="Each life begins at the last whole checkpoint", xlabel="training step", yticks=range(len(lives)),
             yticklabels=[f"life {number}" for number in range(1, len(lives) + 1)], xlim=(0, 1.02 * lives[-1][-1]))
    axes.invert_yaxis()
    return axes


def draw_intervals(minutes: Sequence[float], writing: Sequence[float], again: Sequence[float], best: float) -> Axes:
    """The share of time that checkpoints cost, in %, by the minutes between them; `best` is marked."""
    _, axes = plt.subplots(figsize=(WIDTH, 3))
    both = np.asarray(writing) + np.asarray(again)
    axes.loglog(minutes, both, color=BLUE, label="both")
    axes.loglog(minutes, writing, color=GREY, linestyle="--", label="writing")
    axes.loglog(minutes, again, color=ORANGE, linestyle="--", label="doing again")
    axes.plot(best, np.exp(np.interp(np.log(best), np.log(minutes), np.log(both))), "o", color=BLUE)
    axes.set(title=f"Every {best:.0f} minutes loses least", xlabel="minutes between checkpoints",
             ylabel="time lost, %", ylim=(0.1, 100))
    axes.legend(fontsize=9)
    return axes


def draw_memory(parameters: Mapping[str, float], processes: Sequence[int], gigabytes: float) -> Axes:
    """What one process holds of weights, gradients and AdamW's averages, 16 bytes for each parameter, in GB.

    Args:
        parameters: how many, by the name of a model.
        processes: how many share the model under FSDP; under DDP each holds all.
        gigabytes: a GPU's memory, drawn as a line.
    """
    _, axes = plt.subplots(figsize=(WIDTH, 3.4))
    ways = [("DDP", 1), *((f"FSDP, {count} processes", count) for count in processes)]
    wide = 0.8 / len(ways)
    for number, ((way, among), colour) in enumerate(zip(ways, (GREY, BLUE, GREEN))):
        places = [place + wide * (number - (len(ways) - 1) / 2) for place in range(len(parameters))]
        bars = axes.bar(places, [16 * count / among / 1e9 for count in parameters.values()], 0.95 * wide, color=colour,
                        label=way)
        axes.bar_label(bars, fmt="%.3g", fontsize=9)
    axes.axhline(gigabytes, color=ORANGE, linestyle=":", label=f"a GPU of {gigabytes:g} GB")
    axes.set(title="What one process keeps\n(activations and a gathered block come on top)", yscale="log",
             ylabel="GB", ylim=(0.01, 20000), xticks=range(len(parameters)), xticklabels=list(parameters))
    axes.legend(ncols=2, fontsize=9)
    return axes


def draw_step_times(parameters: Sequence[float], seconds: Sequence[float], wanted: float, tokens: int) -> Axes:
    """Measured seconds per step by model size, and a line of slope 1 through the last, up to `wanted` parameters."""
    _, axes = plt.subplots(figsize=(WIDTH, 3))
    parameters, seconds = np.asarray(parameters, dtype=float), np.asarray(seconds, dtype=float)
    line = np.geomspace(parameters.min(), wanted, 20)
    axes.loglog(parameters, seconds, "o", color=BLUE, label="measured")
    axes.loglog(line, seconds[-1] / parameters[-1] * line, color=GREY, linestyle="--", label="slope 1, from the last")
    axes.loglog(wanted, seconds[-1] / parameters[-1] * wanted, "s", color=ORANGE,
                label=f"{wanted / 1e6:.0f}M, from the line only")
    axes.set(title="Seconds per step, and a line of slope 1", xlabel="parameters",
             ylabel=f"seconds per step of {tokens} tokens")
    axes.legend(fontsize=9)
    return axes


def draw_curves(runs: Mapping[str, Sequence[pd.DataFrame]]) -> list[Axes]:
    """Held-out losses (val_loss) of two sizes of model, by step and, below, by arithmetic, in operations; one line for
    each seed. Each panel ends where one of the two ends."""
    _, (upper, lower) = plt.subplots(2, 1, figsize=(WIDTH, 5.4), sharey=True)
    ends = [[], []]
    for colour, (name, tables) in zip((GREY, BLUE), runs.items()):
        for number, table in enumerate(tables):
            measured = table.dropna()
            label = name if number == 0 else None
            upper.plot(measured.index, measured["val_loss"], "o-", color=colour, markersize=4, label=label)
            lower.plot(measured["arithmetic"], measured["val_loss"], "o-", color=colour, markersize=4)
        ends[0].append(measured.index[-1])
        ends[1].append(measured["arithmetic"].iloc[-1])
    upper.set(title="The same runs by step …", xlabel="training step", ylabel="held-out loss (nats per token)",
              xlim=(0, 1.03 * min(ends[0])))
    lower.set(title="… and by arithmetic", xlabel="operations, 6ND", ylabel="held-out loss (nats per token)",
              xlim=(0, 1.03 * min(ends[1])))
    upper.legend(title=f"{len(next(iter(runs.values())))} seeds each")
    return [upper, lower]
