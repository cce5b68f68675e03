"""The loss ladder: one number on one text that falls from chapter to chapter."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from ..ladder import RIVAL, RUNGS, ladder_table
from .style import BLUE, ORANGE

_NAMES = {"1-gram": "1-gram counts", "2-gram": "2-gram counts", "3-gram": "3-gram counts", "4-gram": "(4-gram counts)",
          "network": "network, 3 bytes", "attention": "+ attention", "blocks": "+ blocks", "reader": "your model, 5a",
          "storyteller": "storyteller"}


def loss_ladder(upto: str | None = None, yours: Mapping[str, float] | None = None,
                table: Mapping[str, Sequence[float]] | None = None) -> Axes:
    """Draw the rungs of the loss ladder: bits that a model needs for each byte of stories it has never seen.

    The hollow bar is no rung: it counts with as much context as the network has. The ticks of seeds that nearly agree
    fall together.

    Args:
        upto: the last rung to draw, one of `llmbook.book.ladder.RUNGS`; all if None. A rung that the table lacks is
            left out.
        yours: rungs as they came out here, marked beside the stored ones.
        table: rung -> held-out bits per byte of each seed; the stored one (`ladder_table`) if None.

    Raises:
        ValueError: for a rung that does not exist, or if there is none to draw.
    """
    table, yours = ladder_table() if table is None else table, dict(yours or {})
    for name in [*([] if upto is None else [upto]), *yours]:
        if name not in RUNGS:
            raise ValueError(f"no rung {name!r} on the ladder: choose one of {', '.join(RUNGS)}")
    last = len(RUNGS) if upto is None else RUNGS.index(upto) + 1
    names = [name for name in RUNGS[:last] if name in table or name in yours]
    if not names:
        raise ValueError("no rung to draw: write the table with `python tools/ladder.py`, or give yours")
    figure, ax = plt.subplots(figsize=(4.6, 0.75 + 0.4 * len(names) + 0.3 * bool(yours)), dpi=120)
    values = ", ".join(f"{name} {_mean(table[name]):.2f}" for name in names if name in table)
    figure.set_label(f"The loss ladder: {values} bits per byte.")
    widest = max([*yours.values(), *(value for name in names for value in table.get(name, ()))])
    for place, name in enumerate(names):
        values, end = table.get(name, ()), 0.0
        if values:
            end = _mean(values)
            colour = "none" if name == RIVAL else BLUE if name == names[-1] and upto else "#B9C4CE"
            ax.barh(place, end, height=0.62, facecolor=colour, edgecolor="#9AA5AF" if name == RIVAL else colour)
            ax.plot(values, [place] * len(values), "|", color="#20262C", markersize=19, markeredgewidth=1.2, zorder=6)
        if name in yours:
            ax.plot(yours[name], place, "D", color=ORANGE, markeredgecolor="#333333", markersize=7, zorder=5,
                    label="yours" if name == next(iter(yours)) else None)
        ax.text(max([end, yours.get(name, 0), *values]) + (0.04 if name in yours else 0.03) * widest, place,
                f"{end:.2f}" if values else f"{yours[name]:.2f}", va="center", fontsize=9.5, color="#333333")
    ax.set_yticks(range(len(names)), [_NAMES[name] for name in names])
    ax.set(xlim=(0, 1.14 * widest), ylim=(len(names) - 0.5, -0.5), xlabel="bits per byte of held-out stories")
    ax.grid(False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    seeds = {len(table[name]) for name in names if name in table}
    marks = f"bar: mean, tick: each of {max(seeds)} seeds" if seeds and max(seeds) > 1 else ""
    ax.set_title("Loss ladder, lower is better" + (f"\n{marks}" if marks else ""), fontsize=9.5, color="#333333",
                 loc="left")
    if yours:
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), borderpad=0, fontsize=9, handletextpad=0.2)
    return ax


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
