"""Which page is where on the site, the order of the chapters, and where links of the sources lead."""

from __future__ import annotations

import os
import posixpath
import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
PARTS = (("The parts of a language model", r"0[1-4]"), ("Pretraining, your own and others'", r"05"),
         ("From a model to an assistant", r"0[6-9]"), ("Further models, and your own device", r"1\d"),
         ("Appendices", r"[ABD-Z]_"), ("Solutions", r"C_"))
_FIRST = ("first_steps", "stories", "glossary", "references")
DOCS = (*_FIRST, *sorted({path.stem for path in (ROOT / "docs").glob("*.md")} - set(_FIRST)))
LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def slug(heading: str) -> str:
    """The anchor that GitHub, and MyST, give a heading."""
    return re.sub(r"[^\w\u4e00-\u9fff\- ]", "", heading.strip().lower()).replace(" ", "-")


def parts(paths: list[Path]) -> list[tuple[str, list[Path]]]:
    """The notebooks by parts of the book, in reading order; each belongs to one part, empty parts are left out."""
    found = [(title, [path for path in sorted(paths) if re.match(pattern, path.stem)]) for title, pattern in PARTS]
    missing = set(paths) - {path for _, group in found for path in group}
    if missing:
        raise ValueError(f"{', '.join(sorted(path.name for path in missing))}: in no part of the book; see PARTS in "
                         "tools/website/places.py")
    return [(title, group) for title, group in found if group]


def on_site(path: str) -> str | None:
    """The site's source file for a file of the repository, None if the site has no page of it."""
    if path in ("README.md", ""):
        return "index.md"
    if path == "data/README.md" or re.fullmatch(r"notebooks/(?:[a-z]{2}/)?\w+\.ipynb", path):
        return path if (ROOT / path).exists() else None
    name = re.fullmatch(r"docs/(\w+)\.md", path)
    return path if name and name[1] in DOCS else None


def relink(text: str, page: str) -> str:
    """Markdown of `page` (a path in the repository) with each link as the site needs it.

    A link to a file that has a page leads to the page, also where the source names the file's address on GitHub; a
    link to another file of the repository leads to GitHub.
    """
    folder = posixpath.dirname(page)

    def change(match: re.Match) -> str:
        target, _, anchor = match[2].partition("#")
        if not target or target.startswith(("mailto:", "data:")):
            return match[0]
        if target.startswith(f"{ADDRESS}/blob/main/"):
            path = target.removeprefix(f"{ADDRESS}/blob/main/")
        elif "://" in target:
            return match[0]
        else:
            path = posixpath.normpath(posixpath.join(folder, target))
        home = on_site(path)
        if home is not None:
            new = posixpath.relpath(home, folder or ".")
        else:
            kind = "tree" if os.path.isdir(ROOT / path) else "blob"
            new = f"{ADDRESS}/{kind}/main/{path}"
        return f"{match[1]}{new}{'#' + anchor if anchor and not (home == 'index.md') else ''}{match[3]}"

    return LINK.sub(change, text)
