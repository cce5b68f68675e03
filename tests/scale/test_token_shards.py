"""Folders of token files: damage is noticed, whatever it is, and nobody writes where somebody else does."""

import json
import multiprocessing
import os
import random
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from llmbook.book.corpora import data_folder
from llmbook.scale import token_files
from llmbook.scale.token_files import TokenFiles, TokenWindows, write_token_files
from llmbook.scale.token_shards import TokenHeader
from llmbook.text import END_OF_TEXT, load_tokenizer, read_text, train_bpe

STORY = read_text(data_folder() / "twenty_in_hand.txt")
DOCUMENTS = STORY.split("\n\n")
OLD = Path(__file__).parents[1] / "fixtures" / "v0_1_0" / "run" / "tokens"


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(STORY, 300)


def write(source, folder, tokenizer, **settings) -> TokenFiles:
    return write_token_files(source, folder, tokenizer, **{"processes": 1, "progress": False, **settings})


def all_ids(files: TokenFiles) -> list[int]:
    return np.concatenate([*files.shards]).tolist()


def flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)


# --- damage --------------------------------------------------------------------------------------------

def test_every_flipped_bit_of_a_shard_is_noticed_before_it_reaches_a_model(tmp_path, bpe):
    write(DOCUMENTS, tmp_path, bpe, shard_bytes=5000)
    path, rng = tmp_path / "shard-00002.bin", random.Random(1)
    good = path.read_bytes()
    for _ in range(60):
        flip(path, rng.randrange(len(good)), rng.randrange(8))
        files = TokenFiles(tmp_path)  # opening looks at sizes only
        with pytest.raises(ValueError, match=r"shard-00002\.bin is damaged \(its checksum is \d+, not \d+\): run "):
            all_ids(files)
        with pytest.raises(ValueError, match=r"shard-00002\.bin is damaged"):
            next(TokenWindows(files, 50, 500))
        with pytest.raises(ValueError, match=r"shard-00002\.bin is damaged"):
            TokenFiles(tmp_path, verify="open")
        path.write_bytes(good)
    assert len(all_ids(TokenFiles(tmp_path, verify="open"))) == len(TokenFiles(tmp_path))


def test_shards_that_are_exchanged_are_noticed(tmp_path, bpe):
    """Equal in size, and each with a right checksum of its own: of another folder, or of another place in this one."""
    write(["a" * 900, "b" * 900], tmp_path, bpe, shard_bytes=1000)
    first, second = (tmp_path / f"shard-0000{number}.bin" for number in (0, 1))
    shutil.copy(first, tmp_path / "kept")
    second.replace(first)
    shutil.move(tmp_path / "kept", second)
    with pytest.raises(ValueError, match=r"shard-00000\.bin (is damaged|has [\d,]+ bytes)"):
        all_ids(TokenFiles(tmp_path))


def test_a_damaged_shard_is_written_anew_by_the_same_call(tmp_path, bpe):
    before = all_ids(write(DOCUMENTS, tmp_path, bpe, shard_bytes=5000))
    flip(tmp_path / "shard-00001.bin", 77)
    assert all_ids(write(DOCUMENTS, tmp_path, bpe, shard_bytes=5000)) == before


def test_a_shard_is_checked_once_and_not_at_all_if_so_wished(tmp_path, bpe, monkeypatch):
    write(DOCUMENTS, tmp_path, bpe, shard_bytes=5000)
    checked, crc32 = [], zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda data: checked.append(len(data)) or crc32(data))
    files = TokenFiles(tmp_path)
    assert not checked
    for _ in range(3):
        all_ids(files)
    assert len(checked) == len(files.shards)
    all_ids(TokenFiles(tmp_path, verify="never"))
    assert len(checked) == len(files.shards)
    with pytest.raises(ValueError, match="verify is 'maybe': choose 'use', 'open' or 'never'"):
        TokenFiles(tmp_path, verify="maybe")


