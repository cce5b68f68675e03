"""Who says that an answer is right: it passes in every usual writing, a wrong one never, and nothing takes long."""

import json
import math
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmbook.answer_checks import (
    CONTENT_CHECKS,
    FORMAT_CHECKS,
    arithmetic,
    check_answer,
    check_kind,
    contains_answer,
    last_number,
)
from tests.support.repository import ROOT

# --- arithmetic --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expression, value", [
    ("12 * 7 + 3", 87), ("2 - 3 - 4", -5), ("2 * (3 + 4)", 14), ("7 / 2", 3.5), ("-7 // 2", -4), ("7 % 4", 3),
    ("2 ** 10", 1024), ("-2 ** 2", -4), ("-(3 - 5)", 2), ("1.5 + 0.25", 1.75), ("5", 5), ("10 - -3", 13),
    ("+3 - -2", 5), ("2 ** 3 ** 2", 512), ("2 ** -3", 0.125), ("1.0001 ** 1000", 1.0001**1000), (" 1 + 1 ", 2),
    ("0 ** 0", 1), ("(-1) ** 10000000001", -1), ("2 ** 1023", 2.0**1023), ("1" + "+1" * 499, 500),
    ("-" * 900 + "1", 1)])
def test_arithmetic(expression, value):
    assert arithmetic(expression) == value


@pytest.mark.parametrize("expression", [
    "__import__('os')", "__import__('os').system('true')", "open('x')", "print", "().__class__", "'a' * 3", "[1][0]",
    "(lambda: 1)()", "1 < 2", "3 if 1 else 2", "(x := 3)", "f'{1}'", "1j", "None", "2 @ 3", "~3", "not 1", "1 << 99",
    "[i for i in (1, 2)]", "'a'", "True", "-True", "1, 2", "2 +", "", "import os", "2; 3", "1 / 0", "0 ** -1",
    "(-8) ** 0.5", "(-8) ** 0.5 * 0", "1e308 * 10", "1e308 * 10 ** 99 % 0", "1e999", "\x00", "\ud800", "1 | 2"])
def test_what_is_not_arithmetic_is_never_run(expression):
    with pytest.raises(ValueError) as caught:
        arithmetic(expression)
    assert repr(expression) in str(caught.value) and "+ - * / // % **" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("no_text", [None, 87, b"1 + 1", ["1"]])
def test_what_is_no_text_is_not_arithmetic(no_text):
    with pytest.raises(ValueError, match="cannot be computed"):
        arithmetic(no_text)


HUGE = ["(((9**99)**99)**99)**99", "9**9**9", "9**9**9**9", "2**1024", "(2**1000)*(2**1000)", "10**309", "9**99999999",
        "(10**300)**1.5", "-9**9**9", "9" * 900, "(9**9**9) % 7", "0 * 9**9**9", "7**(7**7)", "(1+1)**(9**9)",
        "9**(9*9*9*9)", "(9**300//9)**300"]
LONG = ["(" * 300 + "1" + ")" * 300, "(" * 100_000, "-" * 100_000 + "1", "1" + "+1" * 100_000, "1" * 100_000,
        "9**" * 300 + "9", "[" * 900, "{" * 900, "1 +" * 330]


@pytest.mark.parametrize("expression", HUGE + LONG, ids=lambda expression: expression[:24])
def test_what_would_take_long_is_refused_at_once(expression):
    start = time.process_time()
    with pytest.raises(ValueError, match="cannot be computed: use numbers .* at most 1,000 characters"):
        arithmetic(expression)
    assert time.process_time() - start < 0.5  # a hundred times what it takes; computing would take hours


