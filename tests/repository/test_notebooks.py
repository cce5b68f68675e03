"""The notebooks as stored: executed in order, clean, of one shape, and the only source of the package."""

import ast
import json
import re

import pytest

from tests.repository import ratchet
from tests.support.repository import (
    ADDRESS,
    CHAPTERS,
    NOTEBOOKS,
    ROOT,
    code_cells,
    defined_anywhere,
    defined_names,
    is_generated,
    modules,
    read,
)
from tools.export import exported
from tools.website.pictures import alternative_text

pytestmark = pytest.mark.book

MOST_CODE, MOST_WORDS = 500, 3500  # of a chapter
COLLAPSED = {"source_hidden": True}  # setup, imports and asserts: a reader opens them to look
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:root|home|Users|work|tmp|private|var|opt|content)/[\w./-]+|[A-Z]:\\\\\w+")


def by_name(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def test_the_package_is_what_the_notebooks_export():
    sources = exported(ROOT)
    stored = {name: (ROOT / "llmbook" / f"{name}.py").read_text(encoding="utf-8")
              for name in modules() if is_generated(name)}
    assert set(sources) == {f"{name}.py" for name in stored}, "run `make export`"
    for name, source in stored.items():
        assert source == sources[f"{name}.py"], f"llmbook/{name}.py is not what its notebook exports: `make export`"


def public_names() -> dict[str, str]:
    """Name -> module for what a chapter must import, not define a second time.

    That is everything public that the chapters export, and what the hand-written modules offer. Not the command's: no
    chapter imports it. Nor what is inside the story world: it offers the names of its `__init__`.
    """
    names = {}
    for module, tree in modules().items():
        if not module.startswith(("cli.", "storyworld.")):
            offered = declared(tree) or (defined_names(tree) if is_generated(module) else defined_anywhere(tree))
            names.update({name: module for name in offered if not name.startswith("_") and name != "main"})
    return names


def declared(tree: ast.Module) -> set[str]:
    """The names in a module's `__all__`, if it has one."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__all__"]:
            return set(ast.literal_eval(node.value))
    return set()


@by_name(NOTEBOOKS)
def test_no_notebook_defines_an_exported_name_again(path):
    names = public_names()
    for code in code_cells(path):
        if not code.exported:
            again = (defined_names(code.tree) | defined_anywhere(code.tree)) & set(names)
            assert not again, (f"cell {code.number} defines {sorted(again)}, which llmbook exports: import it, "
                               "or give the draft another name")


def test_no_exported_name_has_two_homes():
    seen: dict[str, str] = {}
    for module, tree in modules().items():
        # The protocols say what a class elsewhere, of the same name, has to offer; each command of cli has its `run`.
        if module == "protocols" or module.startswith("cli."):
            continue
        classes_and_functions = {node.name for node in tree.body if hasattr(node, "name")}
        for name in classes_and_functions & (declared(tree) or classes_and_functions):
            if not name.startswith("_") and name != "main":
                assert seen.setdefault(name, module) == module, f"{name} is defined in {seen[name]} and {module}"


@by_name(NOTEBOOKS)
def test_stored_executed_in_order_without_errors(path):
    cells = code_cells(path)
    counts = [code.cell.execution_count for code in cells if code.source.strip()]
    assert counts == list(range(1, len(counts) + 1)), "run it whole and store that: `make store`"
    for code in cells:
        kinds = {output.output_type for output in code.cell.outputs}
        assert "error" not in kinds, f"cell {code.number} stores an error"
        assert all(out.get("name") != "stderr" for out in code.cell.outputs), f"cell {code.number} stores stderr"


@by_name(NOTEBOOKS)
def test_no_machine_paths_and_no_editor_metadata(path):
    for cell in read(path).cells:
        text = cell.source + json.dumps(cell.get("outputs", []))
        found = MACHINE_PATH.search(text)
        assert not found, f"the path of one machine: {found.group()}"
        assert set(cell.metadata) <= {"tags", "jupyter"}
        assert cell.metadata.get("jupyter", COLLAPSED) == COLLAPSED
    assert set(read(path).metadata) == {"kernelspec", "language_info"}


@by_name(NOTEBOOKS)
def test_every_picture_is_stored_with_words_that_say_what_it_shows(path):
    for code in code_cells(path):
        for output in code.cell.outputs:
            if "image/png" in output.get("data", {}):
                words = alternative_text(output, "")
                assert len(words.split()) >= 5 and "in the section" not in words, (
                    f"cell {code.number} stores a picture without a description: {words!r}. Call `use_style` before "
                    "it is drawn, and `figure.set_label` where the drawing does not speak for itself")


@by_name(NOTEBOOKS)
def test_most_outputs_are_compared_and_the_rest_asserted(path):
    cells = code_cells(path)
    with_output = [code for code in cells if code.cell.outputs]
    ignored = [code for code in with_output if "nbval-ignore-output" in code.tags]
    assert len(ignored) <= 0.4 * len(with_output), f"{len(ignored)} of {len(with_output)} outputs are not compared"
    assert not any("nbval-skip" in code.tags or "raises-exception" in code.tags for code in cells)
    if ignored:
        last = max(code.number for code in ignored if "headline" not in code.tags)
        later = [code for code in cells if code.number >= last]
        assert any(isinstance(node, ast.Assert) for code in later for node in ast.walk(code.tree)), \
            "a cell that is not compared must be followed by a cell of asserts"


@by_name(NOTEBOOKS)
def test_cells_are_short(path):
    """Exported ones may be longer: a class is whole, and each step of it was shown before."""
    long = [code.number for code in code_cells(path) if not code.exported and len(code.source.splitlines()) > 25]
    assert not long, f"the cells {long} have more than 25 lines"
    for code in code_cells(path):
        widest = max(map(len, code.source.splitlines()), default=0)
        assert widest <= 100, f"cell {code.number} has a line of {widest} characters, more than 100"


def chapter_size(path) -> tuple[int, int]:
    """Lines of code, exports included, empty ones and the setup cell left out, and words of prose."""
    code = sum(bool(line.strip()) for code in code_cells(path)[1:] for line in code.source.splitlines())
    words = sum(len(cell.source.split()) for cell in read(path).cells if cell.cell_type == "markdown")
    return code, words


@by_name(CHAPTERS)
def test_a_chapter_is_no_longer_than_a_reader_can_take(path):
    """What does not fit becomes two chapters, or engineering with a module of its own."""
    code, words = chapter_size(path)
    most_code, most_words = ratchet.CHAPTER_SIZES.get(path.stem, (MOST_CODE, MOST_WORDS))
    assert code <= most_code, f"{code} lines of code, more than {most_code}: split it, or write a module"
    assert words <= most_words, f"{words} words of prose, more than {most_words}: shorten it or split it"
    within = code <= MOST_CODE and words <= MOST_WORDS
    assert not (within and path.stem in ratchet.CHAPTER_SIZES), f"{path.stem} fits now: take it out of ratchet.py"


@by_name(NOTEBOOKS)
def test_begins_with_a_title_a_badge_and_the_setup_cell(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown" and re.match(r"# (Chapter|Appendix|Solutions)", first.source)
    address = ADDRESS.replace("https://github.com/", "https://colab.research.google.com/github/")
    badge = ("[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
             f"({address}/blob/main/notebooks/{path.name})")
    assert badge in first.source
    assert path not in CHAPTERS or f"[glossary]({ADDRESS}/blob/main/docs/glossary.md)" in first.source
    setup = (ROOT / "tools" / "colab_setup.py").read_text(encoding="utf-8")
    assert f'"{ADDRESS}"' in setup, "tools/colab_setup.py and pyproject.toml name different addresses"
    assert code_cells(path)[0].source.strip() == setup.strip()


@by_name(CHAPTERS)
def test_a_chapter_has_a_headline_exercises_and_a_summary(path):
    tags = [tag for code in code_cells(path) for tag in code.tags]
    assert tags.count("headline") == 1
    headings = [line for cell in read(path).cells if cell.cell_type == "markdown"
                for line in cell.source.splitlines() if line.startswith("## ")]
    assert any("Exercises" in line for line in headings) and "Summary" in headings[-1]
    number = path.stem.split("_")[0]
    checks = [code for code in code_cells(path) if re.search(r"^check\.exercise_\w+\(", code.source, re.MULTILINE)]
    assert len(checks) >= 3, "a chapter ends with three exercises or more"
    solutions = "\n".join(code.source for code in code_cells(ROOT / "notebooks" / "C_solutions.ipynb"))
    for name in re.findall(r"^check\.(exercise_\w+)\(", "\n".join(c.source for c in checks), re.MULTILINE):
        assert f"chapter_{number}.{name}(" in solutions, f"C_solutions does not solve {name} of chapter {number}"


def test_every_solution_is_accepted():
    for code in code_cells(ROOT / "notebooks" / "C_solutions.ipynb"):
        calls = re.findall(r"^chapter_\w+\.(exercise_\w+)\(", code.source, re.MULTILINE)
        printed = "".join(out.get("text", "") for out in code.cell.outputs)
        assert printed.count(": solved.") == len(calls), f"cell {code.number}: {printed}"
