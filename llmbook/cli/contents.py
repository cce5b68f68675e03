"""What lies in the folders of a run: hashes that notice a change, checkpoints, and whether a saved model is whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from .errors import naming

__all__ = ["content_hash", "fingerprint", "model_problem", "saved_steps"]


def content_hash(path: Path) -> str:
    """A hash of a file's bytes."""
    found = sha256()
    with naming(path), open(path, "rb") as file:
        while block := file.read(1 << 22):
            found.update(block)
    return found.hexdigest()


def fingerprint(path: Path, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a file or folder holds, to notice a change: a hash of the content of its files, and when each was written.

    before: the fingerprint of an earlier time. Where no file was written since, its hash is taken as it is, and
    nothing is read.
    """
    files = [path] if path.is_file() else sorted(
        (found for found in path.rglob("*") if found.is_file() and not found.name.startswith(".")),
        key=lambda found: found.relative_to(path).as_posix())
    written = sha256()
    for file in files:
        about = file.stat()
        written.update(f"{file.relative_to(path).as_posix()}\0{about.st_size}\0{about.st_mtime_ns}\n".encode(
            "utf-8", "surrogateescape"))
    known = before is not None and isinstance(before.get("content"), str)
    if known and before.get("written") == written.hexdigest():
        return dict(before)
    content = sha256()
    for file in files:
        content.update(f"{file.relative_to(path).as_posix()}\0{content_hash(file)}\n".encode(
            "utf-8", "surrogateescape"))
    return {"content": content.hexdigest(), "written": written.hexdigest()}


def saved_steps(folder: Path) -> list[int]:
    """The steps of which a folder of checkpoints holds one, the newest first."""
    return sorted((int(path.name.removeprefix("step-")) for path in folder.glob("step-" + "[0-9]" * 8)), reverse=True)


def model_problem(folder: Path) -> str | None:
    """What keeps a saved model from being whole, or None. The name of its weights' file has their hash."""
    try:
        weights = folder / json.loads((folder / "config.json").read_text(encoding="utf-8"))["weights"]
        wanted = weights.stem.removeprefix("model-")
        if not content_hash(weights).startswith(wanted):
            return f"{weights.name} is damaged"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError):
        return "config.json is damaged"
    return None
