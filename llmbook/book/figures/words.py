"""Figures in words, for readers who cannot see them: each picture in a notebook is stored with its description."""

from __future__ import annotations

import sys
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from ..languages import said
from ..languages.drawn import translate_figure

__all__ = ["describe", "store_descriptions"]

MOST_NAMES = 8  # of rows, columns, curves or bars that are named one by one


def describe(figure: Figure) -> str:
    """What a figure shows, in words.

    A figure that was given a label says that (`figure.set_label`). Otherwise the words come from what was drawn: each
    panel's title, its axes, and its curves with their ends, its bars with their values, or its table's rows and
    columns.
    """
    if figure.get_label():
        return figure.get_label()
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>" and not hasattr(ax, "_colorbar")]
    panels = [words for ax in panels if (words := _panel(ax))]
    title = figure.get_suptitle()
    begin = said(f"{len(panels)} panels. ") if len(panels) > 1 else ""
    return f"{title and _plain(title) + '. '}{begin}{' '.join(panels)}" or "An empty figure."


def store_descriptions() -> None:
    """In a notebook, keep each figure's description with its picture, as `alt` in the output's metadata.

    Readers for the blind, the web edition and nbconvert look there. Outside a notebook it does nothing.
    """
    ipython = sys.modules.get("IPython")  # a notebook has imported it
    shell = ipython.get_ipython() if ipython else None
    if shell is None or getattr(shell, "display_formatter", None) is None:
        return
    plt.close(plt.figure())  # loads the notebook's way to show figures, which otherwise would replace ours at the first
    formatter = shell.display_formatter.formatters["image/png"]
    printer = formatter.for_type(Figure)
    if printer is not None and not isinstance(printer, _WithWords):
        formatter.for_type(Figure, _WithWords(printer))


class _WithWords:
    """A formatter of figures that hands over the words beside the picture."""

    def __init__(self, printer: Callable[[Figure], object]):
        self.printer = printer

    def __call__(self, figure: Figure) -> object:
        translate_figure(figure)
        picture = self.printer(figure)
        data, metadata = picture if isinstance(picture, tuple) else (picture, {})
        return data, {**metadata, "alt": describe(figure)}


def _panel(ax: Axes) -> str:
    title = next((text for place in ("left", "center", "right") if (text := ax.get_title(loc=place))), "")
    across, up = ax.get_xlabel(), ax.get_ylabel()
    parts = [_table(ax), _bars(ax), _curves(ax), _points(ax)]
    if ax.axis()[0] is not None and not ax.axison:
        parts.append(_written(ax))
    shown = "; ".join(filter(None, parts))
    if not shown and not title:
        return ""
    axes = said(f"“{_plain(up)}” against “{_plain(across)}”") if up and across else f"“{_plain(up or across)}”"
    return f"{_plain(title)}{': ' if title else ''}{shown or said('a drawing')}{f'; {axes}' if up or across else ''}."


def _table(ax: Axes) -> str:
    if not ax.images:
        return ""
    values = np.ma.masked_invalid(np.asarray(ax.images[0].get_array(), dtype=float))
    height, width = values.shape[:2]
    if values.ndim > 2 or not values.count():
        return said(f"a picture of {height} × {width} points")
    rows, columns = _names(ax.get_yticklabels(), height), _names(ax.get_xticklabels(), width)
    return said(f"a table of {height} rows{rows} and {width} columns{columns}, coloured by value from "
                f"{values.min():.3g} to {values.max():.3g}")


def _names(labels: list, count: int) -> str:
    names = [_plain(label.get_text()) for label in labels if label.get_text()]
    return f" ({', '.join(names)})" if len(names) == count <= MOST_NAMES else ""


def _bars(ax: Axes) -> str:
    groups = []
    for container in (one for one in ax.containers if isinstance(one, BarContainer)):
        lying = container.orientation == "horizontal"
        sizes = [bar.get_width() if lying else bar.get_height() for bar in container]
        places = [bar.get_y() + bar.get_height() / 2 if lying else bar.get_x() + bar.get_width() / 2
                  for bar in container]
        axis = ax.yaxis if lying else ax.xaxis
        names = {round(place, 2): _plain(label.get_text()) for place, label in
                 zip(axis.get_ticklocs(), axis.get_ticklabels())}
        found = [names.get(round(place, 2), "") for place in places]
        label = "" if str(container.get_label()).startswith("_") else f"{_plain(container.get_label())} "
        if len(sizes) <= MOST_NAMES and (len(set(found)) == len(found) or len(found) == 1):
            values = ", ".join(f"{name} {size:.3g}".strip() for name, size in zip(found, sizes))
        elif sizes:
            values = f"{len(sizes)} bars from {min(sizes):.3g} to {max(sizes):.3g}"
        else:
            continue
        groups.append(f"{label}{values}")
    return said(f"bars: {'; '.join(_short(groups, 'groups of bars'))}") if groups else ""


def _curves(ax: Axes) -> str:
    curves, others = [], 0
    for line in ax.lines:
        across, up = (np.asarray(data, dtype=float) for data in line.get_data())
        if len(up) < 3 or line.get_transform() != ax.transData:
            continue  # a mark or a line that only divides
        ends = up[np.isfinite(up)]
        if str(line.get_label()).startswith("_") or not len(ends):
            others += 1
            continue
        curves.append(said(f"{_plain(str(line.get_label()))} from {ends[0]:.3g} to {ends[-1]:.3g}"))
    if not curves and others:
        lines = [np.asarray(line.get_ydata(), dtype=float) for line in ax.lines if len(line.get_xdata()) >= 3]
        ends = [values[np.isfinite(values)] for values in lines if np.isfinite(values).any()]
        curves = [f"from {values[0]:.3g} to {values[-1]:.3g}" for values in ends[:MOST_NAMES]]
    return said(f"curves: {', '.join(_short(curves, 'curves'))}") if curves else ""


def _points(ax: Axes) -> str:
    clouds = [cloud for cloud in ax.collections if len(getattr(cloud, "get_offsets", list)()) > 1]
    named = [_plain(str(cloud.get_label())) for cloud in clouds if not str(cloud.get_label()).startswith("_")]
    count = sum(len(cloud.get_offsets()) for cloud in clouds)
    if not clouds:
        return ""
    return f"{count} points{f' ({chr(44).join(named)})' if named and len(named) <= MOST_NAMES else ''}"


def _written(ax: Axes) -> str:
    """What stands on a panel without axes, such as a row of tokens."""
    words = [_plain(text.get_text()) for text in ax.texts if text.get_text().strip()]
    shown = " ".join(words[:60]) + (" …" if len(words) > 60 else "")
    return said(f"it reads: {shown}") if words else ""


def _short(parts: list[str], what: str) -> list[str]:
    return parts if len(parts) <= MOST_NAMES else [*parts[:MOST_NAMES], f"and {len(parts) - MOST_NAMES} more {what}"]


def _plain(text: str) -> str:
    return " ".join(text.replace("$", "").replace("\\", "").split()).strip(".: ")