def expressions() -> st.SearchStrategy[str]:
    numbers = st.one_of(st.integers(0, 40).map(str), st.floats(0.1, 9, allow_nan=False).map(lambda x: f"{x:.2f}"))

    def larger(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pair = st.tuples(parts, st.sampled_from(["+", "-", "*", "/", "//", "%", "**", " + ", " - "]), parts)
        return st.one_of(pair.map("".join), parts.map(lambda x: f"({x})"), parts.map(lambda x: f"-{x}"),
                         parts.map(lambda x: f"+{x}"))

    return st.recursive(numbers, larger, max_leaves=9)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(expressions())
@example("2**-1**2")
def test_arithmetic_is_python_s(expression):
    try:
        found = arithmetic(expression)
    except ValueError:
        found = None
    if found is not None:
        assert found == pytest.approx(eval(expression), rel=1e-12, nan_ok=False)  # small, or it had been refused
    elif "**" not in expression:  # without powers, nothing that small is out of range
        with pytest.raises(ZeroDivisionError):
            eval(expression)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.one_of(st.text(), st.text(alphabet="0123456789+-*/%(). e_j,", max_size=60)))
def test_no_text_makes_arithmetic_raise_anything_else(text):
    try:
        assert math.isfinite(arithmetic(text))
    except ValueError as error:
        assert "cannot be computed" in str(error)


# --- numbers in a text -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, number", [
    ("It is 5.", 5), ("3 + 4 = 7", 7), ("1,234,567.50 pounds", 1234567.5), ("-3", -3), ("about -0.5 degrees", -0.5),
    ("12, then 34, done", 34), ("none", None), ("", None), ("- .", None), ("7,", 7), ("9" * 5000, float("inf")),
    ("10-12", 12), ("from -3 to -4.5", -4.5), ("1, 2,3", 3), ("1,234,567", 1234567), ("3.14", 3.14),
    ("\u22125", -5), ("10\u201312", 12), ("it is \u20135", -5), ("12.", 12), ("12.)", 12), ("(12)", 12), ("*12*", 12),
    ("**12**", 12), ("`12`", 12), ("$12", 12), ("-\u00a35", -5), ("\u00a3-5.20", -5.2), ("12%", 12), ("12 km", 12),
    ("12km", 12), ("12 km2", 12), ("4 of CO2", 4), ("5 m^2", 5), ("covid-19", 19), ("12\u00b2", 12), (".5", 0.5),
    ("-.5", -0.5), ("it is...5", 5), ("1e5", 1e5), ("2.5e-3", 0.0025), ("5 eggs", 5), ("5e", 5), ("1/2", 0.5),
    ("1 3/4", 1.75), ("-1/2", -0.5), ("15/03/2024", 2024), ("12\u202f345", 12345), ("12\u00a0345,", 12345),
    ("x = 5, y = 6", 6), ("1.2.3", 1.2), ("version 3.11", 3.11), ("0x1F", 0), ("1,2345", 2345), ("5!", 5), ("007", 7)])
def test_the_last_number(text, number):
    assert last_number(text) == (None if number is None else pytest.approx(number))


# --- checks ------------------------------------------------------------------------------------------------------

