"""The package's face: its public names, their types and docstrings, and the lists of what it needs."""

import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from llmbook.extras import load_extra
from llmbook.open_weights import Chat
from tests.support.repository import CHAPTERS, NOTEBOOKS, PYPROJECT, ROOT, code_cells, is_generated, modules

# The names that other code relies on. A function that takes or returns tensors says so in shapes.
PUBLIC = {
    "assets": ["fetch"],
    "text": ["load_tokenizer", "train_bpe", "NextTokenDataset", "make_dataloader"],
    "attention": ["MultiHeadAttention", "KeyValueCache"],
    "gpt": ["GPTConfig", "GPT"],
    "generation": ["generate", "stream"],
    "training": ["TrainingConfig", "train", "next_token_loss", "evaluate", "save_model", "load_model"],
    "llama": ["LlamaConfig", "Llama"],
    "open_weights": ["load_pretrained", "Chat", "format_chat"],
    "scale.token_files": ["write_token_files", "TokenFiles", "TokenWindows"],
    "scale.checkpoints": ["Checkpoints"],
    "scale.team": ["Team"],
}
HEADLESS = ("generation", "open_weights", "encoder", "experts")  # nbdev writes a docstring to a notebook's first module
WITHOUT_TENSORS = {"fetch", "load_tokenizer", "train_bpe", "GPTConfig", "TrainingConfig", "train", "evaluate",
                   "save_model", "load_model", "LlamaConfig", "load_pretrained", "Chat", "format_chat",
                   "write_token_files", "TokenFiles", "Checkpoints", "Team"}
SHAPE = re.compile(r"\((?:batch|n|n_layers|context_length|batch_size|\.\.\.)(?:, [\w *+]+)*,?\)")


def exported_names() -> list[tuple[str, str]]:
    return [(module, name) for module in modules() if is_generated(module)
            for name in importlib.import_module(f"llmbook.{module}").__all__]


@pytest.mark.parametrize("module, name", [(module, name) for module, names in PUBLIC.items() for name in names])
def test_public_name_exists_and_gives_shapes(module, name):
    thing = getattr(importlib.import_module(f"llmbook.{module}"), name)
    text = documentation(thing)
    assert len(text) > 80, f"{name} has no docstring to speak of"
    if name not in WITHOUT_TENSORS:
        assert SHAPE.search(text), f"{name}'s docstring gives no shape such as (batch, tokens)"


def documentation(thing) -> str:
    """A function's docstring; a class's with those of its methods, where shapes may stand."""
    parts = [inspect.getdoc(thing) or ""]
    if inspect.isclass(thing):
        parts += [inspect.getdoc(method) or "" for _, method in inspect.getmembers(thing, inspect.isfunction)
                  if method.__module__ == thing.__module__]
    return "\n".join(parts)


@pytest.mark.parametrize("module, name", exported_names())
def test_exported_callables_are_typed_and_documented(module, name):
    thing = getattr(importlib.import_module(f"llmbook.{module}"), name)
    if not callable(thing) or not hasattr(thing, "__module__") or not thing.__module__.startswith("llmbook"):
        return  # a constant or an alias of a type
    assert inspect.getdoc(thing), f"{module}.{name} has no docstring"
    functions = [thing] if inspect.isfunction(thing) else [
        function for key, function in vars(thing).items()
        if inspect.isfunction(function) and (key in ("__init__", "forward") or not key.startswith("_"))
        and function.__code__.co_filename.endswith(f"{module}.py")]
    for function in functions:
        signature = inspect.signature(inspect.unwrap(function))
        untyped = [key for key, parameter in signature.parameters.items()
                   if parameter.annotation is parameter.empty and key != "self"]
        assert not untyped, f"{function.__qualname__}: no type for {untyped}"
        if function.__name__ != "__init__":
            assert signature.return_annotation is not signature.empty, f"{function.__qualname__}: no return type"


def test_generated_modules_carry_no_notebook_habits():
    for name, tree in modules().items():
        if is_generated(name):
            calls = [node.func.id for node in ast.walk(tree)
                     if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
            assert not {"print", "display", "get_ipython"} & set(calls), f"llmbook/{name}.py prints"
            assert ast.get_docstring(tree) or name in HEADLESS, f"llmbook/{name}.py has no docstring"


# --- the lists of versions ---------------------------------------------------------------------------------------

def requirement_lines(path: str = "requirements.txt") -> list[str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / path).read_text().splitlines())
    return [line for line in lines if line]


def pins() -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for line in [*requirement_lines()[:-1], *requirement_lines("docs/requirements.txt")]:
        requirement = Requirement(line)
        found.setdefault(requirement.name.lower(), []).append(requirement)
    return found


def test_requirements_pin_exactly_and_end_with_the_package():
    assert requirement_lines()[-1] == "--editable ."
    for name, requirements in pins().items():
        for requirement in requirements:
            assert [s.operator for s in requirement.specifier] == ["=="], f"{name} is not pinned to one version"


def test_pyproject_has_loose_bounds_that_the_pins_meet():
    for line in [*PYPROJECT["project"]["dependencies"], *optional()]:
        if line.startswith("tensorboard"):
            continue
        bound = Requirement(line)
        assert [s.operator for s in bound.specifier] == [">="], f"{line}: a lower bound only"
        assert bound.name.lower() in pins(), f"{bound.name} is not in requirements.txt"
        for requirement in pins()[bound.name.lower()]:
            version = next(iter(requirement.specifier)).version
            assert bound.specifier.contains(version), f"{bound} excludes the pinned {version}"


def optional() -> list[str]:
    return [line for lines in PYPROJECT["project"]["optional-dependencies"].values() for line in lines]


