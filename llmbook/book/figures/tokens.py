"""Rows of tokens under each other: merge after merge, or inputs above their targets."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

BYTE, TOKEN = "#EDEDED", "#FBE3B5"  # a plain piece, and one that stands out
TINTS = ("#CDE5F5", "#FBE3B5", "#C9EBDD", "#F6D2C2", "#EFD9E6", "#E3E3E3", "#DDEBB0", "#D9D3F2")
GAP = 1.2  # characters, where a row holds None


def token_rows(rows: Sequence[Sequence[str | None]], labels: Sequence[str], title: str = "", aligned: bool = False,
               width: float = 54, colour: str = "length") -> Axes:
    """Draw rows of pieces as boxes, one row per line, with a label on its left. Readable at 390 pixels.

    Args:
        rows: the pieces of each row; None leaves a gap. A space is drawn as a middle dot.
        labels: one for each row.
        aligned: give all boxes of a column the same width, so that pieces at the same position stand in line.
        width: characters that fit on a line, labels included.
        colour: "length" colours pieces of several characters, "new" those that the row above does not have, and "piece"
            gives each piece a colour that it keeps in all rows.

    Raises:
        ValueError: if there are not as many labels as rows, or for another `colour`.
    """
    if len(labels) != len(rows):
        raise ValueError(f"{len(rows)} rows and {len(labels)} labels: give one label for each row")
    if colour not in ("length", "new", "piece"):
        raise ValueError(f"no colour {colour!r} for tokens: choose one of length, new, piece")
    tints = {piece: TINTS[i % len(TINTS)] for i, piece in enumerate(dict.fromkeys(p for row in rows for p in row))}
    _, axes = plt.subplots(figsize=(width / 10, 0.5 + 0.4 * len(rows)))
    start = max(map(len, labels)) * 0.9 + 1
    columns = max(map(len, rows))
    widest = [max((len(row[i] or "") for row in rows if i < len(row)), default=0) for i in range(columns)]
    for line, (label, row) in enumerate(zip(labels, rows)):
        axes.text(0, -line, label, va="center", fontsize=9, color="#333333")
        x = start
        for column, piece in enumerate(row):
            if piece is None:
                x += GAP
                continue
            box = (widest[column] if aligned else len(piece)) + 0.6
            lit = piece not in rows[line - 1] and line > 0 if colour == "new" else len(piece) > 1
            axes.add_patch(FancyBboxPatch((x, -line - 0.36), box, 0.72, linewidth=0,
                                          boxstyle="round,pad=0,rounding_size=0.2",
                                          facecolor=tints[piece] if colour == "piece" else TOKEN if lit else BYTE))
            axes.text(x + box / 2, -line, piece.replace(" ", "·"), ha="center", va="center", family="monospace",
                      fontsize=9, color="black")
            x += box + 0.25
    axes.set(xlim=(0, width), ylim=(0.4 - len(rows), 0.6), title=title)
    axes.axis("off")
    return axes
