"""Whether an answer is right, decided by a program: numbers, dates, lists, JSON, lengths.

A check is an object such as `{"number": "12 * 7 + 3"}`; data/README.md lists the kinds. An answer may be anything that
a model can write. It is never run, and a decision takes time in proportion to its length, so that `check_answer` can
also be a reward.
"""

from __future__ import annotations

import ast
import datetime
import json
import math
import operator
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["arithmetic", "check_answer", "check_kind", "contains_answer", "last_number"]

# --- arithmetic --------------------------------------------------------------------------------------------------

LONGEST_EXPRESSION = 1000  # characters
_ARITHMETIC = re.compile(r"[0-9+*/%().eE_ \-]+")  # nothing else is even parsed
_LARGEST_BITS = 1024  # of an integer: what a float can hold


def _power(base: float, exponent: float) -> float:
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0 and abs(base) > 1:
        if (abs(base).bit_length() - 1) * exponent >= _LARGEST_BITS:  # known before it is computed
            raise OverflowError
    return base**exponent


_OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: _power, ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def arithmetic(expression: str) -> float:
    """What numbers and the operators + - * / // % ** come to, by Python's rules. Nothing else is ever run.

    Raises ValueError for anything else, for what has no finite real value, for an intermediate integer beyond what a
    float can hold (about 1.8e308), and for more than 1,000 characters. So it always ends within milliseconds.
    """
    try:
        if len(expression) > LONGEST_EXPRESSION or not _ARITHMETIC.fullmatch(expression):
            raise ValueError
        return float(_value(ast.parse(expression.strip(), mode="eval").body))
    except (SyntaxError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError, MemoryError):
        raise ValueError(f"{str(expression)[:60]!r} cannot be computed: use numbers and + - * / // % ** only, at most "
                         f"{LONGEST_EXPRESSION:,} characters, and no number above 1.8e308") from None


def _value(tree: ast.AST) -> float:
    """Of a syntax tree, from the leaves up, without recursion."""
    values: dict[ast.AST, float] = {}
    for node in reversed(list(ast.walk(tree))):  # breadth first, so reversed has all children before their parents
        if isinstance(node, (ast.operator, ast.unaryop)):
            continue
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            value = node.value
        elif isinstance(node, ast.UnaryOp):
            value = _OPERATORS[type(node.op)](values[node.operand])
        elif isinstance(node, ast.BinOp):
            value = _OPERATORS[type(node.op)](values[node.left], values[node.right])
        else:
            raise ValueError
        if isinstance(value, complex) or not math.isfinite(value):  # OverflowError for an integer too large
            raise ValueError
        values[node] = value
    return values[tree]


# --- numbers in a text -------------------------------------------------------------------------------------------

_SPACES = "[,\u00a0\u202f\u2009]"  # between thousands
_NUMBER = re.compile(
    r"(?<![\w^)])(?<![0-9]\.)(?P<date>(?<=[0-9]/))?(?P<sign>[-+\u2212\u2013]?)(?P<money>[\u00a3$\u20ac]?)"
    rf"(?P<digits>(?:[0-9]{{1,3}}(?:{_SPACES}[0-9]{{3}})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\.)\.[0-9]+)"
    r"(?P<exponent>[eE][-+]?[0-9]{1,4}(?!\w))?"
    r"(?:(?P<over>\s[0-9]{1,4})?/(?P<divisor>[0-9]{1,15})(?![\w/]|\.[0-9])(?(date)(?!)))?"
    r"(?P<percent>\s?%)?")


def _read_number(found: re.Match) -> float:
    number = float(re.sub(_SPACES, "", found["digits"]) + (found["exponent"] or ""))
    if found["divisor"] is not None:  # 3/4, or 1 3/4
        divisor = float(found["divisor"])
        whole, over = (number, float(found["over"])) if found["over"] else (0.0, number)
        number = whole + over / divisor if divisor else math.nan
    return -number if found["sign"] in ("-", "\u2212", "\u2013") else number


def _last_match(text: str) -> re.Match | None:
    last = None
    for found in _NUMBER.finditer(text):
        last = found
    return last