def test_any_changed_byte_of_a_header_is_refused_or_changes_nothing(tmp_path, bpe):
    """A flip that silently changes what is trained on."""
    write(DOCUMENTS, tmp_path, bpe, shard_bytes=9000)
    path, rng = tmp_path / "tokens.json", random.Random(2)
    good, whole, refused = path.read_bytes(), TokenHeader.read(tmp_path), 0
    for _ in range(400):
        flip(path, rng.randrange(len(good)), rng.randrange(8))
        try:
            header = TokenHeader.read(tmp_path)
        except ValueError as error:
            assert "tokens.json is not a header from write_token_files (" in str(error) and "\n" not in str(error)
            refused += 1
        else:
            # only the name of the checksum can go: then the rest is as it was
            assert header == whole
        path.write_bytes(good)
    assert refused > 300


@pytest.mark.parametrize("change", [
    {"vocab_size": 10**10}, {"vocab_size": "300"}, {"vocab_size": 299}, {"vocab_size": None}, {"dtype": "<u4"},
    {"dtype": ">f8"}, {"end_of_text": 300}, {"end_of_text": -1}, {"end_of_text": 1.5}, {"complete": "yes"},
    {"complete": 2}, {"shards": []}, {"shards": {}}, {"shards": [{}]}, {"format": 2}, {"shard_bytes": True}])
