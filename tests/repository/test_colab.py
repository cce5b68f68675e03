"""The first code cell of each notebook, as Colab runs it: PyTorch is there, llmbook is not."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from tests.support.repository import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.book]

SETUP = (ROOT / "tools" / "colab_setup.py").read_text(encoding="utf-8")
AFTER = """
import torch
from llmbook.book.corpora import data_folder
from llmbook.gpt import GPT, GPTConfig
import llmbook
print("found", llmbook.__file__, torch.__version__, GPT(GPTConfig(11, 4, 8, 2, 1))(torch.zeros(1, 3).long()).shape)
"""


def run(python: Path, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run the cell and what follows it as a notebook's kernel would, in `folder`."""
    # git refuses to clone a folder of another user's unless told that it is safe
    trust = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    return subprocess.run([str(python), "-c", SETUP + AFTER], cwd=folder, capture_output=True, text=True,
                          env={**without_paths(), **trust, **variables}, timeout=600)


def without_paths() -> dict[str, str]:
    """The environment without PYTHONPATH and the like, which could lead to this llmbook."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> Path:
    """A Python with this one's packages but without llmbook: its environment reads them from the side."""
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    inner = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                           capture_output=True, text=True, check=True).stdout.strip()
    # The editable llmbook beside those packages is a .pth file, and a folder named in one does not read its own.
    Path(inner, "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    missing = subprocess.run([python, "-c", "import torch, llmbook"], cwd=folder, capture_output=True, text=True,
                             env=without_paths())
    assert "No module named 'llmbook'" in missing.stderr
    return python


def test_the_cell_installs_the_book_and_leaves_torch_alone(colab, tmp_path):
    first = run(colab, tmp_path, LLMBOOK_REPOSITORY=str(ROOT))
    assert first.returncode == 0, first.stderr
    clone = tmp_path / "llmbook-repository"
    assert f"found {clone / 'llmbook' / '__init__.py'} {torch.__version__} torch.Size([1, 3, 11])" in first.stdout
    own = [path.name for path in colab.parents[1].glob("lib/python*/site-packages/*")]
    assert not [name for name in own if name.startswith(("torch", "numpy"))], "something was installed again"
    assert any("llmbook" in name for name in own)
    again = run(colab, tmp_path, LLMBOOK_REPOSITORY="/nowhere")  # installed by now: nothing is fetched
    assert again.returncode == 0, again.stderr


def test_an_address_that_is_not_there_stops_with_git_s_message(colab, tmp_path):
    subprocess.run([colab, "-m", "pip", "uninstall", "--yes", "--quiet", "llmbook"], check=True)
    result = run(colab, tmp_path, LLMBOOK_REPOSITORY=str(tmp_path / "nothing"))
    assert result.returncode != 0
    assert "does not exist" in result.stderr and "CalledProcessError" in result.stderr


def test_the_cell_does_nothing_where_llmbook_is_installed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail(f"ran {args}"))
    path = list(sys.path)
    exec(compile(SETUP, "colab_setup.py", "exec"), {})
    assert sys.path == path and not list(tmp_path.iterdir())