def last_number(text: str) -> float | None:
    """The last number in a text, in digits; None if there is none.

    It knows separators between thousands (comma, narrow spaces), a minus sign in each of its writings, 1e5, and the
    fractions 3/4 and 1 3/4. Digits that belong to a word (CO2, km2) are none.
    """
    found = _last_match(text)
    return None if found is None else _read_number(found)


def _is_number(answer: str, wanted: float) -> bool:
    """Whether the last number is `wanted`; where that goes on for ever, six decimals are enough. 50 % may be 0.5."""
    if (found := _last_match(answer)) is None:
        return False
    number = _read_number(found)
    readings = [number, number / 100] if found["percent"] else [number]
    return any(_agree(reading, wanted, len(found["digits"].partition(".")[2])) for reading in readings)


def _agree(number: float, wanted: float, decimals: int) -> bool:
    if math.isclose(number, wanted, rel_tol=1e-12, abs_tol=1e-12):
        return True
    if not (6 <= decimals <= 15 and abs(wanted) < 1e9 and math.isfinite(number)):
        return False
    unit = 10.0**-decimals  # rounded or cut off at the answer's last digit
    return any(abs(number - cut * unit) < unit / 10 for cut in (round(wanted / unit), math.trunc(wanted / unit)))


# --- texts -------------------------------------------------------------------------------------------------------

_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2212": "-", "\u2011": "-",
                        "\u2010": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " "})


def _plain(text: str) -> str:
    """With straight quotation marks, ordinary hyphens, one space between words, and none around."""
    return " ".join(unicodedata.normalize("NFC", text).translate(_PLAIN).split())


def _without_marks(text: str) -> str:
    """Without quotation marks, asterisks or backticks around all of it."""
    for mark in ('"', "'", "**", "*", "`"):
        inner = text[len(mark) : -len(mark)]
        if inner and text.startswith(mark) and text.endswith(mark) and mark not in inner:
            return inner
    return text


def _same(answer: str, wanted: str, case: bool = False) -> bool:
    """Whether two texts are equal up to white space, a final full stop, marks around the answer, and case."""
    def key(text: str) -> str:
        text = _plain(text)
        text = text.removesuffix(".").rstrip() or text  # a text that is nothing but a full stop stays one
        return text if case else text.casefold()

    bare = _without_marks(_plain(answer).removesuffix("."))
    return bool(answer.strip()) and key(wanted) in (key(answer), key(bare))


def _holds(answer: str, part: str) -> bool:
    """Whether a text has another in it, in any case. A number must be a whole one: 100 does not hold 10."""
    answer, part = (unicodedata.normalize("NFC", text).translate(_PLAIN).casefold() for text in (answer, part))
    before = r"(?<![0-9])(?<![0-9][.,])" if part[:1].isdigit() else ""
    after = r"(?![0-9]|[.,][0-9])" if part[-1:].isdigit() else ""
    return re.search(before + re.escape(part) + after, answer) is not None


# --- lists and JSON ----------------------------------------------------------------------------------------------

_BULLET = re.compile(r"^\s*(?:[-*\u2022]|[0-9]{1,3}[.)])\s+")


def _items(answer: str) -> list[str]:
    """What an answer lists: one on a line, or separated by semicolons or commas."""
    text = answer.strip().removesuffix(".")
    if text[:1] + text[-1:] in ("[]", "()", "{}"):
        text = text[1:-1]
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        items = [_BULLET.sub("", line).strip().rstrip(",;") for line in lines]
    else:
        items = text.split(";" if ";" in text else ",")
    return [_without_marks(_plain(item)) for item in items]


