"""The texts that the chapters train on, and the door between them and the code."""

import os
import pydoc_data.topics
import re
import subprocess
import sys
from hashlib import sha256

import pytest

from llmbook import files
from llmbook.book import corpora, ladder
from llmbook.storyworld import stories
from llmbook.text import read_text
from tests.support.repository import ROOT


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
    monkeypatch.setattr(files.resources, "files", lambda package: tmp_path / package)
    with pytest.raises(FileNotFoundError, match=r"no data folder in or beside .*: .*pip install \."):
        corpora.data_folder()


FIND_DATA = "from llmbook.files import data_folder as f; print(f() / 'twenty_in_hand.txt')"
FIND_MODEL = """from llmbook.open_weights import load_pretrained
model, _ = load_pretrained("storyteller", device="cpu")
print(sum(p.numel() for p in model.parameters()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_the_data_is_found_wherever_the_package_is_installed(tmp_path, kind):
    """In a clone: every other test. Here: from a folder outside it, from what pip installed."""
    backend = "from hatchling.build import build_{} as build; print(build({!r}))"
    built = subprocess.run([sys.executable, "-c", backend.format(kind, str(tmp_path))], cwd=ROOT, text=True, check=True,
                           capture_output=True)
    wheel, target = tmp_path / built.stdout.split()[-1], tmp_path / "installed"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target,
                    wheel], check=True, capture_output=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    start = f"import site; site.addsitedir({str(target)!r}); import sys; sys.path.insert(0, sys.path.pop()); "
    found = subprocess.run([sys.executable, "-c", start + FIND_DATA], cwd=tmp_path, text=True, check=True,
                           env=environment, capture_output=True)
    inside = target / "llmbook" / "data" if kind == "wheel" else ROOT / "data"
    assert found.stdout.split() == [str(inside / "twenty_in_hand.txt")]
    there, here = ({path.relative_to(folder) for path in folder.rglob("*")} for folder in (inside, ROOT / "data"))
    assert there == here  # the storyteller's weights, too
    if (ROOT / "data" / "storyteller" / "config.json").is_file():
        script = start.rstrip("; ") + "\n" + FIND_MODEL
        counted = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, text=True, check=True, env=environment,
                                 capture_output=True)
        assert 3_000_000 < int(counted.stdout) < 5_000_000
    assert not (target / "llmbook").exists() or kind == "wheel", "a copy of the data would go stale"


@pytest.mark.slow  # it parses the standard library
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


def test_story_documents_are_the_first_stories_of_their_split_and_are_kept(monkeypatch):
    wanted = [story.text for story in stories(5, 4, split="train")]
    assert corpora.story_documents(2, seed=5) == wanted[:2]
    assert corpora.story_documents(4, seed=5) == wanted
    assert corpora.story_documents(4, seed=5, split=None) == [story.text for story in stories(5, 4)]
    monkeypatch.setattr("llmbook.storyworld.corpus.one_story", None)  # nothing is told again
    assert corpora.story_documents(3, seed=5) == wanted[:3]
    corpora.story_documents(3, seed=5).clear()  # a caller's list is its own
    assert corpora.story_documents(3, seed=5) == wanted[:3]
    with pytest.raises(ValueError, match="n is -1: ask for 0 stories or more"):
        corpora.story_documents(-1)


def test_held_out_stories_are_those_of_the_test_split():
    assert corpora.held_out_stories(6) == [story.text for story in stories(2, 6, split="test")]
    assert ladder.HELD_OUT_SEED == corpora.HELD_OUT_SEED  # one held-out text for all figures
    assert not set(corpora.held_out_stories(6)) & set(corpora.story_documents(200))
