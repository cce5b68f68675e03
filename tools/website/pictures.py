"""The pictures of the notebooks' outputs as files: small, with their size and with words for who cannot see them."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import os
import re
from pathlib import Path

from nbformat import NotebookNode
from PIL import Image

__all__ = ["alternative_text", "model_picture", "picture_tag", "with_stills_as_files"]

HOME_PICTURE = ("The model of this book as a flow of data. A text becomes token ids, each id becomes a vector, blocks "
                "of attention and feed-forward layers change the vectors, and the last one becomes "
                "a probability for each possible next token. One of them is appended to the text, and all of it is "
                "repeated.")
STILL = re.compile(r'src="data:image/png;base64,([^"]+)"')
NO_WORDS = re.compile(r"<Figure size .*>|<matplotlib\..*>|<IPython\..*>")


def alternative_text(output: NotebookNode, section: str) -> str:
    """What a picture shows, in words: the text that was stored with it, or else the section that it stands in."""
    stored = output.get("metadata", {}).get("image/png", {}).get("alt") or output.get("metadata", {}).get("alt")
    if stored:
        return stored
    plain = "".join(output.data.get("text/plain", ""))
    return plain if plain and not NO_WORDS.fullmatch(plain.strip()) else f"Picture in the section “{section}”"


def picture_tag(png: str, alt: str, folder: Path, address: str, name: str = "") -> str:
    """An <img> for a PNG in base64, whose file is written into `folder` and found under `address` from the page."""
    file, (width, height) = _write(base64.b64decode(png), folder)
    return (f'<img class="picture" src="{address}/{file}" alt="{html.escape(alt)}" width="{width}" height="{height}" '
            f'loading="lazy" decoding="async"{name and f" id={name}"}>')


def model_picture(folder: Path, address: str, language: str = "en") -> str:
    """An <img> of the whole model, as the chapters draw it, in a language."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from llmbook.book.figures import model_diagram, use_style
    from llmbook.book.languages import catalogue
    from llmbook.book.languages.drawn import translate_figure

    before = os.environ.get("LLMBOOK_LANGUAGE")
    os.environ["LLMBOOK_LANGUAGE"] = language
    try:
        with matplotlib.rc_context():
            use_style()
            figure, file = model_diagram("model").figure, io.BytesIO()
            translate_figure(figure)
            figure.savefig(file, format="png", dpi=160, metadata={"Software": None})
            plt.close(figure)
    finally:
        os.environ.pop("LLMBOOK_LANGUAGE") if before is None else os.environ.update(LLMBOOK_LANGUAGE=before)
    words = HOME_PICTURE if language == "en" else catalogue(language)["pages"].get(HOME_PICTURE, HOME_PICTURE)
    return picture_tag(base64.b64encode(file.getvalue()).decode("ascii"), words, folder, address)


def with_stills_as_files(page: str, folder: Path, address: str) -> str:
    """HTML of an interactive picture with its still picture in a file, which no browser loads that runs the script."""
    def change(match: re.Match) -> str:
        file, (width, height) = _write(base64.b64decode(match[1]), folder)
        return f'loading="lazy" width="{width}" height="{height}" src="{address}/{file}"'

    return STILL.sub(change, page)


def _write(png: bytes, folder: Path) -> tuple[str, tuple[int, int]]:
    """Keep a picture as a WebP without loss, half as large as matplotlib's PNG."""
    name = hashlib.sha256(png).hexdigest()[:16] + ".webp"
    path = folder / name
    image = Image.open(io.BytesIO(png))
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        image = image.convert("RGBA" if "A" in image.getbands() else "RGB")
        if image.mode == "RGBA" and image.getextrema()[3][0] == 255:
            image = image.convert("RGB")
        temporary = path.with_suffix(".tmp")
        image.save(temporary, format="WEBP", lossless=True, quality=40, method=3)
        temporary.replace(path)
    return name, image.size
