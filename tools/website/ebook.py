"""The book as one file for e-readers: Sphinx' EPUB of the same pages, with still pictures, mended to strict XHTML."""

from __future__ import annotations

import html
import posixpath
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path

__all__ = ["mend", "xhtml"]

EMPTY = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
LEFT_OUT = {"script"}


class _Strict(HTMLParser):
    """Writes what it reads, each element closed, each attribute with a value, no scripts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.written: list[str] = []
        self._skipping = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._skipping += tag in LEFT_OUT
        seen = {name: name if value is None else value for name, value in reversed(attributes)}
        values = "".join(f' {name}="{html.escape(value)}"' for name, value in reversed(seen.items())
                         if name not in ("loading", "decoding", "tabindex"))
        self._write(f"<{tag}{values}{' /' if tag in EMPTY else ''}>")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in EMPTY:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            self._write(f"</{tag}>")
        self._skipping -= tag in LEFT_OUT

    def handle_data(self, data: str) -> None:
        self._write(html.escape(data, quote=False))

    def handle_entityref(self, name: str) -> None:
        self._write(html.escape(html.unescape(f"&{name};"), quote=False))

    def handle_charref(self, name: str) -> None:
        self._write(f"&#{name};")

    def handle_decl(self, declaration: str) -> None:
        self._write(f"<!{declaration}>")

    def handle_pi(self, data: str) -> None:
        self._write(f"<?{data}>")

    def _write(self, text: str) -> None:
        if not self._skipping:
            self.written.append(text)


def xhtml(page: str) -> str:
    """HTML as XHTML, as e-readers demand it."""
    reader = _Strict()
    reader.feed(page)
    reader.close()
    return "".join(reader.written)


def mend(book: Path) -> None:
    """Make each page of an EPUB strict, and lead its links to pages of the book."""
    with zipfile.ZipFile(book) as old:
        files = {info.filename: old.read(info) for info in old.infolist()}
    temporary = book.with_suffix(".tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in files.items():  # the first, `mimetype`, must not be packed
            if name.endswith(".xhtml"):
                content = xhtml(_relinked(content.decode("utf-8"), name, set(files))).encode("utf-8")
            new.writestr(name, content, zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED)
    temporary.replace(book)


def _relinked(page: str, name: str, files: set[str]) -> str:
    """A page whose links to the site's pages lead to the book's, without styles that the book has not."""
    folder = posixpath.dirname(name)

    def change(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(folder, f"{match[1]}.xhtml"))
        return f'href="{match[1]}.xhtml{match[2]}"' if target in files else match[0]

    def style(match: re.Match) -> str:
        return match[0] if posixpath.normpath(posixpath.join(folder, match[1])) in files else ""

    page = re.sub(r'<link rel="stylesheet"[^>]*? href="([^"]+)"[^>]*>\s*', style, page)
    return re.sub(r'href="(?!\w+:)([^"#]+)\.html((?:#[^"]*)?)"', change, page)
