"""Token files: writing texts of any size as shards, going on after a kill, and random windows over the shards."""

import json
import multiprocessing
import os
import pickle
import signal
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from llmbook.book.corpora import data_folder
from llmbook.formats.tokenizers import adapt, tokenizer_of_folder
from llmbook.scale import documents, encoding, token_files, token_shards
from llmbook.scale.token_files import TokenFiles, TokenWindows, tokenizer_fingerprint, write_token_files
from llmbook.scale.token_shards import Shard, TokenHeader
from llmbook.scale.token_windows import FileWindows
from llmbook.text import END_OF_TEXT, load_tokenizer, read_text, train_bpe

STORY = read_text(data_folder() / "twenty_in_hand.txt")
DOCUMENTS = [part for part in STORY.split("\n\n") if part.strip()]
DOCUMENTS += ["潮水一天涨两次。 \N{OCTOPUS} Ζωή", "it's\r\n 1911 "]
BYTES = sum(len(text.encode()) for text in DOCUMENTS)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(STORY, 400)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A tokenizer that Hugging Face's package runs."""
    runner = Tokenizer(models.BPE())
    runner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    runner.train_from_iterator([STORY], trainers.BpeTrainer(
        vocab_size=350, special_tokens=[END_OF_TEXT], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    path = tmp_path_factory.mktemp("hub") / "tokenizer.json"
    runner.save(str(path))
    return tokenizer_of_folder(path.parent)


def write(source, folder, tokenizer, **settings) -> TokenFiles:
    return write_token_files(source, folder, tokenizer, **{"processes": 1, "progress": False, **settings})


def all_ids(files: TokenFiles) -> list[int]:
    return np.concatenate([*files.shards]).tolist()


def expected_ids(documents, tokenizer) -> list[int]:
    end = tokenizer.encode(END_OF_TEXT, allowed_special="all")
    return [id for text in documents for id in tokenizer.encode(text, disallowed_special=()) + end]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"}


def header_of(folder: Path) -> dict:
    return json.loads((folder / "tokens.json").read_text())


@pytest.fixture
def encoded(monkeypatch):
    """The chunks that are encoded in this process, as they come."""
    chunks, encoder = [], encoding.ShardEncoder
    encode = encoder.__call__
    monkeypatch.setattr(encoder, "__call__", lambda self, chunk: chunks.append(chunk) or encode(self, chunk))
    return chunks


# --- what is written -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shard_bytes", [1400, 4096, 16_000_000])
def test_documents_are_encoded_as_by_the_tokenizer(tmp_path, bpe, shard_bytes):
    files = write(DOCUMENTS, tmp_path, bpe, shard_bytes=shard_bytes)
    assert max(len(text.encode()) for text in DOCUMENTS) <= 1400, "no document is cut here"
    assert all_ids(files) == expected_ids(DOCUMENTS, bpe)
    assert len(files) == len(all_ids(files)) and files.vocab_size == 400 and files.end_of_text == 399
    assert len(files.shards) == len(files.sizes) >= (1 if shard_bytes > BYTES else BYTES / shard_bytes)
    assert [len(shard) for shard in files.shards] == files.sizes.tolist()


def test_every_tokenizer_of_the_book(tmp_path, bpe, hub):
    for name, tokenizer in {"bpe": bpe, "hub": hub, "gpt2": load_tokenizer("gpt2")}.items():
        files = write(DOCUMENTS, tmp_path / name, tokenizer)
        assert all_ids(files) == expected_ids(DOCUMENTS, tokenizer)
        assert files.vocab_size == tokenizer.n_vocab
        encoder = encoding.ShardEncoder.of(tokenizer, END_OF_TEXT)  # as it travels to a worker process
        chunk = "\ufffftide <|endoftext|>".encode() + b"\xffsea"
        assert pickle.loads(pickle.dumps(encoder))(chunk) == encoder(chunk)
        again = pickle.loads(pickle.dumps(tokenizer))
        assert tokenizer_fingerprint(again) == tokenizer_fingerprint(tokenizer)


def test_fingerprints_differ(bpe, hub):
    others = [bpe, hub, train_bpe(STORY, 401), train_bpe(STORY, 400, special_tokens=("<|end|>",)),
              train_bpe(STORY[:9000], 400),
              tiktoken.Encoding("bpe", pat_str=r"\S+|\s+", mergeable_ranks=bpe._mergeable_ranks,
                                special_tokens=bpe._special_tokens)]
    assert len({tokenizer_fingerprint(tokenizer) for tokenizer in others}) == len(others)
    assert tokenizer_fingerprint(adapt(bpe)) == tokenizer_fingerprint(bpe), "the same ids"
    with pytest.raises(ValueError, match="a str does not say what decides its ids: give it an attribute fingerprint"):
        tokenizer_fingerprint("gpt2")


def test_the_header_says_what_the_shards_are(tmp_path, bpe):
    files = write(DOCUMENTS, tmp_path, bpe, shard_bytes=5000)
    header = header_of(tmp_path)
    assert header["complete"] is True and header["format"] == 1 and header["dtype"] == "<u2"
    assert sum(shard["documents"] for shard in header["shards"]) == len(DOCUMENTS)
    assert sum(shard["bytes"] for shard in header["shards"]) == BYTES
    assert all(0 < shard["bytes"] <= 5000 and len(shard["sha256"]) == 64 for shard in header["shards"])
    assert [*contents(tmp_path)] == \
        [*(f"shard-{index:05}.bin" for index in range(len(files.shards))), "tokens.json"]


@pytest.mark.parametrize("vocab_size, dtype", [(65_536, "<u2"), (65_537, "<u4")])
def test_bytes_of_a_token(tmp_path, vocab_size, dtype):
    class LastIds:
        special_tokens_set, n_vocab = {END_OF_TEXT}, vocab_size

        def encode(self, text, **_):
            return [vocab_size - 1]

    encoder = encoding.ShardEncoder.of(LastIds(), END_OF_TEXT)
    assert encoder.dtype == np.dtype(dtype)
    assert encoder(b"a\xff") == np.array([vocab_size - 1] * 2 + [vocab_size - 1], dtype).tobytes()


def test_an_id_outside_the_vocabulary(bpe):
    with pytest.raises(ValueError, match="gave the id 397, but says that it has 300: its file is damaged"):
        encoding.ShardEncoder(bpe, 0, 300)(bpe.decode([397]).encode())


def test_special_tokens_in_a_document_are_spelled(tmp_path, bpe, hub):
    for name, tokenizer in {"bpe": bpe, "hub": hub}.items():
        files = write([f"Be kind.{END_OF_TEXT}New rules"], tmp_path / name, tokenizer)
        assert all_ids(files).count(files.end_of_text) == 1 and all_ids(files)[-1] == files.end_of_text


def test_another_token_can_end_documents(tmp_path):
    own = train_bpe(STORY, 300, special_tokens=("<|user|>", "<|end|>"))
    with pytest.raises(ValueError, match=r"no special token '<\|endoftext\|>' .* by end_of_text "
                                         r"\(it has <\|end\|>, <\|user\|>\)"):
        write(["a"], tmp_path, own)
    assert not [*tmp_path.iterdir()]
    assert all_ids(write(["a"], tmp_path, own, end_of_text="<|end|>")) == [97, 299]
    with pytest.raises(ValueError, match=r"\(it has none\)"):
        write(["a"], tmp_path, train_bpe(STORY, 300, special_tokens=()))


def test_a_long_document_is_cut_at_line_ends(tmp_path, bpe):
    path = tmp_path / "long.txt"
    path.write_text(STORY)
    files = write(path, tmp_path / "file", bpe, shard_bytes=2000)
    assert bpe.decode(all_ids(files)[:-1]) == STORY and all_ids(files).count(files.end_of_text) == 1
    assert len(files.shards) >= len(STORY.encode()) / 2000
    for shard in [*files.shards][:-1]:
        assert bpe.decode(shard.tolist()).endswith("\n")
    rows = write([STORY], tmp_path / "row", bpe, shard_bytes=2000)
    assert all_ids(rows) == all_ids(files)


@pytest.mark.parametrize("size", [1000, 1001, 1002, 1003])
def test_a_line_longer_than_a_part_is_cut_between_characters(tmp_path, bpe, size):
    text = "\N{OCTOPUS}潮é" * 900  # 4, 3 and 2 bytes, no line end
    files = write([text, "b"], tmp_path, bpe, shard_bytes=size)
    ids = all_ids(files)
    assert bpe.decode(ids[:-3]) == text and ids[-3:] == [files.end_of_text, 98, files.end_of_text]
    assert max(shard["bytes"] for shard in header_of(tmp_path)["shards"]) <= size


def test_parts_are_small_and_join_to_the_document():
    for size in (1000, 1017, 10**6):
        parts = [*documents.document_parts([STORY], size=size)]
        assert b"".join(parts) == STORY.encode() + b"\xff" and all(len(part) <= size + 1 for part in parts)


@pytest.mark.parametrize("text", ["x" * 999 + "\n\n\n", "\n" * 1500 + "x"])
def test_white_space_at_an_end_of_a_long_document_stays(text):
    assert b"".join(documents.document_parts([text], size=1000)) == text.encode() + b"\xff"


# --- sources ---------------------------------------------------------------------------------------------------------

def make_folder(folder: Path) -> list[str]:
    """A folder of every kind of file; returns its documents in the order in which they are read."""
    import pyarrow
    from pyarrow import parquet

    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    lines = [b'\xef\xbb\xbf{"text": "three", "n": 1}', b"", b'{"text": "  "}\r', b'{"text": "fo\\u00fcr"}']
    (folder / "b.JSONL").write_bytes(b"\n".join(lines))
    (folder / "deep" / "c.md").write_text("# five\n")
    (folder / "deep" / "empty.txt").write_text(" \n")
    (folder / "deep" / "er" / "d.json-lines").write_text('{"text": "six"}\n')
    table = pyarrow.table({"text": [f"row {n}" for n in range(700)], "n": range(700)})
    parquet.write_table(table, folder / "z.parquet", row_group_size=300)
    (folder / "image.png").write_bytes(b"\xff\xff")
    return ["one\ntwo", "three", "fo\u00fcr", "# five\n", "six", *(f"row {n}" for n in range(700))]


def test_a_folder_of_every_kind_of_file(tmp_path, bpe):
    documents = make_folder(tmp_path / "texts")
    assert all_ids(write(tmp_path / "texts", tmp_path / "a", bpe)) == expected_ids(documents, bpe)
    assert all_ids(write(str(tmp_path / "texts"), tmp_path / "b", bpe)) == expected_ids(documents, bpe)
    one = write(tmp_path / "texts" / "z.parquet", tmp_path / "c", bpe, shard_bytes=1000)
    assert all_ids(one) == expected_ids(documents[5:], bpe)


def test_iterables_of_texts_and_mappings(tmp_path, bpe):
    rows = [{"body": text, "url": 1} for text in DOCUMENTS] + [{"body": "", "url": 2}]
    assert all_ids(write(iter(DOCUMENTS), tmp_path / "a", bpe)) == expected_ids(DOCUMENTS, bpe)
    assert all_ids(write((row for row in rows), tmp_path / "b", bpe, text_column="body")) == \
        expected_ids(DOCUMENTS, bpe)


def test_reading_waits_for_the_encoding(tmp_path, bpe):
    """However long the source, few chunks are read ahead."""
    read, encoded = 0, 0

    def source():
        nonlocal read
        while read < 199:
            read += 1
            yield "tide " * 180  # one chunk each

    def submit(chunk):
        def result():
            nonlocal encoded
            encoded += 1
            assert read - encoded <= 4  # ahead + 1 in flight, and one that is being read
        return result

    chunks = encoding.chunks_of(documents.document_parts(source(), size=1000), 1000)
    for _, result in encoding.encoded_in_order(chunks, lambda *_: False, submit, ahead=3):
        result()
    assert encoded == 199


def test_progress_on_stderr_only(tmp_path, bpe, capsys):
    (tmp_path / "a.txt").write_text(STORY)
    write(tmp_path / "a.txt", tmp_path / "quiet", bpe)
    assert capsys.readouterr() == ("", "")
    write(tmp_path / "a.txt", tmp_path / "loud", bpe, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "tokenize: 100%" in err and "B/s" in err


def broken(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("name, content, message", [
    ("a.txt", b"ok\nsea\xff", r"a\.txt: byte 6 \(0xff\) is not UTF-8: save it as UTF-8"),
    ("a.txt", b"\x80" * 5000, r"a\.txt: byte 0 \(0x80\) is not UTF-8"),
    ("a.txt", b"line\n" * 500 + b"\xc3", r"a\.txt: byte 2500 \(0xc3\) is not UTF-8"),
    ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl, line 2 is not JSON \(.*\): give one object a line"),
    ("a.jsonl", b'{"text": "a"}\n\n{"texts": "a"}', r"line 3 has no 'text' \(it has texts\): name the column"),
    ("a.jsonl", b'{"text": null}', r"line 1: the text is 'None', of type NoneType: it must be a string"),
    ("a.jsonl", b'{"text": "a"}\n[1]', r"line 2: the text is '\[1\]', of type list"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}', r"line 2: byte 10 \(0xe9\) of the line is not UTF-8"),
    ("a.jsonl", b'{"text": "a\\ud800"}', r"line 1: character 1 \('\\ud800'\) has no UTF-8"),
    ("a.jsonl", b"[" * 100_000, r"line 1 is not JSON"),
    ("a.parquet", b"PAR1 nonsense", r"a\.parquet cannot be read after row 0 \(.*\): fetch or write it again"),
    ("a.csv", b"text\n", r"a\.csv is not of a known kind \(\.txt, \.md, .*\.parquet\): change it"),
])
def test_bad_files(tmp_path, bpe, name, content, message):
    with pytest.raises(ValueError, match=message) as error:
        write(broken(tmp_path / "in", name, content), tmp_path / "out", bpe, shard_bytes=1000)
    assert "\n" not in str(error.value)


def test_bad_parquet_columns(tmp_path, bpe):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"texts": ["a"], "n": [1]}), path)
    with pytest.raises(ValueError, match=r"a\.parquet has no column 'text' \(it has texts, n\): name the column"):
        write(path, tmp_path / "out", bpe)
    with pytest.raises(ValueError, match=r"a\.parquet, row 1: the text is '1', of type int"):
        write(path, tmp_path / "out", bpe, text_column="n")
    bad = pyarrow.StringArray.from_buffers(2, pyarrow.array([0, 1, 2], pyarrow.int32()).buffers()[1],
                                           pyarrow.py_buffer(b"a\xff"))
    parquet.write_table(pyarrow.table({"text": bad}), path)
    with pytest.raises(ValueError, match=r"a\.parquet, row 2 is not UTF-8"):
        write(path, tmp_path / "out", bpe)


def test_without_pyarrow(tmp_path, bpe, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"a\.parquet needs another package: pip install pyarrow"):
        write(broken(tmp_path, "a.parquet", b"PAR1"), tmp_path / "out", bpe)


@pytest.mark.parametrize("source, settings, message", [
    ([], {}, "the source holds no text: give at least one document"),
    (["", " \n"], {}, "the source holds no text"),
    (["a", 3], {}, "document 2: the text is '3', of type int"),
    ([{"txt": "a"}], {}, r"document 1 has no 'text' \(it has txt\)"),
    ({"train": ["a"], "test": []}, {}, "source is a mapping of train, test: give the documents of one"),
    ("not/there", {}, "not/there does not exist: give a folder or file of documents"),
    (["a"], {"processes": 0}, r"processes \(0\) must be at least 1"),
    (["a"], {"shard_bytes": 999}, r"shard_bytes \(999\) at least 1000"),
])
def test_bad_arguments(tmp_path, bpe, source, settings, message):
    with pytest.raises(ValueError, match=message):
        write(source, tmp_path / "out", bpe, **settings)


def test_a_folder_without_texts(tmp_path, bpe):
    broken(tmp_path / "in", "a.csv", b"")
    with pytest.raises(ValueError, match=r"in holds no file of a known kind \(\.txt"):
        write(tmp_path / "in", tmp_path / "out", bpe)
    assert not (tmp_path / "out").exists()


# --- going on after an end at any moment -----------------------------------------------------------------------------

def killed_at(moment: int, folder: Path, tokenizer) -> bool:
    """Write in a process that is killed at a moment. Each file has three: half written, before its rename, after it.
    Returns False if the process came to its end before that moment."""
    def write_and_die():
        passed, replace, fsync = iter(range(10**6)), os.replace, os.fsync

        def one_moment():
            if next(passed) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        def half_and_whole(number):
            size = os.fstat(number).st_size
            content = Path(f"/proc/self/fd/{number}").read_bytes()
            os.ftruncate(number, size // 2)
            one_moment()
            os.pwrite(number, content, 0)
            fsync(number)
            one_moment()

        def replace_and_after(old, new):
            replace(old, new)
            one_moment()

        os.fsync, os.replace = half_and_whole, replace_and_after
        write(DOCUMENTS, folder, tokenizer, shard_bytes=BYTES // 4)

    child = multiprocessing.get_context("fork").Process(target=write_and_die)
    child.start()
    child.join(30)
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


@pytest.mark.slow
@linux_only
def test_killed_at_any_moment_it_goes_on_where_it_stopped(tmp_path, bpe, encoded):
    whole = write(DOCUMENTS, tmp_path / "whole", bpe, shard_bytes=BYTES // 4)
    assert len(encoded) == len(whole.shards) >= 5
    moments = 0
    while killed_at(moments, folder := tmp_path / str(moments), bpe):
        named = header_of(folder)["shards"] if (folder / "tokens.json").exists() else []
        assert len(named) == max(0, (moments - 3 + 1) // 6), "no more than one shard is there but not in the header"
        if (folder / "tokens.json").exists() and not header_of(folder)["complete"]:
            with pytest.raises(ValueError, match="is not complete: run write_token_files again with the same"):
                TokenFiles(folder)
        encoded.clear()
        write(DOCUMENTS, folder, bpe, shard_bytes=BYTES // 4)
        assert len(encoded) == len(whole.shards) - len(named), f"killed at moment {moments}"
        assert contents(folder) == contents(tmp_path / "whole"), f"killed at moment {moments}"
        moments += 1
    assert moments == 3 * (1 + 2 * len(whole.shards) + 1)
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_complete_folder_is_left_as_it_is(tmp_path, bpe, encoded):
    write(DOCUMENTS, tmp_path, bpe, shard_bytes=5000)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in contents(tmp_path)}
    encoded.clear()
    write(DOCUMENTS, tmp_path, bpe, shard_bytes=5000)
    assert not encoded and {name: (tmp_path / name).stat().st_mtime_ns for name in contents(tmp_path)} == before


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 100)])
def test_a_damaged_shard_is_named_and_written_anew(tmp_path, bpe, encoded, damage):
    write(DOCUMENTS, tmp_path, bpe, shard_bytes=5000)
    before = contents(tmp_path)
    damage(tmp_path / "shard-00001.bin")
    with pytest.raises(ValueError, match=r"shard-00001\.bin (is missing|has 100 bytes, not [\d,]+): run write_token_"):
        TokenFiles(tmp_path)
    encoded.clear()
    write(DOCUMENTS, tmp_path, bpe, shard_bytes=5000)
    assert len(encoded) == 1 and contents(tmp_path) == before


def changed_text(documents):
    return [*documents[:-1], documents[-1].replace("9", "8")]


def moved_border(documents):
    return [documents[0] + documents[1], *documents[2:]]


@pytest.mark.slow
@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("change, settings, message", [
    (changed_text, {}, r"the source is not what .* was begun with: its text for shard \d+ is another"),
    (moved_border, {}, "text for shard 0 is another"),
    (lambda documents: documents[:-1], {}, r"text for shard \d+ is another .*: give another folder, or remove this"),
    (lambda documents: documents[:1], {}, "text for shard 0 is another"),
    (lambda documents: [], {}, "text for shard 0 is another"),
    (None, {"shard_bytes": 6000}, "was begun with shard_bytes 5000, now it is 6000: give another folder"),
    (None, {"tokenizer": 401}, r"was begun with tokenizer \w+, now it is \w+: give another folder"),
    (None, {"end_of_text": "<|x|>"}, r"was begun with end_of_text 399, now it is 398: give another"),
])
def test_what_changed_is_refused_and_nothing_lost(tmp_path, change, settings, message, complete):
    tokenizer = train_bpe(STORY, 400, special_tokens=("<|x|>", END_OF_TEXT))
    write(DOCUMENTS, tmp_path, tokenizer, shard_bytes=5000)
    if not complete:
        TokenHeader.read(tmp_path).write(tmp_path, complete=False)
    before, settings = contents(tmp_path), {"shard_bytes": 5000, **settings}
    tokenizer = train_bpe(STORY, settings.pop("tokenizer", 400), special_tokens=("<|x|>", END_OF_TEXT))
    with pytest.raises(ValueError, match=message):
        write(change(DOCUMENTS) if change else DOCUMENTS, tmp_path, tokenizer, **settings)
    assert contents(tmp_path) == before


def test_a_source_that_grew_is_refused_when_complete(tmp_path, bpe):
    documents = ["tide " * 190] * 3  # each fills a shard
    write(documents, tmp_path, bpe, shard_bytes=1000)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="text for shard 3 is another"):
        write(documents * 2, tmp_path, bpe, shard_bytes=1000)
    assert contents(tmp_path) == before


def test_after_bad_input_is_mended_it_goes_on(tmp_path, bpe, encoded):
    with pytest.raises(ValueError, match="document 31: "):
        write([*DOCUMENTS[:30], None], tmp_path, bpe, shard_bytes=1000)
    kept = len(header_of(tmp_path)["shards"])
    assert kept > 3
    encoded.clear()
    files = write(DOCUMENTS, tmp_path, bpe, shard_bytes=1000)
    assert len(encoded) == len(files.shards) - kept and all_ids(files) == expected_ids(DOCUMENTS, bpe)


def test_other_settings_are_fine_while_no_shard_is_there(tmp_path, bpe, hub):
    with pytest.raises(ValueError, match="holds no text"):
        write([], tmp_path, bpe)
    assert all_ids(write(["sea"], tmp_path, hub)) == expected_ids(["sea"], hub)


def test_shards_without_a_header_and_strange_headers(tmp_path, bpe):
    broken(tmp_path, "shard-00000.bin", b"mine")
    with pytest.raises(ValueError, match=r"holds shard-00000\.bin but no tokens\.json.*: give a new or empty folder"):
        write(["a"], tmp_path, bpe)
    assert contents(tmp_path) == {"shard-00000.bin": b"mine"}
    with pytest.raises(FileNotFoundError, match=r"tokens\.json does not exist: give a folder that write_token_files"):
        TokenFiles(tmp_path)
    for content in (b"{", b"[]", b"\xff", b'{"format": 2, "shards": []}', b'{"format": 1, "shards": [{}]}', b"{}",
                    b'{"format": 1, "shards": []}'):
        (tmp_path / "tokens.json").write_bytes(content)
        for use in (lambda: TokenFiles(tmp_path), lambda: write(["a"], tmp_path, bpe)):
            with pytest.raises(ValueError, match=r"tokens\.json is not a header from write_token_files \("):
                use()


# --- several processes -----------------------------------------------------------------------------------------------

def endless_documents():
    while True:
        yield from DOCUMENTS


def children_of(parent: int) -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if (folder / "stat").exists()
            and int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return value


@pytest.mark.slow
@pytest.mark.parametrize("piece", [700, 1_000_000])
def test_several_processes_write_the_same_bytes_as_one(tmp_path, bpe, monkeypatch, piece):
    monkeypatch.setattr(encoding, "_PIECE", piece)
    write(DOCUMENTS, tmp_path / "one", bpe, shard_bytes=3000)
    for processes in (2, 3):
        write(DOCUMENTS, tmp_path / str(processes), bpe, shard_bytes=3000, processes=processes)
        assert contents(tmp_path / "one") == contents(tmp_path / str(processes))


def test_the_pieces_of_a_chunk_are_whole_documents(bpe, monkeypatch):
    encoder = encoding.ShardEncoder.of(bpe, END_OF_TEXT)
    chunk = b"".join(text.encode() + documents.DOCUMENT_END for text in DOCUMENTS)
    for size in (1, 100, 5000, len(chunk)):
        monkeypatch.setattr(encoding, "_PIECE", size)
        for whole in (chunk, chunk + b"and it goes on", b"one that goes on"):
            pieces = [*encoding._pieces(whole)]
            assert b"".join(pieces) == whole
            assert all(len(piece) >= size and piece.endswith(documents.DOCUMENT_END) for piece in pieces[:-1])
            assert b"".join(map(encoder, pieces)) == encoder(whole)
    monkeypatch.setattr(encoding, "_PIECE", 100)
    assert len([*encoding._pieces(chunk)]) > 20


@pytest.mark.parametrize("processes, shard_bytes, ahead", [
    (1, 16_000_000, 0), (2, 16_000_000, 1), (64, 16_000_000, 9), (2, 3000, 2), (8, 1000, 8)])
def test_text_is_read_ahead_for_two_pieces_a_process_and_little_more(processes, shard_bytes, ahead):
    assert encoding.chunks_ahead(processes, shard_bytes) == ahead


@linux_only
@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path, bpe):
    parent = multiprocessing.get_context("fork").Process(
        target=write, args=(endless_documents(), tmp_path, bpe), kwargs={"processes": 2, "shard_bytes": 3000})
    parent.start()
    assert wait_for(lambda: (tmp_path / "tokens.json").exists() and len(header_of(tmp_path)["shards"]) >= 3)
    workers = children_of(parent.pid)
    assert len(workers) >= 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    shards = [path.read_bytes() for path in sorted(tmp_path.glob("shard-*.bin"))]
    alive = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert wait_for(lambda: not [pid for pid in alive if state_of(pid) not in "XZ"], 10), "workers outlive their parent"
    encoder = encoding.ShardEncoder.of(bpe, END_OF_TEXT)
    chunks = encoding.chunks_of(documents.document_parts(endless_documents(), size=3000), 3000)
    assert [encoder(chunk) for _, chunk in zip(shards, chunks)] == shards


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "X"


