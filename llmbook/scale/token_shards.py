"""A folder of token ids on disk: its header, its shards, and whether they are what was written."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replace_file

__all__ = ["HEADER_FILE", "Shard", "TokenFiles", "TokenHeader"]

HEADER_FILE = "tokens.json"
AGAIN = "run write_token_files again with the same arguments"
_OPEN_SHARDS = 128  # an open one counts as an open file, of which many systems allow 256 or 1024


@dataclass(frozen=True)
class Shard:
    """What the header says of one shard. sha256: of the text it was made from, with the ends of documents; crc32: of
    the shard's own bytes, None if 0.1.0 wrote it."""

    file: str
    tokens: int
    documents: int
    bytes: int
    sha256: str
    crc32: int | None = None

    def damage(self, folder: Path, dtype: np.dtype, vocab_size: int, content: bool = True) -> str | None:
        """What is wrong with the file, None if nothing is. content: read all of it, instead of asking for its size."""
        path = folder / self.file
        size, expected = path.stat().st_size if path.is_file() else None, self.tokens * dtype.itemsize
        if size != expected:
            return "is missing" if size is None else f"has {size:,} bytes, not {expected:,}"
        if not content or not self.tokens:
            return None
        ids = np.memmap(path, dtype, mode="r")
        if self.crc32 is not None and (found := zlib.crc32(ids)) != self.crc32:
            return f"is damaged (its checksum is {found}, not {self.crc32})"
        if (largest := int(ids.max())) >= vocab_size:
            return f"is damaged (it holds the id {largest}, the vocabulary has {vocab_size})"
        return None


