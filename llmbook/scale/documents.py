"""Where documents come from: text, JSON Lines and Parquet files, folders of them, and streams, of any size.

A document is a text. Nothing in it is a command: what looks like a special token, `<|endoftext|>` for example, is plain
text, unless the reader asks by `separator` to cut text files there. `read_documents`, `sample_documents`,
`llmbook.scale.token_files` and `llmbook.text.train_bpe`, given documents, all hold to that.
"""

from __future__ import annotations

import codecs
import io
import json
import random
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["DOCUMENT_END", "Documents", "document_parts", "read_documents", "sample_documents",
           "source_files", "spread_documents"]

TEXT_SUFFIXES, LINES_SUFFIXES = (".txt", ".md"), (".jsonl", ".json-lines")

DOCUMENT_END = b"\xff"
"""The end of a document in a row of parts. This byte occurs nowhere in UTF-8; bytes without it at their end are of a
document that goes on."""

Documents = str | Path | Iterable[str | Mapping[str, Any]]
"""A file, a folder of files, or any iterable of texts or of rows with the text in a column."""

_MOST_BLANK = 1_000_000  # rows without text, one after the other, before the wrong column or a loop is suspected
_BLOCK = 1 << 20
_SPOT = 16_000  # bytes of text to take at each place of a sample from everywhere


def source_files(source: Documents) -> list[Path]:
    """The files of a source: those of a folder and the folders in it that hold documents, sorted; or the one file; none
    of an iterable.

    Raises:
        ValueError: if nothing is there, or nothing of a known kind.
    """
    if isinstance(source, Mapping):
        raise ValueError(f"source is a mapping of {_names(source)}: give the documents of one of "
                         "them")
    if not isinstance(source, str | Path):
        if not isinstance(source, Iterable):
            raise ValueError(f"source is {source!r:.60}: give a folder, a file, or an iterable of documents")
        return []
    if not str(source):
        raise ValueError("source is an empty name: give a folder or file of documents ('.' for the current folder)")
    source, known = Path(source), (*TEXT_SUFFIXES, *LINES_SUFFIXES, ".parquet")
    if not source.exists():
        raise ValueError(f"{source} does not exist: give a folder or file of documents")
    if source.is_file() and source.suffix.lower() not in known:
        raise ValueError(f"{source} is not of a known kind ({', '.join(known)}): change it to one, or give its "
                         "documents as an iterable")
    files = [source] if source.is_file() else sorted(
        (path for path in source.rglob("*") if path.suffix.lower() in known and path.is_file()),
        key=lambda path: path.relative_to(source).as_posix())  # the same order on every system
    if not files:
        raise ValueError(f"{source} holds no file of a known kind ({', '.join(known)}): give a folder that does")
    return files


def document_parts(source: Documents, text_column: str = "text", separator: str | None = None,
                   size: int = _BLOCK) -> Iterator[bytes]:
    """All documents of a source, in order: UTF-8 in parts of at most about `size` bytes, the last part of each document
    with `DOCUMENT_END` behind it.

    Nothing larger than a part is in memory. A long document is cut at line ends. Line ends of text files become `\\n`.
    Documents of white space are left out.

    Args:
        source: a folder (of its .txt and .md files, each is a document; of its .jsonl and .parquet files, each row),
            one such file, or any iterable of texts, or of mappings with the text in `text_column`.
        separator: cut the text files of the source wherever this stands, and leave it out. None: nowhere.
        size: of a part, at least 4.

    Raises:
        ValueError: for what cannot be read. The message names file and line or row.
    """
    if separator == "":
        raise ValueError("separator is empty: give what stands between two documents, or None")
    files = source_files(source)  # before the first part: what is wrong with the source is said at once
    if isinstance(source, str | Path):
        return (part for path in files for part in _file_parts(path, text_column, separator, size))
    return _row_parts(_item_rows(source), text_column, size)


def read_documents(source: Documents, text_column: str = "text", separator: str | None = None) -> Iterator[str]:
    """All documents of a source, in order, each a whole text. Arguments and errors as `document_parts`."""
    held: list[bytes] = []
    for part in document_parts(source, text_column, separator):
        held.append(part.removesuffix(DOCUMENT_END))
        if part.endswith(DOCUMENT_END):
            yield b"".join(held).decode("utf-8")
            held = []


def sample_documents(source: Documents, text_column: str = "text", separator: str | None = None,
                     at_most_bytes: int = 4_000_000) -> tuple[list[str], int | None]:
    """The first documents of a source, to learn a vocabulary from or to estimate lengths.

    Args:
        source, text_column, separator: as for `document_parts`. An iterable that is no file is read whole.
        at_most_bytes: of text. The last document may be cut there.

    Returns:
        The documents, and None if these are all; else the size in bytes of all the source's files.
    """
    documents: list[str] = []
    held, read, files = [], 0, source_files(source)
    for part in document_parts(source, text_column, separator):
        if files and read and read + len(part) > at_most_bytes:
            documents += [b"".join(held).decode("utf-8")] if held else []
            return documents, sum(path.stat().st_size for path in files)
        read += len(part)
        held.append(part.removesuffix(DOCUMENT_END))
        if part.endswith(DOCUMENT_END):
            documents.append(b"".join(held).decode("utf-8"))
            held = []
    return documents, None


