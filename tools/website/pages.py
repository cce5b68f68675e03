"""The site's sources: the notebooks and pages of the repository, made ready for Sphinx in a folder of their own."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from llmbook.book.languages import catalogue
from tools import translate
from tools.website import api
from tools.website.citations import Reference, link_citations, read_references, with_back_links
from tools.website.pictures import alternative_text, model_picture, picture_tag, with_stills_as_files
from tools.website.places import ADDRESS, DOCS, ROOT, parts, relink, slug

__all__ = ["stage"]

SETUP = "Setup and imports"
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)\n*")
LINKS_LINE = re.compile(r"^\[[^\n]*\]\([^\n]*\) · \[[^\n]*$\n*", re.MULTILINE)  # to the neighbours: the theme has them
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
NUMBER = re.compile(r"(?:[A-Z]|\d+[a-z]?)\.\d+")
SECTIONS_LINK = re.compile(r"\[((?:[A-Z]|\d+[a-z]?)\.\d+)\]\(((?:[./\w]*/)?(\w+\.ipynb))\)")


def stage(source: Path, notebooks: list[Path], still: bool = False) -> None:
    """Write all that Sphinx reads into `source`, for these notebooks; what was there for others goes.

    `still` is for e-readers: pictures that move are shown as they stand; folded code, the package's reference and other
    languages are left out.
    """
    there = notebooks if still else [*notebooks, *_translations(notebooks)]
    read = {path: nbformat.read(path, as_version=4) for path in there}
    anchors = {path.name: _anchors(read[path]) for path in notebooks}
    references = read_references((ROOT / "docs" / "references.md").read_text(encoding="utf-8"))
    pictures = source / "extra" / "pictures"
    files = {path.relative_to(ROOT).as_posix(): nbformat.writes(_notebook_page(path, notebook, anchors, references,
                                                                                pictures, still))
             for path, notebook in read.items()}
    for page in (*(f"docs/{name}.md" for name in DOCS), "data/README.md"):
        files[page] = _markdown_page(page, anchors, references)
    files["index.md"] = _home(notebooks, model_picture(pictures, "pictures"), still)
    files |= {f"{language}/index.md": _home_in(language, notebooks, model_picture(pictures, "../pictures", language))
              for language in translate.LANGUAGES if "index" in translate.pages(language) and not still}
    if not still:
        files |= {f"api/{name}": text for name, text in api.pages().items()}
    files["static/cards.js"] = _cards(references)
    files["extra/.nojekyll"] = ""  # without it GitHub Pages leaves out folders that begin with _
    for stale in (path for kind in ("*.md", "*.ipynb") for path in source.rglob(kind)):
        if stale.relative_to(source).as_posix() not in files:
            stale.unlink()
    for name, text in files.items():
        _write(source / name, text)
    for name in ("static", "templates"):
        shutil.copytree(ROOT / "docs" / "site" / name, source / name, dirs_exist_ok=True)


def _translations(notebooks: list[Path]) -> list[Path]:
    """The notebooks that are there in other languages, of those of these notebooks."""
    there = [translate.stored(language, path.stem) for language in translate.LANGUAGES for path in notebooks]
    return [path for path in there if path.exists()]


def _notebook_page(path: Path, notebook: NotebookNode, anchors: dict[str, dict[str, str]],
                   references: list[Reference], pictures: Path, still: bool) -> NotebookNode:
    """The notebook as a page: links that lead to pages, folded setup, pictures in files, no widgets."""
    chapter = re.sub(r"^0", "", path.stem.split("_")[0])
    home, language = path.relative_to(ROOT).as_posix(), _language(path)
    up = "../" * home.count("/")
    words = catalogue(language)["pages"] if language else {}
    page, section, seen = nbformat.from_dict(notebook), (path.stem, ""), 0
    cells = []
    for cell in page.cells:
        if cell.cell_type == "markdown":
            text = BADGE.sub("", cell.source)
            if not language:  # a translation has no neighbours of its own in the contents
                text = LINKS_LINE.sub("", text + "\n").rstrip()
            for match in HEADING.finditer(text):
                section = (match[2], slug(match[2]))
            number = NUMBER.match(section[0])
            label = number[0] if number else f"chapter {chapter}" if chapter[0].isdigit() else f"appendix {chapter}"
            label = f"{label} ({language})" if language else label
            text = link_citations(text, references, chapter, f"{up}docs/references.md",
                                  (label, f"../{home}{'#' + section[1] if section[1] else ''}"))
            text = _to_sections(relink(text, home), anchors)
            if not seen:
                text = re.sub(r"^(# .+)$", lambda match: match[1] + "\n\n" + _tools(path, words, still), text, count=1,
                              flags=re.MULTILINE)
            seen += 1
            cell.source = text
        elif not cell.source.strip():
            continue
        elif still and cell.metadata.get("jupyter", {}).get("source_hidden"):
            if not cell.outputs:
                continue
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "remove-input"]
            cell.outputs = [_shown(output, section[0], pictures, f"{up}pictures", still) for output in cell.outputs]
        else:
            _fold(cell, words)
            if cells and _goes_with(cells[-1], cell):
                cells[-1].source += "\n\n" + cell.source
                cells[-1].metadata["mystnb"] = _prompts(words.get(SETUP, SETUP))
                continue
            cell.outputs = [_shown(output, section[0], pictures, f"{up}pictures", still) for output in cell.outputs]
        cells.append(cell)
    page.cells = cells
    page.metadata["file_format"] = "mystnb"
    return page


def _anchors(notebook: NotebookNode) -> dict[str, str]:
    """The number of each section -> its anchor."""
    headings = [match[2] for cell in notebook.cells if cell.cell_type == "markdown"
                for match in HEADING.finditer(cell.source)]
    return {number[0]: slug(heading) for heading in headings if (number := NUMBER.match(heading))}


def _to_sections(text: str, anchors: dict[str, dict[str, str]]) -> str:
    """`[3.1](03_attention.ipynb)` leads to section 3.1, not to the chapter's head."""
    def change(match: re.Match) -> str:
        anchor = anchors.get(match[3], {}).get(match[1])
        return f"[{match[1]}]({match[2]}{'#' + anchor if anchor else ''})"

    return SECTIONS_LINK.sub(change, text)