@dataclass
class TokenHeader:
    """`tokens.json`: how the shards of a folder were made, and what each of them is.

    tokenizer: its fingerprint. dtype: of an id. end_of_text: the id that ends each document. shard_bytes: of text in a
    shard, at most.
    """

    tokenizer: str
    vocab_size: int
    dtype: str
    end_of_text: int
    shard_bytes: int
    complete: bool = False
    shards: list[Shard] = field(default_factory=list)
    _lines: list[str] = field(default_factory=list, init=False, repr=False, compare=False)  # of JSON, one a shard

    SETTINGS = ("tokenizer", "vocab_size", "dtype", "end_of_text", "shard_bytes")

    @classmethod
    def read(cls, folder: Path) -> TokenHeader | None:
        """The header of a folder, None if it has none. Raises ValueError if it is not what was written."""
        path = folder / HEADER_FILE
        if not path.is_file():
            return None
        try:
            return cls._of(json.loads(path.read_bytes()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = str(error) if type(error) is ValueError else repr(error)
        raise ValueError(f"{path} is not a header from write_token_files ({why}): give another folder, or remove this "
                         "one")

    @classmethod
    def _of(cls, content: dict[str, Any]) -> TokenHeader:
        if content["format"] != 1:
            raise ValueError(f"format {content['format']}")
        shards = [Shard(**{name: value for name, value in shard.items() if name in Shard.__dataclass_fields__})
                  for shard in content["shards"]]
        header = cls(**{name: content[name] for name in cls.SETTINGS}, complete=content["complete"], shards=shards)
        if "checksum" in content and content["checksum"] != header.checksum():  # 0.1.0 wrote none
            raise ValueError(f"its checksum is {header.checksum()}, not {content['checksum']}: it is damaged")
        numbers = (header.vocab_size, header.end_of_text, header.shard_bytes, *(shard.tokens for shard in shards))
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("a size is not a number from 0")
        if header.dtype != ("<u2" if header.vocab_size <= 2**16 else "<u4") or header.end_of_text >= header.vocab_size:
            raise ValueError(f"ids of {header.dtype} up to {header.end_of_text} do not fit {header.vocab_size}")
        if header.complete not in (True, False) or (header.complete and not shards):
            raise ValueError("it is complete without a shard")
        if wrong := [shard.file for number, shard in enumerate(shards) if shard.file != cls.shard_name(number)]:
            raise ValueError(f"it names {wrong[0]!r} as a shard")
        return header

    @staticmethod
    def shard_name(number: int) -> str:
        return f"shard-{number:05}.bin"

    def checksum(self) -> str:
        """A hash of everything that the header says."""
        self._lines[:] = self._lines if len(self._lines) == len(self.shards) else map(self._line, self.shards)
        settings = json.dumps([*(getattr(self, name) for name in self.SETTINGS), self.complete])
        return sha256("\n".join([settings, *self._lines]).encode("utf-8")).hexdigest()[:16]

    @staticmethod
    def _line(shard: Shard) -> str:
        return json.dumps({name: value for name, value in asdict(shard).items() if value is not None})

    def put(self, number: int, shard: Shard) -> None:
        """Add a shard at the end, or replace one."""
        self.checksum()  # so that the lines are all there
        self.shards[number : number + 1] = [shard]
        self._lines[number : number + 1] = [self._line(shard)]

    def content(self) -> bytes:
        """The file: one line a shard, so that a header of many thousand is written quickly."""
        checksum = self.checksum()
        settings = {"format": 1, "complete": self.complete, **{name: getattr(self, name) for name in self.SETTINGS},
                    "checksum": checksum}
        lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in settings.items()]
        shards = ",\n  ".join(self._lines)
        return ("{\n" + ",\n".join(lines) + ',\n "shards": [\n  ' + shards + "\n ]\n}\n").encode("utf-8")

    def write(self, folder: Path, complete: bool | None = None) -> bytes:
        """Write it, and return what was written."""
        if complete is not None:
            self.complete = complete
        replace_file(folder / HEADER_FILE, content := self.content())
        return content


class TokenShards(Sequence):
    """The shards of a folder as read-only arrays (tokens,), mapped into memory when asked for.

    A shard's bytes are checked the first time that it is asked for. Only the last ones stay open: there can be more
    shards than a process may have files.
    """

    def __init__(self, folder: Path, header: TokenHeader, verify: bool = True):
        self.folder, self.header, self.dtype = folder, header, np.dtype(header.dtype)
        self.trusted = [not verify] * len(header.shards)
        self._map = lru_cache(_OPEN_SHARDS)(lambda number: np.memmap(
            folder / header.shards[number].file, self.dtype, mode="r"))

    def __len__(self) -> int:
        return len(self.header.shards)

    def __getitem__(self, index: int) -> np.memmap:
        if not self.trusted[index]:
            self.check(index)
            self.trusted[index] = True
        return self._map(index)

    def check(self, index: int, content: bool = True) -> None:
        """Raises ValueError if a shard is not what was written."""
        shard = self.header.shards[index]
        if damage := shard.damage(self.folder, self.dtype, self.header.vocab_size, content):
            raise ValueError(f"{self.folder / shard.file} {damage}: {AGAIN}, it writes this one anew")


class TokenFiles:
    """A folder that `write_token_files` wrote. `len()` is its number of tokens.

    Args:
        folder: of shards.
        verify: when to compare each shard's bytes with the checksum that was noted at writing: "use" (when it is first
            looked at, about a second a gigabyte), "open" (now, all of them) or "never". Their sizes are looked at now
            in every case. A folder from llmbook 0.1.0 has no checksums: the range of its ids is checked.

    Attributes:
        vocab_size: ids are below this. end_of_text: the id that ends each document.
        tokenizer: a fingerprint of the tokenizer, see `llmbook.scale.encoding.tokenizer_fingerprint`.
        shards: a sequence of read-only memory maps, each (tokens,): what is not looked at is not read from the disk.
        sizes: tokens in each shard, (shards,), int64.

    Raises:
        FileNotFoundError: if the folder holds no header.
        ValueError: if the writing was not finished, or the header or a shard is missing or not what was written.
    """

    def __init__(self, folder: str | Path, verify: str = "use"):
        if verify not in ("use", "open", "never"):
            raise ValueError(f"verify is {verify!r}: choose 'use', 'open' or 'never'")
        self.folder = Path(folder)
        header = TokenHeader.read(self.folder)
        if header is None:
            raise FileNotFoundError(f"{self.folder / HEADER_FILE} does not exist: give a folder that write_token_files "
                                    "wrote")
        if not header.complete:
            raise ValueError(f"{self.folder} is not complete: {AGAIN}, it goes on where it stopped")
        self.sizes = np.array([shard.tokens for shard in header.shards], np.int64)
        self.vocab_size, self.tokenizer, self.end_of_text = header.vocab_size, header.tokenizer, header.end_of_text
        self.shards = TokenShards(self.folder, header, verify == "use")
        for number in range(len(header.shards)):
            self.shards.check(number, content=verify == "open")

    def __len__(self) -> int:
        return int(self.sizes.sum())
