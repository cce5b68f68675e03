"""Write the loss ladder's table: run the cells tagged `ladder` of the chapters, once for each seed.

    python tools/ladder.py                                     # all chapters with such cells, seeds 0, 1 and 2
    python tools/ladder.py notebooks/01_understanding_llms.ipynb

A chapter's tagged cells run in order, in a namespace that holds `SEED` and an empty dictionary `rungs`; they leave a
rung's held-out bits per byte in it, as `rungs["network"] = ...`. Rungs of chapters that are not run stay as they are.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = ("01_understanding_llms", "03_attention", "04_gpt", "05a_pretraining")


def ladder_cells(path: Path) -> list[str]:
    """The sources of a notebook's cells tagged `ladder`; of a file of Python, all of it."""
    if path.suffix == ".py":
        return [path.read_text(encoding="utf-8")]
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells
            if cell.cell_type == "code" and "ladder" in cell.metadata.get("tags", [])]


def run_rungs(path: Path, seed: int) -> dict[str, float]:
    """Held-out bits per byte of a chapter's rungs with one seed.

    Raises:
        ValueError: if a tagged cell leaves a rung that the ladder does not have, or none of them leaves any.
    """
    from llmbook.book.ladder import RUNGS

    space = {"__name__": "__main__", "SEED": seed, "rungs": {}}
    for source in ladder_cells(path):
        exec(compile(source, str(path), "exec"), space)
    if not space["rungs"]:
        raise ValueError(f'{path.name}: no cell tagged `ladder` sets a rung: write rungs["network"] = ...')
    for name in space["rungs"]:
        if name not in RUNGS:
            raise ValueError(f"{path.name}: no rung {name!r} on the ladder: choose one of {', '.join(RUNGS)}")
    return {name: round(float(value), 4) for name, value in space["rungs"].items()}


def main(arguments: list[str] | None = None) -> int:
    from llmbook.book import ladder

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("chapters", nargs="*", type=Path, help="notebooks; those of the ladder by default")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--table", type=Path, default=ladder.TABLE, help="the file to write")
    options = parser.parse_args(arguments)
    paths = options.chapters or [ROOT / "notebooks" / f"{name}.ipynb" for name in CHAPTERS]
    known = json.loads(options.table.read_text(encoding="utf-8"))["rungs"] if options.table.is_file() else {}
    for path in paths:
        if not ladder_cells(path):
            print(f"{path.name}: no cell is tagged `ladder`")
            continue
        found: dict[str, list[float]] = {}
        for seed in range(options.seeds):
            start = time.perf_counter()
            for name, value in run_rungs(path, seed).items():
                found.setdefault(name, []).append(value)
            print(f"{path.name}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
        known.update(found)
    rungs = {name: known[name] for name in ladder.RUNGS if name in known}
    table = {"unit": "bits for each byte of the held-out stories, one value for each seed", "rungs": rungs}
    options.table.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    for name, values in rungs.items():
        print(f"{name:12} {sum(values) / len(values):.3f}  {'  '.join(f'{value:.3f}' for value in values)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
