"""Reading a text, writing a file so that nobody ever sees half of it, which process does it, and where the book's own
files are."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

__all__ = ["data_folder", "is_first", "process_place", "read_json", "read_text", "replace_file", "sha256_of"]


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under another name and rename it: `path` is never half a file."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # on the disk before the name changes
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises ValueError of one line, with the path, if it holds none."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{path} is not JSON ({' '.join(str(error).split())}): write it again, or take it from where "
                         "it came from") from None


def read_text(path: str | Path) -> str:
    """Read a UTF-8 text file. Line ends become `\\n` and a byte-order mark is dropped.

    Raises:
        ValueError: if the file holds no text, or is not UTF-8 (the message names the byte).
    """
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} (0x{data[error.start]:02x}) is not UTF-8: save the file as "
                         "UTF-8, or decode it yourself and pass the text") from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not text.strip():
        raise ValueError(f"{path} holds no text: give a file with at least one word")
    return text


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def process_place() -> tuple[int, int]:
    """This process's number, from 0, and how many train together, as torchrun's RANK and WORLD_SIZE say; (0, 1) alone.

    Raises ValueError if the two do not fit: a process that waits for others that were never started waits for ever.
    """
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None and size is None:
        return 0, 1
    try:
        place = int(rank or 0), int(size or 1)
    except ValueError:
        place = -1, 0
    if not 0 <= place[0] < place[1] or (rank is None and place[1] > 1):
        raise ValueError(f"RANK is {rank} and WORLD_SIZE is {size}: start the processes with torchrun, which sets "
                         "both, or unset both to run alone")
    return place


def is_first() -> bool:
    """Whether this process is the one that prints and writes: process 0 of those that train together, or alone."""
    distributed = sys.modules.get("torch.distributed")  # not imported here: the command's help must not wait for it
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    return process_place()[0] == 0


def data_folder() -> Path:
    """The folder of texts, and of the small model, that the book ships: `llmbook/data` where a wheel was installed, and
    `data/` beside the package in a clone, installed as editable or not.

    Raises:
        FileNotFoundError: if neither is there.
    """
    package = Path(str(resources.files("llmbook")))
    for folder in (package / "data", package.parent / "data"):
        if (folder / "README.md").is_file():
            return folder
    raise FileNotFoundError(f"no data folder in or beside {package}: install llmbook again, `pip install .` in a clone")