def _language(path: Path) -> str:
    """The language of a notebook; "" for English."""
    return path.parent.name if path.parent.name in translate.LANGUAGES else ""


def _tools(path: Path, words: dict[str, str], still: bool = False) -> str:
    """The links under a title: run it in Colab, see the notebook, read it in another language."""
    colab = ADDRESS.replace("https://github.com/", "https://colab.research.google.com/github/")
    run, see = (words.get(text, text) for text in ("Run it in Colab", "The notebook on GitHub"))
    place = path.relative_to(ROOT).as_posix()
    links = [f'<a class="run" href="{colab}/blob/main/{place}">{run}</a>',
             f'<a href="{ADDRESS}/blob/main/{place}">{see}</a>']
    if _language(path):
        links.append(f'<a href="../{path.stem}.html" lang="en" hreflang="en">English</a>')
    elif not still:
        links += [_switch(code, f"{code}/{path.stem}.html") for code in translate.LANGUAGES
                  if translate.stored(code, path.stem).exists()]
    return f'<p class="page-tools">{" ".join(links)}</p>'


def _switch(code: str, address: str) -> str:
    """A link to a page in another language, in that language."""
    tag = translate.TAGS[code]
    return f'<a href="{address}" lang="{tag}" hreflang="{tag}">{translate.LANGUAGES[code]}</a>'


def _fold(cell: NotebookNode, words: dict[str, str]) -> None:
    """A cell that is collapsed in Jupyter is folded on the page, under the words of its first comment."""
    tags = cell.metadata.setdefault("tags", [])
    if cell.metadata.get("jupyter", {}).get("source_hidden"):
        tags.append("hide-input")
        first = next((line for line in cell.source.splitlines() if not line.startswith("#|")), "")
        found = re.match(r"#\s*(.+)", first)
        if found:
            title = found[1]
        elif re.match(r"(from|import)\b", first):
            title = "Imports"
        elif "assert" in cell.source and not cell.outputs:
            title = "Checks"
        else:
            title = "Code of this output" if cell.outputs else "Code"
        cell.metadata["mystnb"] = _prompts(words.get(title, title))


def _prompts(title: str) -> dict[str, str]:
    return {"code_prompt_show": title, "code_prompt_hide": title}


def _goes_with(before: NotebookNode, cell: NotebookNode) -> bool:
    """Whether two folded cells without outputs stand together, as setup and imports do: one fold holds both."""
    return all(one.cell_type == "code" and "hide-input" in one.metadata["tags"] and not one.outputs
               for one in (before, cell))


def _shown(output: NotebookNode, section: str, pictures: Path, address: str, still: bool) -> NotebookNode:
    """An output in the one form that the page shows: a picture that moves, a picture, a table or text."""
    data = output.get("data")
    if data is None:
        return output
    page = "".join(data.get("text/html", ""))
    if "data-llmbook=" in page and not still:
        data = {"text/html": with_stills_as_files(page, pictures, address)}
    elif page and "data-llmbook=" not in page:
        data = {"text/html": f'<div class="table" tabindex="0" role="region" aria-label="Table">{page}</div>'}
    elif "image/png" in data:
        data = {"text/html": picture_tag(data["image/png"], alternative_text(output, section), pictures, address)}
    elif "application/vnd.jupyter.widget-view+json" in data:
        words = html.escape("".join(data.get("text/plain", "")).strip() or "A box to type into.")
        data = {"text/html": f'<p class="widget">Here the notebook shows a box to type into. {words}</p>'}
    output.data, output.metadata = nbformat.from_dict(data), nbformat.from_dict({})
    return output