MARCH, FRIDAY = {"date": ["2024-02-28", 6]}, {"weekday": "2024-03-15"}  # 5 March 2024
FRUIT = {"sorted": ["plum", "apple", "mango"], "order": "ascending"}
CHECKS = [  # answer, check, whether it is right
    # numbers
    ("It is 87.", {"number": "12 * 7 + 3"}, True), ("87 is 12 * 7 + 3", {"number": "12 * 7 + 3"}, False),
    ("1,234", {"number": "1234"}, True), ("-5", {"number": "2 - 7"}, True), ("5", {"number": "2 - 7"}, False),
    ("\u22125", {"number": "2 - 7"}, True), ("12.", {"number": "12"}, True), ("1.2", {"number": "12"}, False),
    ("0.333333", {"number": "1 / 3"}, True), ("0.33", {"number": "1 / 3"}, False),
    ("0.3333333", {"number": "1 / 3"}, True), ("0.3333333333333333", {"number": "1 / 3"}, True),
    ("0.3333334", {"number": "1 / 3"}, False), ("0.333334", {"number": "1 / 3"}, False),
    ("0.666667", {"number": "2 / 3"}, True), ("0.666666", {"number": "2 / 3"}, True),
    ("0.666668", {"number": "2 / 3"}, False), ("1/3", {"number": "1 / 3"}, True), ("2/6", {"number": "1 / 3"}, True),
    ("1/4", {"number": "1 / 3"}, False), ("1 1/2", {"number": "1.5"}, True), ("1 1/2", {"number": "0.5"}, False),
    ("50%", {"number": "50"}, True), ("50 %", {"number": "0.5"}, True), ("50%", {"number": "5"}, False),
    ("1.0", {"number": "1"}, True), ("0.30", {"number": "0.1 + 0.2"}, True), ("12 km2", {"number": "12"}, True),
    ("1 234", {"number": "1234"}, False), ("1\u202f234", {"number": "1234"}, True), ("1e3", {"number": "1000"}, True),
    ("\u00a384", {"number": "12 * 7"}, True), ("84 pounds", {"number": "12 * 7"}, True),
    ("84 or 85", {"number": "12 * 7"}, False), ("184", {"number": "12 * 7"}, False),
    ("eighty-four", {"number": "12 * 7"}, False), ("100000000001", {"number": "10 ** 11"}, False),
    # lists
    ("a, b", {"sorted": ["b", "a"], "order": "ascending"}, True),
    ("b, a", {"sorted": ["b", "a"], "order": "ascending"}, False),
    ("A,B.", {"sorted": ["b", "a"], "order": "ascending"}, True),
    ("a", {"sorted": ["b", "a"], "order": "ascending"}, False),
    ("apple, Bird", {"sorted": ["Bird", "apple"], "order": "ascending"}, True),
    ("b, a", {"sorted": ["a", "b"], "order": "descending"}, True),
    ("a, b", {"sorted": ["a", "b"], "order": "descending"}, False),
    ("9, 10", {"sorted": [10, 9], "order": "ascending"}, True),
    ("10, 9", {"sorted": [10, 9], "order": "ascending"}, False),
    ("10, 9", {"sorted": [9, 10], "order": "descending"}, True),
    ("zz, aaa, b", {"sorted": ["aaa", "b", "zz"], "order": "length"}, False),
    ("b, zz, aaa", {"sorted": ["aaa", "b", "zz"], "order": "length"}, True),
    ("kiwi, pear, apple", {"sorted": ["pear", "kiwi", "apple"], "order": "length"}, True),
    ("pear, kiwi, apple", {"sorted": ["pear", "kiwi", "apple"], "order": "length"}, True),
    ("pear, apple, kiwi", {"sorted": ["pear", "kiwi", "apple"], "order": "length"}, False),
    ("apple, mango, plum", FRUIT, True), ("apple, mango and plum", FRUIT, True),
    ("apple, mango, and plum", FRUIT, True), ("Apple; mango; plum.", FRUIT, True),
    ("[apple, mango, plum]", FRUIT, True), ("apple\nmango\nplum", FRUIT, True),
    ("- apple\n- mango\n- plum", FRUIT, True), ("1. apple\n2. mango\n3. plum", FRUIT, True),
    ('"apple", "mango", "plum"', FRUIT, True), ("apple, plum, mango", FRUIT, False), ("apple, mango", FRUIT, False),
    ("apple, mango, plum, plum", FRUIT, False), ("apple, mango, plum, fig", FRUIT, False),
    ("apple mango plum", FRUIT, False), ("apple and mango, plum", FRUIT, False),
    ("\u22127, -2, 0", {"sorted": [0, -7, -2], "order": "ascending"}, True),
    ("-2, -7, 0", {"sorted": [0, -7, -2], "order": "ascending"}, False),
    ("5.0, 0.50", {"sorted": [0.5, 5], "order": "descending"}, True),
    ("1, 2 and 3", {"sorted": [3, 2, 1], "order": "ascending"}, True),
    ("1, 2, 2", {"sorted": [2, 1], "order": "ascending"}, False),
    ("one, 2", {"sorted": [2, 1], "order": "ascending"}, False),
    # days
    ("Friday", FRIDAY, True), ("It was a Friday.", FRIDAY, True), ("Today is Friday.", FRIDAY, True),
    ("friday", FRIDAY, True), ("FRIDAY!", FRIDAY, True), ("Fri", FRIDAY, True), ("It was Fri.", FRIDAY, True),
    ("On Fridays", FRIDAY, True), ("Every holiday is a Friday, Yesterday too", FRIDAY, True), ("Monday", FRIDAY, False),
    ("Friday or Monday", FRIDAY, False), ("It is not Friday.", FRIDAY, False), ("It wasn't a Friday.", FRIDAY, False),
    ("Today.", FRIDAY, False), ("Frida", FRIDAY, False), ("Not Thursday but Friday", FRIDAY, False),
    ("The Sun", {"weekday": "2024-03-17"}, False), ("Sun", {"weekday": "2024-03-17"}, True),
    ("On 25 March 2024.", {"date": ["2024-03-15", 10]}, True), ("26 March 2024", {"date": ["2024-03-15", 10]}, False),
    ("1 March 2024", {"date": ["2024-02-28", 2]}, True), ("5 March 2024", {"date": ["2024-03-08", -3]}, True),
    ("5 March 2024", MARCH, True), ("March 5, 2024", MARCH, True), ("march 5 2024", MARCH, True),
    ("5th March 2024", MARCH, True), ("the 5th of March 2024", MARCH, True), ("March 5th, 2024.", MARCH, True),
    ("2024-03-05", MARCH, True), ("It is 2024-03-05.", MARCH, True), ("2024/3/5", MARCH, True),
    ("05 March 2024", MARCH, True), ("5 Mar 2024", MARCH, True), ("Mar. 5, 2024", MARCH, True),
    ("Tuesday, 5 March, 2024", MARCH, True), ("6 days after 28 February 2024 comes 5 March 2024", MARCH, True),
    ("2024-03-06", MARCH, False), ("2024-05-03", MARCH, False), ("5/3/2024", MARCH, False),
    ("5 May 2024", MARCH, False), ("15 March 2024", MARCH, False), ("25 March 2024", MARCH, False),
    ("March 15, 2024", MARCH, False), ("5 March 2025", MARCH, False), ("5 March", MARCH, False),
    ("5 March 20245", MARCH, False), ("4 or 5 March 2024", MARCH, False),
    ("5 March 2024 or 6 March 2024", MARCH, False), ("not 5 March 2024", MARCH, False),
    ("31 February 2024", MARCH, False), ("28 February 2024", MARCH, False),
    ("25/03/2024", {"date": ["2024-03-15", 10]}, True), ("03/25/2024", {"date": ["2024-03-15", 10]}, True),
    ("3 Sept. 2024", {"date": ["2024-09-03", 0]}, True), ("3/3/2024", {"date": ["2024-03-03", 0]}, True),
    ("17 days", {"days": ["2024-03-15", "2024-04-01"]}, True), ("17", {"days": ["2024-03-15", "2024-04-01"]}, True),
    ("18 days", {"days": ["2024-03-15", "2024-04-01"]}, False), ("-17", {"days": ["2024-03-15", "2024-04-01"]}, False),
    ("3", {"letters": ["banana", "a"]}, True), ("2", {"letters": ["banana", "a"]}, False),
    ("2", {"letters": ["Anna", "A"]}, True), ("1", {"letters": ["Anna", "a"]}, False),
    ("0", {"letters": ["Anna", "z"]}, True), ("It appears 3 times.", {"letters": ["banana", "a"]}, True),
    # JSON
    ('{"a": 1}', {"json": {"a": 1}}, True), ('{"a": 2}', {"json": {"a": 1}}, False),
    (' {"b":[1, 2],"a" : null}\n', {"json": {"a": None, "b": [1, 2]}}, True), ('{"a": 1', {"json": {"a": 1}}, False),
    ("[2, 1]", {"json": [1, 2]}, False), ("1", {"json": {"a": 1}}, False),
    ('It is {"a": 1}', {"json": {"a": 1}}, False), ('{"a": true}', {"json": {"a": 1}}, False),
    ('{"a": 1}', {"json": {"a": True}}, False), ('{"a": 1.0}', {"json": {"a": 1}}, True),
    ("[1, 2.0]", {"json": [1, 2]}, True), ('{"a": 1.5}', {"json": {"a": 1}}, False),
    ('{"a": "1"}', {"json": {"a": 1}}, False), ('```json\n{"a": 1}\n```', {"json": {"a": 1}}, True),
    ('```\n{"a": 1}```\n', {"json": {"a": 1}}, True), ('```json\n{"a": 2}\n```', {"json": {"a": 1}}, False),
    ('```json\n{"a": 1}', {"json": {"a": 1}}, False), ('{"a": 2, "a": 1}', {"json": {"a": 1}}, False),
    ('{"a": 1, "b": 2}', {"json": {"a": 1}}, False), ("[1, NaN]", {"json": [1, 2]}, False), ("[]", {"json": {}}, False),
    ("{}", {"json": {}}, True), ('{"a": null}', {"json": {}}, False), ("0", {"json": False}, False),
    ('"x"', {"json": "x"}, True),
    # lengths
    ("One. Two.", {"sentences": 2}, True), ("One. Two.", {"sentences": 1}, False),
    ("It is 3.5 long!", {"sentences": 1}, True), ('He said "Go!" Then he left?', {"sentences": 2}, True),
    ("Really?! No...", {"sentences": 2}, True), ("Dr. Smith is here.", {"sentences": 1}, True),
    ("Dr. Smith is here.", {"sentences": 2}, False), ("Mr. and Mrs. Jones came. They left.", {"sentences": 2}, True),
    ("J. R. R. Tolkien wrote it.", {"sentences": 1}, True), ("J. R. R. Tolkien wrote it.", {"sentences": 3}, False),
    ("Eat fruit, e.g. apples. Drink water.", {"sentences": 2}, True),
    ('He said "Go!" and left.', {"sentences": 1}, True), ("We met at 5 p.m. on Sunday.", {"sentences": 1}, True),
    ("We met at 5 p.m. He left.", {"sentences": 2}, True), ("Well... perhaps.", {"sentences": 1}, True),
    ("1. Boil water. 2. Add tea.", {"sentences": 2}, True), ("Yes (really). It is.", {"sentences": 2}, True),
    ("It ended in 1990. Then came peace.", {"sentences": 2}, True),
    ("It ended in 1990. Then came peace.", {"sentences": 1}, False),
    ("See www.example.org now.", {"sentences": 1}, True), ("A. B. C.", {"sentences": 7}, False),
    ("no end", {"sentences": 1}, False), ("a\nb", {"lines": 2}, True), ("a\n\n \nb\n", {"lines": 2}, True),
    ("a b", {"lines": 2}, False), ("a\r\nb", {"lines": 2}, True), ("The tide.", {"max_words": 2}, True),
    ("The high tide.", {"max_words": 2}, False), ("Tide.", {"max_words": 2}, True), ("A wave.", {"words": 2}, True),
    ("A", {"words": 2}, False), ("A wave comes", {"words": 2}, False), ("red - blue", {"words": 2}, True),
    ("salt & pepper", {"words": 3}, True), ("\u2022 tea\n\u2022 milk", {"words": 2}, True),
    ("well-known", {"words": 1}, True), ("...", {"max_words": 3}, False),
    ("The TIDE.", {"max_words": 2, "contains": ["tide", "the"]}, True),
    ("The tide.", {"max_words": 2, "contains": ["tide", "wave"]}, False),
    ("The wave.", {"words": 2, "contains": ["tide"]}, False), ("87", {"number": "87", "contains": ["km"]}, False),
    ("Subtract 10.", {"words": 2, "contains": ["10"]}, True),
    ("Subtract 100.", {"words": 2, "contains": ["10"]}, False), ("Add 0.10", {"words": 2, "contains": ["10"]}, False),
    ("It's new", {"words": 2, "contains": ["it\u2019s"]}, True),
    # texts
    ("monday", {"answers": ["Monday"]}, True), ("monday", {"answers": ["Monday"], "case": True}, False),
    (" Monday. ", {"answers": ["Sunday", "Monday"], "case": True}, True), ("Tuesday", {"answers": ["Monday"]}, False),
    ("It is Monday", {"answers": ["Monday"]}, False), ('"Monday"', {"answers": ["Monday"]}, True),
    ("**Monday**", {"answers": ["Monday"]}, True), ('"Monday."', {"answers": ["Monday"]}, True),
    ("Stop!", {"answers": ['"Stop!"']}, False), ("\u201cStop!\u201d", {"answers": ['"Stop!"']}, True),
    ("the girls\u2019 team", {"answers": ["the girls' team"], "case": True}, True),
    ("the girl\u2019s team", {"answers": ["the girls' team"], "case": True}, False),
    ("It  is", {"answers": ["it is"]}, True), ("cafe\u0301", {"answers": ["caf\u00e9"]}, True),
    ("cafe", {"answers": ["caf\u00e9"]}, False), ("", {"answers": ["."]}, False), (".", {"answers": ["."]}, True),
    ("-", {"answers": ["-"]}, True), ("\u2212", {"answers": ["-"]}, True), ("'", {"answers": ["''"]}, False),
    ("ABC", {"upper": "abc"}, True), ("Abc", {"upper": "abc"}, False), ("ABC.", {"upper": "abc"}, True),
    ("abc", {"lower": "ABC"}, True), ("aBC", {"lower": "ABC"}, False), ("the sea.", {"exact": True}, True),
    (" The Sea ", {"exact": True}, True), ("a sea", {"exact": True}, False),
    ("the sea.", {"exact": True, "case": True}, False), ("The sea.", {"exact": True, "case": True}, True),
    ("A sea.", {"words": 2, "sentences": 1}, True), ("A sea", {"words": 2, "sentences": 1}, False),
]


