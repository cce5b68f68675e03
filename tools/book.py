"""Run the notebooks in order: `make book`. With --store, keep the results in notebooks/ (for authors).

A chapter's headline in the closing table is what its cell tagged `headline` prints.
"""

import argparse
import re
import sys
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
KEPT_METADATA = {"tags", "jupyter"}  # jupyter: {"source_hidden": true} collapses a cell


def run(notebook: NotebookNode, name: str, timeout: int = 1200, folder: Path = ROOT / "notebooks") -> float:
    """Execute a notebook in place, in `folder`, from a fresh kernel of this Python; returns the seconds it took."""
    manager = AsyncKernelManager()  # not by kernel name: a name may lead to another Python of the reader's
    manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "--log-level=ERROR", "-f",
                                    "{connection_file}"]
    code_cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    start = time.perf_counter()
    with tqdm(total=code_cells, desc=name, unit="cell", disable=not sys.stderr.isatty()) as bar:
        client = NotebookClient(notebook, km=manager, timeout=timeout, record_timing=False,
                                resources={"metadata": {"path": str(folder)}},
                                on_cell_executed=lambda **_: bar.update())
        client.execute(cleanup_kc=True)  # nbclient leaves a kernel alone that it was handed, unless told
    return time.perf_counter() - start


def use_current_setup(notebook: NotebookNode) -> None:
    """Bring a notebook's first code cell up to date with tools/colab_setup.py."""
    setup = (Path(__file__).parent / "colab_setup.py").read_text(encoding="utf-8").strip()
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    if first.source.startswith(setup.split(";")[0]):
        first.source = setup


def tidy(notebook: NotebookNode) -> None:
    """Leave in a notebook what readers see: no progress bars or warnings (stderr), no editor's metadata."""
    notebook.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in KEPT_METADATA})
        if cell.cell_type == "code":
            outputs = []
            for out in cell.outputs:
                if out.get("name") == "stdout" and outputs and outputs[-1].get("name") == "stdout":
                    outputs[-1].text += out.text  # the kernel sends long prints in pieces
                elif out.get("name") != "stderr":
                    outputs.append(out)
            cell.outputs = outputs


def headline(notebook: NotebookNode) -> str:
    """What the cell tagged `headline` printed."""
    for cell in notebook.cells:
        if "headline" in cell.metadata.get("tags", []):
            return " ".join("".join(out.text for out in cell.outputs if out.get("name") == "stdout").split())
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks to run; all of notebooks/ by default")
    parser.add_argument("--store", action="store_true", help="write the executed notebooks back in place")
    options = parser.parse_args()
    paths = options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    output = ROOT / "build" / "book"
    output.mkdir(parents=True, exist_ok=True)
    rows, failed = [], False
    for index, path in enumerate(paths, 1):
        print(f"[{index}/{len(paths)}] {path.stem} ...", flush=True)
        notebook = nbformat.read(path, as_version=4)
        if options.store:
            use_current_setup(notebook)
        try:
            home = path.resolve().parent  # a translation finds its language by the folder that it runs in
            folder = home if home.parent == ROOT / "notebooks" else ROOT / "notebooks"
            seconds = run(notebook, path.stem, folder=folder)
        except (CellExecutionError, DeadKernelError) as error:
            failed = True
            print(error, file=sys.stderr)
            last = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()[-1]  # colours left out
            rows.append((path.stem, "failed", last[:90]))
        else:
            rows.append((path.stem, f"{seconds:.0f} s", headline(notebook)))
            if options.store:
                tidy(notebook)
                nbformat.write(notebook, path)
        nbformat.write(notebook, output / path.name)
    width = max(len(name) for name, _, _ in rows)
    print(f"\n{'chapter':{width}}  {'time':>6}  headline")
    for name, seconds, text in rows:
        print(f"{name:{width}}  {seconds:>6}  {text}")
    print(f"\nExecuted copies are in {output.relative_to(ROOT)}/. Read and run the chapters yourself: make lab")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
