"""The pieces of the book's diagrams: boxes, data, arrows with shapes, on a board that is 420 units wide.

A board is narrow, so that it can be read on a telephone of 390 pixels. What a chapter is about is lit: blue, the rest
is grey.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch
from matplotlib.path import Path

WIDTH, INCHES, DOTS = 420, 4.2, 130
_LIT = {"face": "#DCECF8", "edge": "#0072B2", "text": "#003D63"}
_PLAIN = {"face": "#F7F7F8", "edge": "#C4C9CF", "text": "#4B525A"}
_DATA = {"face": "#FFFFFF", "edge": "#C4C9CF", "text": "#4B525A"}
_LIT_DATA = {"face": "#FFFFFF", "edge": "#0072B2", "text": "#003D63"}
_TINTS = {"blue": {"face": "#E4F0F9", "edge": "#6FA9D2", "text": "#12344D"},
          "orange": {"face": "#FCEFD6", "edge": "#DDA63A", "text": "#4D3600"}}
LINE, LIT_LINE = "#8D949C", "#0072B2"

Point = tuple[float, float]


class Board:
    """A white card to draw a diagram on; x goes right from 0 to 420, y down from 0 to `height`.

    Attributes:
        ax: matplotlib's axes.
        texts: (matplotlib text, the box it must stay in as x, y, width, height or None), for the tests.
    """

    def __init__(self, height: float, alt: str):
        figure = plt.figure(figsize=(INCHES, INCHES * height / WIDTH), dpi=DOTS, layout="none")
        figure.set_label(alt)
        self.ax = figure.add_axes((0, 0, 1, 1))
        self.ax.set(xlim=(0, WIDTH), ylim=(height, 0), aspect="equal")
        self.ax.axis("off")
        self.ax.board = self
        self.texts = []

    def text(self, x: float, y: float, words: str, size: float = 9, colour: str = "#4B525A", **changes: object) -> None:
        """Words with their left middle at (x, y), or as `changes` say."""
        drawn = self.ax.text(x, y, words, **{"fontsize": size, "color": colour, "ha": "left", "va": "center",
                                             "linespacing": 1.15, **changes})
        self.texts.append((drawn, None))

    def box(self, x: float, y: float, width: float, height: float, words: str, lit: bool = False, size: float = 10,
            data: bool = False, tint: str | None = None) -> None:
        """A part of a model with its name, or, if `data`, what flows through it. A `tint`, "blue" or "orange", tells
        two models apart where nothing is lit."""
        look = (_LIT_DATA if lit else _DATA) if data else _LIT if lit else _TINTS.get(tint, _PLAIN)
        self.ax.add_patch(FancyBboxPatch(
            (x, y), width, height, boxstyle=f"round,pad=0,rounding_size={min(height / 2, 14) if data else 5}",
            facecolor=look["face"], edgecolor=look["edge"], linewidth=1.6 if lit else 1, zorder=3))
        drawn = self.ax.text(x + width / 2, y + height / 2, words, ha="center", va="center", fontsize=size, zorder=4,
                             color=look["text"], weight="bold" if lit and not data else "normal", linespacing=1.15)
        self.texts.append((drawn, (x, y, width, height)))

    def frame(self, x: float, y: float, width: float, height: float, lit: bool = False,
              tint: str | None = None) -> None:
        """A ground for parts that belong together."""
        edge = _LIT["edge"] if lit else _TINTS.get(tint, {"edge": "#D5D9DE"})["edge"]
        self.ax.add_patch(FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=9", zorder=1, edgecolor=edge,
            facecolor="#F1F7FC" if lit else "#FBFBFC", linewidth=1.6 if lit else 1))

    def arrow(self, points: Sequence[Point], lit: bool = False, head: bool = True, dashed: bool = False) -> None:
        """A line through points, with rounded corners and a head at the last."""
        colour = LIT_LINE if lit else LINE
        self.ax.add_patch(PathPatch(_rounded(points), facecolor="none", edgecolor=colour, zorder=2,
                                    linewidth=1.6 if lit else 1.2, linestyle=(0, (3, 2)) if dashed else "-"))
        if head:
            self.ax.annotate("", points[-1], _towards(points[-1], points[-2], 6), zorder=5, arrowprops={
                "arrowstyle": "-|>,head_width=0.22,head_length=0.4", "color": colour, "shrinkA": 0, "shrinkB": 0,
                "linewidth": 1})

    def plus(self, x: float, y: float, lit: bool = False) -> None:
        """The sign for adding two vectors."""
        colour = LIT_LINE if lit else LINE
        self.ax.add_patch(Circle((x, y), 8, facecolor="white", edgecolor=colour, linewidth=1.6 if lit else 1.2,
                                 zorder=4))
        self.ax.plot([x - 4.5, x + 4.5], [y, y], color=colour, linewidth=1.4, zorder=5)
        self.ax.plot([x, x], [y - 4.5, y + 4.5], color=colour, linewidth=1.4, zorder=5)

    def shape(self, x: float, y: float, words: str, lit: bool = False, **changes: object) -> None:
        """The shape of what flows along an arrow, beside it."""
        self.text(x, y, words, size=8.5, colour=_LIT["text"] if lit else "#5F666E", **changes)


def _towards(start: Point, end: Point, distance: float) -> Point:
    length = ((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2) ** 0.5 or 1
    share = min(distance, length / 2) / length
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def _rounded(points: Sequence[Point], radius: float = 7) -> Path:
    places, codes = [points[0]], [Path.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:]):
        places += [_towards(corner, before, radius), corner, _towards(corner, after, radius)]
        codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
    return Path([*places, points[-1]], [*codes, Path.LINETO])
