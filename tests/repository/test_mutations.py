"""The list of mutations: each can be applied, and the program tells what became of it."""

import ast
from pathlib import Path

import pytest

from tests import mutations
from tests.support.repository import ROOT, module_path


@pytest.mark.parametrize("name", mutations.MUTATIONS)
def test_a_pattern_occurs_once_and_the_broken_module_is_still_python(name):
    module, before, after, names = mutations.MUTATIONS[name]
    broken = mutations.mutated(module, before, after)
    assert broken != module_path(module).read_text(encoding="utf-8")
    ast.parse(broken)
    for path in mutations.test_files(names):
        assert (ROOT / path).is_file(), f"{path} is not there"


def test_a_stale_pattern_is_an_error():
    with pytest.raises(ValueError, match="holds 'no such line' 0 times, not once: mend MUTATIONS"):
        mutations.mutated("gpt", "no such line", "")


@pytest.mark.parametrize("status, printed, verdict, detail", [
    (0, "3 passed in 0.1s", "UNNOTICED", "by the tests named"),
    (1, "FAILED tests/test_gpt.py::test_a - assert 1 == 2\n1 failed", "noticed", "test_gpt.py::test_a"),
    (2, "ERROR tests/test_gpt.py\n1 error in 0.1s", "FAILED", "pytest ended with 2: 1 error in 0.1s"),
    (5, "no tests ran in 0.1s", "FAILED", "pytest ended with 5: no tests ran in 0.1s"),
    (4, "", "FAILED", "pytest ended with 4: nothing printed"),
    (1, "INTERNALERROR> boom", "FAILED", "pytest ended with 1: INTERNALERROR> boom"),
])
def test_pytest_s_own_failure_is_not_taken_for_an_answer(status, printed, verdict, detail):
    assert mutations.judge(status, printed) == (verdict, detail)


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Path:
    """A package of one function with a test that looks at it, one that does not, and one that is always red."""
    for name, source in {
        "llmbook/__init__.py": "", "llmbook/sums.py": "def add(a, b):\n    return a + b\n",
        "pyproject.toml": "[tool.pytest.ini_options]\nmarkers = ['slow', 'book', 'gpu', 'team']\n",
        "tests/__init__.py": "", "tests/test_sums.py": "from llmbook.sums import add\n\n\n"
        "def test_red():\n    assert False\n\n\ndef test_sum():\n    assert add(1, 2) == 3\n",
        "tests/test_other.py": "import llmbook.sums\n\n\ndef test_nothing():\n    pass\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("before, after, names, verdict, detail", [
    ("a + b", "a - b", ["sums"], "noticed", "test_sums.py::test_sum"),
    ("a + b", "a - b", ["other"], "UNNOTICED", "by the tests named"),
    ("a * b", "a - b", ["sums"], "STALE", "0 times"),
    ("a + b", "a - b", ["nowhere"], "FAILED", "pytest ended with 4"),
    ("def add", "def", ["other"], "FAILED", "pytest ended with 2"),
])
def test_a_mutation_is_judged_and_mended_again(copy, before, after, names, verdict, detail):
    found = mutations.outcome(copy, "sums", before, after, names)
    assert found.verdict == verdict and detail in found.detail
    assert (copy / "llmbook" / "sums.py").read_text() == "def add(a, b):\n    return a + b\n"