def test_a_worker_that_dies_is_reported(tmp_path, bpe, monkeypatch):
    class BrokenPool:
        def __init__(self, *_):
            pass

        def submit(self, *_):
            raise encoding.BrokenProcessPool("a child process terminated abruptly")

        def shutdown(self, cancel_futures):
            assert cancel_futures

    monkeypatch.setattr(encoding, "ProcessPoolExecutor", BrokenPool)
    with pytest.raises(RuntimeError, match="a worker process ended too early: put a script's code under `if __name__"):
        write(DOCUMENTS, tmp_path, bpe, processes=2)


def test_processes_by_default(tmp_path, bpe, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.setattr(token_files, "encoding_processes", lambda encoder, processes: seen.append(processes))
    with pytest.raises(TypeError):
        write_token_files(["a"], tmp_path, bpe, progress=False)
    assert seen == [7]


# --- windows ---------------------------------------------------------------------------------------------------------

def made_files(folder: Path, sizes, vocab_size=65_536, first=0, tokenizer="made") -> TokenFiles:
    """Shards of these sizes whose ids count up from `first` through all of them."""
    folder.mkdir()
    starts = first + np.cumsum([0, *sizes])
    shards = []
    for number, (size, start) in enumerate(zip(sizes, starts)):
        ids = np.arange(start, start + size, dtype="<u2").tobytes()
        shards.append(Shard(TokenHeader.shard_name(number), size, 0, 0, "", zlib.crc32(ids)))
        (folder / shards[-1].file).write_bytes(ids)
    dtype = "<u2" if vocab_size <= 2**16 else "<u4"
    TokenHeader(tokenizer, vocab_size, dtype, 0, 1000, True, shards).write(folder)
    return TokenFiles(folder)


def take(windows: TokenWindows, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [batch for _, batch in zip(range(count), windows)]


def same(first, second) -> bool:
    return all(torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other))


def test_targets_are_the_next_tokens(tmp_path):
    for inputs, targets in take(TokenWindows(made_files(tmp_path / "a", [50, 9, 70]), 8, 5), 20):
        assert inputs.shape == targets.shape == (5, 8) and inputs.dtype == targets.dtype == torch.int64
        assert torch.equal(targets, inputs + 1) and torch.equal(inputs[:, 1:], targets[:, :-1])
        assert inputs.is_contiguous() and targets.is_contiguous()


def test_every_window_is_equally_likely_and_none_crosses_shards(tmp_path):
    sizes, context = [10, 3, 4, 5, 30, 2, 5], 4
    files = made_files(tmp_path / "a", sizes)
    starts = {int(start) + place for start, size in zip(np.cumsum([0, *sizes]), sizes)
              for place in range(size - context)}
    draws = 400 * len(starts)
    inputs, targets = next(TokenWindows(files, context, draws))
    assert torch.equal(targets, inputs[:, :1] + torch.arange(1, context + 1))
    counts = Counter(inputs[:, 0].tolist())
    assert set(counts) == starts and len(starts) == 6 + 1 + 26 + 1
    chi_square = sum((count - 400) ** 2 / 400 for count in counts.values())
    assert chi_square < 64, "one time in a thousand, chi-square of 33 degrees of freedom is above 63.9"


def test_rows_come_from_the_files_by_shares(tmp_path):
    files = [made_files(tmp_path / "a", [400, 200]), made_files(tmp_path / "b", [300], first=10_000),
             made_files(tmp_path / "c", [100], first=20_000)]
    for shares, expected in ((None, [0.6, 0.3, 0.1]), ([1, 1, 2], [0.25, 0.25, 0.5]), ([0, 0.2, 0.2], [0, 0.5, 0.5])):
        windows = TokenWindows(files, 7, 20_000, shares=shares)
        origin = next(windows)[0][:, 0] // 10_000
        assert windows.shares.tolist() == pytest.approx(expected)
        assert torch.bincount(origin, minlength=3).div(20_000).tolist() == pytest.approx(expected, abs=0.015)


def test_batches_depend_on_seed_and_number_only(tmp_path):
    files = made_files(tmp_path / "a", [500, 300])
    whole = take(TokenWindows(files, 16, 3, seed=5), 30)
    assert same(take(TokenWindows(files, 16, 3, seed=5), 30), whole)
    assert not same(take(TokenWindows(files, 16, 3, seed=6), 30), whole)
    assert len({tuple(inputs[:, 0].tolist()) for inputs, _ in whole}) == 30


def test_iterating_goes_on_and_the_state_is_after_the_batches_handed_out(tmp_path):
    files = [made_files(tmp_path / "a", [500, 300]), made_files(tmp_path / "b", [90])]
    whole = take(TokenWindows(files, 16, 3, shares=[1, 2]), 12)
    windows = TokenWindows(files, 16, 3, shares=[1, 2])
    assert windows.state_dict()["batch"] == 0
    first = take(windows, 4)
    state = json.loads(json.dumps(windows.state_dict()))
    assert state["batch"] == 4 and same(first + take(windows, 3), whole[:7])
    later = TokenWindows(files, 16, 3, shares=[1, 2])
    later.load_state_dict(state)
    assert same(take(later, 8), whole[4:]) and later.state_dict()["batch"] == 12
    iterator = iter(later)
    next(iterator)
    assert later.state_dict()["batch"] == 13
    later.load_state_dict({**state, "batch": 0})
    assert same(take(later, 2), whole[:2])


def test_a_state_of_other_windows_is_refused(tmp_path):
    files = [made_files(tmp_path / "a", [500]), made_files(tmp_path / "b", [90])]
    windows = TokenWindows(files, 16, 3)
    next(windows)
    state = windows.state_dict()
    for other, message in ((TokenWindows(files, 16, 3, seed=1), "seed 0, these windows have 1: make them as they were"),
                           (TokenWindows(files, 15, 3), "context_length 16, these windows have 15"),
                           (TokenWindows(files, 16, 4), "batch_size 3, these windows have 4"),
                           (TokenWindows(files, 16, 3, shares=[1, 1]), r"shares .*, these windows have \[0.5, 0.5\]"),
                           (TokenWindows(files[:1], 16, 3), r"shares \[.*\], these windows have \[1.0\]")):
        with pytest.raises(ValueError, match=f"the state has {message}"):
            other.load_state_dict(state)
        assert other.state_dict()["batch"] == 0
    with pytest.raises(ValueError, match=r"the state has tokens \[7\], these windows have \[500, 90\]"):
        windows.load_state_dict({**state, "tokens": [7]})
    for batch in (-1, None, "3"):
        with pytest.raises(ValueError, match="the state has batch .*: it must be a number from 0"):
            windows.load_state_dict({**state, "batch": batch})
    with pytest.raises(ValueError, match="the state has seed None"):
        windows.load_state_dict({})
    assert windows.state_dict() == state


def test_shards_are_read_only_memory_maps_and_windows_views_of_them(tmp_path):
    files = made_files(tmp_path / "a", [50, 60])
    assert all(isinstance(shard, np.memmap) for shard in files.shards) and len(files.shards) == 2
    with pytest.raises(ValueError, match="read-only"):
        files.shards[0][0] = 1
    window = FileWindows(files, 8)[45]
    assert isinstance(window, np.memmap) and window.base is not None and window.tolist() == [*range(53, 62)]


@linux_only
def test_more_shards_than_a_process_may_open_files(tmp_path, monkeypatch):
    import resource

    monkeypatch.setattr(token_shards, "_OPEN_SHARDS", 20)
    files = made_files(tmp_path / "a", [12] * 100)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, limits[1]))
    try:
        next(TokenWindows(files, 8, 300))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_bad_windows(tmp_path):
    files = made_files(tmp_path / "a", [50, 60])
    short, other = made_files(tmp_path / "s", [10, 16]), made_files(tmp_path / "o", [50], vocab_size=300)
    named = made_files(tmp_path / "n", [50], tokenizer="another")
    for arguments, message in (
            (([], 8, 2), "files is empty: give at least one TokenFiles"),
            ((files, 0, 2), r"context_length \(0\) and batch_size \(2\) must be at least 1"),
            ((files, 8, 0), r"batch_size \(0\) must be at least 1"),
            ((files, 8, 2, None, -1), r"seed \(-1\) at least 0"),
            ((files, 60, 2), r"context_length \(60\) needs a shard of at least 61 tokens, the longest of .*a has 60"),
            (([files, short], 16, 2), "at least 17 tokens, the longest of .*s has 16: lower it, or write larger"),
            (([files, other], 8, 2), r"a \(65536 ids\) and .*o \(300 ids\) are of different tokenizers"),
            (([files, named], 8, 2), "are of different tokenizers: write both with the same one"),
            (([files, files], 8, 2, [1]), r"shares has shape \(1,\): give one number for each of the 2 files"),
            (([files, files], 8, 2, [2, -1]), r"shares \[2.0, -1.0\] must not be negative"),
            (([files, files], 8, 2, [0, 0]), r"shares \[0.0, 0.0\] .* sum above 0"),
            (([files, files], 8, 2, [1, float("nan")]), r"shares \[1.0, nan\] must not")):
        with pytest.raises(ValueError, match=message):
            TokenWindows(*arguments)
    next(TokenWindows(files, 59, 2))  # exactly one window fits
