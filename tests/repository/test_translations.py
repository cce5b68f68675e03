"""Translations: what has changed is reported and not shown; code, outputs and ids stay those of the English book."""

import ast
import json
import re

import nbformat
import pytest

from llmbook.book.languages import catalogue
from tests.support.repository import ROOT, code_cells, read
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
            for kept in (r"\]\(([^)]+)\)", r"`([^`\n]+)`", r"(?s)\$\$.+?\$\$", r"(?<!\$)\$([^$]+)\$(?!\$)", r"</?\w+"):
                assert sorted(re.findall(kept, new)) == sorted(re.findall(kept, text)), f"{page}, {key}: {kept}"


LANGUAGES = pytest.mark.parametrize("language", sorted(translate.LANGUAGES))


@pytest.mark.book
@LANGUAGES
def test_translated_notebooks_have_the_english_code_and_are_built_from_today_s_texts(language, tmp_path):
    built = translate.build(language, tmp_path)
    assert built and {path.name for path in built} == {path.name for path in (ROOT / "notebooks" / language).iterdir()
                                                       if path.suffix == ".ipynb"}
    for path in built:
        english, made = read(ROOT / "notebooks" / path.name), nbformat.read(path, as_version=4)
        kept = read(translate.stored(language, path.stem))
        ids = [cell.id for cell in english.cells]
        assert [cell.id for cell in made.cells] == ids and [cell.id for cell in kept.cells] == ids
        for new, old, found in zip(made.cells, english.cells, kept.cells):
            assert new.cell_type == old.cell_type
            assert new.source == old.source or old.cell_type == "markdown"
            assert found.source == new.source, f"{path.stem}, {old.id}: `python -m tools.translate build {language}`"
            assert found.get("execution_count") or old.cell_type == "markdown", "run it: `tools/book.py --store`"


def test_links_of_a_translation_lead_to_where_it_stands(monkeypatch):
    monkeypatch.setattr(translate, "pages", lambda language: ["03_attention"])
    address = "https://github.com/llmbook/llmbook/blob/main/notebooks"
    text = f"[a](02_text_data.ipynb) [b](03_attention.ipynb#x) [c]({address}/02_text_data.ipynb) [d](https://x.org/y.ipynb)"
    assert translate.one_folder_down(f"{text} [e]({address}/03_attention.ipynb)", "zh") == (
        f"[a](../02_text_data.ipynb) [b](03_attention.ipynb#x) [c]({address}/02_text_data.ipynb) "
        f"[d](https://x.org/y.ipynb) [e]({address}/zh/03_attention.ipynb)")


def test_the_words_around_a_page_are_exchanged_and_those_in_it_stay():
    page = '<button aria-label="Search">Search</button><p>Search it.</p><code>x = "Search"</code><a>On this page </a>'
    assert translate.theme(page, "zh") == (
        '<button aria-label="搜索">搜索</button><p>Search it.</p><code>x = "Search"</code><a>本页内容 </a>')


def test_a_notebook_built_again_keeps_the_outputs_of_code_that_has_not_changed():
    before = translate.translated_notebook(NOTEBOOK, CATALOGUE)
    before.cells[1].outputs[0].text = "壹\n"
    assert translate.translated_notebook(NOTEBOOK, CATALOGUE, before).cells[1].outputs[0].text == "壹\n"
    before.cells[1].source = "print(2)"
    assert translate.translated_notebook(NOTEBOOK, CATALOGUE, before).cells[1] == NOTEBOOK.cells[1]


def templates(tree: ast.AST) -> set[str]:
    """The texts of a syntax tree; "{}" stands where an f-string puts a value."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    found = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
             and id(node) not in inside}
    return found | {"".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
                    for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)}


def texts_of_the_book(language: str) -> set[str]:
    """All that figures, pictures and checks can say: of the helpers, and of the notebooks in this language."""
    found = set()
    for path in (ROOT / "llmbook" / "book").rglob("*.py"):
        found |= templates(ast.parse(path.read_text(encoding="utf-8")))
    for page in set(translate.pages(language)) - set(translate.PAGES):
        for code in code_cells(ROOT / "notebooks" / f"{page}.ipynb"):
            found |= templates(code.tree)
    return found | {line for text in found for line in text.split("\n")}


def text_of_scripts() -> str:
    text = "\n".join(path.read_text(encoding="utf-8")
                     for path in (ROOT / "llmbook" / "book" / "interactive" / "static").glob("*.js"))
    text = re.sub(r"`\s*\+ `", "", text)  # one text on two lines
    return re.sub(r"\\u(\w{4})", lambda match: chr(int(match[1], 16)), text)


@pytest.mark.book
@LANGUAGES
def test_no_word_of_a_figure_or_check_is_left_over(language):
    words = catalogue(language)
    python, scripts = texts_of_the_book(language), text_of_scripts()
    assert [key for part in ("figures", "exercises") for key in words[part] if key not in python] == []
    assert [key for key in words["pictures"]  # features' names come from the chapter
            if key not in python and not all(piece.strip(": ,") in scripts for piece in key.split("{}"))] == []
    for part, texts in words.items():
        for key, text in texts.items():
            given, used = key.count("{}"), {int(number) for number in re.findall(r"\{(\d+)\}", text)}
            assert used == set(range(given)), f"{part}, {key!r}: {text!r}"
            assert key.replace("{}", "").strip(), f"{part}: {key!r} fits everything"


@pytest.mark.book
@LANGUAGES
def test_every_hint_of_a_translated_chapter_s_exercises_is_translated(language):
    pages = [page for page in translate.pages(language) if page not in translate.PAGES]
    files = ["__init__", *(f"chapter_{page.split('_')[0]}" for page in pages)]
    for file in files:
        tree = ast.parse((ROOT / "llmbook" / "book" / "exercises" / f"{file}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):  # docstrings and errors for authors are no hints
            if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        hints = {text for text in templates(tree) if len(re.findall(r"[A-Za-z]{2,}", text)) > 2 and " " in text}
        assert hints <= set(catalogue(language)["exercises"]), hints - set(catalogue(language)["exercises"])


ENGLISH = re.compile(r"(?:\b[A-Za-z]{2,}\b[ ,]*){3,}")
SENTENCES = {"the", "kettle", "sang", "because", "it", "boiled", "door", "of", "shed", "stuck", "froze", "gram"}


@pytest.mark.book
@LANGUAGES
def test_pictures_of_a_translated_notebook_have_no_english_sentence(language):
    for page in set(translate.pages(language)) - set(translate.PAGES):
        seen = 0
        for cell in read(translate.stored(language, page)).cells:
            for output in cell.get("outputs", []):
                if "image/png" not in output.get("data", {}):
                    continue
                words = output.metadata.get("image/png", {}).get("alt") or output.data["text/plain"]
                seen += 1
                assert re.search("[\u4e00-\u9fff]", words), f"{cell.id}: {words}"
                left = [run for run in ENGLISH.findall(words) if set(re.findall(r"\w+", run)) - SENTENCES]
                assert not left, f"{cell.id}: {left}"
        assert seen > 10
