"""Build the web edition from the stored notebooks: `make site`, or `python -m tools.website` (some: `--only 03`)."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

from tools import translate
from tools.website.places import ROOT


def build(folder: Path, only: list[str] | None = None) -> Path:
    """Write the site into `folder`/html and return that; `only` chooses notebooks by how their names begin."""
    from sphinx.application import Sphinx

    from tools.website.pages import stage

    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    if only:
        notebooks = [path for path in notebooks if path.stem.startswith(tuple(only))]
    source, html = folder / "source", folder / "html"
    shutil.rmtree(html, ignore_errors=True)  # no page stays of what is no longer there
    stage(source, notebooks)
    folders = {f"{kind}_path": [str(source / name)] for kind, name in
               (("html_static", "static"), ("html_extra", "extra"), ("templates", "templates"))}
    app = Sphinx(str(source), str(ROOT / "docs" / "site"), str(html), str(folder / "doctrees"), "html",
                 confoverrides=folders, status=None, warning=sys.stderr)
    app.build(force_all=True)  # each page shows the contents: a new chapter changes all of them
    if app.statuscode:
        raise SystemExit(app.statuscode)
    for path in html.rglob("*.html"):
        _mend(path, html)
    return html


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
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    options = parser.parse_args()
    try:
        import furo  # noqa: F401
        import myst_nb  # noqa: F401
        import sphinx  # noqa: F401
    except ImportError as error:
        print(f"{error.name} is not installed: pip install -r docs/requirements.txt", file=sys.stderr)
        return 1
    html = build(options.out.resolve(), options.only)
    print(f"The site is in {html}: open index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
