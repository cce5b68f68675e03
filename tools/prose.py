"""Count a chapter's prose and code: words, lines, how long its sentences are, how they connect. A help, not a test.

    python tools/prose.py notebooks/03_attention.ipynb        # --show 10 lists ten of the sentences behind a number

The goals: 3,500 words and 500 lines of code at most, 14 to 18 words a sentence on average, fewer than 8 % of the
sentences under six words, and paragraphs of three sentences or more that say because, although, so that, for example.
"""

import argparse
import re
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat

CONNECTIVES = (
    "after all|also|although|and so|as a result|as long as|as soon as|because|before|but|by contrast|each time|even if|"
    "even though|first|finally|for example|for instance|for this reason|however|if|in contrast|in fact|in other words|"
    "in order to|instead|moreover|nevertheless|once|otherwise|rather than|second|since|so|so that|still|such as|than|"
    "that is|that is why|then|therefore|this is why|though|thus|to see|until|unless|what is more|when|whenever|where|"
    "whereas|which|while|yet")
_CONNECTS = re.compile(rf"\b(?:{CONNECTIVES})\b", re.IGNORECASE)
_ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|et al|vs|Fig|Eq|Sec|No|approx|ca|cf|etc|Dr|Mr|Mrs|St)\.(?=\s)")


class Prose(NamedTuple):
    """What a notebook holds: its words, lines of code, and its paragraphs as lists of sentences."""

    words: int
    code_lines: int
    paragraphs: list[list[str]]

    @property
    def sentences(self) -> list[str]:
        """All sentences in order."""
        return [sentence for paragraph in self.paragraphs for sentence in paragraph]

    @property
    def short(self) -> list[str]:
        """Sentences of fewer than six words."""
        return [sentence for sentence in self.sentences if len(sentence.split()) < 6]

    @property
    def unconnected(self) -> list[list[str]]:
        """Paragraphs of three sentences or more without a word that connects."""
        return [paragraph for paragraph in self.paragraphs
                if len(paragraph) > 2 and not _CONNECTS.search(" ".join(paragraph))]


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph of Markdown, without its marks. A formula or a piece of code counts as one word."""
    text = re.sub(r"\$\$.*?\$\$", " ", text, flags=re.DOTALL)
    text = re.sub(r"\$[^$]+\$|`[^`]+`", "X", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", " ", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^\W*\*\*[^*]+[.:?]\*\*", "", text)  # the heading of a paragraph
    text = re.sub(r"<[^>]+>|[#>]", "", text)
    text = _ABBREVIATIONS.sub(r"\1", " ".join(text.split()))
    found = re.split(r"(?<=[.!?])[\"')*_]*\s+(?=[\"'(]?(?:[A-Z0-9]|[*_]))", text)
    return [re.sub("[*_]", "", sentence) for sentence in found if re.search(r"\w", sentence)]


def paragraphs(markdown: str) -> list[list[str]]:
    """The paragraphs of a cell as lists of sentences; headings, tables, code and lines of links are left out."""
    markdown = re.sub(r"^(```|~~~).*?^\1", "\n", markdown, flags=re.DOTALL | re.MULTILINE)
    markdown = re.sub(r"^\s*\|.*$|^#.*$|^\s*\[[^\]]*\]\([^)]*\)(\s*·.*)?$", "\n", markdown, flags=re.MULTILINE)
    markdown = re.sub(r"^\s*(?:[-*+]|\d+\.)\s+", "\n\n", markdown, flags=re.MULTILINE)
    return [found for block in re.split(r"\n\s*\n", markdown) if (found := sentences(block))]


def read(path: Path) -> Prose:
    """Count a notebook. Its first cell of code, which sets things up, is left out, as are empty lines."""
    cells = nbformat.read(path, as_version=4).cells
    markdown = [cell.source for cell in cells if cell.cell_type == "markdown"]
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    return Prose(sum(len(source.split()) for source in markdown),
                 sum(bool(line.strip()) for source in code[1:] for line in source.splitlines()),
                 [paragraph for source in markdown for paragraph in paragraphs(source)])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--show", type=int, default=0, metavar="N",
                        help="also show N short sentences, long ones, and paragraphs that do not connect")
    options = parser.parse_args(arguments)
    print(f"{'notebook':28} {'words':>6} {'code':>5} {'sentences':>9} {'mean':>5} {'< 6':>5} {'> 30':>5} {'plain':>6}")
    for path in options.notebooks:
        prose = read(path)
        lengths = [len(sentence.split()) for sentence in prose.sentences]
        if not lengths:
            print(f"{path.stem:28} no sentence")
            continue
        longest = [sentence for sentence in prose.sentences if len(sentence.split()) > 30]
        plain = f"{len(prose.unconnected)}/{sum(len(paragraph) > 2 for paragraph in prose.paragraphs)}"
        print(f"{path.stem:28} {prose.words:6} {prose.code_lines:5} {len(lengths):9} {statistics.mean(lengths):5.1f} "
              f"{len(prose.short) / len(lengths):5.1%} {len(longest) / len(lengths):5.1%} {plain:>6}")
        for title, found in (("short", prose.short), ("long", longest),
                             ("plain", [" ".join(paragraph) for paragraph in prose.unconnected])):
            for text in found[: options.show]:
                print(f"    {title}: {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