def spread_documents(sources: Sequence[Documents], text_column: str = "text", separator: str | None = None,
                     at_most_bytes: int = 10_000_000, seed: int = 0) -> Iterator[str]:
    """Documents from everywhere in some sources, to learn a vocabulary from. The same seed draws the same ones.

    Every file is read at one place, if there are not too many files, and at more of them the larger it is; the places
    are drawn. What is taken there is some rows, or lines of a text file: about 16 kB, so that a long document is cut.

    Args:
        sources: each as for `document_parts`. Iterables that are no files are read whole.
        text_column, separator: as for `document_parts`.
        at_most_bytes: of files, about. Where all of them have no more, all documents are given, in order.
        seed: decides the places.
    """
    files = [path for source in sources for path in source_files(source)]
    sizes = [path.stat().st_size for path in files]
    for source in sources:
        if sum(sizes) <= at_most_bytes or not isinstance(source, str | Path):
            yield from read_documents(source, text_column, separator)
    if sum(sizes) > at_most_bytes:
        draw = random.Random(seed)
        for path, size, places in zip(files, sizes, _places(sizes, max(2, at_most_bytes // _SPOT), draw)):
            if places:
                starts = [0] if size <= places * _SPOT else _starts(path, size, places, draw)
                taken = places * _SPOT // len(starts)
                found = [text for start in starts for text in _texts_at(path, start, taken, text_column, separator)]
                yield from found or _texts_at(path, 0, taken, text_column, separator)  # one long row may be all


def _places(sizes: Sequence[int], count: int, draw: random.Random) -> list[int]:
    """How many of `count` places are in each file. Half of them go to a file each, to files that are drawn if there are
    more; the rest is evenly spread over all bytes."""
    places = [0] * len(sizes)
    for index in draw.sample(range(len(sizes)), min(len(sizes), count // 2)):
        places[index] = 1
    rest, ends = count - sum(places), [*accumulate(sizes)]
    step = ends[-1] / rest
    for number in range(rest):
        places[bisect(ends, (number + draw.random()) * step, hi=len(ends) - 1)] += 1
    return places


def _starts(path: Path, size: int, places: int, draw: random.Random) -> list[int]:
    """Where to read a file that is larger than what is taken of it: a place in each of so many equal stretches of it.
    In a Parquet file: row groups, by number."""
    if path.suffix.lower() == ".parquet":
        groups = _row_groups(path)
        return sorted(draw.sample(range(groups), min(groups, places)))
    stretch = size / places
    return [int(stretch * number + draw.random() * (stretch - _SPOT)) for number in range(places)]


def _texts_at(path: Path, start: int, size: int, column: str, separator: str | None) -> Iterator[str]:
    """Texts of at most about `size` bytes together, from a place in a file on."""
    taken = 0
    for part in _file_parts(path, column, separator, size, start):
        if taken and taken + len(part) > size:
            return
        taken += len(part)
        yield part.removesuffix(DOCUMENT_END).decode("utf-8")


# --- the kinds of files ------------------------------------------------------------------------------------------

def _file_parts(path: Path, column: str, separator: str | None, size: int, start: int = 0) -> Iterator[bytes]:
    """The parts of a file's documents. start: the byte after which the first line begins, 0 for all of the file; of a
    Parquet file, the number of a row group."""
    if path.suffix.lower() in TEXT_SUFFIXES:
        return _text_file_parts(path, separator, size, start)
    rows = _json_rows(path, start) if path.suffix.lower() in LINES_SUFFIXES else _parquet_rows(path, column, start)
    return _row_parts(rows, column, size)


def _text_file_parts(path: Path, separator: str | None, size: int, start: int) -> Iterator[bytes]:
    """One document, or those between separators, read as `llmbook.text.read_text` does: no byte-order mark, and line
    ends become `\\n`."""
    with path.open("rb") as file:
        if start:
            start = _next_line(file, start)
        else:
            start = 3 if file.read(3) == codecs.BOM_UTF8 else 0
        for first, end in _spans(file, start, separator):
            for part in _split(file, first, end, size, str(path)):
                yield part.replace(b"\r\n", b"\n")


def _next_line(file: BinaryIO, place: int) -> int:
    """Where the next line begins; where the next character does if there is none, or it is far away."""
    file.seek(place)
    line = file.readline(_BLOCK)
    if line.endswith(b"\n") and file.read(1):
        return place + len(line)
    return place + next((skipped for skipped, byte in enumerate(line[:4]) if byte & 0xC0 != 0x80), 0)


def _spans(file: BinaryIO, start: int, separator: str | None) -> Iterator[tuple[int, int]]:
    """Where each document of a file begins and ends, in bytes."""
    if separator is None:
        yield start, file.seek(0, io.SEEK_END)
        return
    border, document, position = separator.encode("utf-8"), start, start
    while True:
        file.seek(position)  # whoever reads the documents moves it
        block, at = file.read(_BLOCK + len(border)), 0
        while (place := block.find(border, at)) >= 0:
            yield document, position + place
            at = place + len(border)
            document = position + at
        if len(block) < _BLOCK + len(border):
            yield document, position + len(block)
            return
        position += max(at, len(block) - len(border) + 1)  # the next border may have begun in this block


def _split(file: BinaryIO, start: int, end: int, size: int, where: str) -> Iterator[bytes]:
    """The document in bytes `start` to `end` of a file, in parts of at most `size` bytes; each but the last ends at a
    line end. A document of white space only is left out."""
    position = start
    while True:
        file.seek(position)
        data = file.read(min(size + 1, end - position))  # one byte more than a part, to see whether it is the last
        last = len(data) <= size
        part = data if last else data[:_cut(data, size)]
        try:
            blank = not part.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: byte {position + error.start} (0x{part[error.start]:02x}) is not UTF-8: save "
                             "it as UTF-8, or decode it yourself and pass the text") from None
        if last and blank and position == start:
            return
        yield part + DOCUMENT_END if last else part
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
    blank = 0
    for where, row in rows:
        if isinstance(row, Mapping) and column not in row:
            raise ValueError(f"{where} has no {column!r} (it has {_names(row)}): name the column of the text by "
                             "text_column")
        text = row[column] if isinstance(row, Mapping) else row
        if not isinstance(text, str):
            raise ValueError(f"{where}: the text is {str(text)[:40]!r}, of type {type(text).__name__}: it must be a "
                             "string")
        blank = blank + 1 if not text or text.isspace() else 0
        if blank == _MOST_BLANK:
            raise ValueError(f"{where} is the last of {blank:,} documents in a row without text: name the column of "
                             "the text by text_column, or leave them out")
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{where}: character {error.start} ({text[error.start]!r}) has no UTF-8: it is half of a "
                             "pair, take it out") from None
        yield from _split(io.BytesIO(data), 0, len(data), size, where)


def _names(columns: Iterable[Any]) -> str:
    """Some of them, in one line."""
    return ", ".join(name if (name := str(column)).isprintable() else repr(name) for column in columns)[:80]


def _item_rows(source: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """The items of any iterable, each with a name for error messages."""
    for number, item in enumerate(source, 1):
        yield f"document {number}", item


def _json_rows(path: Path, start: int = 0) -> Iterator[tuple[str, Any]]:
    """The objects of a JSON Lines file, one a line. Empty lines do not count. start: a byte; the line after it is the
    first."""
    with path.open("rb") as file:
        file.seek(start)
        if start:
            file.readline()
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}" + (f" after byte {start}" if start else "")
            try:
                text = line.decode("utf-8-sig" if number == 1 and not start else "utf-8")
                row = json.loads(text) if text.strip() else None
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: byte {error.start} (0x{line[error.start]:02x}) of the line is not UTF-8: "
                                 "save the file as UTF-8") from None
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where} is not JSON ({error}): give one object a line") from None
            if text.strip():
                yield where, row


def _row_groups(path: Path) -> int:
    """How many row groups a parquet file has; 1 if it cannot be read, as its reader will say."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        return 1
    try:
        return max(1, parquet.read_metadata(path).num_row_groups)
    except (ArrowException, OSError):
        return 1


def _parquet_rows(path: Path, column: str, start: int = 0) -> Iterator[tuple[str, Any]]:
    """The rows of one column of a parquet file, a few at a time, from a row group on."""
    try:
        from pyarrow import ArrowException, parquet  # a large package that only this needs
    except ImportError:
        raise ImportError(f"{path} needs another package: pip install pyarrow") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            number = sum(file.metadata.row_group(group).num_rows for group in range(start))
            if column not in (names := file.schema_arrow.names):
                raise ValueError(f"{path} has no column {column!r} (it has {_names(names)}): name the column of the "
                                 "text by text_column")
            groups = range(start, file.num_row_groups)
            for batch in file.iter_batches(batch_size=256, row_groups=groups, columns=[column]):
                for value in batch.column(0):
                    number += 1
                    yield f"{path}, row {number}", value.as_py()
    except UnicodeDecodeError:
        raise ValueError(f"{path}, row {number} is not UTF-8: write it as UTF-8") from None
    except (ArrowException, OSError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read after row {number} ({why}): fetch or write it again") from None


def total_bytes(files: Sequence[Path]) -> int | None:
    """The size of the text in files, if it is known without reading them: text files only."""
    plain = files and all(path.suffix.lower() in TEXT_SUFFIXES for path in files)
    return sum(path.stat().st_size for path in files) if plain else None
