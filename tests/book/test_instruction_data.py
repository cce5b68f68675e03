"""data/instructions.json: every answer that a program can check is right, entries are distinct, the text is clean."""

import json
import re
from collections import Counter

import pandas as pd
import pytest

from llmbook.classification import text_key
from llmbook.instructions import check_answer, split_instructions
from tests.support.repository import ROOT

ENTRIES = json.loads((ROOT / "data" / "instructions.json").read_text(encoding="utf-8"))
KINDS = {"exact", "answers", "number", "sorted", "weekday", "date", "days", "json", "max_words", "words", "sentences",
         "lines", "letters", "upper", "lower"}


def right(entry: dict) -> bool:
    """Whether an entry's own output passes its check; the check `exact` is for short outputs only."""
    short = "exact" not in entry["check"] or len(entry["output"].split()) <= 40
    return short and check_answer(entry["output"], entry["check"], entry["output"])


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
    wrong = [f"{name(entry)} -> {entry['output']}" for entry in checked if not right(entry)]
    assert not wrong, "\n".join(wrong)


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


def texts(part: pd.DataFrame) -> pd.Series:
    return part["instruction"] + "\n" + part["input"]


def test_near_duplicates_do_not_cross_the_split():
    frame = pd.DataFrame(ENTRIES)
    parts = split_instructions(frame)
    assert [round(len(part) / len(frame), 2) for part in parts] == pytest.approx([0.85, 0.05, 0.10], abs=0.02)
    assert len(set(parts[2]["kind"])) >= 25  # nearly every kind is tested
    sets = [[grams(text) for text in texts(part)] for part in parts]
    for part in (1, 2):
        for mine, text in zip(sets[part], texts(parts[part]), strict=True):
            for theirs in sets[0]:
                if mine and theirs:
                    assert len(mine & theirs) / min(len(mine), len(theirs)) <= 0.8, text
