"""What every interactive picture has in common: one piece of HTML with everything in it, and a still picture beside it.

The page needs no server, no network and no framework. Its script builds the picture inside a shadow root, so neither
styles nor names of one picture reach another, or the page around it. Where scripts do not run, on GitHub or in a
notebook that is not trusted, the still picture stays.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import resources

import matplotlib
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..figures import PALETTE
from ..languages import language, patterns, said
from ..languages.drawn import font_families, translate_figure

__all__ = ["Interactive", "STILL_WIDTH", "static", "visible"]

# Stills are as wide as a phone held upright, so that their letters stay readable there.
STILL_WIDTH = 4.8
STYLE = {
    "figure.facecolor": "white", "savefig.facecolor": "white", "axes.facecolor": "white", "text.color": "black",
    "axes.labelcolor": "black", "axes.edgecolor": "#444444", "xtick.color": "black", "ytick.color": "black",
    "axes.prop_cycle": cycler(color=PALETTE), "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlelocation": "left", "axes.titlesize": 10, "axes.titleweight": "bold", "axes.labelsize": 9,
    "xtick.labelsize": 9, "ytick.labelsize": 9, "font.size": 9, "font.family": "sans-serif", "axes.grid": False,
}


class Interactive:
    """A picture that a reader can move: text/html for where scripts run, image/png for where they do not.

    Args:
        name: which picture it is; `static/NAME.js` builds it, with the styles of `static/NAME.css`.
        data: what it is drawn from, as JSON can hold it: numbers, strings, lists and dicts. No NaN and no infinity.
        picture: makes the still picture.
        description: the still picture in words, for those who cannot see it.

    As a cell's last expression it shows itself.
    """

    def __init__(self, name: str, data: Mapping, picture: Callable[[], Figure], description: str):
        self.name, self.data, self.description = name, data, said(description)
        self._picture = picture

    @cached_property
    def json(self) -> str:
        """The data as it stands in the page."""
        text = json.dumps(self.data, separators=(",", ":"), allow_nan=False)
        return text.replace("<", "\\u003c")  # a token such as </script> must not end the script

    @cached_property
    def png(self) -> bytes:
        """The still picture, as the bytes of a PNG file."""
        file = io.BytesIO()
        style = {**STYLE, "font.family": font_families(language())} if language() else STYLE
        with matplotlib.rc_context(style), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a token in a script that the font lacks
            figure = self._picture()
            translate_figure(figure)
            FigureCanvasAgg(figure).print_figure(file, format="png", dpi=150)
        return file.getvalue()

    @cached_property
    def html(self) -> str:
        """The page's piece of HTML. Equal pictures have equal text, so a stored notebook does not change."""
        mark = hashlib.sha256(f"{self.name} {self.json}".encode()).hexdigest()[:16]
        picture = base64.b64encode(self.png).decode("ascii")
        styles = json.dumps(static("frame.css") + static(f"{self.name}.css")).replace("<", "\\u003c")
        # JupyterLab reads d, d as "delete this cell" unless the element says that keys are its own.
        return (f'<div data-llmbook="{mark}" data-lm-suppress-shortcuts="true">'
                f'<img alt="{html.escape(self.description)}" style="max-width:100%;height:auto" '
                f'src="data:image/png;base64,{picture}"></div>\n'
                f"<script>\n(function () {{\n\"use strict\";\n{static('frame.js')}\n{static(f'{self.name}.js')}\n"
                f'start("{mark}", {json.dumps(self.description)}, {styles}, build, {self.json});\n'
                f"{self._speaking(mark)}}})();\n</script>\n")

    def _speaking(self, mark: str) -> str:
        """Script that puts the picture's words into the reader's language; none for English."""
        if not language():
            return ""
        words = json.dumps(patterns(language(), "pictures"), ensure_ascii=False).replace("<", "\\u003c")
        return f'{static("words.js")}\nspeak("{mark}", {words});\n'

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """What Jupyter asks for."""
        return {"text/html": self.html, "image/png": base64.b64encode(self.png).decode("ascii"),
                "text/plain": self.description}

    def __repr__(self) -> str:
        return self.description


def static(name: str) -> str:
    """The text of a file in the folder `static`."""
    return (resources.files(__package__) / "static" / name).read_text(encoding="utf-8")


def visible(piece: str) -> str:
    """A token as pictures show it: a space as a middle dot, a line break as ⏎."""
    return piece.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")
