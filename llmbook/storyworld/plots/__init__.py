"""The plots: small programs over the simulator, one function each, registered by name."""

from .registry import PLOTS, all_plots, plot

__all__ = ["PLOTS", "all_plots", "plot"]
