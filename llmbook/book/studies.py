"""Studies that take long: each run is written as soon as it is done, so that a study goes on where it stopped."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmbook.files import replace_file

__all__ = ["STUDENT", "KeptRuns", "read_study", "seconds_option", "tell_whether_complete"]

STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 8: 2.36, 10: 2.26, 12: 2.20}
"""Runs or texts -> how many standard errors of their mean make 95 % on both sides together, by Student's t."""


class KeptRuns:
    """The rows of a study in one JSON file, part -> rows, and the time after which no run begins.

    Args:
        path: the file; what it holds already is read.
        parts: the names of the parts.
        seconds: begin nothing after so many.
    """

    def __init__(self, path: Path, parts: Sequence[str], seconds: float = math.inf):
        self.path, self.end = path, time.monotonic() + seconds
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.table: dict[str, list[dict[str, Any]]] = {**{part: [] for part in parts}, **kept}

    def wait(self) -> None:
        """Raise TimeoutError once the time is over."""
        if time.monotonic() > self.end:
            raise TimeoutError

    def keep(self, part: str, row: dict[str, Any], unprinted: Sequence[str] = ()) -> None:
        """Add a row, write the file, and print the row without the values named in `unprinted`."""
        self.table[part].append(row)
        blocks = [f'"{name}": [' + ",".join("\n  " + json.dumps(each) for each in rows) + "\n]"
                  for name, rows in self.table.items()]
        replace_file(self.path, ("{" + ",\n".join(blocks) + "}\n").encode())
        print({name: value for name, value in row.items() if name not in unprinted}, flush=True)


def read_study(name: str, command: str) -> dict[str, list[dict[str, Any]]]:
    """What a study has kept beside this module, part -> rows. Raises FileNotFoundError, which names the command that
    makes it, if it is not there."""
    path = Path(__file__).with_name(name)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: make it with `{command}`")
    return json.loads(path.read_text(encoding="utf-8"))


def seconds_option(description: str) -> argparse.ArgumentParser:
    """A parser with the option that all studies have: `--seconds`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin nothing after so many")
    return parser


def tell_whether_complete(go: Callable[[], None]) -> None:
    """Run a study until it ends or its time is over, and say which."""
    try:
        go()
        print("complete")
    except TimeoutError:
        print("not complete: the same command goes on")
