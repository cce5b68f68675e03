"""Build the web edition from the stored notebooks: `make site`, or `python -m tools.website` (some: `--only 03`)."""

from __future__ import annotations

import argparse
import gc
import re
import shutil
import sys
from pathlib import Path

from tools import translate
from tools.website.ebook import mend
from tools.website.places import ROOT


def build(folder: Path, only: list[str] | None = None) -> Path:
    """Write the site into `folder`/html and return that; `only` chooses notebooks by how their names begin."""
    html = folder / "html"
    shutil.rmtree(html, ignore_errors=True)  # no page stays of what is no longer there
    _sphinx(folder, _notebooks(only), html, "html")
    for path in html.rglob("*.html"):
        _mend(path, html)
    return html


def build_epub(folder: Path, only: list[str] | None = None) -> Path:
    """Write the book as one file for e-readers into `folder` and return its path."""
    shutil.rmtree(folder / "epub", ignore_errors=True)
    _sphinx(folder / "for_epub", _notebooks(only), folder / "epub", "epub")
    made = folder / "epub" / "llmbook.epub"
    mend(made)
    return made.replace(folder / "llmbook.epub")


def _notebooks(only: list[str] | None) -> list[Path]:
    found = sorted((ROOT / "notebooks").glob("*.ipynb"))
    return [path for path in found if path.stem.startswith(tuple(only))] if only else found


def _sphinx(folder: Path, notebooks: list[Path], into: Path, kind: str) -> None:
    """Prepare the sources in `folder` and let Sphinx build pages or a book of them."""
    from sphinx.application import Sphinx

    from tools.website.pages import stage

    source = folder / "source"
    stage(source, notebooks, still=kind == "epub")
    folders = {f"{kind}_path": [str(source / name)] for kind, name in
               (("html_static", "static"), ("html_extra", "extra"), ("templates", "templates"))}
    app = Sphinx(str(source), str(ROOT / "docs" / "site"), str(into), str(folder / "doctrees"), kind,
                 confoverrides=folders, status=None, warning=sys.stderr)
    app.build(force_all=True)  # each page shows the contents: a new chapter changes all of them
    if app.statuscode:
        raise SystemExit(app.statuscode)


def _mend(path: Path, html: Path) -> None:
    """What Sphinx cannot be told: a heading's role asks for its level, and a page may be in another language."""
    text = path.read_text(encoding="utf-8")
    text = text.replace('class="caption" role="heading"', 'class="caption" role="heading" aria-level="2"')
    for language in set(path.relative_to(html).parts) & set(translate.LANGUAGES):
        text = re.sub(r'(<html [^>]*lang=)"en"', rf'\1"{translate.TAGS[language]}"', text, count=1)
        text = translate.theme(text, language)
    path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--only", nargs="+", help="begin of the names of the notebooks to build, for authors")
    parser.add_argument("--epub", action="store_true", help="one file for e-readers instead of the site")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    options = parser.parse_args()
    try:
        import furo  # noqa: F401
        import myst_nb  # noqa: F401
        import sphinx  # noqa: F401
    except ImportError as error:
        print(f"{error.name} is not installed: pip install -r docs/requirements.txt", file=sys.stderr)
        return 1
    if options.epub:
        print(f"The book is {build_epub(options.out.resolve(), options.only)}")
        return 0
    gc.set_threshold(500_000, 20, 20)  # millions of nodes live until the end: looking through them often finds nothing
    html = build(options.out.resolve(), options.only)
    print(f"The site is in {html}: open index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
