"""Documents: what a source holds, and that whoever reads it agrees on where one ends."""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmbook.scale import documents
from llmbook.scale.documents import (
    DOCUMENT_END,
    document_parts,
    read_documents,
    sample_documents,
    source_files,
    spread_documents,
)
from llmbook.scale.token_files import count_tokens, write_token_files
from llmbook.text import END_OF_TEXT, bpe_merges, train_bpe
from tests.support.repository import ROOT

STORIES = ["The kettle sang because it boiled.\n", "\nThe tide came in twice.\n", "\nNobody saw the third.\n"]
FILE = END_OF_TEXT.join(STORIES)


@pytest.fixture(scope="module")
def bpe():
    return train_bpe("The kettle sang because it boiled, and the tide came in. " * 9, 280)


def ids_of(source, folder, tokenizer, **settings) -> list[int]:
    files = write_token_files(source, folder, tokenizer, processes=1, progress=False, **settings)
    return np.concatenate([*files.shards]).tolist()


# --- one meaning of a separator ------------------------------------------------------------------------

@pytest.mark.parametrize("separator, expected", [(None, [FILE]), (END_OF_TEXT, STORIES)])
def test_training_token_files_and_the_count_agree_on_a_separator(tmp_path, bpe, separator, expected):
    """It was a separator to one, thirteen tokens to the next, and one token to the third."""
    path = tmp_path / "stories.txt"
    path.write_text(FILE)
    assert list(read_documents(path, separator=separator)) == expected
    sample, rest = sample_documents(path, separator=separator)
    assert sample == expected and rest is None
    ids = ids_of(path, tmp_path / "tokens", bpe, separator=separator)
    assert ids == [id for text in expected for id in [*bpe.encode_ordinary(text), 279]]
    assert count_tokens(path, bpe, separator=separator) == (len(ids), True)
    learned = train_bpe(read_documents(path, separator=separator), 270)
    assert bpe_merges(learned) == bpe_merges(train_bpe(expected, 270))


def test_a_separator_in_rows_and_streams_is_text(tmp_path, bpe):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": FILE}))
    assert list(read_documents(path, separator=END_OF_TEXT)) == [FILE]
    assert list(read_documents([FILE], separator=END_OF_TEXT)) == [FILE]


