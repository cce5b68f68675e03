"""Section chapters: notebooks that do more on a GPU, run there cell by cell, without Jupyter.

`python -m tests.gpu.chapters NOTEBOOK` runs one: its code cells in order, in one namespace, pictures drawn and not
shown. It ends with 0, or with 3 and a line on stderr where a package or a file from outside is not to be had.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

from tests.gpu.bench import Bench, OutOfTime
from tests.gpu.report import OURS, SKIPPED, Row

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = ("05a_pretraining", "03_attention")  # they choose larger sizes, and need no file from outside
NOT_HERE = 3


def stand_ins() -> None:
    """What cells may import to show things, where Jupyter is not installed."""
    try:
        import IPython.display  # noqa: F401
    except ImportError:
        display = types.ModuleType("IPython.display")
        for name in ("HTML", "Markdown", "SVG", "Image", "clear_output"):
            setattr(display, name, lambda *_, **__: None)
        display.display = lambda *_, **__: None
        package = types.ModuleType("IPython")
        package.display, package.version_info = display, (8, 24, 0)  # matplotlib asks
        package.get_ipython = lambda: None
        sys.modules.update({"IPython": package, "IPython.display": display})


def run_notebook(path: Path) -> int:
    """Run a notebook's code here; the exit status."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    stand_ins()
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    os.chdir(path.parent)
    space = {"__name__": "__main__", "display": lambda *_, **__: None, "get_ipython": lambda: None}
    for number, code in enumerate(codes, 1):
        lines = ["pass" if line.lstrip().startswith(("%", "!")) else line for line in code.splitlines()]
        try:
            exec(compile("\n".join(lines), f"{path.stem}, cell {number}", "exec"), space)
        except ImportError as error:
            sys.stderr.write(f"\nnot here: {error}\n")
            return NOT_HERE
        except Exception as error:
            if type(error).__name__ == "AssetError":
                sys.stderr.write(f"\nnot here: {str(error).splitlines()[0]}\n")
                return NOT_HERE
            sys.stderr.write(f"\ncell {number}: {type(error).__name__}: {str(error)[:300]}\n")
            raise
    return 0


class NotHere(Exception):
    """A chapter that needs what this machine does not have."""


def seconds_of(path: Path, limit: float) -> float:
    """How long a notebook's code takes in a process of its own."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "tests.gpu.chapters", str(path)], cwd=ROOT, capture_output=True,
                          text=True, timeout=limit)
    told = [line for line in done.stderr.splitlines() if line.startswith(("not here: ", "cell "))]
    last = told[-1] if told else done.stderr[-300:]
    if done.returncode == NOT_HERE:
        raise NotHere(last)
    if done.returncode:
        raise RuntimeError(last)
    return time.perf_counter() - start


def chapters(bench: Bench) -> None:
    """Seconds of each chapter whose code chooses larger sizes on a GPU."""
    def measure(path: Path) -> float:
        try:
            return seconds_of(path, max(1.0, bench.left() - 1))
        except subprocess.TimeoutExpired:
            raise OutOfTime from None

    with tempfile.TemporaryDirectory() as folder:
        paths = [ROOT / "notebooks" / f"{name}.ipynb" for name in CHAPTERS]
        if bench.tiny:
            paths = [Path(folder) / "trial.ipynb"]
            source = ["import matplotlib\n", "%matplotlib inline\n", "assert matplotlib.get_backend().lower() == 'agg'"]
            paths[0].write_text(json.dumps({"cells": [{"cell_type": "code", "source": source}]}))
        for path in paths:
            seconds, problem = bench.attempt(lambda path=path: measure(path), least=0 if bench.tiny else 15)
            if "NotHere" in problem:
                problem = f"{SKIPPED}: {problem.split('NotHere: not here: ')[-1]}"
            values = {} if problem else {OURS: seconds}
            bench.send(Row(bench.section, f"the code of chapter {path.stem}", "s", values,
                           {OURS: problem} if problem else {}))


if __name__ == "__main__":
    sys.exit(run_notebook(Path(sys.argv[1]).resolve()))
