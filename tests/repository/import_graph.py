"""Which module of the package imports which, drawn from the syntax trees: `python -m tests.repository.import_graph`.

Imports inside functions and those for type checkers count too: whoever needs a module may not be needed by it.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from tests.support.repository import ROOT

# From below to above. A module imports from its own row and from rows below; no row of several modules has a cycle.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("storyworld.*",),  # imports nothing of the rest, and no torch
    ("threads", "extras", "files", "devices", "assets", "families", "protocols", "diagnosis", "model_files",
     "answer_checks", "answer_scores", "judges", "tokenizing", "pair_counts", "head_loss", "repetition",
     "short_attention", "compiling", "prefetching", "caching", "state_cache", "documents", "training_run",
     "rotary_scaling", "progress", "pip_reports", "catalogue_files", "translations", "problems", "group_samples"),
    ("text",),
    ("attention",),
    ("gpt",),
    ("text_batch",),  # what continues texts side by side
    ("training", "generation"),
    ("llama",),
    ("gemma",),
    ("sequence_mixers",),
    ("experts",),
    ("compiled",),  # the pass for one token, for GPUs
    ("formats.*",),  # the readers, and what they share
    ("open_weights",),
    ("labelled_texts",),  # what a classifier reads
    ("classification", "prompt_ends"),
    ("instructions",),
    ("lora",),
    ("preference_pairs",),  # what is read by those who learn from votes
    ("preferences",),
    ("reasoning",),
    ("translation_parts", "encoder_parts"),
    ("encoder_decoder",),
    ("encoder",),
    ("minilm",),
    ("quantization",),
    ("formats.gguf_writer", "formats.tokenizer_writers", "formats.model_cards"),
    ("formats.export", "scale.*"),
    ("serve.*",),
    ("cli.*", "__main__"),
    ("book.*",),
)
FACE = "the package itself"  # llmbook/__init__.py: nobody inside needs it but for its version


@dataclass(frozen=True)
class Import:
    """One import: in which module and line, from which module, which names, if names."""

    importer: str
    line: int
    module: str
    names: tuple[str, ...] = ()


def layer(module: str) -> int:
    """The row of `LAYERS` that a module stands in. A name in full goes before one with a star."""
    for pattern in (module, module.split(".")[0] + ".*"):
        for number, row in enumerate(LAYERS):
            if pattern in row:
                return number
    raise KeyError(f"{module} stands in no layer: add it to LAYERS in tests/repository/import_graph.py")


def sources(package: Path) -> dict[str, Path]:
    """Name -> file of every module: "gpt", "scale.team"; for a package's __init__ the package's name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found[""]  # the face
    return found


def imports_of(module: str, tree: ast.AST, known: set[str], is_package: bool = False) -> list[Import]:
    """What a module of the package imports from the package."""
    found = []
    here = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "llmbook":
                    found.append(Import(module, node.lineno, alias.name.partition(".")[2] or FACE))
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                above = here[: len(here) - (node.level - 1)]
                origin = ".".join([*above, *([node.module] if node.module else [])])
            elif (node.module or "").split(".")[0] == "llmbook":
                origin = node.module.partition(".")[2]
            else:
                continue
            plain = []
            for alias in node.names:  # `from llmbook.scale import team` imports a module, not a name
                below = f"{origin}.{alias.name}".lstrip(".")
                if below in known:
                    found.append(Import(module, node.lineno, below))
                else:
                    plain.append(alias.name)
            if plain:
                found.append(Import(module, node.lineno, origin or FACE, tuple(plain)))
    return found


def import_graph(package: Path = ROOT / "llmbook") -> dict[str, list[Import]]:
    """Module -> its imports from the package, in the order of the layers."""
    paths = sources(package)
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in paths.items()}
    graph = {name: imports_of(name, tree, set(paths), paths[name].stem == "__init__") for name, tree in trees.items()}
    packages = {name for name, path in paths.items() if path.stem == "__init__" and not graph[name]}
    return {name: found for name, found in graph.items() if name not in packages}


def cycles(graph: dict[str, list[Import]]) -> list[list[str]]:
    """Modules that need each other, each group once, from the shortest way round that a search in depth meets."""
    found: dict[frozenset[str], list[str]] = {}
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        if module in way:
            circle = way[way.index(module):]
            found.setdefault(frozenset(circle), circle)
        elif module not in done:
            for target in sorted({item.module for item in graph.get(module, ())}):
                visit(target, [*way, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return list(found.values())


def private_names(importer: str, tree: ast.AST, imports: list[Import]) -> list[str]:
    """Underscore names that a module takes from another one: `from x import _y`, and `x._y` where x is a module."""
    taken = [f"{item.module}.{name}, line {item.line}" for item in imports for name in item.names
             if name.startswith("_") and not name.startswith("__")]
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                for item in imports:
                    if item.line == node.lineno and not item.names and item.module.split(".")[-1] == alias.name:
                        modules[alias.asname or alias.name] = item.module
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "llmbook" and alias.asname:
                    modules[alias.asname] = alias.name.partition(".")[2]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            text = ast.unparse(node.value)
            origin = modules.get(text) or (text.partition(".")[2] if text.startswith("llmbook.") else "")
            if origin and origin != importer:
                taken.append(f"{origin}.{node.attr}, line {node.lineno}")
    return taken


def drawn(graph: dict[str, list[Import]]) -> str:
    """The graph as text: a row a module, from the top layer down, and what it imports."""
    width = max(map(len, graph))
    rows, last = [], None
    for module in sorted(graph, key=lambda name: (-layer(name), name)):
        if last not in (None, layer(module)):
            rows.append("")
        last = layer(module)
        targets = sorted({item.module for item in graph[module]}, key=lambda name: (name == FACE or layer(name), name))
        rows.append(f"{module:{width}}  {' '.join(targets) or '-'}")
    return "\n".join(rows)


def lines_of(package: Path = ROOT / "llmbook") -> dict[str, int]:
    """Module -> how many lines it has."""
    return {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in sources(package).items()}


if __name__ == "__main__":
    print(drawn(import_graph()))