@given(st.lists(st.text(alphabet="ab\n潮#", max_size=9), min_size=1, max_size=8), st.sampled_from(["##", "<>", "#-#"]),
       st.integers(4, 9), st.integers(1, 5))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_separators_are_found_wherever_a_block_ends(texts, separator, size, block):
    """Blocks of a few bytes, so that most borders lie in two of them."""
    joined, usual = separator.join(texts), documents._BLOCK
    expected = [text for text in joined.split(separator) if text.strip()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        path.write_bytes(b"\xef\xbb\xbf" + joined.encode())
        documents._BLOCK = block
        try:
            parts = b"".join(document_parts(path, separator=separator, size=size))
        finally:
            documents._BLOCK = usual
    assert [part.decode() for part in parts.split(DOCUMENT_END)[:-1]] == expected


def test_an_empty_separator_is_refused(tmp_path):
    with pytest.raises(ValueError, match="separator is empty: give what stands between two documents, or None"):
        list(read_documents(["a"], separator=""))


# --- samples and counts ----------------------------------------------------------------------------------------------

def test_a_sample_is_the_beginning_and_says_how_much_there_is(tmp_path, bpe):
    for number in range(50):
        (tmp_path / f"{number:02}.txt").write_text(f"Number {number}. " * 10)
    files = source_files(tmp_path)
    size = sum(path.stat().st_size for path in files)
    sample, total = sample_documents(tmp_path, at_most_bytes=1000)
    assert total == size and sample == [path.read_text() for path in files][: len(sample)] and len(sample) == 9
    assert sample_documents(tmp_path, at_most_bytes=size + 50)[1] is None
    exact, is_exact = count_tokens(tmp_path, bpe)
    about, is_about_exact = count_tokens(tmp_path, bpe, at_most_bytes=1000)
    assert is_exact and not is_about_exact and about == pytest.approx(exact, rel=0.05)
    assert sample_documents(iter(["a", "b"]), at_most_bytes=1) == (["a", "b"], None)  # a stream has no size


def test_a_sample_of_one_long_document_is_cut(tmp_path):
    (tmp_path / "a.txt").write_text("line\n" * 600_000)  # 3 MB
    [text], total = sample_documents(tmp_path / "a.txt", at_most_bytes=2_500_000)
    assert total == 3_000_000 and 1_000_000 < len(text) <= 2_500_000 and text.endswith("line\n")


ALPHABETS = {"english": "the tide is late ", "greek": "η παλίρροια αργεί ", "hindi": "ज्वार देर से आता है "}


def in_each_alphabet(documents) -> dict[str, int]:
    """Characters that only this alphabet has, in documents."""
    text = "".join(documents)
    return {name: sum(letter in set(words) - {" "} for letter in text) for name, words in ALPHABETS.items()}


def write_alphabets(folder, kind: str, size: int = 60_000) -> None:
    """A file in each alphabet, of `size` characters; the numbers in it say where a line is."""
    for name, words in ALPHABETS.items():
        lines = [f"{words}{number}" for number in range(size // len(words))]
        if kind == "txt":
            (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
        elif kind == "one line.txt":
            (folder / f"{name}.txt").write_text(" ".join(lines), encoding="utf-8")
        elif kind == "jsonl":
            rows = [json.dumps({"text": line}, ensure_ascii=False) for line in lines]
            (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
        else:
            from pyarrow import parquet, table

            parquet.write_table(table({"text": lines}), folder / f"{name}.parquet", row_group_size=100,
                                compression="NONE", use_dictionary=False)


@pytest.mark.parametrize("kind", ["txt", "one line.txt", "jsonl", "parquet"])
def test_a_spread_sample_takes_a_share_of_each_file(tmp_path, monkeypatch, kind):
    """A vocabulary was learned from the beginning of the first files."""
    monkeypatch.setattr(documents, "_SPOT", 500)
    write_alphabets(tmp_path, kind)
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    sample = [*spread_documents([tmp_path], at_most_bytes=20_000)]
    assert total > 5 * 20_000 and 5_000 < sum(len(text.encode()) for text in sample) < 22_000
    assert min(in_each_alphabet(sample).values()) > 500
    numbers = [int(number) for text in sample for number in re.findall("[0-9]+", text)]
    highest = 60_000 // len(ALPHABETS["english"])
    assert min(numbers) < 0.2 * highest and max(numbers) > 0.8 * highest, "from all over a file"
    known = {text for text in read_documents(tmp_path)}
    if kind in ("jsonl", "parquet"):
        assert set(sample) <= known, "whole rows"
    else:
        assert all(any(text in whole for whole in known) for text in sample)
    if kind == "txt":
        assert all(re.fullmatch("[^0-9]+ [0-9]+", line) for text in sample for line in text.split("\n") if line)


def test_a_spread_sample_is_drawn_by_its_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "_SPOT", 500)
    write_alphabets(tmp_path, "txt")
    drawn = [[*spread_documents([tmp_path], at_most_bytes=20_000, seed=seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_spread_sample_of_little_is_everything(tmp_path):
    write_alphabets(tmp_path, "txt")
    (tmp_path / "empty.txt").write_text("")
    assert [*spread_documents([tmp_path, ["one", "two"]])] == [*read_documents(tmp_path), "one", "two"]
    assert [*spread_documents([])] == []


def test_a_spread_sample_of_one_small_file_beside_a_large_one(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "_SPOT", 500)
    (tmp_path / "a.txt").write_text("the tide is late\n" * 20_000)
    (tmp_path / "b.txt").write_text("潮水晚了\n" * 100)
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "ρ" * 30_000}, ensure_ascii=False) + "\n")  # one long row
    (tmp_path / "empty.txt").write_text("")
    text = "".join(spread_documents([tmp_path], at_most_bytes=20_000))
    assert text.count("潮") > 10 and text.count("ρ") > 100 and text.count("tide") > 300
    assert len(text.encode()) < 22_000
    assert "ρ" in "".join(spread_documents([tmp_path, ["α"]], at_most_bytes=20_000)), "a stream does not change that"
    assert "".join(spread_documents([tmp_path, ["α"]], at_most_bytes=20_000)).count("α") == 1


def test_a_spread_sample_of_very_many_files_draws_some(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "_SPOT", 500)
    for number in range(300):
        (tmp_path / f"{number:03}.txt").write_text(f"{number} " * 100)
    numbers = {int(text.split()[0]) for text in spread_documents([tmp_path], at_most_bytes=10_000)}
    assert 15 <= len(numbers) <= 25 and min(numbers) < 60 and max(numbers) > 240


def test_a_spread_sample_keeps_to_the_separator_and_the_column(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "_SPOT", 500)
    (tmp_path / "a.txt").write_text("\n".join(f"story {number}\n<end>" for number in range(5000)))
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"body": f"row {number}"}) for number in range(5000)))
    sample = [*spread_documents([tmp_path], "body", "<end>", at_most_bytes=10_000)]
    assert len(sample) > 300 and all(re.fullmatch("story [0-9]+|row [0-9]+", text.strip()) for text in sample)
    (tmp_path / "b.jsonl").write_text("\n".join(["{}"] * 5000))
    with pytest.raises(ValueError, match="b.jsonl, line 1 after byte [0-9]+ has no 'body'"):
        list(spread_documents([tmp_path], "body", "<end>", at_most_bytes=2_000))


