"""The book's chapters as a row of boxes."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from .style import BLUE, GREY

CHAPTERS = (("1", "What an\nLLM is"), ("2", "Text to\ntokens"), ("3", "Attention"), ("4", "The GPT\nmodel"),
            ("5a", "Pre-\ntraining"), ("5b", "Open\nweights"), ("6", "Classify"), ("7", "Follow\ninstructions"),
            ("8", "Learn from\npreferences"))


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
