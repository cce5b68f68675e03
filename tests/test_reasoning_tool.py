"""tools/reasoning.py: what the base learns from, the rewards of the study, and that it goes on where it stopped."""

import json

import pytest
import torch

from llmbook.book.reasoning import (
    ask_problems,
    entropy_of,
    problem_ids,
    reward_for,
    right_share_of,
    study_shares,
    with_steps,
)
from llmbook.book.studies import KeptRuns
from llmbook.gpt import GPT, GPTConfig
from llmbook.problems import PieceTokenizer, WorkedProblem, number_stories
from tools import reasoning as tool

PROBLEM = WorkedProblem("story", "Mira has 7 shells, finds 8, loses 3.", ("7+8=15", "15-3=12"), "12", 2)


def small():
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=PieceTokenizer().n_vocab, context_length=80, d_model=16, n_heads=2, n_layers=1,
                         dropout=0.0))


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "TABLE", tmp_path / "reasoning.json")
    study = object.__new__(tool.Study)
    KeptRuns.__init__(study, tool.TABLE, ("base", *tool.PARTS))
    return study


def test_the_base_sees_both_ways_and_few_calls():
    rows = tool.mixed_examples(3, 1000)
    boxes_seen = {prompt for prompt, _ in rows if "boxes" in prompt}
    calls = sum("<calc>" in response for _, response in rows)
    steps = sum(" think: " in response for prompt, response in rows if "boxes" not in prompt)
    assert len(rows) == 1000 and len(boxes_seen) <= 100 and 10 < calls < 60 and 250 < steps < 470


def test_its_batches_hold_both_ways_and_learn_responses_only():
    inputs, targets = next(iter(tool.Examples(tool.mixed_examples, 0, 32)))
    tokenizer = PieceTokenizer()
    first = {tokenizer.pieces[row[row >= 0][0]] for row in targets}
    assert first == {" think: ", " answer: "} and inputs.shape == targets.shape
    assert all(row[row >= 0][-1] == tokenizer.end for row in targets)


def test_the_reward_with_a_hole_pays_for_steps():
    assert tool.paid_by_the_step(PROBLEM, PROBLEM.worked()) == 2.0
    assert tool.paid_by_the_step(PROBLEM, " answer: 12\n") == 1.0
    assert tool.paid_by_the_step(PROBLEM, " think: 7+8=15; 7+8=15; 7+8=15; 1+1=2") == 2.0


def test_it_writes_each_run_and_goes_on(study, monkeypatch):
    runs = []

    def run(seed, _):
        if len(runs) == 4:
            raise TimeoutError
        runs.append(seed)
        return {"seconds": 1.0}

    parts = {part: dict.fromkeys(names, run) for part, names in tool.RUNS.items()}
    monkeypatch.setattr(tool, "RUNS", parts)
    monkeypatch.setattr(tool, "judged", lambda model, part: {"right": [1, 2]})
    monkeypatch.setattr(tool, "load_reasoner", lambda: (None, None))
    with pytest.raises(TimeoutError):
        study.go(tool.PARTS)
    stored = json.loads(tool.TABLE.read_text())
    assert len(stored["base"]) == 1 and sum(len(stored[part]) for part in tool.PARTS) == 4
    study.table = stored
    monkeypatch.setattr(tool, "RUNS", {part: dict.fromkeys(names, lambda seed, _: {}) for part, names in parts.items()})
    study.go(tool.PARTS)
    for part, names in parts.items():
        assert sorted((row["name"], row["seed"]) for row in study.table[part]) == sorted(
            (name, seed) for name in names for seed in tool.SEEDS)


def test_a_run_of_each_kind_ends_and_has_its_figures(monkeypatch):
    monkeypatch.setattr(tool, "load_reasoner", lambda: (small(), PieceTokenizer()))
    monkeypatch.setattr(tool, "judged", lambda model, part: {"right": [0, 1]})
    changes = {"max_steps": 2, "prompts_per_step": 2, "group_size": 2, "max_new_tokens": 8}
    _, row = tool.reinforced(0, judge=tool.paid_by_the_step, **changes)
    assert [record["step"] for record in row["curve"]] == [0] and row["after"] == {"right": [0, 1]}
    for how in (tool.supervised, tool.rejection):
        _, row = how(0, 0.01)
        assert row["seconds"] > 0 and row["steps"] >= 0


# --- what the chapter and the tool share ----------------------------------------------------------------------------

def test_responses_come_in_groups_and_begin_as_asked():
    model, tokenizer = small(), PieceTokenizer()
    problems = number_stories(0, 3)
    some = ask_problems(model, tokenizer, problems, samples=4, first=" think: ", max_new_tokens=5)
    assert [len(texts) for texts in some] == [4] * 3 and all(t.startswith(" think: ") for texts in some for t in texts)
    assert with_steps(some) == 1.0
    assert some == ask_problems(model, tokenizer, problems, samples=4, first=" think: ", max_new_tokens=5)
    assert ask_problems(model, tokenizer, problems, max_new_tokens=5, seed=1) != ask_problems(
        model, tokenizer, problems, max_new_tokens=5, seed=2)


def test_shares_and_rewards_are_counted():
    responses = [[PROBLEM.worked(), " answer: 3\n"]]
    share = right_share_of([PROBLEM], responses)
    assert (share.right, share.of) == (1, 2) and with_steps(responses) == 0.5
    tokenizer = PieceTokenizer()
    reward = reward_for([PROBLEM, PROBLEM], tokenizer)
    ids = [torch.tensor(tokenizer.encode(text)) for text in responses[0]]
    assert reward([0, 1], ids) == [1.0, 0.0]
    both = study_shares([{"right": [1, 2]}, {"right": [3, 4]}], "right")
    assert (both.right, both.of) == (4, 6)


def test_entropy_is_the_mean_surprise_of_the_sampled_tokens():
    model, tokenizer = small(), PieceTokenizer()
    text = " answer: 12\n"
    found = entropy_of(model, tokenizer, [PROBLEM], [[text]])
    ids = torch.tensor([tokenizer.encode(PROBLEM.prompt + text)])
    logprobs = model(ids).log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[-3:]
    assert found == pytest.approx(-logprobs.mean().item(), rel=1e-4)
    assert len(problem_ids([PROBLEM], tokenizer)[0]) == ids.shape[1] - 3


def test_the_stored_study_is_whole_and_says_what_the_chapter_says():
    stored = json.loads(tool.TABLE.read_text(encoding="utf-8"))
    for part, names in tool.RUNS.items():
        assert sorted((row["name"], row["seed"]) for row in stored[part]) == sorted(
            (name, seed) for name in names for seed in tool.SEEDS)
    assert 0.3 <= stored["base"][0]["right"][0] / stored["base"][0]["right"][1] <= 0.5
    assert all(row["after"]["right"][0] >= 0.85 * row["after"]["right"][1] for row in stored["main"])
    assert all(row["curve"][-1]["right"] < 0.1 < 4 < row["curve"][-1]["reward"] for row in stored["hole"])
