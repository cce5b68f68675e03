"""data/instructions.json: every answer that a program can check is right, entries are distinct, the text is clean."""

import ast
import datetime
import json
import operator
import re
from collections import Counter

import pandas as pd
import pytest

from llmbook.classification import split_by_key, text_key
from tests.repository import ROOT

ENTRIES = json.loads((ROOT / "data" / "instructions.json").read_text(encoding="utf-8"))
KINDS = {"exact", "answers", "number", "sorted", "weekday", "date", "days", "json", "max_words", "words", "sentences",
         "lines", "letters", "upper", "lower"}
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
             ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow, ast.USub: operator.neg}


def value(expression: str) -> float:
    """Of an arithmetic expression: numbers and operators, nothing else."""
    def compute(node):
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return node.value
        if isinstance(node, ast.UnaryOp):
            return OPERATORS[type(node.op)](compute(node.operand))
        assert isinstance(node, ast.BinOp), expression
        return OPERATORS[type(node.op)](compute(node.left), compute(node.right))

    return compute(ast.parse(expression, mode="eval").body)


def last_number(text: str) -> float:
    return float(re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)[-1].replace(",", ""))


def same(first: str, second: str, case: bool) -> bool:
    first, second = (text.strip().removesuffix(".") for text in (first, second))
    return first == second if case else first.casefold() == second.casefold()


def in_order(items: list, order: str) -> list[str]:
    numbers = all(isinstance(item, (int, float)) for item in items)
    key = len if order == "length" else (lambda item: item) if numbers else str.casefold
    return [str(item) for item in sorted(items, key=key, reverse=order == "descending")]


def listed(text: str) -> list[str]:
    return [item.strip() for item in text.strip().removesuffix(".").split(",")]


def right(output: str, check: dict) -> bool:
    """Whether an output is what its check asks for. See data/README.md for the kinds of check."""
    kind = next(name for name in check if name in KINDS)
    wanted = check[kind]
    counts = {"words": len(output.split()), "sentences": len(re.findall(r"[.!?]+(?=\s|$|['\"])", output)),
              "lines": len([line for line in output.splitlines() if line.strip()])}
    if not all(part.casefold() in output.casefold() for part in check.get("contains", [])):
        return False
    if kind in counts:
        return counts[kind] == wanted
    if kind == "max_words":
        return counts["words"] <= wanted
    if kind == "exact":
        return bool(output) and len(output.split()) <= 40
    if kind == "answers":
        return any(same(output, answer, check.get("case", False)) for answer in wanted)
    if kind == "number":
        return abs(last_number(output) - round(value(wanted), 6)) < 1e-9
    if kind == "sorted":
        found = [item.casefold() for item in listed(output)]
        return found == [item.casefold() for item in in_order(wanted, check["order"])]
    if kind == "weekday":
        return f"{datetime.date.fromisoformat(wanted):%A}" in output
    if kind == "date":
        day = datetime.date.fromisoformat(wanted[0]) + datetime.timedelta(days=wanted[1])
        return f"{day.day} {day:%B %Y}" in output
    if kind == "days":
        first, second = map(datetime.date.fromisoformat, wanted)
        return last_number(output) == (second - first).days
    if kind == "letters":
        return last_number(output) == wanted[0].casefold().count(wanted[1].casefold())
    if kind == "json":
        return json.loads(output) == wanted
    return same(output, wanted.upper() if kind == "upper" else wanted.lower(), case=True)


def name(entry: dict) -> str:
    return f"{entry['kind']}: {entry['instruction'][:60]}"


def test_there_are_1100_entries_of_25_kinds_or_more():
    assert len(ENTRIES) == 1100
    kinds = Counter(entry["kind"] for entry in ENTRIES)
    assert len(kinds) >= 25 and min(kinds.values()) >= 30 and max(kinds.values()) <= 60
    assert 0.3 < sum(not entry["input"] for entry in ENTRIES) / len(ENTRIES) < 0.8


