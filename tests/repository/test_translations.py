"""Translations: what has changed is reported and not shown; code, outputs and ids stay those of the English book."""

import json
import re

import nbformat
import pytest

from tests.support.repository import ROOT, read
from tools import translate

NOTEBOOK = nbformat.v4.new_notebook(cells=[
    nbformat.v4.new_markdown_cell("# A title", id="title"),
    nbformat.v4.new_code_cell("print(1)", id="code", execution_count=1,
                              outputs=[nbformat.v4.new_output("stream", text="1\n")]),
    nbformat.v4.new_markdown_cell("Some words.", id="words"),
])
CATALOGUE = {"title": {"source": translate.digest("# A title"), "text": "# 标题"},
             "words": {"source": translate.digest("Other words."), "text": "一些词。"}}


def test_a_fresh_translation_is_shown_a_stale_one_is_not_and_code_stays():
    made = translate.translated_notebook(NOTEBOOK, CATALOGUE)
    assert [cell.source for cell in made.cells] == ["# 标题", "print(1)", "Some words."]
    assert made.cells[1] == NOTEBOOK.cells[1] and [cell.id for cell in made.cells] == ["title", "code", "words"]
    assert NOTEBOOK.cells[0].source == "# A title", "the English notebook is left as it was"


def test_missing_stale_and_left_over_texts_are_told_apart():
    texts = {"title": "# A title", "words": "Some words.", "new": "New."}
    found = translate.state(texts, {**CATALOGUE, "gone": {"source": "x", "text": "y"}})
    assert (found.fresh, found.missing, found.stale, found.left_over) == (["title"], ["new"], ["words"], ["gone"])
    assert not found.complete
    assert translate.state({"title": "# A title"}, {"title": CATALOGUE["title"]}).complete


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of one notebook and one catalogue."""
    (tmp_path / "notebooks").mkdir()
    nbformat.write(NOTEBOOK, tmp_path / "notebooks" / "x.ipynb")
    monkeypatch.setattr(translate, "ROOT", tmp_path)
    monkeypatch.setattr(translate, "CATALOGUES", tmp_path / "catalogues")
    return tmp_path


def test_extracting_keeps_what_is_translated_and_brings_the_new_english(book, capsys):
    assert translate.main(["extract", "zh", "x"]) == 0
    path = book / "catalogues" / "zh" / "x.json"
    first = json.loads(path.read_text(encoding="utf-8"))
    assert list(first) == ["title", "words"]
    assert first["words"]["english"] == "Some words." and not first["words"]["text"]
    path.write_text(json.dumps(CATALOGUE), encoding="utf-8")
    assert translate.main(["report", "zh"]) == 1
    assert "stale: words" in capsys.readouterr().out
    translate.main(["extract", "zh", "x"])
    second = json.loads(path.read_text(encoding="utf-8"))
    assert second["title"] == CATALOGUE["title"]
    assert second["words"] == {**CATALOGUE["words"], "now": translate.digest("Some words."), "english": "Some words."}
    path.write_text(json.dumps({**CATALOGUE, "words": {"source": second["words"]["now"], "text": "一些词。"}}))
    assert translate.main(["report", "zh"]) == 0
    translate.main(["build", "zh"])
    made = nbformat.read(book / "notebooks" / "zh" / "x.ipynb", as_version=4)
    assert made.cells[2].source == "一些词。" and made.cells[1] == NOTEBOOK.cells[1]


def test_a_page_that_is_not_there_is_named(book, capsys):
    assert translate.main(["extract", "zh", "y"]) == 1
    assert "no page 'y': give the name of a notebook" in capsys.readouterr().err


def test_blocks_of_a_page_keep_code_whole():
    text = "# T\n\nWords.\n\n```sh\na\n\nb\n```\n\n<!-- mark -->\n"
    found = translate.blocks(text)
    assert list(found.values()) == ["# T", "Words.", "```sh\na\n\nb\n```", "<!-- mark -->"]
    assert translate.translated_page(text, {}) == text


@pytest.mark.book
@pytest.mark.parametrize("language", sorted(translate.LANGUAGES))
def test_no_translation_is_stale_or_left_over(language):
    lines, good = translate.report(language)
    assert good, "\n".join(lines)


@pytest.mark.book
@pytest.mark.parametrize("language", sorted(translate.LANGUAGES))
def test_translated_texts_keep_links_code_and_formulas(language):
    for page in translate.pages(language):
        catalogue, texts = translate.read_catalogue(language, page), translate.sources(page)
        for key, text in texts.items():
            new = translate.translated(text, key, catalogue)
            for kept in (r"\]\(([^)]+)\)", r"`([^`\n]+)`", r"\$\$.+?\$\$", r"</?\w+"):
                assert sorted(re.findall(kept, new)) == sorted(re.findall(kept, text)), f"{page}, {key}: {kept}"


@pytest.mark.book
@pytest.mark.parametrize("language", sorted(translate.LANGUAGES))
def test_translated_notebooks_have_the_english_code(language, tmp_path):
    for path in translate.build(language, tmp_path):
        made, english = nbformat.read(path, as_version=4), read(ROOT / "notebooks" / path.name)
        assert [cell.id for cell in made.cells] == [cell.id for cell in english.cells]
        for new, old in zip(made.cells, english.cells):
            assert new.cell_type == old.cell_type and (old.cell_type == "markdown" or new == old)
