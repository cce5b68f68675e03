"""The register of plots. A module in this folder that registers a plot is found by itself."""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..world import World


class Plot(NamedTuple):
    """A plot: `tell` lets it happen in a world; `weight` says how often it is drawn beside the others."""

    name: str
    tell: Callable[[World], None]
    weight: float


PLOTS: dict[str, Plot] = {}


def plot(name: str, weight: float = 1.0) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Register the function below as a main plot of this name."""
    def register(tell: Callable[[World], None]) -> Callable[[World], None]:
        if name in PLOTS:
            raise ValueError(f"the plot {name} is registered twice: rename one")
        PLOTS[name] = Plot(name, tell, weight)
        return tell
    return register


def all_plots() -> dict[str, Plot]:
    """Every plot of every module here, in the order of their names."""
    for module in sorted(info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)])):
        importlib.import_module(f"{__package__}.{module}")
    return dict(sorted(PLOTS.items()))