def test_at_least_six_in_ten_can_be_checked_and_all_of_them_are_right():
    checked = [entry for entry in ENTRIES if "check" in entry]
    assert len(checked) >= 0.6 * len(ENTRIES)
    wrong = [f"{name(entry)} -> {entry['output']}" for entry in checked if not right(entry["output"], entry["check"])]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("output, check, expected", [
    ("It is 87.", {"number": "12 * 7 + 3"}, True), ("It is 86.", {"number": "12 * 7 + 3"}, False),
    ("1,234", {"number": "1234"}, True), ("b, a", {"sorted": ["b", "a"], "order": "ascending"}, False),
    ("9, 10", {"sorted": [10, 9], "order": "ascending"}, True), ("Friday", {"weekday": "2024-03-15"}, True),
    ("Monday", {"weekday": "2024-03-15"}, False), ("On 25 March 2024.", {"date": ["2024-03-15", 10]}, True),
    ("26 March 2024", {"date": ["2024-03-15", 10]}, False), ("17 days", {"days": ["2024-03-15", "2024-04-01"]}, True),
    ("3", {"letters": ["banana", "a"]}, True), ("2", {"letters": ["banana", "a"]}, False),
    ('{"a": 1}', {"json": {"a": 1}}, True), ('{"a": 2}', {"json": {"a": 1}}, False),
    ("One. Two.", {"sentences": 2}, True), ("One. Two.", {"sentences": 1}, False),
    ("The tide.", {"max_words": 2, "contains": ["Tide"]}, True), ("A wave.", {"words": 2, "contains": ["tide"]}, False),
    ("monday", {"answers": ["Monday"]}, True), ("monday", {"answers": ["Monday"], "case": True}, False),
    ("ABC", {"upper": "abc"}, True), ("Abc", {"upper": "abc"}, False)])
def test_the_checks_themselves(output, check, expected):
    assert right(output, check) is expected


def test_the_layout_is_alpaca_s_with_kind_and_check():
    for entry in ENTRIES:
        assert {"instruction", "input", "output", "kind"} <= set(entry) <= {"instruction", "input", "output", "kind",
                                                                            "check"}, name(entry)
        assert all(isinstance(entry[key], str) for key in ("instruction", "input", "output", "kind")), name(entry)
        assert entry["instruction"] and entry["output"], name(entry)
        assert len(set(entry.get("check", {"exact": True})) & KINDS) == 1, name(entry)
        assert set(entry.get("check", {})) <= KINDS | {"order", "contains", "case"}, name(entry)


def test_the_text_is_clean():
    for entry in ENTRIES:
        for key in ("instruction", "input", "output"):
            text = entry[key]
            assert text == text.strip() and "  " not in text.replace("\n", " \n"), name(entry)
            assert not re.search("[‘’“”…\u00a0\u200b\ufeff\t\r]", text), name(entry)
            assert not re.search(r"(?i)\b(lorem ipsum|as an ai|language model|openai)\b", text), name(entry)
        assert len(entry["output"].split()) <= 80, name(entry)


def test_no_two_entries_are_the_same_or_nearly():
    keys = Counter(text_key(entry["instruction"] + "\n" + entry["input"]) for entry in ENTRIES)
    # Numbers count here, unlike in text_key: another sum with the same words is another question.
    exact = Counter(re.sub(r"\W+", " ", f"{entry['instruction']} {entry['input']}").casefold() for entry in ENTRIES)
    assert max(exact.values()) == 1, exact.most_common(3)
    assert sum(count > 1 for count in keys.values()) <= 0.01 * len(ENTRIES), keys.most_common(5)


def grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def test_near_duplicates_do_not_cross_the_split():
    frame = pd.DataFrame([{**entry, "text": entry["instruction"] + "\n" + entry["input"]} for entry in ENTRIES])
    parts = split_by_key(frame, (0.85, 0.05, 0.10))
    assert [round(len(part) / len(frame), 2) for part in parts] == pytest.approx([0.85, 0.05, 0.10], abs=0.02)
    assert len(set(parts[2]["kind"])) >= 25  # nearly every kind is tested
    sets = [[grams(text) for text in part["text"]] for part in parts]
    for part in (1, 2):
        for mine, text in zip(sets[part], parts[part]["text"], strict=True):
            for theirs in sets[0]:
                if mine and theirs:
                    assert len(mine & theirs) / min(len(mine), len(theirs)) <= 0.8, text