def test_the_lowest_versions_are_written_down_to_be_tested():
    # a bound that nobody installs is a guess; the job "oldest" installs these
    oldest = [Requirement(line) for line in (ROOT / "tests" / "oldest.txt").read_text().splitlines()
              if not line.startswith("#")]
    bounds = [Requirement(line) for line in [*PYPROJECT["project"]["dependencies"], *optional()]]
    for bound in bounds:
        if bound.name == "tensorboard":
            continue  # only written to, through PyTorch
        low = next(iter(bound.specifier)).version
        if any(next(iter(pin.specifier)).version == low for pin in pins()[bound.name.lower()]):
            continue  # `make test` installs it
        pinned = [next(iter(line.specifier)).version for line in oldest if line.name == bound.name]
        assert any(version == low or version.startswith(f"{low}.") for version in pinned), f"{bound}: {pinned}"
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]["oldest"]
    assert any("tests/oldest.txt" in step.get("run", "") for step in job["steps"])


def test_conda_uses_the_same_list():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.txt"]}
    names = [line.split("=")[0] for line in conda]
    assert names == ["python", "pip"], "versions belong in requirements.txt"
    python = conda[0].split("=")[1]
    assert SpecifierSet(PYPROJECT["project"]["requires-python"]).contains(f"{python}.0")


# The name to look for in requirements.txt: another spelling, or what brings the module along.
IMPORT_NAMES = {"yaml": "pyyaml", "tiktoken_ext": "tiktoken", "cycler": "matplotlib", "IPython": "ipykernel",
                "jupyter_client": "ipykernel", "packaging": "pytest", "_pytest": "pytest",
                "sklearn": "scikit-learn", "PIL": "matplotlib", "docutils": "sphinx", "myst_nb": "myst-nb",
                "axe_playwright_python": "axe-playwright-python", "fontTools": "matplotlib"}


def imported(tree: ast.AST) -> set[str]:
    """Packages that a module or cell imports, what only type checkers read left out."""
    names, for_types = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for_types |= {inner for line in node.body for inner in ast.walk(line)}
    for node in set(ast.walk(tree)) - for_types:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"llmbook", "tests", "tools", "tomli"}


def sources(folder: str) -> dict[str, ast.Module]:
    return {str(path): ast.parse(path.read_text(encoding="utf-8")) for path in Path(ROOT, folder).rglob("*.py")}


def names_of(extra: str) -> set[str]:
    return {Requirement(line).name.lower() for line in PYPROJECT["project"]["optional-dependencies"][extra]}


@pytest.mark.book
def test_everything_imported_is_listed():
    listed = {Requirement(line).name.lower() for line in PYPROJECT["project"]["dependencies"]}
    book = names_of("book")
    # the code says how to install these, or does without
    by_need = {"huggingface_hub", *names_of("parquet")}
    for path, tree in sources("llmbook").items():
        names = {IMPORT_NAMES.get(name, name).lower() for name in imported(tree)}
        allowed = {*listed, *by_need, *(book if "/llmbook/book/" in path else ()),
                   *(names_of("serve") if "/llmbook/serve/" in path else ())}
        assert names <= allowed, f"{path} imports {names - allowed}: list it, or use llmbook.extras.load_extra"
    for path in CHAPTERS:
        for code in code_cells(path):
            names = {IMPORT_NAMES.get(name, name).lower() for name in imported(code.tree)}
            extra = names - listed - book - by_need
            assert extra <= {"ipykernel"}, f"{path.name}, cell {code.number} needs {extra}"
    for folder in ("tests", "tools"):
        for path, tree in sources(folder).items():
            names = {IMPORT_NAMES.get(name, name).lower() for name in imported(tree)}
            assert names <= {*pins()}, f"{path} needs {names - set(pins())}"


def test_a_package_of_an_extra_is_asked_for_in_one_line(monkeypatch):
    assert load_extra("json").loads("1") == 1
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pandas.* pip install "llmbook\[book\]"$'):
        load_extra("pandas")


def test_transformers_is_for_tests_only():
    assert all("transformers" not in line for line in PYPROJECT["project"]["dependencies"])
    for path, tree in sources("llmbook").items():
        assert "transformers" not in imported(tree), path
    for path in NOTEBOOKS:
        assert all("transformers" not in imported(code.tree) for code in code_cells(path)), path


def test_ruff_finds_nothing():
    ruff = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert ruff.returncode == 0, ruff.stdout


# --- README and CI -----------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_the_readme_names_every_chapter_and_its_examples_run(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        assert f"notebooks/{path.name})" in text, f"README does not link {path.name}"
        assert f"/blob/main/notebooks/{path.name})" in text, f"README has no badge for {path.name}"
    for target in ("make book", "make test", "make lab", "make site", "pip install -r requirements.txt",
                   "environment.yml"):
        assert target in text
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (ROOT / link).exists(), f"README links {link}, which does not exist"
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 5
    monkeypatch.chdir(tmp_path)  # one of them writes checkpoints
    # the reply may take 200 tokens; to see that the model replies, fewer are enough
    monkeypatch.setattr(Chat, "__init__", functools.partialmethod(Chat.__init__, max_new_tokens=40))
    names = {"__name__": "readme"}
    for example in examples:  # one after the other, as a reader runs them
        exec(compile(example, "README.md", "exec"), names)
    assert (tmp_path / "runs" / "first" / "step-00000050").is_dir()


def test_ci_runs_the_readme_s_test_command():
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    job = workflow["jobs"]["test"]
    assert any("make test" in step.get("run", "") for step in job["steps"])
    assert {"ubuntu-latest", "macos-latest"} <= set(job["strategy"]["matrix"]["os"])
