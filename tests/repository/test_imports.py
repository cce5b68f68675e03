"""Imports go one way: the rules of the house, read from the syntax trees."""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.repository import import_graph as graphs
from tests.support.repository import NOTEBOOKS, ROOT, code_cells

MOST_LINES = 450
OPEN_TO_BOOK = {"cli.corpora"}  # the texts that the command offers by name are those of the book


@cache
def problems_here() -> dict[str, list[str]]:
    return problems(ROOT / "llmbook")


def problems(package: Path) -> dict[str, list[str]]:
    """Rule -> what breaks it."""
    graph = graphs.import_graph(package)
    paths = graphs.sources(package)
    found = {"cycle": [" -> ".join([*circle, circle[0]]) for circle in graphs.cycles(graph)],
             "upward": [], "private": [], "book": [], "face": [], "long": []}
    for module, imports in graph.items():
        tree = ast.parse(paths[module].read_text(encoding="utf-8"))
        found["private"] += [f"{module}: {name}" for name in graphs.private_names(module, tree, imports)]
        for item in imports:
            where = f"{module} -> {item.module}"
            if item.module == graphs.FACE:
                found["face"] += [f"{where}: {name}" for name in item.names or ("import llmbook",)
                                  if name != "__version__"]
            elif item.module.split(".")[0] == "book":
                found["book"] += [] if module.split(".")[0] == "book" or module in OPEN_TO_BOOK else [where]
            elif graphs.layer(item.module) > graphs.layer(module):
                found["upward"].append(where)
    for name, lines in graphs.lines_of(package).items():
        if lines > MOST_LINES and not name.startswith("book.exercises."):
            found["long"].append(name)
    return {rule: sorted(set(cases)) for rule, cases in found.items()}


@pytest.mark.parametrize("rule", ["cycle", "upward", "private", "book", "face", "long"])
def test_the_house_keeps_its_rules(rule):
    assert not problems_here()[rule]


@pytest.mark.book
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_takes_a_private_name(path):
    known = set(graphs.sources(ROOT / "llmbook"))
    for code in code_cells(path):
        imports = graphs.imports_of("notebook", code.tree, known)
        taken = graphs.private_names("notebook", code.tree, imports)
        assert not taken, f"cell {code.number} takes {taken}"


# --- the test of the tests: a small package with one break of each rule -------------------------------------------

@pytest.fixture
def package(tmp_path) -> Path:
    files = {
        "__init__.py": "from llmbook.gpt import GPT\n", "files.py": "",
        "text.py": "from llmbook.files import replace_file\n",
        "gpt.py": "from . import files\nfrom .text import train_bpe\n", "scale/__init__.py": "",
        "scale/team.py": "from llmbook import __version__\nimport llmbook.gpt as gpt\n",
        "cli/__init__.py": "", "cli/corpora.py": "from llmbook.book import corpora\n", "book/__init__.py": "",
        "book/corpora.py": "from ..cli import corpora\nfrom .figures import BLUE\n", "book/figures.py": "",
    }
    for name, source in files.items():
        path = tmp_path / "llmbook" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return tmp_path / "llmbook"


def test_a_package_within_the_rules_passes_but_for_what_book_may_not_close(package):
    (package / "book" / "corpora.py").write_text("from ..cli import main\n")
    assert not any(problems(package).values())


@pytest.mark.parametrize("rule, file, source, named", [
    ("cycle", "text.py", "def train_bpe():\n    from llmbook.gpt import GPT\n", "gpt -> text -> gpt"),
    ("upward", "text.py", "def train_bpe():\n    from .gpt import GPT\n", "text -> gpt"),
    ("upward", "gpt.py", "if TYPE_CHECKING:\n    from llmbook.scale.team import Team\n", "gpt -> scale.team"),
    ("upward", "gpt.py", "from llmbook.scale import team\n", "gpt -> scale.team"),
    ("private", "gpt.py", "from .text import _pairs\n", "gpt: text._pairs, line 1"),
    ("private", "gpt.py", "from llmbook import text as words\nwords._pairs()\n", "gpt: text._pairs, line 2"),
    ("private", "gpt.py", "import llmbook.text\nllmbook.text._pairs()\n", "gpt: text._pairs, line 2"),
    ("book", "scale/team.py", "from llmbook.book.figures import BLUE\n", "scale.team -> book.figures"),
    ("book", "cli/other.py", "import llmbook.book.figures\n", "cli.other -> book.figures"),
    ("face", "gpt.py", "from llmbook import train\n", "gpt -> the package itself: train"),
    ("long", "gpt.py", "a = 1\n" * 451, "gpt"),
])
def test_each_break_of_a_rule_is_named(package, rule, file, source, named):
    (package / file).write_text(source, encoding="utf-8")
    assert named in problems(package)[rule]


def test_a_module_without_a_layer_is_named(package):
    (package / "vision.py").write_text("from .text import train_bpe\n", encoding="utf-8")
    with pytest.raises(KeyError, match="vision stands in no layer: add it"):
        problems(package)
