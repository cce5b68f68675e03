"""Files to fine-tune on: read as they are, and an error names the line or the entry."""

import json
import re

import pytest

from llmbook.formats.datasets import read_instructions, read_labelled_texts
from tests.support.repository import ROOT

# --- labelled texts ----------------------------------------------------------------------------------------------

def lines_in(tmp_path, content: bytes):
    path = tmp_path / "texts.tsv"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [
    "ham\tHi thère\nspam\tWin £9\n", "\ufeffham\tHi thère\nspam\tWin £9\n", "ham\tHi thère\r\nspam\tWin £9\r\n",
    "\n\nham\tHi thère\n  \n\nspam\tWin £9", "\ufeff\r\nham\tHi thère\r\n\r\nspam\tWin £9\r\n\r\n",
])
def test_lines_become_rows(tmp_path, content):
    frame = read_labelled_texts(lines_in(tmp_path, content.encode()), ["ham", "spam"])
    assert frame.columns.tolist() == ["label", "text"] and frame.index.tolist() == [0, 1]
    assert frame.to_numpy().tolist() == [["ham", "Hi thère"], ["spam", "Win £9"]]


def test_a_text_is_kept_as_it_is(tmp_path):
    texts = ['He said "no" twice', '"', "a\tb\t\tc", " two  spaces ", "'", "a\\nb", "NA", "12", "a\u2028b\x85c\x0cd"]
    content = "".join(f"ham\t{text}\n" for text in texts).encode()
    assert read_labelled_texts(lines_in(tmp_path, content), ["ham", "spam"])["text"].tolist() == texts


def test_a_file_without_lines_is_an_empty_table(tmp_path):
    frame = read_labelled_texts(lines_in(tmp_path, b"\n \n"), ["ham", "spam"])
    assert frame.empty and frame.columns.tolist() == ["label", "text"]


@pytest.mark.parametrize("line, value, remedy", [
    (b"ham\tcaf\xe9", "byte 0xe9", "save the file as UTF-8"), (b"ham Hello", "no tab", "put one after the label"),
    (b"Ham\tHello", "'Ham' is none of ham, spam", "correct it"), (b" ham\tHello", "' ham'", "correct it"),
    (b"\tHello", "the label ''", "correct it"), (b"ham\t", "is empty", "fill it in or take it out"),
    (b"ham\t \t ", "is empty", "fill it in or take it out"),
])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_an_error_names_the_line(tmp_path, line, value, remedy, end):
    path = lines_in(tmp_path, end.join([b"\xef\xbb\xbfham\tfirst", b"", b"spam\tthird", line, b"ham\tlast"]))
    with pytest.raises(ValueError) as caught:
        read_labelled_texts(path, ["ham", "spam"])
    said = str(caught.value)
    assert said.startswith(f"{path}, line 4") and value in said and remedy in said and "\n" not in said


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.tsv"):
        read_labelled_texts(tmp_path / "nothing.tsv", ["ham", "spam"])


# --- instructions -----------------------------------------------------------------------------------------------

def written(tmp_path, content: str | bytes):
    path = tmp_path / "entries.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


TWO = [{"instruction": "Nénne 👍", "input": "a\u2028b", "output": "1\n2"}, {"output": "x", "instruction": "y"}]


