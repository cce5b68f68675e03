"""Jinja2's sandbox with bounds: a template from a file can neither reach out of it, nor run or grow for ever.

Jinja2's own sandbox keeps a template from Python's internals and from changing what it is given. It does not keep it
from computing: loops can be nested, and texts doubled. Here every turn of a loop, every call of a macro and every text
that is made is counted, and the template is stopped when it has had enough.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

__all__ = ["MAX_STEPS", "TemplateTooCostly", "render_template"]

MAX_STEPS = 200_000  # turns of loops and calls of macros
MAX_CHARACTERS = 20_000_000  # of all texts and lists that are made on the way, and 200 times what is given
MAX_SECONDS = 20.0
_LARGEST_NUMBER = 10_000  # as a width, a count or an indent
_LARGEST_TEMPLATE = 1_000_000  # characters


class TemplateTooCostly(jinja2.TemplateRuntimeError):
    """A template was stopped, because it computes too long or makes too much."""


class _Budget:
    """What one rendering may still use."""

    def __init__(self, characters: int):
        self.characters, self.steps = characters, MAX_STEPS
        self.until = time.monotonic() + MAX_SECONDS

    def spend(self, characters: int, steps: int = 0) -> None:
        self.characters -= characters
        self.steps -= steps
        if self.steps < 0:
            raise TemplateTooCostly(f"it takes more than {MAX_STEPS:,} steps")
        if self.characters < 0:
            raise TemplateTooCostly("it makes more text than a conversation can need")
        if time.monotonic() > self.until:
            raise TemplateTooCostly(f"it takes more than {MAX_SECONDS:.0f} s")


_BUDGET: ContextVar[_Budget] = ContextVar("what the running template may still use")


def _spend_for(value: Any) -> Any:
    """Counts a value that was made."""
    if isinstance(value, (str, bytes, list, tuple, dict, set)):
        _BUDGET.get().spend(len(value))
    elif isinstance(value, int) and value.bit_length() > 100_000:
        raise TemplateTooCostly("it computes numbers of more than 100,000 bits")
    return value


def _check_arguments(values: Iterable[Any]) -> None:
    """Refuses widths and counts that no conversation needs."""
    for value in values:
        if isinstance(value, (int, float)) and not abs(value) <= _LARGEST_NUMBER:
            raise TemplateTooCostly(f"it uses the number {value:.6g} where at most {_LARGEST_NUMBER:,} is needed")


def _check_text_method(name: str, text: str, arguments: tuple, named: Mapping[str, Any]) -> None:
    """Counts what a method of a text would make, before it makes it."""
    _check_arguments([*arguments, *named.values()])
    spend = _BUDGET.get().spend
    if name == "replace" and len(arguments) >= 2 and all(isinstance(part, str) for part in arguments[:2]):
        spend(len(text) + (text.count(arguments[0]) + 1) * len(arguments[1]))
    elif name == "join" and arguments and hasattr(arguments[0], "__len__"):
        spend(len(text) * len(arguments[0]))
    elif name == "indent" and arguments:
        width = len(arguments[0]) if isinstance(arguments[0], str) else int(arguments[0])
        spend((text.count("\n") + 1) * width)
    elif name == "format" and re.search(r"\d{6}", text):
        raise TemplateTooCostly(f"it uses the format {text[:40]!r}")


class _Counting(NodeTransformer):
    """Puts a count into every loop and macro, and into joining by `~`."""

    def _step(self, line: int) -> nodes.Filter:
        return nodes.Filter(nodes.Const(True), "_step", [], [], None, None).set_lineno(line)

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        if node.test is not None:
            node.test = nodes.And(self._step(node.lineno), node.test).set_lineno(node.lineno)
        node.body.insert(0, nodes.ExprStmt(self._step(node.lineno)).set_lineno(node.lineno))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(self._step(node.lineno)).set_lineno(node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        parts = nodes.List(node.nodes).set_lineno(node.lineno)
        return nodes.Filter(parts, "_joined", [], [], None, None).set_lineno(node.lineno)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here they are text like any other."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox that counts."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Counting().visit(super()._parse(source, name, filename))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in ("translate", "maketrans", "expandtabs", "format_map"):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(side) for side in (left, right) if isinstance(side, (str, list, tuple))]
        numbers = [side for side in (left, right) if isinstance(side, int)]
        if operator == "*" and sizes and numbers:
            _BUDGET.get().spend(sizes[0] * max(0, numbers[0]))
        elif operator == "**" and len(numbers) == 2 and left.bit_length() * max(0, right) > 100_000:
            raise TemplateTooCostly(f"it computes {str(left)[:20]} ** {str(right)[:20]}")
        elif operator == "%" and isinstance(left, str):
            _check_arguments(right if isinstance(right, tuple) else [])
            _check_text_method("format", left, (), {})
        elif operator == "+":
            _BUDGET.get().spend(sum(sizes))
        return _spend_for(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: B902, N805
        text = getattr(__obj, "__self__", None)
        if isinstance(text, str):
            _check_text_method(getattr(__obj, "__name__", ""), text, args, kwargs)
        return _spend_for(super().call(__context, __obj, *args, **kwargs))

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        parts = list(parts)
        _BUDGET.get().spend(sum(map(len, parts)))
        return "".join(parts)


def _counted(name: str, filter_: Callable) -> Callable:
    """A filter that counts what it reads and makes."""
    @wraps(filter_)
    def counted(*arguments: Any, **named: Any) -> Any:
        passed = 1 if getattr(filter_, "jinja_pass_arg", None) else 0
        value, rest = arguments[passed], arguments[passed + 1 :]
        _check_arguments([*rest, *named.values()])
        if isinstance(value, str):
            _check_text_method(name, value, rest or tuple(named.values()), {})
        elif name == "join":
            value = list(value)
            _BUDGET.get().spend(len(value) * len(str([*rest, *named.values(), ""][0])))
        if hasattr(value, "__len__"):
            _BUDGET.get().spend(len(value), steps=0 if isinstance(value, str) else len(value))
        result = filter_(*arguments[:passed], value, *rest, **named)
        return _spend_for(result)
    return counted


def _as_json(value: Any, ensure_ascii: bool = False, indent: int | None = None,
             separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:
    """As chat templates expect it: Jinja2's own writes HTML's signs as numbers."""
    if isinstance(indent, int) and indent > 16:
        raise TemplateTooCostly(f"it indents by {indent}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: Any) -> None:
    raise jinja2.TemplateError(str(message))


def _joined(parts: Iterable[Any]) -> str:
    return _Environment.concat([str(part) for part in parts])


def _step(value: Any) -> Any:
    _BUDGET.get().spend(0, steps=1)
    return value


@lru_cache(1)
def _environment() -> _Environment:
    """Set up as transformers does it, whose users write the templates."""
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, optimized=False, finalize=jinja2.pass_context(
        lambda context, value: _spend_for(value)), extensions=[loopcontrols, _Generation])
    for name in ("urlize", "striptags", "wordwrap", "pprint", "xmlattr", "random", "filesizeformat"):
        del environment.filters[name]
    environment.filters["tojson"] = _as_json
    environment.filters = {name: _counted(name, filter_) for name, filter_ in environment.filters.items()}
    environment.filters |= {"_step": _step, "_joined": _joined}
    del environment.globals["lipsum"]
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


@lru_cache(16)
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


def _plain(value: Any) -> Any:
    """Data of plain types only: other objects have methods that a template could call."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    raise ValueError(f"a conversation holds {value!r:.60}, of type {type(value).__name__}: only text, numbers, lists "
                     "and dictionaries can be in it")


