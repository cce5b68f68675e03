"""What the site adds to Sphinx: formulas as MathML, and the glossary's terms linked where a chapter first uses them."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.builders import _epub_base

from tools.translate import LANGUAGES, TAGS
from tools.website.pages import glossary_terms

# Words that are also plain English, or also mean something else in code: linked only where a chapter introduces them
# in bold or italics.
COMMON = {"value", "key", "view", "score", "rank", "head", "mask", "weight", "loss", "target", "window", "feature",
          "shape", "module", "device", "context", "batch", "query", "clipping", "smoothing", "precision", "recall",
          "greedy", "seed", "replay", "parameter", "shard", "stride", "accuracy", "validation", "temperature",
          "calibration", "interpolation", "prompt", "held-out", "vector", "emergent", "freeze", "warm-up", "encoder",
          "decoder", "token", "gpt", "llm", "checksum", "pickle", "padding", "gradient"}
CLOSED = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.reference, nodes.title, nodes.raw,
          nodes.Invisible)


def setup(app: Sphinx) -> dict[str, object]:
    _epub_base.MEDIA_TYPES.setdefault(".webp", "image/webp")  # EPUB 3.3 has it
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("doctree-read", link_terms)
    app.connect("html-page-context", offer_languages)
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)  # before napoleon
    # what was read by another version of this file is read again
    version = zlib.crc32(Path(__file__).read_bytes())
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}


def offer_languages(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """The switch between the languages that a page exists in."""
    folder, _, last = page.rpartition("/")
    if folder.split("/")[-1] in LANGUAGES:
        folder = folder.rpartition("/")[0]
    home = f"{folder}/" if folder else ""
    every = [("en", "English", f"{home}{last}"),
             *((TAGS[code], words, f"{home}{code}/{last}") for code, words in LANGUAGES.items())]
    context["languages"] = [{"code": code, "name": words, "page": one} for code, words, one in every
                            if one in app.env.all_docs]


def plain_docstring(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with `code` in backticks: their stars, bars and final underscores are no markup."""
    for place, line in enumerate(lines):
        line = re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", line)  # `GPT`s
        pieces = re.split(r"(`[^`]*`)", line)
        lines[place] = "".join(piece if number % 2 else re.sub(r"([*|]|\\(?! )|(?<=\w)_(?!\w))", r"\\\1", piece)
                               for number, piece in enumerate(pieces))


def _inline(writer: object, node: nodes.math) -> None:
    writer.body.append(f'<span class="math">{convert(node.astext())}</span>')
    raise nodes.SkipNode


def _block(writer: object, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math" tabindex="0" role="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def link_terms(app: Sphinx, doctree: nodes.document) -> None:
    """The first use of each term in a chapter becomes a link to the glossary, which shows a card on the page."""
    page = app.env.docname
    if not page.startswith("notebooks/") or "C_solutions" in page:
        return
    translation = page.count("/") > 1  # here a term stands in English, in brackets after the other word
    open_terms = {key: _pattern(term) for key, (term, _) in glossary_terms().items()}
    for text in list(doctree.findall(nodes.Text)):
        if not open_terms or any(isinstance(parent, CLOSED) for parent in _parents(text)):
            continue
        stressed = isinstance(text.parent, (nodes.strong, nodes.emphasis))
        words, found = text.astext(), []
        for key, pattern in open_terms.items():
            if key in COMMON and not stressed and not (translation and _in_brackets(words, pattern)):
                continue
            match = pattern.search(words)
            if match:
                found.append((match.start(), -match.end(), key, match))
        pieces, place = [], 0
        for start, _, key, match in sorted(found, key=lambda one: one[:2]):  # of two that overlap, the longer one
            if start < place:
                continue
            pieces += [nodes.Text(words[place:start]),
                       nodes.reference("", match[0], refuri=f"{'../' * page.count('/')}docs/glossary.html#{key}",
                                       internal=True,
                                       classes=["term"])]
            place = match.end()
            del open_terms[key]
        if pieces:
            text.parent.replace(text, [*pieces, nodes.Text(words[place:])])


def _parents(node: nodes.Node) -> list[nodes.Node]:
    parents = []
    while node.parent is not None:
        node = node.parent
        parents.append(node)
    return parents


def _in_brackets(words: str, pattern: re.Pattern) -> bool:
    """Whether the first use of a term stands in full-width brackets, alone or with a citation after it."""
    match = pattern.search(words)
    return bool(match) and words[:match.start()].endswith("（") and words[match.end():match.end() + 1] in ("）", "，")


def _pattern(term: str) -> re.Pattern:
    """A term as it stands in a text: also in the plural, over a line's end, with another hyphen."""
    words = r"[\s\-‐‑–]+".join(map(re.escape, re.split(r"[\s-]+", term)))
    letters = re.sub(r"\W", "", term)
    flags = 0 if letters[1:] != letters[1:].lower() else re.IGNORECASE  # GELU, but Softmax
    return re.compile(rf"(?<![\w/.-]){words}s?(?![\w/-])", flags)