def _is_sorted(answer: str, items: Sequence, order: str) -> bool:
    """Whether an answer lists just these items, in an order that sorts them. Equal ones may stand either way."""
    if order not in ("ascending", "descending", "length"):
        raise ValueError(f"order is {order!r}: it must be ascending, descending or length")
    numbers = all(isinstance(item, (int, float)) for item in items)
    found = _items(answer)
    last = [part.strip() for part in re.split(r"(?:^| )and ", found[-1], maxsplit=1)]  # "a, b and c", "a, b, and c"
    for listed in (found, [*found[:-1], *filter(None, last)]):
        if numbers:
            matches = [_NUMBER.fullmatch(item) for item in listed]
            keys = [_read_number(match) if match else math.nan for match in matches]
            wanted = [float(item) for item in items]
        else:
            keys, wanted = [item.casefold() for item in listed], [_plain(str(item)).casefold() for item in items]
        if Counter(keys) == Counter(wanted):
            if order == "length":
                keys = [len(item) for item in listed]
            pairs = zip(keys, keys[1:])
            return all(first >= second if order == "descending" else first <= second for first, second in pairs)
    return False


_FENCE = re.compile(r"\s*```[a-zA-Z]*\s(.*)```\s*", re.DOTALL)


def _bounded_int(digits: str) -> int:
    if len(digits) > 400:
        raise ValueError("an integer beyond all bounds")
    return int(digits)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _is_json(answer: str, value: Any) -> bool:
    """Whether an answer is JSON, perhaps in a fence of three backticks, with this value. 1.0 is 1, and true is not."""
    fenced = _FENCE.fullmatch(answer)
    try:
        found = json.loads(fenced[1] if fenced else answer, parse_int=_bounded_int, parse_constant=_refused,
                           object_pairs_hook=_distinct)
    except (ValueError, RecursionError):  # no JSON; brackets in brackets without end
        return False
    return _equal(found, value)


def _equal(found: Any, value: Any) -> bool:
    if isinstance(value, Mapping):
        return isinstance(found, dict) and found.keys() == value.keys() and all(
            _equal(found[key], value[key]) for key in value)
    if isinstance(value, (list, tuple)):
        return isinstance(found, list) and len(found) == len(value) and all(map(_equal, found, value))
    if isinstance(value, bool) or isinstance(found, bool) or value is None or isinstance(value, str):
        return type(found) is type(value) and found == value
    return isinstance(found, (int, float)) and found == value


# --- days --------------------------------------------------------------------------------------------------------

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_DAY_NAMES = re.compile(rf"\b({'|'.join(_DAYS)})s?\b", re.IGNORECASE)
_SHORT_DAY = re.compile(r"(?:(?:it\s+(?:is|was)|on|a)\s+){0,2}(Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)\.?",
                        re.IGNORECASE)
_NOT_THIS = re.compile(r"(?:\bnot|n't|\bnever)\s+(?:on\s+)?(?:an?\s+|the\s+)?$", re.IGNORECASE)
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December")
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)}|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Sep|Oct|Nov|Dec)\.?"
_DATES = [re.compile(rf"(?<![\w.,/-]){pattern}(?![\w/-])", re.IGNORECASE) for pattern in (
    rf"(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?(?:\s+of)?\s+{_MONTH},?\s+(?P<year>[0-9]{{4}})",
    rf"{_MONTH}\s+(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<year>[0-9]{{4}})",
    r"(?P<year>[0-9]{4})(?P<mark>[-/])(?P<month>[0-9]{1,2})(?P=mark)(?P<day>[0-9]{1,2})",
    r"(?P<day>[0-9]{1,2})(?P<mark>[/.-])(?P<month>[0-9]{1,2})(?P=mark)(?P<year>[0-9]{4})")]
_ANOTHER_DAY = re.compile(r"[0-9](?:st|nd|rd|th)?\s*(?:or|and|to|/|-|\u2013)\s*$", re.IGNORECASE)


def _is_weekday(answer: str, day: str) -> bool:
    """Whether a date's weekday is the only one that an answer names, and is not denied."""
    wanted = _DAYS[datetime.date.fromisoformat(day).weekday()]
    found = list(_DAY_NAMES.finditer(answer)) or list(filter(None, [_SHORT_DAY.fullmatch(answer.strip())]))
    names = {next(name for name in _DAYS if name.startswith(match[1][:3].capitalize())) for match in found}
    return names == {wanted} and not any(_NOT_THIS.search(answer[max(0, match.start() - 20) : match.start()])
                                         for match in found)