@pytest.mark.parametrize("content", [
    json.dumps(TWO), json.dumps(TWO, ensure_ascii=False, indent=2), "\n  " + json.dumps(TWO) + "\n",
    *(end.join(["", *(json.dumps(entry, ensure_ascii=ascii) for entry in TWO), "  ", ""])
      for end in ("\n", "\r\n") for ascii in (True, False)),
    "\n".join(map(json.dumps, TWO)),
], ids=["list", "indented", "space around", "lines", "ascii lines", "CRLF", "ascii CRLF", "no last newline"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_list_and_json_lines_become_the_same_table(tmp_path, content, mark):
    frame = read_instructions(written(tmp_path, mark + content))
    assert frame[["instruction", "input", "output"]].to_numpy().tolist() == [
        ["Nénne 👍", "a\u2028b", "1\n2"], ["y", "", "x"]]
    assert frame.index.tolist() == [0, 1] and len(frame.columns) == 3


def test_other_keys_are_kept(tmp_path):
    entries = [{"instruction": "a", "output": "b", "kind": "k", "check": {"words": 1}},
               {"instruction": "c", "output": "d", "input": "e", "text": 3}]
    frame = read_instructions(written(tmp_path, json.dumps(entries)))
    assert frame.loc[0, ["kind", "check"]].tolist() == ["k", {"words": 1}] and frame.loc[1, "text"] == 3
    assert frame["kind"].isna().tolist() == [False, True] and frame["input"].tolist() == ["", "e"]


def test_the_book_s_own_entries_are_read():
    frame = read_instructions(ROOT / "data" / "instructions.json")
    assert len(frame) == 1100 and {"instruction", "input", "output", "kind", "check"} == set(frame.columns)


GOOD = '{"instruction": "a", "output": "b"}'


@pytest.mark.parametrize("content, place, value, remedy", [
    (b"[\xff]", "", "byte 1", "save it as UTF-8"), (f"[{GOOD}".encode("utf-16"), "", "byte 0", "save it as UTF-8"),
    (f"[{GOOD}", "", "char 36", "give a JSON list"), (f"[{GOOD}]\n[{GOOD}]", "", "line 2", "give a JSON list"),
    (f"{GOOD}\n\n{{'instruction'}}\n{GOOD}", ", line 3", "char 1", "JSON Lines"),
    (f"{GOOD}\n{GOOD}\n{GOOD[:-1]}", ", line 3", "char 34", "JSON Lines"),
    ("[" * 100_000, "", "recursion", "give a JSON list"),
    ("", "", "no entry", "give one"), ("[]", "", "no entry", "give one"), ("\ufeff\n \n", "", "no entry", "give one"),
    (f'[{GOOD}, "text"]', ", entry 2", '"text"', "it must be an object"),
    (f"{GOOD}\nnull\n", ", entry 2", "null", "it must be an object"),
    ('[["instruction", "output"]]', ", entry 1", '["instruction", "output"]', "it must be an object"),
    (f'[{GOOD}, {{"output": "b"}}]', ", entry 2", "no instruction", "add it, or take the entry out"),
    ('[{"instruction": "Name\\nit"}]', ", entry 1 ('Name\\nit')", "no output", "add it, or take the entry out"),
    (f'{GOOD}\n{{"instruction": null, "output": "b"}}', ", entry 2", "no instruction", "add it"),
    ('[{"instruction": "a", "output": null}]', ", entry 1 ('a')", "no output", "add it"),
    ('[{"instruction": "a", "input": null, "output": "b"}]', ", entry 1 ('a')", "input is null", "it must be text"),
    ('[{"instruction": "a", "output": 0}]', ", entry 1 ('a')", "output is 0, of type int", "it must be text"),
    ('[{"instruction": ["a"], "output": "b"}]', ", entry 1", 'instruction is ["a"], of type list', "it must be text"),
    (f'[{GOOD}, {{"instruction": " \\n", "output": "b"}}]', ", entry 2", "instruction is empty", "fill it in"),
    (json.dumps([{"instruction": "a" * 99, "output": ""}]), f", entry 1 ('{'a' * 40}')", "output is empty",
     "fill it in"),
])
def test_an_error_names_file_and_entry_in_one_line(tmp_path, content, place, value, remedy):
    path = written(tmp_path, content)
    with pytest.raises(ValueError) as caught:
        read_instructions(path)
    said = str(caught.value)
    assert said.startswith(f"{path}{place}") and value in said and remedy in said and "\n" not in said


def test_the_byte_that_is_not_utf8_is_that_of_the_file(tmp_path):
    with pytest.raises(ValueError, match=re.escape("is not UTF-8 (byte 4)")):
        read_instructions(written(tmp_path, b"\xef\xbb\xbf[\xff]"))


def test_a_missing_file_of_instructions_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.json"):
        read_instructions(tmp_path / "nothing.json")
