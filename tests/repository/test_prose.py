"""The count of a chapter's prose."""

import nbformat
import pytest

from tools import prose


@pytest.mark.parametrize(("text", "found"), [
    ("The kettle sang. It boiled.", ["The kettle sang.", "It boiled."]),
    ("The weights (Vaswani et al. 2017) add up. *it* looks, e.g. at `x.y. Z`.",
     ["The weights (Vaswani et al 2017) add up.", "it looks, e.g at X."]),
    ("**What you need.** Python and [PyTorch tensors](https://x.y), too.", ["Python and PyTorch tensors, too."]),
    ('She said "Stop." Then $a. B$ stopped!', ['She said "Stop.', "Then X stopped!"]),
    ("![A badge](https://x.y/z.svg)", [])])
def test_sentences(text, found):
    assert [sentence.strip() for sentence in prose.sentences(text)] == found


def test_paragraphs_leave_out_headings_tables_and_code():
    markdown = ("# A title. Of two\n\nOne sentence here.\nAnd one more.\n\n| a | b. C |\n|---|---|\n\n"
                "```python\nx. Y\n```\n- First item. More.\n- Second item.\n\n"
                "[← Chapter 2](02.ipynb) · [Next](04.ipynb)")
    assert prose.paragraphs(markdown) == [["One sentence here.", "And one more."], ["First item.", "More."],
                                          ["Second item."]]


def test_the_table_counts_words_code_and_what_does_not_connect(tmp_path, capsys):
    book = nbformat.v4.new_notebook()
    plain = "The kettle sang all day long here. The door was open in the wind. Nobody came by."
    book.cells = [nbformat.v4.new_code_cell("import setup"), nbformat.v4.new_markdown_cell("# Title\n\n" + plain),
                  nbformat.v4.new_markdown_cell("We left because it rained. The rain was wet. So it goes on and on."),
                  nbformat.v4.new_code_cell("x = 1\n\ny = 2")]
    nbformat.write(book, tmp_path / "chapter.ipynb")
    found = prose.read(tmp_path / "chapter.ipynb")
    assert (found.words, found.code_lines, len(found.sentences)) == (34, 2, 6)
    assert found.short == ["Nobody came by.", "We left because it rained.", "The rain was wet."]
    assert len(found.unconnected) == 1
    assert prose.main([str(tmp_path / "chapter.ipynb"), "--show", "1"]) == 0
    said = capsys.readouterr().out
    assert "50.0%" in said and "1/2" in said and "short: Nobody came by." in said and "plain: The kettle sang" in said
