"""What all exercises' checks have in common: what they say of a stub, of nothing, and of code that stops."""

import pytest
from torch import nn

from llmbook.book.exercises import exercise, expect_number


@exercise("0.1", "Well added.")
def add_exercise(add):
    expect_number(add(1, 2))


@exercise("0.2", "Well built.")
def build_exercise(module_class):
    expect_number(module_class()(1))


def said(check, *answers, capsys) -> str:
    check(*answers)
    return capsys.readouterr().out


# a forgotten `return` was "not started"

def forgot(a, b):
    total = a + b  # noqa: F841


def forgot_in_one_case(a, b):
    if a > 5:
        return a + b


def dots(a, b):
    """Add two numbers."""
    ...  # your code


def half_given(a, b):
    numbers = [a, b]  # noqa: F841
    ...


def half_given_return(a, b):
    numbers = [a, b]  # noqa: F841
    return ...


def raises(a, b):
    raise NotImplementedError


def passes(a, b):
    pass


class Unfinished(nn.Module):
    def forward(self, x):
        y = x + 1  # noqa: F841
        ...


class Forgetful(nn.Module):
    def forward(self, x):
        y = x + 1  # noqa: F841


@pytest.mark.parametrize("answer", [forgot, forgot_in_one_case])
def test_a_forgotten_return_is_named(answer, capsys):
    printed = said(add_exercise, answer, capsys=capsys)
    assert printed == "Exercise 0.1: not yet. Your function returned nothing: did you forget `return`?\n"


@pytest.mark.parametrize("answer", [dots, half_given, half_given_return, raises, passes, None, ..., lambda a, b: None])
def test_a_stub_is_not_started(answer, capsys):
    assert said(add_exercise, answer, capsys=capsys).startswith("Exercise 0.1: not started.")


def test_a_place_left_open_in_a_list_is_not_started(capsys):
    @exercise("0.3", "Both.")
    def both(numbers):
        for number in numbers():
            expect_number(number)

    assert "not started" in said(both, lambda: [1, None], capsys=capsys)
    assert "not started" in said(both, lambda: [1, ...], capsys=capsys)


def test_classes_too(capsys):
    assert "not started" in said(build_exercise, Unfinished, capsys=capsys)
    assert "did you forget `return`?" in said(build_exercise, Forgetful, capsys=capsys)


def test_code_that_stops_is_shown_with_its_line(capsys):
    def divide(a, b):
        zero = a - 1
        return helper(b, zero)

    def helper(b, zero):
        return b / zero

    line = helper.__code__.co_firstlineno + 1
    printed = said(add_exercise, divide, capsys=capsys)
    assert f"stopped with ZeroDivisionError: division by zero (line {line}: `return b / zero`)" in printed


def test_code_without_its_text_is_still_reported(capsys):
    names = {}
    exec("def add(a, b):\n    return a / 0\n", names)
    assert "ZeroDivisionError: division by zero (line 2)" in said(add_exercise, names["add"], capsys=capsys)
