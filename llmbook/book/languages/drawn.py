"""Figures in the reader's language, and a font for its letters, found among the reader's own."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.font_manager import findSystemFonts, fontManager
from matplotlib.text import Text

from llmbook.assets import cache_folder
from llmbook.book.languages import language, said
from llmbook.files import replace_file

__all__ = ["font_families", "translate_figure"]

LATIN = "DejaVu Sans"  # comes with matplotlib
FAMILIES = {"zh": ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "PingFang SC",
                   "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
                   "Arial Unicode MS")}


@lru_cache
def font_families(name: str) -> tuple[str, ...]:
    """matplotlib's `font.family` for a language: one alone where its letters are Latin or no font has them."""
    wanted = FAMILIES.get(name, ())
    _unpack(wanted)
    there = {font.name for font in fontManager.ttflist}
    return (LATIN, *[one for one in wanted if one in there][:1])


def _unpack(wanted: tuple[str, ...]) -> None:
    """Make single fonts of Noto's collections (.ttc), of which matplotlib reads only the first font, the Japanese."""
    for file in findSystemFonts() if wanted else ():
        if not Path(file).name.startswith("NotoSansCJK") or not file.endswith(".ttc"):
            continue
        from fontTools.ttLib import TTCollection  # matplotlib brings it along

        for number, face in enumerate(TTCollection(file, lazy=True).fonts):
            if face["name"].getDebugName(1) in wanted:
                path = _folder() / f"{Path(file).stem}-{number}.otf"
                if not path.exists():
                    font = io.BytesIO()
                    face.save(font)
                    replace_file(path, font.getvalue())  # whole or not at all
                fontManager.addfont(path)


def _folder() -> Path:
    folder = cache_folder() / "fonts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def translate_figure(figure: Figure) -> None:
    """Put a figure's titles, labels, names and description into the reader's language, if its letters can be drawn."""
    if not language() or len(font_families(language())) < 2:
        return
    figure.set_label(said(str(figure.get_label())))
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            names = [label.get_text() for label in axis.get_ticklabels()]
            if any(said(name) != name for name in names):
                axis.set_ticks(axis.get_ticklocs(), [said(name) for name in names])
        for part in (*ax.lines, *ax.collections, *ax.patches, *ax.containers):
            label = str(part.get_label())
            if label and not label.startswith(("_", "<")):
                part.set_label(said(label))
    for text in figure.findobj(Text):
        if text.get_text():
            text.set_text(said(text.get_text()))
