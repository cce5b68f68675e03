"""Everything that is measured side by side, as one table: `make bench`, or `python -m tests.benchmarks.table`.

Each module of this folder that has a function `rows(rounds)` gives its rows (see `tests.benchmarks.rows`): work, ours,
the peer beside it, the ratio, and the floor that it must not fall below. `--only speed --only bpe` runs some of them.
The exit status is 1 if a floor is missed, or a module fails. Peers are packages that the benchmarks alone use; where
one is not installed, its row says so. The modules without `rows` take long or print something else than a comparison:
they are listed at the end, to be run by themselves.
"""

import argparse
import ast
import importlib
import platform
import sys
import time
import traceback
from pathlib import Path

import torch

from tests.benchmarks.rows import Row, missed, missing, table

FOLDER = Path(__file__).parent
HELPERS = {"__init__", "rows", "table"}


def modules(folder: Path = FOLDER) -> tuple[dict[str, str], dict[str, str]]:
    """The benchmarks that give rows, and those that are run by themselves: name -> first line of the docstring."""
    with_rows, alone = {}, {}
    for path in sorted(folder.glob("*.py")):
        if path.stem in HELPERS:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        told = (ast.get_docstring(tree) or "").split("\n")[0]
        if "rows" in functions:
            with_rows[path.stem] = told
        elif "main" in functions:
            alone[path.stem] = told
    return with_rows, alone


def measure(name: str, rounds: int) -> list[Row]:
    """A module's rows. One that fails gives a row that counts as missed."""
    try:
        return importlib.import_module(f"tests.benchmarks.{name}").rows(rounds)
    except Exception as error:  # the others are worth having
        traceback.print_exc()
        return [missing(f"all of {name}", f"failed: {type(error).__name__}: {error}", floor=1.0)]


def main(arguments: list[str] | None = None) -> int:
    with_rows, by_itself = modules()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", metavar="NAME", choices=list(with_rows),
                        help=f"one of {', '.join(with_rows)}; may be given several times")
    parser.add_argument("--rounds", type=int, default=3, help="each comparison is made so many times; medians count")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}: give at least 1")
    print(f"Python {platform.python_version()}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"medians of {options.rounds} rounds\n", flush=True)
    found: list[Row] = []
    for name in options.only or with_rows:
        start = time.perf_counter()
        own = measure(name, options.rounds)
        print(f"{name}: {time.perf_counter() - start:.0f} s\n{table(own)}\n", flush=True)
        found += own
    print(table(found))
    if not options.only and by_itself:
        print("\nRun by themselves:", *(f"  python -m tests.benchmarks.{name:16} {told}"
                                        for name, told in by_itself.items()), sep="\n")
    below = missed(found)
    print(f"\n{len(below)} of {sum(row.floor is not None for row in found)} floors missed")
    return int(bool(below))


if __name__ == "__main__":
    sys.exit(main())
