"""llmbook.book.story_tasks: asking a model, counting by kind, the sign test, and the stored study."""

import json
import math

import pandas as pd
import pytest

from llmbook.book import story_tasks
from llmbook.book.story_tasks import (
    answer_tasks,
    as_entry,
    beside_rule,
    changed_kinds,
    compare_scores,
    count_faults,
    entry_table,
    instruction_study,
    paired_p_value,
    right_by_kind,
    rule_answer,
    rule_table,
    story_faults,
    study_table,
)
from llmbook.storyworld import Task, check_task, tasks
from llmbook.storyworld.task_checks import Wanted


def test_answers_keep_their_order_and_long_ones_get_room(monkeypatch):
    asked = []

    def respond_all(model, tokenizer, entries, style, room, batch_size, progress):
        asked.append((room, {entry["kind"] for entry in entries}))
        return [entry["output"] for entry in entries]

    monkeypatch.setattr(story_tasks, "respond_all", respond_all)
    some = list(tasks(3, 14))
    assert answer_tasks(None, None, some) == [task.answer for task in some]
    assert asked[1] == (story_tasks.LONG, {"tell", "continue"}) and asked[0][0] == story_tasks.SHORT
    assert "tell" not in asked[0][1] and len(asked[0][1]) == 5
    shares = right_by_kind(some, [task.answer for task in some])
    assert list(shares) == [task.kind for task in some[:7]]
    assert all(share.right == share.of == 2 for share in shares.values())
    assert sum(share.right for share in right_by_kind(some, ["No."] * 14).values()) == 0


def test_a_task_is_an_entry():
    task = next(tasks(3, 1, kinds=("who_has",)))
    assert as_entry(task) == {"instruction": task.instruction, "input": task.story, "output": task.answer,
                              "kind": "who_has"}


@pytest.mark.parametrize("lost, won, p", [(1, 7, 18 / 256), (0, 0, 1.0), (3, 3, 1.0), (0, 6, 2 / 64), (6, 0, 2 / 64)])
def test_the_sign_test_looks_at_what_changed(lost, won, p):
    pairs = [(True, False)] * lost + [(False, True)] * won + [(True, True)] * 5 + [(False, False)] * 9
    assert math.isclose(paired_p_value(*zip(*pairs)), p)


def test_runs_are_added_up_over_seeds():
    rows = [{"recipe": "a", "seed": seed, "right": {"tell": [seed, 4], "where": [4, 4]}} for seed in (1, 2)]
    table = study_table([*rows, {"recipe": "b", "seed": 1, "right": {"tell": [0, 4], "where": [1, 4]}}], "recipe")
    assert table.loc["a", "seeds"] == 2 and table.loc["a", "tell"] == "38" and table.loc["a", "where"] == "100"
    assert table.loc["a", "all"].startswith("68.8 %") and table.loc["b", "all"].endswith("n = 8")


def test_a_recipe_that_was_not_asked_a_kind_has_no_share_of_it():
    rows = [{"recipe": "a", "seed": 1, "right": {"tell": [1, 4], "where": [4, 4]}},
            {"recipe": "b", "seed": 1, "right": {"where": [1, 4]}}]
    assert study_table(rows, "recipe")["tell"].tolist() == ["25", "-"]
    assert len(study_table([], "recipe")) == 0


def test_recipes_stand_beside_the_rule_by_kind():
    rows = [{"recipe": "a", "seed": seed, "right": {"where": [3, 4], "tell": [1, 4]}, "kept_out": {"felt": [0, 4]}}
            for seed in (1, 2)]
    table = rule_table({"stories": rows, "rules": [{"right": {"where": [2, 4], "tell": [0, 4]},
                                                    "kept_out": {"felt": [4, 4]}}]})
    assert list(table.index) == ["where", "felt"] and list(table.columns) == ["a", "rule"]
    assert table.loc["where", "a"] == "75 (41 to 93)" and table.loc["felt", "rule"] == "100 (51 to 100)"
    assert rule_table({"stories": [], "rules": []}).empty


STORY = ("Lars had a vase. Priya took the vase from Lars to the orchard. Lars was sad, and Lars went to the harbour. "
         "At the harbour Lars had two coins, and then two coins more.")


