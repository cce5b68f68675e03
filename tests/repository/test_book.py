"""The runner behind `make book`."""

import contextlib
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import book


@pytest.fixture
def chapters(tmp_path, monkeypatch):
    """A stand-in repository with three chapters, the second of which fails."""
    monkeypatch.setattr(book, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    sources = {"01_good": "import sys; print('to stderr', file=sys.stderr); print('loss', 6 * 7)",
               "02_bad": "raise ValueError('a bad number')", "03_after": "import sys; print(sys.executable)"}
    for name, source in sources.items():
        cell = new_code_cell(source, metadata={"tags": ["headline"], "editor": "mine"})
        notebook = new_notebook(cells=[new_markdown_cell("# Title"), cell])
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    return tmp_path


def main(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["book.py", *map(str, arguments)])
    return book.main()


@pytest.mark.book
def test_all_chapters_run_a_failure_is_named_and_the_table_ends_it(chapters, monkeypatch, capsys):
    assert main(monkeypatch) == 1
    printed = capsys.readouterr()
    rows = {line.split()[0]: line for line in printed.out.split("headline\n")[1].splitlines() if line.strip()}
    assert "loss 42" in rows["01_good"]
    assert "failed" in rows["02_bad"] and "a bad number" in rows["02_bad"]
    assert sys.executable in rows["03_after"]  # this Python, and still run after the failure
    stored = nbformat.read(chapters / "notebooks" / "01_good.ipynb", as_version=4)
    assert stored.cells[1].outputs == []  # `make book` leaves the reader's files as they are
    assert (chapters / "build" / "book" / "01_good.ipynb").is_file()


def test_storing_keeps_outputs_and_tags_only(chapters, monkeypatch):
    path = chapters / "notebooks" / "01_good.ipynb"
    assert main(monkeypatch, "--store", path) == 0
    cell = nbformat.read(path, as_version=4).cells[1]
    assert cell.execution_count == 1 and cell.metadata == {"tags": ["headline"]}
    assert [(out.name, out.text) for out in cell.outputs] == [("stdout", "loss 42\n")]


@pytest.mark.book
@pytest.mark.parametrize("source", ["print(1)", "raise ValueError('no')"])
def test_the_kernel_ends_with_its_chapter(monkeypatch, source):
    made = []

    class Manager(book.AsyncKernelManager):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(book, "AsyncKernelManager", Manager)
    with contextlib.suppress(book.CellExecutionError):
        book.run(new_notebook(cells=[new_code_cell(source)]), "chapter")
    assert len(made) == 1 and not made[0].has_kernel


def test_a_failed_chapter_is_not_stored(chapters, monkeypatch):
    path = chapters / "notebooks" / "02_bad.ipynb"
    before = path.read_bytes()
    assert main(monkeypatch, "--store", path) == 1
    assert path.read_bytes() == before
