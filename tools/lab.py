"""Open the chapters in JupyterLab, in copies of the reader's own: `make lab`.

The notebooks of the book stay as they are, so that a later `git pull` meets no changes. What a reader changed in a copy
is never overwritten. What follows on the command line goes to JupyterLab.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIES = "my_notebooks"
RECORD = ".copied.json"  # name -> sha256 of the chapter as it was copied last


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def bring_copies_up_to_date(book: Path, copies: Path) -> list[str]:
    """Copy the chapters that are not there yet, and replace copies that the reader has not touched.

    Where both the chapter and its copy have changed, the copy stays and the new chapter is put beside it as
    "NAME (new).ipynb". Returns what the reader should know, a line each.
    """
    copies.mkdir(exist_ok=True)
    record_file = copies / RECORD
    record = json.loads(record_file.read_text(encoding="utf-8")) if record_file.is_file() else {}
    told = []
    for chapter in sorted(book.glob("*.ipynb")):
        copy, now = copies / chapter.name, digest(chapter)
        if not copy.exists() or digest(copy) == record.get(chapter.name):
            shutil.copy(chapter, copy)
        elif digest(copy) != now and record.get(chapter.name) != now:
            beside = copies / f"{chapter.stem} (new).ipynb"
            shutil.copy(chapter, beside)
            told.append(f"{chapter.name} has changed in the book and in {COPIES}/. Yours is kept; the book's new one "
                        f"is beside it: {beside.name}")
        record[chapter.name] = now
    temporary = record_file.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    temporary.replace(record_file)
    return told


def command(first: str, arguments: list[str]) -> list[str]:
    """JupyterLab with `first` open: in the browser that it starts, and at the address that it prints."""
    page = f"/lab/tree/{COPIES}/{first}"
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # as in a container
    return [sys.executable, "-m", "jupyterlab", f"--notebook-dir={ROOT}", f"--LabApp.default_url={page}", *root,
            *arguments]


def main() -> int:
    for line in bring_copies_up_to_date(ROOT / "notebooks", ROOT / COPIES):
        print(line)
    first = min(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    print(f"Your copies of the chapters are in {COPIES}/. Begin with {first}. Ctrl-C here ends JupyterLab.", flush=True)
    try:
        return subprocess.run(command(first, sys.argv[1:]), cwd=ROOT).returncode
    except KeyboardInterrupt:  # JupyterLab has asked and ended
        return 0


if __name__ == "__main__":
    sys.exit(main())
