"""What `pip install llmbook` gives: a wheel that is whole, and one number for its version everywhere."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import llmbook
from tests.support.repository import ROOT

FOUND = """
import llmbook, json
from llmbook.files import data_folder
from llmbook.storyworld import stories
from llmbook.training import load_model
from llmbook.book.languages import catalogue
from llmbook.book.interactive.frame import static
model = load_model(data_folder() / "storyteller")
print(json.dumps([llmbook.__file__, str(data_folder()), sum(p.numel() for p in model.parameters()),
                  len(next(iter(stories(seed=0, n=1))).text), len(catalogue("zh")), len(static("frame.js"))]))
"""


def test_the_version_is_the_same_wherever_it_is_named():
    version = llmbook.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert next(one for one in headings if one != "Unreleased") == version


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True,
                   capture_output=True)
    return next(folder.glob(f"llmbook-{llmbook.__version__}-*.whl"))


@pytest.mark.slow
@pytest.mark.book
def test_the_wheel_has_what_the_package_and_its_data_have(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    tracked = subprocess.run(["git", "ls-files", "llmbook", "data"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode == 0:
        wanted = {re.sub(r"^data/", "llmbook/data/", name) for name in tracked.stdout.splitlines()}
        assert wanted <= names, wanted - names
    assert not [name for name in names if name.startswith(("tests/", "tools/", "notebooks/")) or "__pycache__" in name]


@pytest.mark.slow
@pytest.mark.book
def test_in_an_environment_of_its_own_it_finds_its_data_and_the_storyteller_tells(wheel, tmp_path):
    """The packages that it needs are lent by this environment; `tests/oldest.txt` and the releases try them fresh."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install",
                    "--no-deps", "--no-index", "--quiet", wheel], check=True, capture_output=True)
    own = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    (own / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")  # no .pth there is read: not this clone's
    place = tmp_path / "elsewhere"
    place.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-c", FOUND], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    file, data, size, *lengths = yaml.safe_load(done.stdout.splitlines()[-1])
    assert Path(file).is_relative_to(own) and Path(data) == own / "llmbook" / "data"
    assert size > 3e6 and all(lengths)
    command = [tmp_path / "env" / "bin" / "llmbook", "generate", "--model", "storyteller", "--max-new-tokens", "20", ""]
    told = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert told.returncode == 0 and len(told.stdout.split()) > 8, told.stderr