@pytest.mark.parametrize("answer, check, expected", CHECKS)
def test_a_check_decides(answer, check, expected):
    assert check_answer(answer, check, "The sea") is expected


def test_every_kind_of_check_is_tried_both_right_and_wrong():
    known = CONTENT_CHECKS.keys() | FORMAT_CHECKS.keys()
    for expected in (True, False):
        assert {next(iter(check)) for _, check, right in CHECKS if right is expected} == known
        assert sum(right is expected for *_, right in CHECKS) >= 60


ONE_OF_EACH = [
    {"exact": True}, {"answers": ["Monday"]}, {"number": "12 * 7 + 3"}, {"sorted": ["b", "a"], "order": "ascending"},
    {"sorted": [3, 2], "order": "descending"}, {"weekday": "2024-03-15"}, {"date": ["2024-03-15", 10]},
    {"days": ["2024-03-15", "2024-04-01"]}, {"letters": ["Mississippi", "s"]}, {"json": {"a": 1}}, {"upper": "abc"},
    {"lower": "ABC"}, {"words": 7}, {"max_words": 9, "contains": ["sea"]}, {"sentences": 4}, {"lines": 5}]
USELESS = ["", "   ", "\n", ".", ",", "no idea", "[1", '{"a"', "{", "null", "NaN", "-", "- .", "9" * 5000,
           "1" + ",1" * 99, "\u0663", "\u00b2", "Infinity", "\ud800", "<|im_end|>", "1e999", "?" * 50, "\x00", "1/0",
           "'"]


