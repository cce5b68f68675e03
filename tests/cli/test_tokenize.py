"""Token files by the command: what it goes on with, and the folders that it leaves alone."""

import pytest
from filelock import FileLock

from llmbook.scale.token_shards import TokenFiles
from tests.cli.helpers import STORY, tree


def test_the_same_command_again_changes_nothing(place, call):
    assert call("tokenize", "story.txt", "tokens", "--tokenizer", 300)[0] == 0
    before = tree(place)
    code, out, err = call("tokenize", "story.txt", "tokens", "--tokenizer", 300)
    assert code == 0, err
    assert out == f"{len(TokenFiles('tokens')):,} tokens in 1 files in tokens\n"
    assert tree(place) == before


def test_a_folder_of_another_tokenizer_is_refused(place, call):
    assert call("tokenize", "story.txt", "tokens", "--tokenizer", 300)[0] == 0
    before = tree(place)
    for choice in (301, "tokenizer.json"):
        (place / "tokenizer.json").write_bytes((place / "tokenizer.json").read_bytes().replace(b"endoftext", b"end"))
        before = tree(place)
        code, out, err = call("tokenize", "story.txt", "tokens", "--tokenizer", choice)
        assert (code, out) == (1, "") and err.count("\n") == 1 and "give" in err
        assert tree(place) == before
    assert "--tokenizer asks for 301" in call("tokenize", "story.txt", "tokens", "--tokenizer", 301)[2]


@pytest.mark.parametrize("name", ["thesis.txt", "model.safetensors", "tokenizer.json"])
def test_a_foreign_folder_is_refused(place, call, name):
    (place / "mine").mkdir()
    (place / "mine" / name).write_text("years of work")
    before = tree(place)
    code, out, err = call("tokenize", "story.txt", "mine", "--tokenizer", 300)
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert "mine" in err and name in err and "give" in err
    assert tree(place) == before
    code, _, err = call("tokenize", "story.txt", "story.txt", "--tokenizer", 300)
    assert code == 1 and "story.txt is a file: give a folder" in err


def test_two_writers_of_one_folder_do_not_mix(place, call):
    assert call("tokenize", "story.txt", "tokens", "--tokenizer", 300)[0] == 0
    with FileLock(place / "tokens" / ".lock"):
        code, out, err = call("tokenize", "story.txt", "tokens", "--tokenizer", 300)
        assert (code, out) == (1, "") and err.count("\n") == 1
        assert "tokens" in err and "another process" in err and "another folder" in err


def test_documents_are_cut_where_the_separator_says_and_counted_alike(place, call):
    (place / "two.txt").write_text(STORY[:3000] + "<|endoftext|>" + STORY[3000:6000])
    assert call("tokenize", "two.txt", "one", "--tokenizer", "tokenizer.json")[0] == 0
    assert call("tokenize", "two.txt", "two", "--tokenizer", "tokenizer.json", "--separator", "<|endoftext|>")[0] == 0
    ends = [sum((file.shards[0] == file.end_of_text).tolist()) for file in map(TokenFiles, ("one", "two"))]
    assert ends == [1, 2]
    for folder, separator in (("one", ()), ("two", ("--set", "data.separator=<|endoftext|>"))):
        code, out, err = call("pretrain", "run.toml", "--out", "dry", "--dry-run", "--set", "data.train=two.txt",
                              "--set", "data.validation=0.5", *separator)
        assert code == 0, err
        assert f"of {len(TokenFiles(folder)) // 2:,} tokens" in out
