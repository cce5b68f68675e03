"""The texts that the chapters train on, and the door between them and the code."""

import pydoc_data.topics
import re
import sys
from hashlib import sha256

import pytest

from llmbook.book import corpora
from llmbook.text import read_text


def test_the_story_is_what_its_card_says():
    folder = corpora.data_folder()
    card = (folder / "README.md").read_text(encoding="utf-8")
    texts = sorted(folder.glob("*.txt"))
    assert texts
    for path in texts:
        text = read_text(path)
        assert f"{sha256(path.read_bytes()).hexdigest()}  {path.name}" in card
        row = next(line for line in card.splitlines() if line.startswith(f"| [`{path.name}`]"))
        assert f"| {len(text):,} | {len(text.split()):,} | {path.stat().st_size:,} | CC0-1.0 |" in row


def test_the_story_is_clean_prose():
    text = read_text(corpora.data_folder() / "twenty_in_hand.txt")
    assert 20_000 <= len(text) <= 30_000
    paragraphs = text.strip().split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs), "a paragraph stands twice"
    assert not re.search(r"[ \t]\n|\n\n\n|\t|  |[\u2018-\u201d\u2013\u2014\ufffd]", text)
    assert all("\n" not in paragraph for paragraph in paragraphs)
    assert text.count('"') % 2 == 0, "a quotation is not closed"


def test_missing_data_folder_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(corpora, "__file__", str(tmp_path / "llmbook" / "book" / "corpora.py"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="pip install -e"):
        corpora.data_folder()


def test_python_documentation_is_large_unique_and_in_a_fixed_order():
    documents = corpora.python_documentation()
    assert sum(map(len, documents)) > 1_500_000
    assert len(set(documents)) == len(documents)
    assert all(len(text) >= 40 and text == text.strip() for text in documents)
    assert any("list comprehension" in text for text in documents)
    topics = [text.strip() for _, text in sorted(pydoc_data.topics.topics.items())]
    assert documents[: len(topics) // 2] == topics[: len(topics) // 2]


def test_a_source_that_does_not_parse_is_passed_over(tmp_path):
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "latin.py").write_bytes(b"'caf\xe9'\n")
    assert corpora._docstrings(tmp_path / "broken.py") == []
    assert corpora._docstrings(tmp_path / "latin.py") == []
    (tmp_path / "good.py").write_text('"""About this.\n\n    More.\n"""\ndef f():\n    "About f."\n')
    assert corpora._docstrings(tmp_path / "good.py") == ["About this.\n\nMore.", "About f."]


def test_a_package_s_docstrings_are_its_own():
    import json

    from llmbook.book.corpora import package_docstrings

    found = package_docstrings(json)
    assert json.JSONEncoder.__doc__.strip()[:40] in "\n".join(found)
    assert len(found) == len(set(found)) > 5 and min(map(len, found)) >= 40
