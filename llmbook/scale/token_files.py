"""Data larger than memory: token ids in files, written by many processes, read in windows."""

import codecs
import io
import json
import math
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tiktoken
import torch
from torch import Tensor
from tqdm import tqdm

from ..files import replace_file
from ..formats.tokenizers import Tokenizer
from ..text import END_OF_TEXT

# --- reading a source: documents as bytes, in parts of bounded size -------------------------------

TEXT_SUFFIXES, LINES_SUFFIXES = (".txt", ".md"), (".jsonl", ".json-lines")

# The byte 0xff occurs nowhere in UTF-8, so it can stand for the end of a document. Bytes without it
# at their end are a document that goes on.
_DOCUMENT_END = b"\xff"

Documents = str | Path | Iterable[str | Mapping[str, Any]]


def _source_files(source: str | Path) -> list[Path]:
    """The files of a folder and the folders in it that hold documents, sorted; or the one file."""
    source, known = Path(source), (*TEXT_SUFFIXES, *LINES_SUFFIXES, ".parquet")
    if not source.exists():
        raise ValueError(f"{source} does not exist: give a folder or file of documents")
    if source.is_file() and source.suffix.lower() not in known:
        raise ValueError(f"{source} is not of a known kind ({', '.join(known)}): change it to one, "
                         "or give its documents as an iterable")
    files = [source] if source.is_file() else sorted(
        (path for path in source.rglob("*") if path.suffix.lower() in known and path.is_file()),
        key=lambda path: path.relative_to(source).as_posix())  # the same order on every system
    if not files:
        raise ValueError(f"{source} holds no file of a known kind ({', '.join(known)}): "
                         "give a folder that does")
    return files


def _parts(source: Documents, files: Sequence[Path], column: str, size: int) -> Iterator[bytes]:
    """All documents of a source, in order: UTF-8 in parts of at most about `size` bytes."""
    if isinstance(source, Mapping):
        raise ValueError(f"source is a mapping of {', '.join(map(str, source))[:60]}: give the "
                         "documents of one of them")
    if not isinstance(source, str | Path):
        yield from _row_parts(_item_rows(source), column, size)
    for path in files:
        if path.suffix.lower() in TEXT_SUFFIXES:
            yield from _text_file_parts(path, size)
        elif path.suffix.lower() in LINES_SUFFIXES:
            yield from _row_parts(_json_rows(path), column, size)
        else:
            yield from _row_parts(_parquet_rows(path, column), column, size)


def _text_file_parts(path: Path, size: int) -> Iterator[bytes]:
    """One document, read as `read_text` does: no byte-order mark, and line ends become `\\n`."""
    with path.open("rb") as file:
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)
        for part in _split(file, size, str(path)):
            yield part.replace(b"\r\n", b"\n")


def _split(file: BinaryIO, size: int, where: str) -> Iterator[bytes]:
    """One document in parts of at most `size` bytes; each but the last ends at a line end.

    Nothing larger than a part is ever in memory. A document of white space only is left out.
    """
    start = position = file.tell()
    while True:
        file.seek(position)
        data = file.read(size + 1)  # one byte more than a part, to see whether it is the last
        last = len(data) <= size
        part = data if last else data[:_cut(data, size)]
        try:
            blank = not part.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{where}: byte {position + error.start} (0x{part[error.start]:02x}) is not UTF-8: "
                "save it as UTF-8, or decode it yourself and pass the text") from None
        if last and blank and position == start:
            return
        yield part + _DOCUMENT_END if last else part
        if last:
            return
        position += len(part)


def _cut(data: bytes, size: int) -> int:
    """Where to cut: after the last line end before `size`; if there is none, between characters."""
    if line_end := data.rfind(b"\n", 0, size) + 1:
        return line_end
    for cut in range(size, size - 4, -1):  # a character has at most four bytes,
        if data[cut] & 0xC0 != 0x80:  # and all but its first look like 10xxxxxx
            return cut
    return size  # not UTF-8, as the caller will find


