"""One look for all figures, and the few kinds of picture that several chapters draw.

Figures keep a white card of their own, so they read the same in light and dark themes. The colours are the
palette of Okabe and Ito (2008), which stays distinct with colour blindness; sequences use cividis.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#767676")
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)

CHAPTERS = (("1", "What an\nLLM is"), ("2", "Text to\ntokens"), ("3", "Attention"), ("4", "The GPT\nmodel"),
            ("5a", "Pre-\ntraining"), ("5b", "Open\nweights"), ("6", "Classify"), ("7", "Follow\ninstructions"),
            ("8", "Learn from\npreferences"))


def use_style() -> None:
    """Set matplotlib's defaults for this book. Call once, at the top of a notebook."""
    plt.rcParams.update({
        "figure.figsize": (7.5, 3.6), "figure.dpi": 100, "figure.facecolor": "white", "savefig.facecolor": "white",
        "axes.facecolor": "white", "axes.prop_cycle": cycler(color=PALETTE), "axes.grid": True, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.titlesize": 11,
        "axes.titleweight": "bold", "axes.labelsize": 10, "grid.color": "#E2E2E2", "grid.linewidth": 0.7,
        "font.size": 10, "lines.linewidth": 2, "legend.frameon": False, "image.cmap": "cividis",
        "figure.constrained_layout.use": True, "image.interpolation": "nearest",
    })


def heatmap(matrix: Tensor | np.ndarray, rows: Sequence[str] | None = None, columns: Sequence[str] | None = None,
            title: str = "", xlabel: str = "", ylabel: str = "", form: str | None = ".2f",
            limits: tuple[float, float] | None = None, cmap: str = "cividis", colorbar: bool = True,
            ax: Axes | None = None) -> Axes:
    """Draw a matrix (rows, columns) with its numbers written in.

    Args:
        matrix: 2-D; NaN and -inf entries stay blank.
        rows, columns: labels, one each.
        form: how numbers are written, None for not at all.
        limits: the values at the ends of the colour scale; the smallest and largest finite entry if None.
    """
    values = np.asarray(matrix.detach().cpu().float() if isinstance(matrix, Tensor) else matrix, dtype=float)
    values = np.where(np.isfinite(values), values, np.nan)
    low, high = limits if limits is not None else (np.nanmin(values), np.nanmax(values))
    if ax is None:
        height, width = values.shape
        _, ax = plt.subplots(figsize=(max(3.2, 0.62 * width + 1.8), max(2.0, 0.46 * height + 1.2)))
    image = ax.imshow(values, vmin=low, vmax=high, cmap=cmap, aspect="auto")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(range(values.shape[1]) if columns is not None else [], columns)
    ax.set_yticks(range(values.shape[0]) if rows is not None else [], rows)
    ax.grid(False)
    if form is not None:
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                red, green, blue, _ = image.cmap(image.norm(value))
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
                ax.text(column, row, format(value, form), ha="center", va="center", fontsize=9,
                        color="white" if dark else "black")
    if colorbar:
        ax.figure.colorbar(image, ax=ax, shrink=0.9)
    return ax


def token_strip(pieces: Sequence[str], ids: Sequence[int] | None = None, title: str = "", per_line: int = 90,
                ax: Axes | None = None) -> Axes:
    """Draw a text cut into tokens, each on a coloured ground, with its id below if given.

    A space is drawn as a middle dot and a line break as ⏎, so that both can be seen.
    """
    shown = [piece.replace(" ", "·").replace("\n", "⏎") for piece in pieces]
    below = [str(token) for token in ids] if ids is not None else [""] * len(shown)
    widths = [max(len(piece), 0.75 * len(number)) + 0.7 for piece, number in zip(shown, below)]
    places, x, line = [], 0.0, 0
    for width in widths:
        if x and x + width > per_line:
            x, line = 0.0, line + 1
        places.append((x, line))
        x += width
    if ax is None:
        _, ax = plt.subplots(figsize=(9, 0.42 + (line + 1) * (0.52 if ids is not None else 0.36)))
    tints = ("#CDE5F5", "#FBE3B5", "#C9EBDD", "#F6D2C2", "#EFD9E6")
    for i, (piece, width, (x, line)) in enumerate(zip(shown, widths, places)):
        ax.add_patch(FancyBboxPatch((x + 0.1, -line - 0.34), width - 0.2, 0.68, linewidth=0,
                                    boxstyle="round,pad=0,rounding_size=0.2", facecolor=tints[i % len(tints)]))
        above = 0.12 if ids is not None else 0
        ax.text(x + width / 2, -line + above, piece, ha="center", va="center", family="monospace", fontsize=9,
                color="black")
        if ids is not None:
            ax.text(x + width / 2, -line - 0.2, below[i], ha="center", va="center", fontsize=6.5, color="#444444")
    ax.set(xlim=(0, per_line), ylim=(-places[-1][1] - 0.5, 0.5), title=title)
    ax.axis("off")
    return ax


def chapter_map(current: str) -> Axes:
    """Draw the book's chapters as a row of doors, with the one you are in filled.

    Args:
        current: a chapter's number as in `CHAPTERS`, such as "5a".
    """
    _, ax = plt.subplots(figsize=(9, 1.25))
    for index, (number, name) in enumerate(CHAPTERS):
        here = number == current
        ax.add_patch(FancyBboxPatch((index + 0.06, 0.08), 0.84, 0.84, boxstyle="round,pad=0,rounding_size=0.08",
                                    facecolor=BLUE if here else "#F3F3F3", edgecolor=BLUE if here else "#BBBBBB"))
        colour = "white" if here else "#333333"
        ax.text(index + 0.48, 0.72, number, ha="center", va="center", fontsize=11, weight="bold", color=colour)
        ax.text(index + 0.48, 0.34, name, ha="center", va="center", fontsize=8, color=colour)
        if index:
            ax.annotate("", (index + 0.07, 0.5), (index - 0.11, 0.5), arrowprops={"arrowstyle": "->", "color": GREY})
    ax.set(xlim=(0, len(CHAPTERS)), ylim=(0, 1))
    ax.axis("off")
    return ax
