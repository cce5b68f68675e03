"""Checks for the chapters' exercises, one module a chapter: `from llmbook.book.exercises import chapter_02`.

A check takes the reader's function, tries it and prints one of three lines: not started, not yet (and what is
wrong), or solved. It never raises, so an unsolved exercise does not stop a notebook.
"""

import ast
import dis
import inspect
import linecache
import sys
import textwrap
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor

from llmbook.book.languages import said


class Wrong(Exception):
    """Raised inside a check; its message tells the reader what is wrong and which mistake often causes it."""


def exercise(number: str, praise: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a check out of a function that raises `Wrong`.

    Args:
        number: the exercise's number, such as "3.2".
        praise: one sentence printed when the answer is right: what the reader has shown.

    `check.verify` raises instead of printing. Both draw the same random numbers each time and leave the reader's as
    they were.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def verify(*answers: Any) -> None:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)  # not torch.manual_seed, which reseeds the GPUs too
                function(*answers)

        @wraps(function)
        def check(*answers: Any) -> None:
            try:
                if any(answer is None or answer is ... for answer in answers):
                    raise NotImplementedError
                verify(*answers)
            except NotImplementedError as error:
                finished = _is_ours(error.__traceback__) and not any(map(_is_unfinished, answers))
                if finished and _returned_nothing(verify, answers):
                    print(said(f"Exercise {number}: not yet. Your function returned nothing: did you forget "
                               "`return`?"))
                else:
                    print(said(f"Exercise {number}: not started. Replace the stub above and run this cell again."))
            except Wrong as problem:
                print(said(f"Exercise {number}: not yet. {problem}"))
            except Exception as error:  # the reader's own code failed: say so without a page of traceback
                print(said(f"Exercise {number}: not yet. Your code stopped with {type(error).__name__}: {error}"
                           f"{_place(error.__traceback__, answers)}"))
            else:
                print(said(f"Exercise {number}: solved. {praise}"))

        check.verify = verify
        return check

    return decorate


def _is_ours(trace: TracebackType | None) -> bool:
    """Whether an error was raised by a check, which had got nothing, and not by the reader's code, such as a stub."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or Path(trace.tb_frame.f_code.co_filename).parent == Path(__file__).parent


def _is_unfinished(answer: Any) -> bool:
    """Whether an answer is missing, or a function or class whose text still has the stub's `...`, or does nothing."""
    if answer is None or answer is ...:
        return True
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(answer)))
    except (OSError, TypeError, SyntaxError):  # its text is not kept, or begins within a line, as a lambda's may
        tree = ast.Module([], [])
    left = [node.value for node in ast.walk(tree) if isinstance(node, (ast.Expr, ast.Return))]
    if any(isinstance(value, ast.Constant) and value.value is ... for value in left):
        return True
    code = getattr(answer, "__code__", None)
    nothing = {"RESUME", "NOP", "LOAD_CONST", "POP_TOP", "RETURN_VALUE", "RETURN_CONST", "COPY_FREE_VARS",
               "LOAD_DEREF"}
    return code is not None and {step.opname for step in dis.get_instructions(code)} <= nothing


def _returned_nothing(verify: Callable[..., None], answers: tuple) -> bool:
    """Whether the last thing that the reader's code handed back was None, and not, say, a list with a place left open.

    It runs once more for that, watched; checks draw the same numbers each time.
    """
    codes, last = set(), []
    for answer in answers:
        functions = vars(answer).values() if inspect.isclass(answer) else [answer]
        codes |= {function.__code__ for function in functions if hasattr(function, "__code__")}

    def watch(frame: FrameType, event: str, value: Any) -> None:
        if event == "return" and frame.f_code in codes:
            last[:] = [value]

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        with suppress(Exception):
            verify(*answers)
    finally:
        sys.setprofile(before)
    return bool(last) and last[0] is None


def _place(trace: TracebackType | None, answers: tuple) -> str:
    """The last line that ran in the reader's own file or cell, in brackets; nothing if there is none."""
    files = {answer.__code__.co_filename for answer in answers if hasattr(answer, "__code__")}
    place = ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in files:
            text = linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno).strip()
            place = said(f" (line {trace.tb_lineno}{f': `{text}`' if text else ''})")
        trace = trace.tb_next
    return place


def expect(condition: bool, message: str) -> None:
    """Raise `Wrong(message)` unless `condition`."""
    if not condition:
        raise Wrong(message)


def expect_tensor(answer: Any, shape: tuple[int, ...], what: str = "the result") -> Tensor:
    """Raise `Wrong` unless `answer` is a tensor of that shape; returns it."""
    if answer is None or answer is ...:
        raise NotImplementedError
    expect(isinstance(answer, Tensor), f"{what} should be a tensor, not {type(answer).__name__}.")
    expect(tuple(answer.shape) == tuple(shape), f"{what} has shape {tuple(answer.shape)}, expected {tuple(shape)}.")
    return answer


def expect_number(answer: Any, what: str = "the result") -> float:
    """Raise `Wrong` unless `answer` is one number, a tensor of one included; returns it."""
    if answer is None or answer is ...:
        raise NotImplementedError
    try:
        if isinstance(answer, str):  # which float would read
            raise TypeError
        return float(answer.detach() if isinstance(answer, Tensor) else answer)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor with more than one number
        raise Wrong(f"{what} should be one number, not {type(answer).__name__}.") from None


def compare(got: float, wanted: float, mistakes: Iterable[tuple[float, str]], where: str) -> None:
    """Raise `Wrong` unless got is wanted; the message of the first mistake that gives got is added."""
    if abs(got - wanted) <= 1e-5 * max(1, abs(wanted)):
        return
    hint = next((text for value, text in mistakes if abs(got - value) <= 1e-5 * max(1, abs(value))), "")
    raise Wrong(f"{where} {got:.4f}, expected {wanted:.4f}. {hint}".rstrip())


def close(first: Tensor, second: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether two tensors of equal shape agree in every element to `tolerance`, absolute or relative."""
    return first.shape == second.shape and torch.allclose(first.float(), second.float(), rtol=tolerance, atol=tolerance)