@pytest.mark.parametrize("kind, question, wanted, answer", [
    ("who_has", "Who has the vase?", Wanted("fact", ("Lars",), ("vase",)), "Lars."),
    ("who_did", "Who took it from Lars?", Wanted("fact", ("priya", "lars")), "Priya lars."),
    ("who_else", "Who is there besides Lars?", Wanted("fact", ("Priya",)), "Priya."),
    ("where", "Where is Lars?", Wanted("fact", ("harbour",), ("Lars",)), "Harbour."),
    ("felt", "How did Lars feel?", Wanted("fact", ("sad",), ("Lars",)), "Sad."),
    ("how_many", "How many coins?", Wanted("fact", ("two",), ("coins",)), "Two."),
    ("tell", "Tell a story.", Wanted("story", ()), "")])
def test_the_rule_names_what_a_story_names_most_often(kind, question, wanted, answer):
    task = Task(kind, question, STORY, "", wanted)
    assert rule_answer(task) == answer and check_task(task, answer) == (kind != "tell")
    assert rule_answer(Task(kind, question, "Nothing at all.", "", wanted)) == ""


def test_a_story_is_refused_for_what_it_lacks():
    task, other = (task for task in tasks(900, 2, "test", kinds=("tell",)))
    cut = ". ".join(task.answer.split(". ")[:-1]) + "."
    for text in (task.answer, other.answer, cut, task.answer + " Golden morning sharing.", "Lars."):
        assert check_task(task, text) == (not story_faults(task, text))
    assert "no ending" in story_faults(task, cut) and "fewer than two sentences" in story_faults(task, "Lars.")
    assert "a sentence that the world cannot make" in story_faults(task, task.answer + " Golden morning sharing.")
    assert "without who or what was asked for" in story_faults(task, other.answer)


def test_answers_stand_beside_the_rule_and_stories_beside_their_faults():
    where = Task("where", "Where is Lars?", STORY, "", Wanted("fact", ("harbour",), ("Lars",)))
    tell = next(tasks(900, 1, "test", kinds=("tell",)))
    table = beside_rule([where, where, tell], ["Lars is at the orchard.", "Lars is at the harbour.", "Lars."])
    assert table.loc["where", "right"].startswith("50.0 %") and table["the rule"].tolist() == ["100 %", "-"]
    faults = count_faults([where, tell, tell], ["Lars.", "Lars.", tell.answer.split(". ")[0] + "."])
    assert "fewer than two sentences" in faults and list(faults.values()) == sorted(faults.values(), reverse=True)
    assert max(faults.values()) == 2


def scores(*rows):
    return pd.DataFrame(rows, columns=["kind", "checked", "right", "contained", "words"])


def test_two_tables_of_scores_are_compared():
    same = [("list", "format", True, True, 3), ("talk", None, None, None, 5)]
    before = scores(("sum", "content", False, True, 9), ("sum", "content", True, True, 1), *same,
                    ("date", "content", False, False, 2))
    after = scores(("sum", "content", True, True, 2), ("sum", "content", False, False, 2), *same,
                   ("date", "content", True, True, 1))
    table = compare_scores(before, after)
    assert list(table.index) == ["strict", "contained", "format"]
    assert list(table["only before"]) == [1, 1, 0] and list(table["only after"]) == [2, 1, 0]
    assert table.loc["strict", "before"].startswith("33.3 %") and table.loc["strict", "after"].startswith("66.7 %")
    assert list(table["p"]) == ["1.000", "1.000", "1.000"]
    assert changed_kinds(before, after) == {"only before": {"sum": 1}, "only after": {"sum": 1, "date": 1}}


def test_the_study_on_entries_is_a_table_by_seed():
    part = {"strict": [2, 67], "contained": [9, 67], "format": [5, 20], "loss": 2.5, "words": 19.4, "perplexity": 30.0}
    after = {**part, "strict": [12, 67], "loss": 1.6}
    table = entry_table([{"method": "rank 8", "seed": 1, "before": part, "after": after}])
    assert table.loc["strict", 1] == "2 -> 12 of 67" and table.loc["loss", 1] == "2.5 -> 1.6"


def test_what_has_not_been_run_has_no_rows(monkeypatch, tmp_path):
    monkeypatch.setattr(story_tasks.resources, "files", lambda package: tmp_path)
    assert instruction_study() == {"stories": [], "entries": [], "rules": []}
    (tmp_path / story_tasks.STUDY_NAME).write_text(json.dumps({"choice": [1], "stories": [2]}))
    assert instruction_study() == {"stories": [2], "entries": [], "rules": []}