def test_a_header_that_says_what_cannot_be_is_refused(tmp_path, bpe, change):
    """Without its checksum, as 0.1.0 wrote it and as somebody might by hand."""
    write(DOCUMENTS, tmp_path, bpe)
    content = json.loads((tmp_path / "tokens.json").read_text())
    del content["checksum"]
    (tmp_path / "tokens.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ValueError, match=r"tokens\.json is not a header from write_token_files \(.*: give another"):
        TokenFiles(tmp_path)


def test_a_header_cannot_name_files_elsewhere(tmp_path, bpe):
    write(["a"], tmp_path / "tokens", bpe)
    (tmp_path / "secret").write_bytes(b"\0\0" * 2)
    path = tmp_path / "tokens" / "tokens.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    content["shards"][0]["file"] = "../secret"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"it names '\.\./secret' as a shard"):
        TokenFiles(tmp_path / "tokens")


# --- folders of 0.1.0 ------------------------------------------------------------------------------------------------

def test_a_folder_of_0_1_0_opens_and_goes_on(tmp_path):
    shutil.copytree(OLD, tmp_path / "tokens")
    folder, tokenizer = tmp_path / "tokens" / "train-0", load_tokenizer(OLD / "tokenizer.json")
    files = TokenFiles(folder, verify="open")
    ids = all_ids(files)
    assert ids == [*tokenizer.encode_ordinary(STORY), 299] and len(files) == 17_241
    before = (folder / "tokens.json").read_bytes()
    assert all_ids(write(data_folder() / "twenty_in_hand.txt", folder, tokenizer)) == ids
    assert (folder / "tokens.json").read_bytes() == before, "it is complete: nothing is to be written"


def test_ids_outside_the_vocabulary_of_an_old_folder_never_reach_a_model(tmp_path):
    shutil.copytree(OLD / "train-0", tmp_path / "old")
    flip(tmp_path / "old" / "shard-00000.bin", 2 * 5000 + 1, 7)
    with pytest.raises(ValueError, match=r"shard-00000\.bin is damaged \(it holds the id 3\d{4}, the voc.* 300\)"):
        next(TokenWindows(TokenFiles(tmp_path / "old"), 8, 2))
    tokenizer = load_tokenizer(OLD / "tokenizer.json")
    mended = write(data_folder() / "twenty_in_hand.txt", tmp_path / "old", tokenizer)
    assert max(all_ids(mended)) == 299


# --- whose folder it is --------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors", "config.json", "train-0", "shard-00000.bin"])
def test_a_folder_with_other_things_in_it_is_refused_and_left(tmp_path, bpe, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"holds {name} but no tokens\.json.*: give a new or empty folder"):
        write(["a"], tmp_path, bpe)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(ValueError, match=rf"{name} is a file: give a folder"):
        write(["a"], tmp_path / name, bpe)


def test_a_tokenizer_may_be_there_first(tmp_path, bpe):
    (tmp_path / "tokenizer.json").write_text("{}")
    assert all_ids(write(["a"], tmp_path, bpe)) == [97, 299]


@pytest.mark.parametrize("tokens", [299, 301])
def test_another_tokenizer_s_folder_is_refused(tmp_path, bpe, tokens):
    write(["a"], tmp_path, bpe)
    before = (tmp_path / "tokens.json").read_bytes()
    with pytest.raises(ValueError, match=r"was begun with tokenizer \w+, now it is \w+: give another folder"):
        write(["a"], tmp_path, train_bpe(STORY, tokens))
    assert (tmp_path / "tokens.json").read_bytes() == before


def test_the_second_of_two_writers_is_told_so_in_one_line(tmp_path, bpe):
    with FileLock(tmp_path / ".lock"):
        with pytest.raises(RuntimeError, match="is being written by another process: wait until that ends, or give"):
            write(["a"], tmp_path, bpe)
    assert all_ids(write(["a"], tmp_path, bpe)) == [97, 299]


def race(folder: Path, documents: list[str], tokenizer, start) -> None:
    start.wait(30)
    try:
        write(documents, folder, tokenizer, shard_bytes=1000)
    except (RuntimeError, ValueError) as error:
        (folder.parent / f"{folder.name}-{os.getpid()}.txt").write_text(str(error))


@pytest.mark.parametrize("attempt", range(8))
def test_two_writers_never_end_mixed(tmp_path, bpe, attempt):
    """4 of 40 pairs ended complete with both mixed."""
    fork, folder = multiprocessing.get_context("fork"), tmp_path / "tokens"
    sources, start = [DOCUMENTS, DOCUMENTS[::-1]], fork.Event()
    writers = [fork.Process(target=race, args=(folder, source, bpe, start)) for source in sources]
    for writer in writers:
        writer.start()
    start.set()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    ids = all_ids(TokenFiles(folder, verify="open"))
    assert ids in [[id for text in source for id in [*bpe.encode_ordinary(text), 299]] for source in sources]
    [said] = [path.read_text() for path in tmp_path.glob("*.txt")]
    assert "is being written by another process" in said or "the source is not what" in said


def test_where_locks_do_not_work_a_second_writer_is_noticed(tmp_path, bpe, monkeypatch):
    class NoLock:
        def __init__(self, path):
            pass

        def acquire(self, timeout):
            pass

        release = lambda self: None  # noqa: E731

    monkeypatch.setattr(token_files, "FileLock", NoLock)

    def documents():
        for number, text in enumerate(DOCUMENTS):
            if number == len(DOCUMENTS) // 2:
                write(["somebody else's " * 80], tmp_path, train_bpe(STORY, 300), shard_bytes=1000)
            yield text

    with pytest.raises((RuntimeError, ValueError), match="changed by another process|the source is not what"):
        write(documents(), tmp_path, bpe, shard_bytes=1000)
    with pytest.raises(ValueError, match="not complete"):
        TokenFiles(tmp_path, verify="open")


def test_a_full_disk_is_one_line_with_the_path(tmp_path, bpe, monkeypatch):
    """Errno 28 came without a path. What was written before stays and is gone on with."""
    replace_file, calls = token_files.replace_file, []

    def full(path, content):
        calls.append(path)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        replace_file(path, content)

    monkeypatch.setattr(token_files, "replace_file", full)
    with pytest.raises(OSError, match=r"make room and run again.*shard-00001\.bin") as caught:
        write(DOCUMENTS, tmp_path, bpe, shard_bytes=1000)
    assert caught.value.errno == 28 and "\n" not in str(caught.value)
    monkeypatch.undo()
    files = write(DOCUMENTS, tmp_path, bpe, shard_bytes=1000)
    assert all_ids(files) == [id for text in DOCUMENTS for id in [*bpe.encode_ordinary(text), 299]]


def test_the_end_of_text_is_what_the_header_says(tmp_path, bpe):
    files = write(["a", "b"], tmp_path, bpe)
    assert files.end_of_text == bpe.encode(END_OF_TEXT, allowed_special="all")[0] == 299
