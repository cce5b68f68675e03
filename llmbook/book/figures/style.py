"""One look for all figures.

Figures keep a white card of their own, so they read the same in light and dark themes. The colours are the
palette of Okabe and Ito (2008), which stays distinct with colour blindness; sequences use cividis.
"""

import matplotlib.pyplot as plt
from cycler import cycler

from ..languages import language
from ..languages.drawn import font_families
from .words import store_descriptions

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#767676")
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)


def use_style() -> None:
    """Set matplotlib's defaults for this book. Call once, at the top of a notebook.

    From then on the notebook stores each figure with its description (`llmbook.book.figures.describe`).
    """
    store_descriptions()
    plt.rcParams.update({
        "figure.figsize": (7.5, 3.6), "figure.dpi": 100, "figure.facecolor": "white", "savefig.facecolor": "white",
        "axes.facecolor": "white", "axes.prop_cycle": cycler(color=PALETTE), "axes.grid": True, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.titlesize": 11,
        "axes.titleweight": "bold", "axes.labelsize": 10, "grid.color": "#E2E2E2", "grid.linewidth": 0.7,
        "font.size": 10, "lines.linewidth": 2, "legend.frameon": False, "image.cmap": "cividis",
        "figure.constrained_layout.use": True, "image.interpolation": "nearest",
    })
    if language():
        plt.rcParams["font.family"] = font_families(language())