def render_template(template: str, **values: Any) -> str:
    """The text that a chat template makes of its values, plain data.

    Raises ValueError, with the reason in one line, if the template is faulty, refuses what it is given, tries what
    the sandbox forbids, or computes too much.
    """
    if len(template) > _LARGEST_TEMPLATE:
        raise ValueError(f"the chat template has {len(template):,} characters: at most {_LARGEST_TEMPLATE:,} are read")
    values = {name: _plain(value) for name, value in values.items()}
    before = _BUDGET.set(_Budget(MAX_CHARACTERS + 200 * len(json.dumps(values))))
    try:
        return _compiled(template).render(values)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"the chat template is faulty in line {error.lineno}: {_line(error)}") from None
    except TemplateTooCostly as error:
        raise ValueError(f"the chat template is stopped, because {_line(error)}: give another template") from None
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template refuses: {_line(error)}") from None
    except (RecursionError, MemoryError) as error:
        raise ValueError(f"the chat template is stopped ({type(error).__name__}): give another template") from None
    except Exception as error:  # whatever a template does wrong, such as adding a number to a text
        raise ValueError(f"the chat template fails ({type(error).__name__}: {_line(error)})") from None
    finally:
        _BUDGET.reset(before)


def _line(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", None) or error).split())[:300]
