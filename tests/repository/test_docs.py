"""The pages in docs/: the glossary's terms and the references are those of the notebooks, and links lead somewhere."""

import re
import unicodedata
from functools import cache
from pathlib import Path

import pytest

from tests.support.repository import CHAPTERS, NOTEBOOKS, ROOT, read

pytestmark = pytest.mark.book

DOCS = ROOT / "docs"
PAGES = ["first_steps.md", "glossary.md", "references.md", "export.md"]
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
PAPER = re.compile(r"https://(arxiv\.org/abs/\d{4}\.\d{4,5}|doi\.org/10\.\d{4,9}/[^\s)]+)")
NAME = r"[A-ZÀ-Ý][\w’'-]+"
YEAR = r"(?:19|20)\d\d"
# "Kaplan et al. (2020", "Saerens, Latinne and Decaestecker, 2002": the name before "et al." or "and", and the year.
CITED = re.compile(rf"({NAME})(?: et al\.| and {NAME}),? \(?({YEAR})\b|\b({NAME}) \(({YEAR})\)")
# The same with a title between: `Fan et al., "Hierarchical Neural Story Generation" (2018)`.
TITLED = re.compile(rf"({NAME})(?: et al\.| and {NAME})?, \"[^\"]+\",? (?:[\w ]+, )?\(?({YEAR})\b")
TITLE = re.compile(r"\"[^\"]+\"|\*[^*]+\*")


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def plain(text: str) -> str:
    """Lower case, one kind of hyphen, no emphasis, one space between words: as a reader sees it."""
    text = re.sub(r"[‐‑–]", "-", unicodedata.normalize("NFC", text))
    return " ".join(re.sub(r"[*_`]", "", text).casefold().split())


@cache
def sections(path: Path) -> dict[str, str]:
    """Number -> text and code of each section of a notebook; under "" the whole of it."""
    parts, number = {"": ""}, "begin"
    for cell in read(path).cells:
        for line in cell.source.splitlines():
            if cell.cell_type == "markdown" and (found := re.match(r"#+ ((?:\w+\.)?\d+\w?)\b", line)):
                number = found.group(1)
            elif cell.cell_type == "markdown" and line.startswith("## "):
                number = "end"
            parts[""] += line + "\n"
            parts[number] = parts.get(number, "") + line + "\n"
    return {number: plain(text) for number, text in parts.items()}


def entries() -> dict[str, str]:
    """Term -> its entry."""
    blocks = re.split(r"^### ", page("glossary.md"), flags=re.MULTILINE)[1:]
    return {term.strip(): text.strip() for term, text in (block.split("\n", 1) for block in blocks)}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_something_that_exists(name):
    for label, target in LINK.findall(page(name)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (DOCS / path).resolve() if path else DOCS / name
        assert file.is_relative_to(ROOT) and file.exists(), f"{name}: [{label}] leads to {target}, which is not there"
        if anchor:
            known = [slug(heading) for heading in headings(file.read_text(encoding="utf-8"))]
            assert anchor in known, f"{name}: {target} has no such heading"


def test_the_glossary_is_alphabetical_and_names_nothing_twice():
    terms = re.findall(r"^### (.+)$", page("glossary.md"), re.MULTILINE)
    folded = [term.casefold() for term in terms]
    assert len(terms) >= 70 and len(set(folded)) == len(folded)
    assert folded == sorted(folded), next(b for a, b in zip(folded, folded[1:]) if b < a) + " stands too late"


@pytest.mark.parametrize("term", entries())
def test_a_term_occurs_in_the_sections_that_its_entry_links(term):
    links = [(label, target) for label, target in LINK.findall(entries()[term]) if not target.startswith("#")]
    assert links, "link the section that introduces it"
    for label, target in links:
        notebook = (DOCS / target).resolve()
        chapter = notebook.stem.split("_")[0].lstrip("0")
        assert notebook in NOTEBOOKS and label.split(".")[0] == chapter, f"{label} is not in {target}"
        number = label if "." in label else ""
        assert number in sections(notebook), f"{target} has no section {number}"
        assert re.search(rf"(?<!\w){re.escape(plain(term))}", sections(notebook)[number]), f"not used in {label}"


def test_an_entry_does_not_point_to_itself():
    for term, entry in entries().items():
        assert f"(#{slug(term)})" not in entry, f"{term} points to itself"


def references(path: Path) -> list[str]:
    """The lines of a chapter in references.md."""
    number = path.stem.split("_")[0].lstrip("0")
    kind = "Appendix" if number.isalpha() else "Chapter"
    found = re.search(rf"^## {kind} {number}\b.*?\n(.*?)(?=^## |\Z)", page("references.md"), re.DOTALL | re.MULTILINE)
    assert found, f"references.md has no heading '## {kind} {number}'"
    return [line for line in found.group(1).splitlines() if line.startswith("- ")]


def cited_in_summary(text: str) -> set[tuple[str, str]]:
    """(First author, year) of each title in a Summary, which names the authors before and the year after it."""
    text, found = " ".join(text.replace("**", "").split()), set()
    for title in TITLE.finditer(text):
        before = re.split(r"; | - |: |\)\. |\. (?=Also|\w+ et al)", text[: title.start()].rstrip(" :,"))[-1]
        year = re.search(YEAR, text[title.end() : title.end() + 60])
        if year and (author := re.search(NAME, before)):
            found.add((author.group(), year.group()))
    return found


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_paper_that_a_chapter_cites_is_among_its_references(path):
    cells = read(path).cells
    summary = next(cell.source for cell in reversed(cells) if "## Summary" in cell.source).split("## Summary")[1]
    whole = " ".join(" ".join(cell.source for cell in cells).replace("#", " ").split())
    papers = cited_in_summary(summary)
    assert papers, "no reference found in the Summary"
    papers |= {(a or c, b or d) for a, b, c, d in CITED.findall(whole)} | set(TITLED.findall(whole))
    lines = references(path)
    for author, year in sorted(papers):
        assert any(re.search(rf"\b{author}\b", line) and year in line for line in lines), \
            f"{author} {year} is cited and not in docs/references.md"


def test_references_have_authors_a_title_a_year_and_a_reason():
    for path in CHAPTERS:
        for line in references(path):
            assert re.match(rf"- .+?, \*.+?\*(?:, [^.]+)?, {YEAR}\. (?:\[[^\]]+\]\([^)]+\)\. )?[A-Z].+\.$", line), line


def test_links_to_papers_have_one_of_two_forms():
    for label, target in LINK.findall(page("references.md")):
        if not target.startswith("https://"):
            continue
        assert PAPER.fullmatch(target), target
        identifier = target.removeprefix("https://arxiv.org/abs/").removeprefix("https://doi.org/")
        assert label == ("arXiv:" if "arxiv" in target else "doi:") + identifier


def test_a_paper_has_the_same_title_year_and_link_in_every_chapter():
    seen: dict[str, str] = {}
    for path in CHAPTERS:
        for line in references(path):
            title = re.search(r"\*.+?\*", line).group()
            head = line[: line.index(title)] + title + "".join(re.findall(rf"{YEAR}\.|\(https:[^)]+\)", line))
            assert seen.setdefault(title, head) == head