# --- what cannot be read -------------------------------------------------------------------------------

@pytest.mark.parametrize("source, message", [
    ("", "source is an empty name: give a folder or file"), (7, "source is 7: give a folder, a file, or an iterable"),
    (None, "source is None: give a folder"), ({"a": 1}, "source is a mapping of a: give the documents of one of them"),
    (Path("not/there.txt"), "there.txt does not exist: give")])
def test_what_is_no_source(source, message):
    for use in (source_files, document_parts, sample_documents):
        with pytest.raises(ValueError, match=message):
            use(source)


def test_an_endless_row_of_empty_documents_ends(monkeypatch):
    monkeypatch.setattr(documents, "_MOST_BLANK", 1000)
    with pytest.raises(ValueError, match=r"document 1000 is the last of 1,000 documents in a row without text: name"):
        list(read_documents(itertools.repeat({"text": " ", "body": "full"})))
    few = [*[""] * 999, "a"] * 3
    assert list(read_documents(few)) == ["a"] * 3


@given(st.binary(max_size=80), st.sampled_from(["a.jsonl", "a.txt"]))
@example(b'{"text": "\\ud800"}', "a.jsonl")
@example(b'\xef\xbb\xbf{"text": "a"}\n\xff', "a.jsonl")
@example(b'{"text": 1e999}\n', "a.jsonl")
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_bytes_are_documents_or_one_line(data, name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            found = list(read_documents(path))
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error) and ": " in str(error)
        else:
            assert all(text.strip() for text in found)


@given(st.dictionaries(st.text(max_size=4), st.one_of(st.none(), st.text(max_size=5), st.integers()), max_size=3))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_row_is_a_document_or_one_line(row):
    try:
        found = list(read_documents([row]))
    except ValueError as error:
        assert "document 1" in str(error) and "\n" not in str(error)
    else:
        assert found == ([row["text"]] if row["text"].strip() else [])


# --- output that nobody reads --------------------------------------------------------------------------

PROGRAM = """
import sys
from llmbook.scale.token_files import write_token_files
from llmbook.text import tokenizer_from_merges
write_token_files(["a tide "] * 5, sys.argv[1], tokenizer_from_merges([], ["<|endoftext|>"], r"(?s:.+)"), processes=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>&1 | true"])
def test_progress_that_cannot_be_shown_stops_nothing(tmp_path, redirection):
    command = f'{sys.executable} -c "$PROGRAM" {tmp_path / "out"} {redirection}'
    subprocess.run(command, shell=True, env={"PROGRAM": PROGRAM, "PYTHONPATH": str(ROOT)})
    assert json.loads((tmp_path / "out" / "tokens.json").read_text())["complete"] is True