def _row_parts(rows: Iterable[tuple[str, Any]], column: str, size: int) -> Iterator[bytes]:
    """The parts of rows that are texts, or mappings with the text in a column."""
    for where, row in rows:
        if isinstance(row, Mapping) and column not in row:
            raise ValueError(f"{where} has no {column!r} (it has {', '.join(map(str, row))}): "
                             "name the column of the text by text_column")
        text = row[column] if isinstance(row, Mapping) else row
        if not isinstance(text, str):
            raise ValueError(f"{where}: the text is {str(text)[:40]!r}, of type "
                             f"{type(text).__name__}: it must be a string")
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{where}: character {error.start} ({text[error.start]!r}) has no "
                             "UTF-8: it is half of a pair, take it out") from None
        yield from _split(io.BytesIO(data), size, where)


def _item_rows(source: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """The items of any iterable, each with a name for error messages."""
    for number, item in enumerate(source, 1):
        yield f"document {number}", item


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """The objects of a JSON Lines file, one a line. Empty lines do not count."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                row = json.loads(text) if text.strip() else None
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: byte {error.start} (0x{line[error.start]:02x}) of the "
                                 "line is not UTF-8: save the file as UTF-8") from None
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where} is not JSON ({error}): give one object a line") from None
            if text.strip():
                yield where, row


def _parquet_rows(path: Path, column: str) -> Iterator[tuple[str, Any]]:
    """The rows of one column of a parquet file, a few at a time."""
    try:
        from pyarrow import ArrowException, parquet  # a large package that only this needs
    except ImportError:
        raise ImportError(f"{path} needs another package: pip install pyarrow") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            if column not in (names := file.schema_arrow.names):
                raise ValueError(f"{path} has no column {column!r} (it has {', '.join(names)}): "
                                 "name the column of the text by text_column")
            for batch in file.iter_batches(batch_size=256, columns=[column]):
                for value in batch.column(0):
                    number += 1
                    yield f"{path}, row {number}", value.as_py()
    except UnicodeDecodeError:
        raise ValueError(f"{path}, row {number} is not UTF-8: write it as UTF-8") from None
    except (ArrowException, OSError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read after row {number} ({why}): "
                         "fetch or write it again") from None


# --- from chunks of text to shards of token ids ---------------------------------------------------

def _chunks(parts: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Parts joined, in order, to chunks of at most `size` bytes (and the ends of documents)."""
    held, total = [], 0
    for part in parts:
        if held and total + len(part) > size + 1:
            yield b"".join(held)
            held, total = [], 0
        held.append(part)
        total += len(part)
    if held:
        yield b"".join(held)


@dataclass(frozen=True)
class _Encoder:
    """Turns a chunk of text into the bytes of a shard. Travels to each worker process once."""

    tokenizer: Tokenizer
    end_of_text: int
    vocab_size: int

    @property
    def dtype(self) -> np.dtype:
        """Two bytes a token where the vocabulary fits; little-endian on every machine."""
        return np.dtype("<u2" if self.vocab_size <= 2**16 else "<u4")

    def __call__(self, chunk: bytes) -> bytes:
        rows = []
        *documents, unfinished = chunk.split(_DOCUMENT_END)
        for document in documents:
            rows += [self._ids(document), np.array([self.end_of_text], self.dtype)]
        return np.concatenate([*rows, self._ids(unfinished)]).tobytes()

    def _ids(self, text: bytes) -> np.ndarray:
        # disallowed_special=(): what looks like a special token is spelled out like any other text
        ids = self.tokenizer.encode(text.decode("utf-8"), disallowed_special=())
        if ids and max(ids) >= self.vocab_size:
            raise ValueError(f"the tokenizer gave the id {max(ids)}, but says that it has "
                             f"{self.vocab_size}: its file is damaged")
        return np.array(ids, self.dtype)


_worker_encoder: _Encoder | None = None  # set in worker processes only


def _start_worker(encoder: _Encoder) -> None:
    """What a worker process does first."""
    global _worker_encoder
    _worker_encoder = encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers: they would wait for work for ever."""
    parent_process().join()
    os._exit(1)


def _encode_in_worker(chunk: bytes) -> bytes:
    return _worker_encoder(chunk)


@contextmanager
def _submitter(encoder: _Encoder, processes: int) -> Iterator[Callable[[bytes], Callable]]:
    """A function that starts to encode a chunk and returns one that waits for the result."""
    if processes == 1:
        yield lambda chunk: partial(encoder, chunk)
        return
    # "spawn" starts clean processes, on every system: a copy ("fork") of one with threads can hang
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _start_worker, (encoder,))
    try:
        yield lambda chunk: pool.submit(_encode_in_worker, chunk).result
    except BrokenProcessPool:
        raise RuntimeError(
            "a worker process ended too early: put a script's code under `if __name__ == "
            "\"__main__\":`, or, if memory ran out, give fewer processes; then run again to go on "
            "where this stopped") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(chunks: Iterable[bytes], is_kept: Callable[[int, str], bool], submit: Callable,
              ahead: int) -> Iterator[tuple[dict[str, Any], Callable | None]]:
    """Each chunk's shard: what the header says of it, and how to get its bytes (None: kept).

    At most `ahead` + 1 chunks are in memory: the reading waits for the encoding.
    """
    waiting: deque[tuple[dict[str, Any], Callable | None]] = deque()
    for index, chunk in enumerate(chunks):
        documents = chunk.count(_DOCUMENT_END)
        shard = {"file": f"shard-{index:05}.bin", "tokens": 0, "documents": documents,
                 "bytes": len(chunk) - documents, "sha256": sha256(chunk).hexdigest()}
        waiting.append((shard, None if is_kept(index, shard["sha256"]) else submit(chunk)))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


# --- the header, which says what the shards are ---------------------------------------------------

def _fingerprint(tokenizer: Tokenizer) -> str:
    """A hash of all that decides which ids a text gets."""
    if isinstance(tokenizer, tiktoken.Encoding):
        ranks, special = tokenizer._mergeable_ranks, tokenizer._special_tokens
        content = repr((tokenizer._pat_str, sorted(ranks.items()), sorted(special.items())))
    else:
        content = tokenizer._tokenizer.to_str()
    return sha256(content.encode("utf-8")).hexdigest()[:16]


def _make_encoder(tokenizer: Tokenizer, end_of_text: str) -> _Encoder:
    if end_of_text not in tokenizer.special_tokens_set:
        known = ", ".join(sorted(tokenizer.special_tokens_set)[:5]) or "none"
        raise ValueError(f"the tokenizer has no special token {end_of_text!r} to end documents "
                         f"with: name one of its own by end_of_text (it has {known})")
    end = tokenizer.encode(end_of_text, allowed_special="all")[0]
    return _Encoder(tokenizer, end, tokenizer.n_vocab)


_HEADER = ("format", "complete", "tokenizer", "vocab_size", "dtype", "end_of_text", "shard_bytes",
           "shards")


def _read_header(folder: Path) -> dict[str, Any] | None:
    """The header of a folder of shards; None if there is none."""
    path = folder / "tokens.json"
    if not path.is_file():
        return None
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        if header["format"] == 1 and all(
                isinstance(shard["tokens"], int) and {"file", "sha256"} <= shard.keys()
                for shard in header["shards"]):
            return {name: header[name] for name in _HEADER}
        why = f"format {header['format']}"
    except (ValueError, KeyError, TypeError) as error:
        why = repr(error)
    raise ValueError(f"{path} is not a header from write_token_files ({why}): "
                     "give another folder, or remove this one")


def _write_header(folder: Path, header: Mapping[str, Any]) -> None:
    replace_file(folder / "tokens.json", (json.dumps(header, indent=1) + "\n").encode("utf-8"))


def _open_folder(folder: Path, header: dict[str, Any]) -> dict[str, Any]:
    """The header to go on with: that of an earlier run with the same settings, or this new one."""
    old = _read_header(folder)
    if old is None and (strays := sorted(folder.glob("shard-*.bin"))):
        raise ValueError(f"{strays[0]} is there, but no tokens.json that says what it is: "
                         "give another folder, or remove this one")
    for left in [*folder.glob("shard-*.tmp"), *folder.glob("tokens.json.*.tmp")]:
        left.unlink()  # half a file, from a run that was killed
    if old is None or not old["shards"]:  # nothing that could be lost
        folder.mkdir(parents=True, exist_ok=True)
        _write_header(folder, header)
        return header
    for name in ("tokenizer", "vocab_size", "dtype", "end_of_text", "shard_bytes"):
        if old[name] != header[name]:
            raise ValueError(f"{folder} was begun with {name} {old[name]}, now it is "
                             f"{header[name]}: give another folder, or remove this one")
    return old


def _is_kept(folder: Path, header: Mapping[str, Any], index: int, sha: str) -> bool:
    """Whether a shard is there already, made from text with this hash."""
    if index >= len(header["shards"]) and not header["complete"]:
        return False
    old = header["shards"][index] if index < len(header["shards"]) else None
    if old is None or old["sha256"] != sha:
        raise _source_changed(folder, index)
    return _size(folder / old["file"]) == old["tokens"] * np.dtype(header["dtype"]).itemsize


def _source_changed(folder: Path, index: int) -> ValueError:
    return ValueError(f"the source is not what {folder} was begun with: its text for shard {index} "
                      "is another (or text_column is): give another folder, or remove this one")


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def write_token_files(source: Documents, folder: str | Path, tokenizer: Tokenizer,
                      text_column: str = "text", processes: int | None = None,
                      shard_bytes: int = 16_000_000, progress: bool = True,
                      end_of_text: str = END_OF_TEXT) -> "TokenFiles":
    """Tokenize texts of any size into a folder of shards, with all cores and little memory.

    Args:
        source: a folder (of its .txt and .md files, each is a document; of its .jsonl and .parquet
            files, each row), one such file, or any iterable of documents: strings, or mappings with
            `text_column`, as a Hugging Face dataset gives. Documents without text are left out.
        folder: where the shards go. Run again after an interruption, with the same source from its
            beginning, this goes on where it stopped.
        processes: encode at the same time; as many as there are cores by default; 1: in this one.
            With more, a script's own code must be under `if __name__ == "__main__":`.
        shard_bytes: of UTF-8 text in a shard. About `processes` + 1 times that is in memory. Longer
            documents are cut at line ends, and each part is tokenized on its own.
        end_of_text: the special token to end each document with. Inside a document it is no token.

    Raises:
        ValueError: for a source that cannot be read (the message names file and line or row) or
            holds no text, a tokenizer without `end_of_text`, or a folder with other tokens in it.
    """
    processes = (os.cpu_count() or 1) if processes is None else processes
    if processes < 1 or shard_bytes < 1000:
        raise ValueError(f"processes ({processes}) must be at least 1, shard_bytes ({shard_bytes}) "
                         "at least 1000")
    encoder, folder = _make_encoder(tokenizer, end_of_text), Path(folder)
    files = _source_files(source) if isinstance(source, str | Path) else []
    header = _open_folder(folder, {
        "format": 1, "complete": False, "tokenizer": _fingerprint(tokenizer),
        "vocab_size": encoder.vocab_size, "dtype": encoder.dtype.str,
        "end_of_text": encoder.end_of_text, "shard_bytes": shard_bytes, "shards": []})
    chunks = _chunks(_parts(source, files, text_column, shard_bytes), shard_bytes)
    _write_shards(chunks, folder, header, encoder, processes, _progress_bar(files, progress))
    return TokenFiles(folder)


def _write_shards(chunks: Iterable[bytes], folder: Path, header: dict[str, Any], encoder: _Encoder,
                  processes: int, bar: tqdm) -> None:
    """Only this process writes. A shard comes before the header that names it: killed between the
    two, the next run encodes this one shard again."""
    count = 0
    with bar, _submitter(encoder, processes) as submit:
        ahead = processes if processes > 1 else 0
        for shard, result in _in_order(chunks, partial(_is_kept, folder, header), submit, ahead):
            if result is not None:
                data = result()
                shard["tokens"] = len(data) // encoder.dtype.itemsize
                replace_file(folder / shard["file"], data)
                header["shards"][count : count + 1] = [shard]
                _write_header(folder, header)
            count += 1
            bar.update(shard["bytes"])
    if count < len(header["shards"]):
        raise _source_changed(folder, count)
    if count == 0:
        raise ValueError("the source holds no text: give at least one document (an iterator gives "
                         "its documents only once)")
    if not header["complete"]:
        _write_header(folder, {**header, "complete": True})


def _progress_bar(files: Sequence[Path], progress: bool) -> tqdm:
    """Counts bytes of text. How many there are in all is known of text files only."""
    plain = files and all(path.suffix.lower() in TEXT_SUFFIXES for path in files)
    total = sum(path.stat().st_size for path in files) if plain and progress else None
    return tqdm(total=total, unit="B", unit_scale=True, desc="tokenize", disable=not progress)


# --- reading the shards ---------------------------------------------------------------------------

_OPEN_SHARDS = 128  # an open one counts as an open file, of which many systems allow 256 or 1024


class _Shards(Sequence):
    """The shards as read-only arrays (tokens,), mapped into memory when asked for.

    Only the last ones stay open: there can be more shards than a process may have files.
    """

    def __init__(self, paths: Sequence[Path], dtype: np.dtype):
        self.paths = paths
        self._map = lru_cache(_OPEN_SHARDS)(partial(np.memmap, dtype=dtype, mode="r"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.memmap:
        return self._map(self.paths[index])


class TokenFiles:
    """A folder that `write_token_files` wrote. `len()` is its number of tokens.

    Attributes:
        vocab_size: ids are below this. end_of_text: the id that ends each document.
        tokenizer: a fingerprint of the tokenizer.
        shards: a sequence of read-only memory maps, each (tokens,): what is not looked at is not
            read from the disk.
        sizes: tokens in each shard, (shards,), int64.

    Raises:
        FileNotFoundError: if the folder holds no header.
        ValueError: if the writing was not finished, or a shard is missing or not of its size.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        header = _read_header(self.folder)
        if header is None:
            raise FileNotFoundError(f"{self.folder / 'tokens.json'} does not exist: give a folder "
                                    "that write_token_files wrote")
        if not header["complete"]:
            raise ValueError(f"{self.folder} is not complete: run write_token_files again with the "
                             "same arguments, it goes on where it stopped")
        dtype = np.dtype(header["dtype"])
        paths = [self.folder / shard["file"] for shard in header["shards"]]
        self.sizes = np.array([shard["tokens"] for shard in header["shards"]], np.int64)
        self.vocab_size, self.tokenizer = header["vocab_size"], header["tokenizer"]
        self.end_of_text, self.shards = header["end_of_text"], _Shards(paths, dtype)
        for path, expected in zip(paths, self.sizes * dtype.itemsize):
            if (found := _size(path)) != expected:
                state = "is missing" if found is None else f"has {found:,} bytes, not {expected:,}"
                raise ValueError(f"{path} {state}: run write_token_files again with the same "
                                 "arguments, it writes this one anew")

    def __len__(self) -> int:
        return int(self.sizes.sum())


class _FileWindows(Sequence):
    """All windows of one file, by number: each (context_length + 1,), inputs and last target.

    A shard of n tokens has n - context_length places where one fits. Counted through all shards,
    each window has a number, so that drawing a number makes all of them equally likely.
    """

    def __init__(self, file: TokenFiles, context_length: int):
        self.shards, self.context_length = file.shards, context_length
        self.places = np.maximum(file.sizes - context_length, 0)  # in each shard
        self.ends = self.places.cumsum()  # the number after each shard's last window

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, number: int) -> np.ndarray:
        shard = int(np.searchsorted(self.ends, number, side="right"))
        start = int(number - self.ends[shard] + self.places[shard])
        return self.shards[shard][start : start + self.context_length + 1]  # a view of the file


