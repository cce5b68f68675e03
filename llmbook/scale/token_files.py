"""Text larger than memory: token ids in files, written by many processes. `TokenWindows` reads windows of them."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from filelock import FileLock, Timeout

from ..files import replace_file
from ..progress import ProgressBar
from ..protocols import Tokenizer
from ..text import END_OF_TEXT
from .documents import Documents, document_parts, source_files, total_bytes
from .encoding import (
    ShardEncoder,
    chunks_ahead,
    chunks_of,
    count_tokens,
    encoded_in_order,
    encoding_processes,
    tokenizer_fingerprint,
)
from .token_shards import HEADER_FILE, Shard, TokenFiles, TokenHeader
from .token_windows import TokenWindows

__all__ = ["TokenFiles", "TokenWindows", "count_tokens", "tokenizer_fingerprint", "write_token_files"]

_OWN = {HEADER_FILE, ".lock", ".DS_Store", "tokenizer.json"}  # may be there before the first header is


def write_token_files(source: Documents, folder: str | Path, tokenizer: Tokenizer, text_column: str = "text",
                      processes: int | None = None, shard_bytes: int = 16_000_000, progress: bool = True,
                      end_of_text: str = END_OF_TEXT, separator: str | None = None) -> TokenFiles:
    """Tokenize texts of any size into a folder of shards, with all cores and little memory.

    Args:
        source: a folder (of its .txt and .md files, each is a document; of its .jsonl and .parquet files, each row),
            one such file, or any iterable of documents: strings, or mappings with `text_column`, as a Hugging Face
            dataset gives. Documents without text are left out.
        folder: where the shards go: a new or empty one, or one begun here. Run again after an interruption, with the
            same source from its beginning, this goes on where it stopped. One process at a time writes to it.
        processes: encode at the same time; as many as there are cores by default; 1: in this one. With more, a
            script's own code must be under `if __name__ == "__main__":`.
        shard_bytes: of UTF-8 text in a shard. About `processes` + 1 times that is in memory. Longer documents are cut
            at line ends, and each part is tokenized on its own.
        end_of_text: the special token to end each document with. Inside a document it is plain text.
        separator: what stands between the documents of one text file, for example "<|endoftext|>" on a line of its own;
            None: each text file is one document.

    Raises:
        ValueError: for a source that cannot be read (the message names file and line or row) or holds no text, a
            tokenizer without `end_of_text`, or a folder with other tokens or with other files in it.
        RuntimeError: if another process writes to the folder, or a worker process ended too early.
    """
    processes = (os.cpu_count() or 1) if processes is None else processes
    if processes < 1 or shard_bytes < 1000:
        raise ValueError(f"processes ({processes}) must be at least 1, shard_bytes ({shard_bytes}) at least 1000")
    encoder, files = ShardEncoder.of(tokenizer, end_of_text), source_files(source)
    header = TokenHeader(tokenizer_fingerprint(tokenizer), encoder.vocab_size, encoder.dtype.str, encoder.end_of_text,
                         shard_bytes)
    chunks = chunks_of(document_parts(source, text_column, separator, shard_bytes), shard_bytes)
    ahead = chunks_ahead(processes, shard_bytes)
    with ShardWriter(Path(folder), header) as writer:
        with _progress_bar(files, progress) as bar, encoding_processes(encoder, processes) as submit:
            for number, (shard, result) in enumerate(encoded_in_order(chunks, writer.keeps, submit, ahead)):
                if result is not None:
                    writer.put(number, shard, result())
                bar.update(shard["bytes"])
        writer.finish()
    return TokenFiles(folder)


class ShardWriter:
    """The one writer of a folder of shards: a context that holds the folder's lock.

    A shard comes before the header that names it: killed between the two, the next run encodes this one shard again.
    """

    def __init__(self, folder: Path, header: TokenHeader):
        """header: with the settings of this run and no shards. A header that is there already is gone on with.

        Raises ValueError if the folder holds something else, RuntimeError if another process writes to it.
        """
        self.folder = folder
        self._refuse_others()
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(folder / ".lock")
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(f"{folder} is being written by another process: wait until that ends, or give another "
                               "folder") from None
        try:
            self.header = self._begin(header)
        except BaseException:
            self.lock.release()
            raise
        self.dtype, self.count = np.dtype(header.dtype), 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.lock.release()

    def _refuse_others(self) -> None:
        """A folder with something in it that is not ours is not written to."""
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file: give a folder for the tokens")
        strange = sorted(path.name for path in self.folder.iterdir()
                         if path.name not in _OWN and not path.name.startswith(f"{HEADER_FILE}."))
        if strange and not (self.folder / HEADER_FILE).is_file():
            raise ValueError(f"{self.folder} holds {strange[0]} but no {HEADER_FILE}, so it is not from "
                             "write_token_files: give a new or empty folder")

    def _begin(self, new: TokenHeader) -> TokenHeader:
        old = TokenHeader.read(self.folder)
        for left in [*self.folder.glob("shard-*.tmp"), *self.folder.glob(f"{HEADER_FILE}.*.tmp")]:
            left.unlink()  # half a file, from a run that was killed
        if old is None or not old.shards:  # nothing that could be lost
            self._written = new.content()
            self._replace(HEADER_FILE, self._written)
            return new
        for name in TokenHeader.SETTINGS:
            if getattr(old, name) != getattr(new, name):
                raise ValueError(f"{self.folder} was begun with {name} {getattr(old, name)}, now it is "
                                 f"{getattr(new, name)}: give another folder, or remove this one")
        self._written = (self.folder / HEADER_FILE).read_bytes()
        return old

    def keeps(self, number: int, text_hash: str) -> bool:
        """Whether a shard is there already, made from text with this hash, and as it was written."""
        self.count = number + 1
        if number >= len(self.header.shards) and not self.header.complete:
            return False
        old = self.header.shards[number] if number < len(self.header.shards) else None
        if old is None or old.sha256 != text_hash:
            raise self._changed(number)
        return not old.damage(self.folder, self.dtype, self.header.vocab_size)

    def put(self, number: int, shard: dict, data: bytes) -> None:
        """Write a shard and the header that names it."""
        new = Shard(TokenHeader.shard_name(number), len(data) // self.dtype.itemsize, crc32=zlib.crc32(data), **shard)
        self._replace(new.file, data)
        self.header.put(number, new)
        self._write_header()

    def finish(self) -> None:
        """Note that no shard is missing. Raises ValueError if the source ended before the shards did."""
        if self.count < len(self.header.shards):
            raise self._changed(self.count)
        if self.count == 0:
            raise ValueError("the source holds no text: give at least one document (an iterator gives its documents "
                             "only once)")
        if not self.header.complete:
            self.header.complete = True
            self._write_header()

    def _write_header(self) -> None:
        """On disks where locks do not work, a second writer is noticed by what it wrote."""
        path = self.folder / HEADER_FILE
        if not path.is_file() or path.read_bytes() != self._written:
            raise RuntimeError(f"{path} was changed by another process: let one at a time write to this folder, then "
                               "run again")
        self._written = self.header.content()
        self._replace(HEADER_FILE, self._written)

    def _replace(self, name: str, content: bytes) -> None:
        try:
            replace_file(self.folder / name, content)
        except OSError as error:
            if error.filename is None:  # a full disk does not say where
                raise OSError(error.errno, f"{error.strerror}; make room and run again, it goes on where it stopped",
                              str(self.folder / name)) from None
            raise

    def _changed(self, number: int) -> ValueError:
        return ValueError(f"the source is not what {self.folder} was begun with: its text for shard {number} is "
                          "another (or text_column or separator is): give another folder, or remove this one")


def _progress_bar(files: Sequence[Path], progress: bool) -> ProgressBar:
    """Counts bytes of text. How many there are in all is known of text files only."""
    shown = progress and sys.stderr is not None
    return ProgressBar(total=total_bytes(files) if shown else None, unit="B", unit_scale=True, desc="tokenize",
                disable=not shown)
