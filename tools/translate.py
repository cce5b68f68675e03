"""Translations: texts in catalogues, code from the English notebooks. `python -m tools.translate --help`.

A catalogue, docs/translations/LANGUAGE/PAGE.json, holds for each text its key, a hash of the English source that was
translated, and the translation. A notebook's texts are its markdown cells, keyed by cell id; a page's are its blocks,
keyed by their order. A translation whose English has changed since is stale: it is reported, and the English is shown.

    python -m tools.translate extract zh 03_attention    # new and changed texts go into the catalogue, to be translated
    python -m tools.translate report zh                  # what is missing, stale or left over
    python -m tools.translate build zh                   # notebooks/zh/, whose code cells are the English ones

The words of figures, of pictures that move and of exercise checks are in `llmbook/book/languages/zh.json`. A built
notebook keeps the outputs of the cells that have not changed; `tools/book.py --store notebooks/zh/PAGE.ipynb` runs it.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from llmbook.book.languages import catalogue

ROOT = Path(__file__).resolve().parents[1]
CATALOGUES = ROOT / "docs" / "translations"
LANGUAGES = {"zh": "简体中文"}
TAGS = {"zh": "zh-CN"}  # as HTML names them
PAGES = {"index": ROOT / "docs" / "site" / "index.md"}  # pages that are no notebooks

Catalogue = dict[str, dict[str, str]]


@dataclass
class State:
    """How far a page's translation is: keys of its texts."""

    fresh: list[str]
    missing: list[str]
    stale: list[str]
    left_over: list[str]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.stale or self.left_over)