@pytest.mark.parametrize("check", ONE_OF_EACH, ids=lambda check: next(iter(check)))
def test_a_useless_answer_is_wrong_and_raises_nothing(check):
    for answer in USELESS:
        assert check_answer(answer, check, "The sea") is False, answer


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.one_of(st.text(), st.text(alphabet=" 0123456789.,-/[]{}\":`\nMarch5Friday", max_size=80)))
def test_no_answer_raises_anything(answer):
    for check in ONE_OF_EACH:
        assert check_answer(answer, check, "The sea") in (True, False)


PARTS = ["1", ",111", " ", "\n", ".", "!\"", "```", "[", '{"a":', "5 March ", "and ", "1/", "not ", "-", "Friday ",
         "a.m. ",
         "\u202f111", "5 ", "\\", "'", "e5"]


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_decision_takes_time_in_proportion_to_the_answer(part):  # quadratic ones would take minutes
    answer, start = part * (200_000 // len(part)), time.process_time()
    for check in ONE_OF_EACH:
        check_answer(answer, check, "The sea")
        check_answer(answer + "x", check, "The sea")
    assert time.process_time() - start < 20


@pytest.mark.parametrize("kind", ["words", "max_words", "sentences", "lines"])
def test_no_answer_has_no_right_length(kind):
    assert check_answer("", {kind: 1}) is check_answer(" \n", {kind: 1}) is False


@pytest.mark.parametrize("check", [*ONE_OF_EACH, {"words": 2, "number": "4"}], ids=lambda check: "-".join(check))
def test_the_kind_of_a_check(check):
    assert check_kind(check) == ("content" if CONTENT_CHECKS.keys() & check.keys() else "format")


def test_no_check_has_no_kind():
    assert check_kind(None) is check_kind(float("nan")) is None


@pytest.mark.parametrize("check", [{"wrods": 3}, {}, {"contains": ["a"]}, {"order": "ascending"}])
def test_an_unknown_check_is_named(check):
    for call in (lambda: check_kind(check), lambda: check_answer("a", check)):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(check) in str(caught.value) and "give one of exact, answers, number" in str(caught.value)


@pytest.mark.parametrize("check", [
    {"number": 87}, {"number": "os.getcwd()"}, {"number": "9**9**9"}, {"sorted": 5, "order": "ascending"},
    {"sorted": ["a"]}, {"sorted": ["a"], "order": "up"}, {"weekday": "15 March"}, {"weekday": 3},
    {"date": "2024-03-15"},
    {"date": ["2024-03-15"]}, {"date": ["2024-03-15", 10**12]}, {"days": ["2024-03-15"]}, {"letters": ["banana"]},
    {"answers": 5}, {"upper": 5}, {"max_words": "ten"}, {"words": 3, "contains": [5]}])
def test_a_check_of_the_wrong_make_is_named_in_one_line(check):
    with pytest.raises(ValueError) as caught:
        check_answer("A text of 3 words", {**check})
    assert str(check) in str(caught.value) and "data/README.md" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("answer, check", [(None, {"words": 1}), (5, {"number": "5"}), ("a", None),
                                           (["a"], {"words": 1})])
def test_what_is_no_answer_or_no_check_is_named(answer, check):
    with pytest.raises(ValueError, match=f"of type {type(answer).__name__}, .* give a text and an object"):
        check_answer(answer, check)


def test_the_book_s_own_outputs_pass_and_another_entry_s_seldom():
    entries = [entry for entry in json.loads((ROOT / "data" / "instructions.json").read_text(encoding="utf-8"))
               if "check" in entry]
    assert all(check_answer(entry["output"], entry["check"], entry["output"]) for entry in entries)
    content = [(entry, other) for entry, other in zip(entries, reversed(entries))
               if check_kind(entry["check"]) == "content"]
    passed = sum(check_answer(other["output"], entry["check"], entry["output"]) for entry, other in content)
    assert passed < 0.05 * len(content)


# --- the right answer among other words --------------------------------------------------------------------------

@pytest.mark.parametrize("answer, check, output, inside", [
    ("It is Paris, I think.", {"exact": True}, "Paris", True), ("Paris", {"exact": True}, "Paris", True),
    ("Parisian", {"exact": True}, "Paris", False), ("It is Lyon.", {"exact": True}, "Paris", False),
    ("the scissors would be better", {"answers": ["scissors", "shears"]}, "scissors", True),
    ("The opposite is its own", {"answers": ["it"]}, "it", False),
    ("87 is 12 * 7 + 3", {"number": "12 * 7 + 3"}, "87", True),
    ("88 is the sum", {"number": "12 * 7 + 3"}, "87", False),
    ("There are 3 days, from 1 to 4", {"days": ["2024-01-01", "2024-01-04"]}, "3", True),
    ("fig, pear, plum", {"sorted": ["fig", "pear"], "order": "length"}, "fig, pear", False),
    ("One. Two.", {"sentences": 2}, "", True), ("One.", {"sentences": 2}, "", False),
    ("Paris it is", {"exact": True, "contains": ["France"]}, "Paris", False), ("", {"exact": True}, "Paris", False)])
def test_a_lenient_check_finds_the_answer_among_other_words(answer, check, output, inside):
    assert contains_answer(answer, check, output) is inside