def _read_date(found: re.Match) -> datetime.date | None:
    """The date that a match of `_DATES` means; None if there is no such day, or it may be two different ones."""
    month, day, year = found["month"], int(found["day"]), int(found["year"])
    number = int(month) if month.isdigit() else next(
        i for i, name in enumerate(_MONTHS, 1) if name.startswith(month[:3].capitalize()))
    if month.isdigit() and found.re is _DATES[-1] and day != number:
        if max(day, number) <= 12:  # 3/4/2024: April in London, March in New York
            return None
        day, number = max(day, number), min(day, number)
    try:
        return datetime.date(year, number, day)
    except ValueError:
        return None


def _is_date(answer: str, first: str, days: int) -> bool:
    """Whether an answer names the day `days` after `first`, with its year, and no other day but `first`."""
    start = datetime.date.fromisoformat(first)
    wanted = start + datetime.timedelta(days=days)
    found = [match for pattern in _DATES for match in pattern.finditer(answer)]
    dates = {_read_date(match) for match in found}
    hedged = any(_ANOTHER_DAY.search(answer[max(0, match.start() - 12) : match.start()]) for match in found)
    denied = any(_NOT_THIS.search(answer[max(0, match.start() - 20) : match.start()]) for match in found)
    return wanted in dates and dates <= {start, wanted} and not hedged and not denied


def _days_between(first: str, second: str) -> int:
    return (datetime.date.fromisoformat(second) - datetime.date.fromisoformat(first)).days


# --- lengths -----------------------------------------------------------------------------------------------------

_ENDS = re.compile(r"(?<![.!?\u2026])[.!?\u2026]+[\"'\u201d\u2019)\]*]*(?=\s|$)")
_TITLES = frozenset("dr mr mrs ms prof st rev gen capt lt sgt col hon mt messrs vs cf fig no nos pp vol approx "
                    "e.g i.e".split())
_OFTEN_LAST = frozenset("etc a.m p.m jr sr inc ltd co u.s u.k b.c a.d ph.d".split())  # may also end a sentence


def _sentences(text: str) -> tuple[int, int]:
    """How many sentences a text has, at least and at most: a full stop after "etc" or an initial may end one or not.

    What has no mark at its end is none.
    """
    least = most = start = 0  # start: where the last mark was
    text, begins = text.strip(), True  # begins: whether a sentence has just ended
    for found in _ENDS.finditer(text):
        words, after = text[start : found.start()].split(), text[found.end() : found.end() + 40].lstrip()
        word = words[-1].lstrip("\"'(\u201c\u2018[*") if words else ""
        marks = re.match(r"[.!?\u2026]+", found[0])[0]
        quoted, lower = len(marks) < len(found[0]), after[:1].islower()
        initial = len(word) == 1 and word.isupper()
        start = found.end()
        if not after:  # the last mark always ends a sentence
            ends = (1, 1)
        elif marks == "." and word.casefold() in _TITLES:  # Dr. Smith
            ends = (0, 0)
        elif marks == "." and len(words) == 1 and (initial or (begins and word.isdigit())):  # J. Smith; 1. Boil water
            ends = (0, 0)
        elif marks == "." and (initial or word.casefold() in _OFTEN_LAST):  # at 5 p.m. He left; at 5 p.m. he left
            ends = (0, 0 if lower else 1)
        elif lower and (quoted or marks[0] == "\u2026" or marks == "..."):  # "Go!" and left; well ... perhaps
            ends = (0, 0)
        else:
            ends = (1, 1)
        least, most, begins = least + ends[0], most + ends[1], ends == (1, 1)
    return least, most


def _has_sentences(text: str, wanted: int) -> bool:
    least, most = _sentences(text)
    return least <= wanted <= most


def _count_words(text: str) -> int:
    """Words: what stands between spaces and has a letter or a digit in it, or is the sign for "and"."""
    return sum(part == "&" or any(map(str.isalnum, part)) for part in text.split())


# --- checks ------------------------------------------------------------------------------------------------------

