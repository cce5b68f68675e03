"""What can be wrong with a built site: links that lead nowhere, missing anchors, pictures without words."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["Page", "problems", "read_site"]

LEAST_WORDS = 4  # of a picture's alternative text
WORD = re.compile(r"[\u4e00-\u9fff]{2}|[^\W\u4e00-\u9fff]+")  # Chinese has no spaces: two letters are about a word


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self._math = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        if "id" in values:
            self.page.ids.append(values["id"])
        if tag == "a" and "name" in values:
            self.page.ids.append(values["name"])
        if tag == "a" and "href" in values:
            self.page.links.append(values["href"])
        if tag == "link" and values.get("rel") in ("stylesheet", "prev", "next", "icon"):
            self.page.links.append(values["href"])
        if tag == "script" and "src" in values:
            self.page.files.append(values["src"])
        if tag == "img":
            self.page.files.append(values.get("src", ""))
            self.page.pictures.append((values.get("src", ""), values.get("alt")))

    handle_startendtag = handle_starttag


@dataclass
class Page:
    """The parts of an HTML page that can be wrong."""

    ids: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    pictures: list[tuple[str, str | None]] = field(default_factory=list)


def read_site(folder: Path, some: list[Path] | None = None) -> dict[str, Page]:
    """Path within the site -> what stands on the page, for all pages or some."""
    pages = {}
    for path in sorted(folder.rglob("*.html")) if some is None else some:
        if "_static" in path.parts:
            continue
        reader = _Reader()
        reader.feed(path.read_text(encoding="utf-8"))
        pages[path.relative_to(folder).as_posix()] = reader.page
    return pages


def problems(folder: Path, pages: dict[str, Page] | None = None) -> list[str]:
    """One line for each dead link, broken anchor, missing file, file from elsewhere, and picture without words."""
    pages = read_site(folder) if pages is None else pages
    ids = {name: set(page.ids) for name, page in pages.items()}
    found = []
    for name, page in pages.items():
        here = (folder / name).parent
        for target in [*page.links, *page.files]:
            parts = urlsplit(target)
            if parts.scheme in ("https", "http", "mailto"):
                if target in page.files:
                    found.append(f"{name}: fetches {target} from elsewhere")
                continue
            if parts.scheme == "data":
                continue
            file = (here / unquote(parts.path)).resolve() if parts.path else folder / name
            if file.is_dir():
                file = file / "index.html"
            if not file.is_file() or not file.is_relative_to(folder.resolve()):
                found.append(f"{name}: {target} is not there")
                continue
            anchor, other = unquote(parts.fragment), file.relative_to(folder.resolve()).as_posix()
            if anchor and other in ids and anchor not in ids[other]:
                found.append(f"{name}: {target} has no such anchor")
        for source, words in page.pictures:
            if words is None or len(WORD.findall(words)) < LEAST_WORDS:
                found.append(f"{name}: the picture {source} has no alternative text that says what it shows: {words!r}")
        found += [f"{name}: the anchor {one} stands twice" for one in sorted({i for i in page.ids
                                                                            if page.ids.count(i) > 1})]
    return found