def digest(text: str) -> str:
    """What is compared to see whether a text has changed; blanks at its ends do not count."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


def blocks(text: str) -> dict[str, str]:
    """Key -> block of a markdown page: what stands between empty lines, code whole. Comments and code have no text."""
    parts, open_fence = [], False
    for block in re.split(r"\n{2,}", text.strip("\n")):
        if open_fence:
            parts[-1] += "\n\n" + block
        else:
            parts.append(block)
        open_fence ^= block.count("```") % 2 == 1
    return {f"{number:02}": block for number, block in enumerate(parts, 1)}


def has_words(block: str) -> bool:
    return not block.startswith(("```", "<!--"))


def sources(page: str) -> dict[str, str]:
    """Key -> English text of a page, `03_attention` or `index`.

    Raises:
        ValueError: if there is no such page.
    """
    if page in PAGES:
        found = blocks(PAGES[page].read_text(encoding="utf-8"))
        return {key: block for key, block in found.items() if has_words(block)}
    path = ROOT / "notebooks" / f"{page}.ipynb"
    if not path.exists():
        raise ValueError(f"no page {page!r}: give the name of a notebook, such as 03_attention, or {', '.join(PAGES)}")
    return {cell.id: cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"}


def read_catalogue(language: str, page: str) -> Catalogue:
    path = CATALOGUES / language / f"{page}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def state(texts: dict[str, str], catalogue: Catalogue) -> State:
    """Compare a catalogue with the English texts of today."""
    found = State([], [], [], [key for key in catalogue if key not in texts])
    for key, text in texts.items():
        entry = catalogue.get(key, {})
        if not entry.get("text"):
            found.missing.append(key)
        elif entry["source"] != digest(text):
            found.stale.append(key)
        else:
            found.fresh.append(key)
    return found


def extract(language: str, page: str) -> Path:
    """Bring a catalogue up to date: new texts come in empty, with their English beside them; old entries stay.

    A stale entry keeps its text and gets the new English beside it; whoever has mended the text writes the new hash,
    `now`, into `source`.
    """
    texts, catalogue = sources(page), read_catalogue(language, page)
    kept: Catalogue = {}
    for key, text in texts.items():
        entry = catalogue.get(key) or {"source": digest(text), "text": ""}
        if not entry["text"]:
            entry = {"source": digest(text), "english": text, "text": ""}
        elif entry["source"] != digest(text):
            entry = {**entry, "now": digest(text), "english": text}
        else:
            entry = {name: entry[name] for name in ("source", "text")}
        kept[key] = entry
    path = CATALOGUES / language / f"{page}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


def translated(text: str, key: str, catalogue: Catalogue) -> str:
    """The translation of a text, or the text where there is none of its present wording."""
    entry = catalogue.get(key, {})
    return entry["text"] if entry.get("text") and entry["source"] == digest(text) else text


def translated_notebook(notebook: NotebookNode, catalogue: Catalogue, before: NotebookNode | None = None
                        ) -> NotebookNode:
    """A copy with the markdown cells translated; code, ids and metadata are the English ones.

    Outputs are those of `before`, the notebook as it was built and run the last time, where its cell has the same
    code, else the English ones.
    """
    made = copy.deepcopy(notebook)
    run = {cell.id: cell for cell in before.cells if cell.cell_type == "code"} if before else {}
    for cell in made.cells:
        if cell.cell_type == "markdown":
            cell.source = translated(cell.source, cell.id, catalogue)
        elif cell.id in run and run[cell.id].source == cell.source:
            cell.outputs, cell.execution_count = run[cell.id].outputs, run[cell.id].execution_count
    return made


def one_folder_down(text: str, language: str) -> str:
    """Markdown of notebooks/ as it stands in notebooks/LANGUAGE/: links lead to translations where there are any."""
    def change(match: re.Match) -> str:
        inside, file = match[1] or "", match[2]
        if Path(file).stem in pages(language):
            return f"]({inside}{language + '/' if inside else ''}{file}"
        return f"]({inside}{file}" if inside else f"](../{file}"

    return re.sub(r"\]\((https://[^\s)]*/blob/main/notebooks/)?(\w+\.ipynb)", change, text)


def translated_page(text: str, catalogue: Catalogue) -> str:
    """A markdown page with its blocks translated."""
    return "\n\n".join(translated(block, key, catalogue) for key, block in blocks(text).items()) + "\n"


def theme(page: str, language: str) -> str:
    """HTML of a page with the words around it, buttons, labels and headings, in its language."""
    for text, instead in catalogue(language)["theme"].items():
        page = re.sub(rf'(>\s*|(?:aria-label|placeholder|title)="){re.escape(text)}(\s*<|")',
                      lambda match, instead=instead: match[1] + instead + match[2], page)
    return page


def pages(language: str) -> list[str]:
    """The pages that have a catalogue in this language."""
    return sorted(path.stem for path in (CATALOGUES / language).glob("*.json"))


def stored(language: str, page: str) -> Path:
    """Where a translated notebook is kept."""
    return ROOT / "notebooks" / language / f"{page}.ipynb"


def build(language: str, into: Path | None = None) -> list[Path]:
    """Write the notebooks of a language; returns their paths."""
    folder, written = into or ROOT / "notebooks" / language, []
    for page in pages(language):
        if page in PAGES:
            continue
        notebook, path = nbformat.read(ROOT / "notebooks" / f"{page}.ipynb", as_version=4), folder / f"{page}.ipynb"
        before = stored(language, page)
        made = translated_notebook(notebook, read_catalogue(language, page),
                                   nbformat.read(before, as_version=4) if before.exists() else None)
        for cell in made.cells:
            if cell.cell_type == "markdown":
                cell.source = one_folder_down(cell.source, language)
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(made, path)
        written.append(path)
    return written


def report(language: str) -> tuple[list[str], bool]:
    """Lines about each page, and whether all is in order: untranslated texts are allowed only where none is."""
    lines, good = [], True
    for page in pages(language):
        found = state(sources(page), read_catalogue(language, page))
        total = len(found.fresh) + len(found.missing) + len(found.stale)
        lines.append(f"{page}: {len(found.fresh)} of {total} texts translated")
        for name, keys in (("missing", found.missing), ("stale", found.stale), ("left over", found.left_over)):
            lines += [f"  {name}: {key}" for key in keys]
        good &= found.complete
    return lines, good


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["extract", "report", "build"])
    parser.add_argument("language", choices=sorted(LANGUAGES))
    parser.add_argument("pages", nargs="*", help="for extract: names such as 03_attention, or index")
    options = parser.parse_args(arguments)
    if options.command == "extract":
        if not options.pages:
            parser.error("extract: name the pages, such as 03_attention")
        for page in options.pages:
            try:
                print(extract(options.language, page))
            except ValueError as error:
                print(error, file=sys.stderr)
                return 1
        return 0
    if options.command == "build":
        print(*build(options.language), sep="\n")
        return 0
    lines, good = report(options.language)
    print(*lines, sep="\n")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
