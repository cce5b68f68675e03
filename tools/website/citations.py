"""The references of docs/references.md: a key for each, links from where a chapter cites it, and links back."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

__all__ = ["Reference", "link_citations", "read_references", "with_back_links"]

NAME = r"[A-ZÀ-Ý][\w’'-]+"
YEAR = r"(?:19|20)\d\d"
# "Kaplan 等人（2020", "Kaplan et al. (2020)",
# "Saerens, Latinne and Decaestecker, 2002", "Dao et al., \"A Title\" (2022)", "Shannon (1948)"
CITED = re.compile(
    rf"(?P<first>{NAME})(?P<others>(?:(?:, {NAME}(?:\s{NAME})?)*,?\s+and\s+{NAME}(?:\s{NAME})?)|(?:\s+et\s+al\.)"
    rf"|(?:\s(?:等人|和\s{NAME})))?(?P<title>,\s+\"[^\"]+\")?(?:,?\s+(?P<open>\()?|(?P<wide>[（，]))"
    rf"(?P<year>{YEAR})(?P<close>\))?")
KEPT = re.compile(r"```.*?```|`[^`\n]+`|\$\$.+?\$\$|\$[^$\n]+\$|\[[^\]]*\]\([^)]*\)|<[^>\n]+>", re.DOTALL)


@dataclass
class Reference:
    """One entry: its key (`vaswani-2017`), the chapter of its list, its text, and the pages that cite it."""

    key: str
    chapter: str
    text: str
    names: tuple[str, ...]
    year: str
    cited: list[tuple[str, str]] = field(default_factory=list)  # (label, address)

    @property
    def card(self) -> str:
        """Authors, title, year and what to read it for, without markup."""
        return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", self.text).replace("*", "")


def plain(name: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", name.casefold()) if not unicodedata.combining(c))


def read_references(page: str) -> list[Reference]:
    """The entries of docs/references.md in order. A key that is taken gets a letter: a work may stand in two lists."""
    found, taken, chapter = [], set(), ""
    for line in page.splitlines():
        if line.startswith("## "):
            chapter = line.removeprefix("## ").split(":")[0].split()[-1]
        elif line.startswith("- "):
            text = line.removeprefix("- ")
            authors = text.split("*")[0]
            names = tuple(plain(name) for name in re.findall(NAME, re.sub(r"\b[A-ZÀ-Ý]\.[- ]?", "", authors)))
            years = re.findall(rf"\b{YEAR}\b", re.sub(r"\]\([^)]*\)", "]", text).split("*", 2)[-1])
            if not names or not years:
                continue
            first = re.sub(r"\W+", "-", names[0])
            key = next(key for key in (f"{first}-{years[0]}{letter}" for letter in ["", *"bcdefghijk"])
                       if key not in taken)
            taken.add(key)
            found.append(Reference(key, chapter, text, names, years[0]))
    return found


def link_citations(text: str, references: list[Reference], chapter: str, address: str, here: tuple[str, str]) -> str:
    """Markdown in which each citation leads to its entry under `address`; `here` (label, address) is noted there.

    The entry is the one in the chapter's own list, else the first one with that name and year.
    """
    def entry(match: re.Match) -> Reference | None:
        name = plain(match["first"])
        fitting = [one for one in references if name in one.names and one.year == match["year"]
                   and (match["others"] or match["open"] or match["title"] or match["wide"])]
        fitting.sort(key=lambda one: (one.chapter != chapter, one.names[0] != name))
        return fitting[0] if fitting else None

    def change(match: re.Match) -> str:
        one = entry(match)
        if one is None:
            return match[0]
        if here not in one.cited:
            one.cited.append(here)
        words = match[0]
        if match["close"] and not match["open"]:  # "(…, 2017)": the bracket belongs to the sentence
            return f"[{words[:-1]}]({address}#{one.key}))"
        if match["wide"] == "（":  # Chinese: what is in the brackets may go on after the year
            return f"[{words[:match.start('wide') - match.start()]}]({address}#{one.key})（{match['year']}"
        return f"[{words}]({address}#{one.key})"

    pieces, place = [], 0
    for kept in KEPT.finditer(text):
        pieces += [CITED.sub(change, text[place:kept.start()]), kept[0]]
        place = kept.end()
    return "".join([*pieces, CITED.sub(change, text[place:])])


def with_back_links(page: str, references: list[Reference]) -> str:
    """docs/references.md with an anchor for each entry and links to the sections that cite it."""
    left = {f"- {one.text}": [] for one in references}
    for one in references:
        left[f"- {one.text}"].append(one)
    lines = []
    for line in page.splitlines():
        if left.get(line):
            one = left[line].pop(0)
            back = ", ".join(f"[{label}]({address})" for label, address in one.cited)
            line = f"- []{{#{one.key} .entry}}{one.text}" + (f" *Cited in* {back}." if back else "")
        lines.append(line)
    return "\n".join(lines) + "\n"
