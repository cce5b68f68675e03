"""`make lab` and the environment: what a newcomer meets first."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.repository import ROOT
from tools import lab


@pytest.fixture
def shelf(tmp_path) -> tuple[Path, Path]:
    """A book of two chapters and the folder that its copies go to."""
    book = tmp_path / "notebooks"
    book.mkdir()
    for name in ("01_first.ipynb", "02_second.ipynb"):
        (book / name).write_text(f"{name} as printed")
    return book, tmp_path / "my_notebooks"


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob("*.ipynb"))}


def test_every_chapter_is_copied_once(shelf):
    book, copies = shelf
    assert lab.bring_copies_up_to_date(book, copies) == []
    assert texts(copies) == texts(book)


def test_a_reader_s_changes_are_kept_and_untouched_copies_follow_the_book(shelf):
    book, copies = shelf
    lab.bring_copies_up_to_date(book, copies)
    (copies / "01_first.ipynb").write_text("with my notes")
    (book / "02_second.ipynb").write_text("second edition")
    assert lab.bring_copies_up_to_date(book, copies) == []
    assert texts(copies) == {"01_first.ipynb": "with my notes", "02_second.ipynb": "second edition"}


def test_a_chapter_changed_on_both_sides_is_put_beside_and_told_once(shelf):
    book, copies = shelf
    lab.bring_copies_up_to_date(book, copies)
    (copies / "01_first.ipynb").write_text("with my notes")
    (book / "01_first.ipynb").write_text("second edition")
    told = lab.bring_copies_up_to_date(book, copies)
    assert len(told) == 1 and "01_first.ipynb" in told[0] and "01_first (new).ipynb" in told[0]
    assert texts(copies)["01_first.ipynb"] == "with my notes"
    assert texts(copies)["01_first (new).ipynb"] == "second edition"
    assert lab.bring_copies_up_to_date(book, copies) == []


def test_a_file_of_the_reader_s_own_is_never_overwritten(shelf):
    book, copies = shelf
    copies.mkdir()
    (copies / "01_first.ipynb").write_text("made before the first copy")
    lab.bring_copies_up_to_date(book, copies)
    assert texts(copies)["01_first.ipynb"] == "made before the first copy"


def test_copies_are_not_part_of_the_repository():
    assert f"{lab.COPIES}/" in (ROOT / ".gitignore").read_text().split()


@pytest.mark.parametrize("user, allowed", [(0, True), (1000, False)])
def test_jupyterlab_starts_as_root_too_and_prints_the_address_of_chapter_1(monkeypatch, user, allowed):
    monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)
    command = lab.command("01_first.ipynb", ["--no-browser"])
    assert ("--allow-root" in command) == allowed and command[-1] == "--no-browser"
    assert any(part.endswith("=/lab/tree/my_notebooks/01_first.ipynb") for part in command)


def made(*arguments: str) -> str:
    """What make would run, in a folder without an environment."""
    make = shutil.which("make") or pytest.skip("no make here")
    own = {name: value for name, value in os.environ.items()
           if name not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS", "TORCH", "PIP_ARGS")}
    return subprocess.run([make, "-n", *arguments, "VENV=nowhere"], cwd=ROOT, env=own, capture_output=True,
                          text=True, check=True).stdout


def test_what_is_given_for_torch_installs_it_first_and_alone():
    pin = re.search(r"^torch==\S+", (ROOT / "requirements.txt").read_text(), re.MULTILINE).group()
    calls = [line for line in made("book", "TORCH=--index-url ADDRESS").splitlines() if "pip install" in line]
    assert len(calls) == 2 and calls[0].endswith(f"--index-url ADDRESS {pin}") and "--timeout" in calls[0]
    assert calls[1].endswith("-r requirements.txt") and "ADDRESS" not in calls[1]


def test_without_it_pip_is_called_once_with_the_reader_s_arguments():
    calls = [line for line in made("check", "PIP_ARGS=--proxy mine").splitlines() if "pip install" in line]
    assert len(calls) == 1 and "--proxy mine" in calls[0]


def test_the_fast_tests_leave_out_what_is_slow_and_several_processes():
    marks = re.search(r'tests -m "(.+)"', made("check")).group(1)
    assert marks == "not slow and not book and not team and not gpu"
    assert " -m " not in made("test").split("pytest")[-1]
