"""Checks for the chapters' exercises, one module a chapter: `from llmbook.book.exercises import chapter_02`.

A check takes the reader's function, tries it and prints one of three lines: not started, not yet (and what is
wrong), or solved. It never raises, so an unsolved exercise does not stop a notebook.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


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
            except NotImplementedError:
                print(f"Exercise {number}: not started. Replace the stub above and run this cell again.")
            except Wrong as problem:
                print(f"Exercise {number}: not yet. {problem}")
            except Exception as error:  # the reader's own code failed: say so without a page of traceback
                print(f"Exercise {number}: not yet. Your code stopped with {type(error).__name__}: {error}")
            else:
                print(f"Exercise {number}: solved. {praise}")

        check.verify = verify
        return check

    return decorate


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
