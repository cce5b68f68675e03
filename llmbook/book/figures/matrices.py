"""Numbers and tokens as pictures: a matrix with its numbers, a text cut into tokens."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from torch import Tensor


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
        wide, tall = (0.62, 0.46) if form is not None else (0.31, 0.3)  # a cell's inches; a number needs room
        _, ax = plt.subplots(figsize=(max(3.2, wide * width + 1.8), max(2.0, tall * height + 1.2)))
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
        _, ax = plt.subplots(figsize=(per_line / 10, 0.42 + (line + 1) * (0.52 if ids is not None else 0.36)))
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