def _draw_windows(files: Sequence[_FileWindows], shares: np.ndarray, batch_size: int, seed: int,
                  batch: int) -> Tensor:
    """Batch number `batch`: ids (batch_size, context_length + 1). The same for the same arguments:
    nothing has to be remembered of the batches before it."""
    random = np.random.default_rng([seed, batch])
    chosen = random.choice(len(files), batch_size, p=shares)  # a file for each row
    ids = torch.empty(batch_size, files[0].context_length + 1, dtype=torch.int64)
    for row, file in zip(ids.numpy(), chosen):
        row[:] = files[file][random.integers(len(files[file]))]  # only this is read from the disk
    return ids


class TokenWindows(Iterator):
    """Endless batches of random windows: (inputs, targets), int64, (batch_size, context_length).

    files: one `TokenFiles`, or several of the same tokenizer.
    context_length: tokens in a window. No window crosses two shards.
    shares: how much of the batches each file gives, in proportion to its tokens by default. Within
        a file all windows are equally likely.
    seed: batch number i depends on seed and i alone.

    Iterating goes on from the current position. `state_dict()` is the position after the batches
    handed out so far; `load_state_dict` goes there.
    Raises ValueError for sizes, shares or files that do not fit together.
    Source: shares: Brown et al., "Language Models are Few-Shot Learners" (2020), table 2.2.
    """

    def __init__(self, files: TokenFiles | Sequence[TokenFiles], context_length: int,
                 batch_size: int, shares: Sequence[float] | None = None, seed: int = 0):
        files = [files] if isinstance(files, TokenFiles) else list(files)
        _check_windows(files, context_length, batch_size, seed)
        self.shares, self.batch_size, self.seed = _normalised(shares, files), batch_size, seed
        self.windows = [_FileWindows(file, context_length) for file in files]
        self.batch, self.tokens = 0, [len(file) for file in files]

    def __next__(self) -> tuple[Tensor, Tensor]:
        ids = _draw_windows(self.windows, self.shares, self.batch_size, self.seed, self.batch)
        self.batch += 1
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def state_dict(self) -> dict[str, Any]:
        return {"batch": self.batch, "seed": self.seed, "batch_size": self.batch_size,
                "context_length": self.windows[0].context_length, "shares": self.shares.tolist(),
                "tokens": self.tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.batch = _checked_position(state, self.state_dict())


def _checked_position(state: Mapping[str, Any], own: Mapping[str, Any]) -> int:
    """The position in a state, if it is one in the same batches as our own."""
    for name in own:
        if name != "batch" and state.get(name) != own[name]:
            raise ValueError(f"the state has {name} {state.get(name)}, these windows have "
                             f"{own[name]}: make them as they were, or begin anew")
    if not isinstance(batch := state.get("batch"), int) or batch < 0:
        raise ValueError(f"the state has batch {batch!r}: it must be a number from 0")
    return batch


def _check_windows(files: Sequence[TokenFiles], context_length: int, batch_size: int,
                   seed: int) -> None:
    if not files:
        raise ValueError("files is empty: give at least one TokenFiles")
    if context_length < 1 or batch_size < 1 or seed < 0:
        raise ValueError(f"context_length ({context_length}) and batch_size ({batch_size}) must be "
                         f"at least 1, seed ({seed}) at least 0")
    for file in files:
        first = files[0]
        if (file.vocab_size, file.tokenizer) != (first.vocab_size, first.tokenizer):
            raise ValueError(f"{first.folder} ({first.vocab_size} ids) and {file.folder} "
                             f"({file.vocab_size} ids) are of different tokenizers: "
                             "write both with the same one")
        if file.sizes.max() <= context_length:
            raise ValueError(f"context_length ({context_length}) needs a shard of at least "
                             f"{context_length + 1} tokens, the longest of {file.folder} has "
                             f"{file.sizes.max()}: lower it, or write larger shards")


def _normalised(shares: Sequence[float] | None, files: Sequence[TokenFiles]) -> np.ndarray:
    """Shares that add up to 1, (files,); in proportion to the tokens if none are given."""
    weights = np.array([len(file) for file in files] if shares is None else shares, np.float64)
    if weights.shape != (len(files),):
        raise ValueError(f"shares has shape {weights.shape}: give one number for each of the "
                         f"{len(files)} files")
    if not (math.isfinite(weights.sum()) and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError(f"shares {weights.tolist()} must not be negative, and their sum above 0")
    return weights / weights.sum()