def _markdown_page(page: str, anchors: dict[str, dict[str, str]], references: list[Reference]) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    if page == "docs/references.md":
        text = with_back_links(text, references)
    text = BADGE.sub(lambda match: f"[Open in Colab]({re.search(r'[)]([]][(])(.+?)[)]', match[0])[2]})\n", text)
    return _to_sections(relink(text, page), anchors)


def _home(notebooks: list[Path], picture: str, still: bool = False) -> str:
    """docs/site/index.md with the picture of the model, the stories and the contents by parts."""
    text = (ROOT / "docs" / "site" / "index.md").read_text(encoding="utf-8")
    switches = [_switch(code, f"{code}/index.html") for code in translate.LANGUAGES
                if "index" in translate.pages(code)]
    if not still:
        text = text.replace("</a></p>", f"</a> {' '.join(switches)}</p>", 1)
    trees = []
    for title, group in parts(notebooks):
        trees.append(_tree(title, [f"notebooks/{path.stem}" for path in group]))
    beside = [*(f"docs/{name}" for name in DOCS), "data/README", *([] if still else ["api/index"])]
    trees.append(_tree("Beside the chapters", beside))
    text = text.replace("<!-- picture -->", picture)
    return text.replace("<!-- stories -->", _stories()).replace("<!-- contents -->", "\n".join(trees))


def _home_in(language: str, notebooks: list[Path], picture: str) -> str:
    """The home page in another language, one folder down, with links to the chapters that are there."""
    text = (ROOT / "docs" / "site" / "index.md").read_text(encoding="utf-8")
    text = translate.translated_page(text, translate.read_catalogue(language, "index"))
    text = re.sub(r'(\]\(|href=")(?![#/]|\w+:)', r"\1../", text)
    text = text.replace("</a></p>", '</a> <a href="../index.html" lang="en" hreflang="en">English</a></p>', 1)
    chapters, words = [], catalogue(language)["pages"]
    for title, group in parts(notebooks):
        there = [translate.stored(language, path.stem) for path in group]
        pages = [one if one.exists() else path for one, path in zip(there, group)]
        chapters += [f"**{words.get(title, title)}**", "",
                     *(f"- [{_title(page)}](../{page.relative_to(ROOT).as_posix()})" for page in pages), ""]
    chapters += ["```{toctree}", ":hidden:", "",
                 *(f"../{page.relative_to(ROOT).with_suffix('').as_posix()}" for page in _translations(notebooks)
                   if _language(page) == language), "```", ""]
    for mark, piece in (("picture", picture), ("stories", _stories()), ("contents", "\n".join(chapters))):
        text = text.replace(f"<!-- {mark} -->", piece)
    return f"---\norphan: true\n---\n\n{text}"


def _title(path: Path) -> str:
    first = nbformat.read(path, as_version=4).cells[0].source
    return re.match(r"# (.+)", first).group(1)


def _tree(caption: str, pages: list[str]) -> str:
    return "\n".join(["```{toctree}", f":caption: {caption}", ":maxdepth: 1", "", *pages, "```", ""])


def _stories() -> str:
    """The stories of docs/stories.md, each behind its beginning."""
    blocks = re.split(r"^## \d+$", (ROOT / "docs" / "stories.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    shown = []
    for number, block in enumerate(blocks, 1):
        lines = [line.removeprefix(">").strip() for line in block.splitlines() if line.startswith(">")]
        paragraphs = [part for part in "\n".join(lines).split("\n\n") if part.strip()]
        verdict = " ".join(line for line in block.splitlines() if line.strip() and not line.startswith(">"))
        begin = " ".join(paragraphs[0].split()[:9]) + " …"
        body = "".join(f"<p>{html.escape(' '.join(part.split()), quote=False)}</p>" for part in paragraphs)
        body += f'<p class="verdict">The checker: {html.escape(verdict, quote=False)}</p>'
        shown.append(f"<details{' open' if number == 2 else ''}><summary>{html.escape(begin, quote=False)}</summary>"
                     f"{body}</details>")
    return '<div class="stories" lang="en">' + "".join(shown) + "</div>"


def glossary_terms() -> dict[str, tuple[str, str]]:
    """Anchor -> (term, what it means in one or two sentences), from docs/glossary.md."""
    blocks = re.split(r"^### ", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    terms = {}
    for block in blocks:
        term, text = block.split("\n", 1)
        meaning = re.split(r"\s*(?:See also|Sections? \[)", " ".join(text.split()))[0]
        terms[slug(term)] = (term.strip(), re.sub(r"[`*]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", meaning)))
    return terms


def _cards(references: list[Reference]) -> str:
    """A script with what the cards over terms and citations say."""
    cards = {"glossary": {key: list(entry) for key, entry in glossary_terms().items()},
             "references": {one.key: ["", one.card] for one in references}}
    return "window.llmbookCards = " + json.dumps(cards, ensure_ascii=False, sort_keys=True) + ";\n"


def _write(path: Path, text: str) -> None:
    """Write a file unless it says the same already: Sphinx reads again what is newer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