# How each kind decides: answer, what the check holds under that name, the whole check, the entry's own output.
Decide = Callable[[str, Any, Mapping[str, Any], str], bool]
CONTENT_CHECKS: dict[str, Decide] = {
    "exact": lambda answer, _, check, output: _same(answer, output, check.get("case", False)),
    "answers": lambda answer, wanted, check, _: any(_same(answer, one, check.get("case", False)) for one in wanted),
    "number": lambda answer, wanted, *_: _is_number(answer, arithmetic(wanted)),
    "sorted": lambda answer, wanted, check, _: _is_sorted(answer, wanted, check["order"]),
    "weekday": lambda answer, wanted, *_: _is_weekday(answer, wanted),
    "date": lambda answer, wanted, *_: _is_date(answer, *wanted),
    "days": lambda answer, wanted, *_: _is_number(answer, _days_between(*wanted)),
    "letters": lambda answer, wanted, *_: _is_number(answer, wanted[0].casefold().count(wanted[1].casefold())),
    "json": lambda answer, wanted, *_: _is_json(answer, wanted),
    "upper": lambda answer, wanted, *_: _same(answer, wanted.upper(), case=True),
    "lower": lambda answer, wanted, *_: _same(answer, wanted.lower(), case=True),
}
FORMAT_CHECKS: dict[str, Decide] = {
    "words": lambda answer, wanted, *_: _count_words(answer) == wanted,
    "max_words": lambda answer, wanted, *_: 0 < _count_words(answer) <= wanted,
    "sentences": lambda answer, wanted, *_: _has_sentences(answer, wanted),
    "lines": lambda answer, wanted, *_: sum(bool(line.strip()) for line in answer.splitlines()) == wanted,
}


def check_kind(check: Mapping[str, Any] | None) -> str | None:
    """"content" if a check decides what an answer says, "format" if how long it is, None for no check.

    Raises ValueError if the check is of no known kind.
    """
    if not isinstance(check, Mapping):  # None, or NaN where a table has no check
        return None
    for kind, known in (("content", CONTENT_CHECKS), ("format", FORMAT_CHECKS)):
        if known.keys() & check.keys():
            return kind
    raise ValueError(f"the check {dict(check)} is of no known kind: give one of "
                     f"{', '.join([*CONTENT_CHECKS, *FORMAT_CHECKS])}")


def check_answer(answer: str, check: Mapping[str, Any], output: str = "") -> bool:
    """Whether an answer is what a check asks for; data/README.md lists the kinds of check.

    output: the entry's own, which the check {"exact": true} compares with. No answer raises an error. Raises
    ValueError for a check that is of no known kind, or whose values are not of its kind.
    """
    if check_kind(check) is None or not isinstance(answer, str):
        raise ValueError(f"the answer is of type {type(answer).__name__}, the check of type {type(check).__name__}: "
                         "give a text and an object")
    known = CONTENT_CHECKS | FORMAT_CHECKS
    try:
        if not all(_holds(answer, part) for part in check.get("contains", [])):
            return False
        return all(known[name](answer, wanted, check, output) for name, wanted in check.items() if name in known)
    except (TypeError, KeyError, AttributeError, IndexError, ValueError, OverflowError) as error:
        raise ValueError(f"the check {dict(check)} cannot be used ({type(error).__name__}: {error}): see "
                         "data/README.md for what its kind holds") from None


def contains_answer(answer: str, check: Mapping[str, Any], output: str = "") -> bool:
    """Whether the right answer is in an answer, perhaps among other words: a lenient `check_answer`.

    For "exact" and "answers" the words must stand in it as they are, in any case; for "number" and "days" the number
    must be one of its numbers. All other checks are as strict as `check_answer`, which a lenient answer may also pass.
    """
    if check_answer(answer, check, output):
        return True
    if not all(_holds(answer, part) for part in check.get("contains", [])):
        return False
    if "exact" in check or "answers" in check:
        wanted = check.get("answers", [output])
        plain = _plain(answer).casefold()
        return any(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", plain) is not None for one in wanted
                   if (text := _plain(one).removesuffix(".").casefold()))
    for name, value in (("number", lambda wanted: arithmetic(wanted)), ("days", lambda wanted: _days_between(*wanted))):
        if name in check:
            wanted = value(check[name])
            return any(math.isclose(_read_number(found), wanted, rel_tol=1e-6) for found in _NUMBER.finditer(answer))
    return False
