"""Files that are never half written, JSON that fails in one line, and who of several processes writes."""

import hashlib
import json
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmbook import files


def test_a_replaced_file_is_whole_or_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.replace_file(path, b"old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, name, full)
            with pytest.raises(OSError, match="No space left"):
                files.replace_file(path, b"new")
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
    files.replace_file(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["file"]


def test_the_hash_is_that_of_the_content(tmp_path):
    content = bytes(range(256)) * 10_000  # more than one piece
    (tmp_path / "file").write_bytes(content)
    assert files.sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
@example(content=b"[" * 100_000)
@example(content=b"\xff\xfe{}")
@example(content=b"1" * 5000)
def test_reading_json_gives_a_value_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    try:
        found = files.read_json(path)
    except ValueError as error:
        assert str(error).startswith(f"{path} is not JSON (") and "\n" not in str(error)
    else:
        assert found == json.loads(content) or found != found


@pytest.mark.parametrize("rank, size, place", [(None, None, (0, 1)), ("0", "1", (0, 1)), ("2", "4", (2, 4))])
def test_the_place_among_several_processes(monkeypatch, rank, size, place):
    for name, value in (("RANK", rank), ("WORLD_SIZE", size)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert files.process_place() == place and files.is_first() is (place[0] == 0)


@pytest.mark.parametrize("rank, size", [("1", None), (None, "2"), ("2", "2"), ("-1", "2"), ("a", "2"), ("0", "0")])
def test_a_place_that_cannot_be_is_an_error(monkeypatch, rank, size):
    """A process that waits for others which were never started waits for ever."""
    for name, value in (("RANK", rank), ("WORLD_SIZE", size)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"RANK is {rank} and WORLD_SIZE is {size}: start the processes with torchrun"):
        files.process_place()
