"""tools/reasoning.py: what the base learns from, the rewards of the study, and that it goes on where it stopped."""

import json
from itertools import product

import pandas as pd
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
from llmbook.problems import THINK, PieceTokenizer, WorkedProblem, countdown, is_right, number_stories
from llmbook.text import train_bpe
from tests.support.small_models import small_model
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


# --- students --------------------------------------------------------------------------------------------------------

def teach(monkeypatch, every):
    """A teacher that solves one problem in so many, in steps; what it writes to the rest is wrong."""
    def ask(model, tokenizer, problems, **how):
        return [[" answer: 99\n" if number % every else problem.worked()] for number, problem in enumerate(problems)]

    monkeypatch.setattr(tool, "lessons", tool.lessons.__wrapped__)  # as if none were kept
    monkeypatch.setattr(tool, "reinforced", lambda seed, test: (None, {}))
    monkeypatch.setattr(tool, "ask_problems", ask)


def test_lessons_are_as_many_for_each_student_and_verified_ones_right(monkeypatch):
    teach(monkeypatch, every=2)
    found = tool.lessons(0, 20)
    assert list(found) == list(tool.RUNS["distill"]) and {len(rows) for rows in found.values()} == {20}
    problems = {problem.prompt: problem for problem in number_stories(800, 40, steps=tool.STEPS)}
    right = {name: sum(is_right(problems[prompt], text) for prompt, text in rows) for name, rows in found.items()}
    assert right == {"verified": 20, "unverified": 10, "author": 20, "answers": 20}
    prompts = {name: [prompt for prompt, _ in rows] for name, rows in found.items()}
    assert prompts["verified"] == prompts["author"] == prompts["answers"] != prompts["unverified"]
    assert prompts["unverified"] == list(problems)[:20]
    assert all(THINK in text for _, text in found["author"]) and not any(THINK in text for _, text in found["answers"])


def test_a_teacher_that_solves_too_few_is_refused(monkeypatch):
    teach(monkeypatch, every=3)
    with pytest.raises(RuntimeError, match="solved 14 of 40 problems: train it longer, or ask for fewer than 20"):
        tool.lessons(0, 20)


def test_a_student_is_small_new_and_learns_its_own_lessons(monkeypatch):
    monkeypatch.setattr(tool, "STUDENT_STEPS", 3)
    monkeypatch.setattr(tool, "judged", lambda model, part: {"right": [0, 1], "part": part})
    seen = []
    taught = tool.Examples.__iter__
    monkeypatch.setattr(tool.Examples, "__iter__", lambda self: seen.append(set(self.make(0, 500))) or taught(self))
    monkeypatch.setattr(tool, "lessons", lambda seed: {"verified": [("Ben has 1 kites.", " answer: 1\n")]})
    row = tool.student_run("verified", 0)
    assert seen == [{("Ben has 1 kites.", " answer: 1\n")}]
    assert row["parameters"] < sum(p.numel() for p in tool.load_reasoner()[0].parameters()) / 2
    assert row["tokens"] == 3 and row["after"] == {"right": [0, 1], "part": "test"}


# --- countdown -------------------------------------------------------------------------------------------------------

def test_few_countdowns_have_an_answer():
    rows = tool.few_examples(0, 2000)
    prompts = {prompt for prompt, _ in rows}
    assert len(rows) == 2000 and 200 < len(prompts) <= tool.FEW
    held_out = {problem.prompt for problem in countdown(79, 300, "test", largest=tool.LARGEST)}
    assert not prompts & held_out and not any(THINK in text for _, text in rows)


def test_right_countdowns_are_counted_and_those_that_are_not_the_known_calculation(monkeypatch):
    problems = countdown(79, 40, "test", largest=tool.LARGEST)

    def ask(model, tokenizer, asked, temperature, max_new_tokens):
        assert asked == problems
        known = [problem.at_once() for problem in problems]
        other = [f" answer: ({problem.answer})\n" for problem in problems]
        mixed = [*other[:10], *known[10:15], *[" answer: 1\n"] * 25]
        return [[text] for text in (known if temperature == 0 else mixed)]

    monkeypatch.setattr(tool, "ask_problems", ask)
    found = tool.countdowns_right(small(), 40)
    assert found == {"right": [15, 40], "likeliest": [40, 40], "other": [10, 15]}


def test_countdown_compares_two_ways_from_one_start(monkeypatch):
    starts, judged = [], []
    few = {"max_steps": 11, "prompts_per_step": 2, "group_size": 2, "max_new_tokens": 4}
    monkeypatch.setattr(tool, "COUNTDOWN", few)
    monkeypatch.setattr(tool, "WARM_STEPS", 2)
    monkeypatch.setattr(tool, "countdowns_right", lambda model: judged.append(model) or len(judged))
    for name in ("grpo", "train_for"):
        run = getattr(tool, name)
        monkeypatch.setattr(tool, name, lambda model, *rest, run=run: starts.append(
            torch.cat([p.detach().flatten() for p in model.parameters()]).clone()) or run(model, *rest))
    row = tool.countdown_run(0)
    assert torch.equal(*starts) and judged[0] is judged[1] is not judged[2]
    assert (row["before"], row["after"], row["longer"]) == (1, 2, 3) and [r["step"] for r in row["curve"]] == [10]


# --- a real model ----------------------------------------------------------------------------------------------------

def test_an_adapter_is_paid_by_the_checks_and_the_rest_stays(monkeypatch):
    tokenizer = train_bpe("the gold bird and the salt ship " * 40, 270, ("<|im_start|>", "<|im_end|>", "<|endoftext|>"))
    model = small_model("Llama", 16, 64, 0.3, vocab_size=tokenizer.n_vocab)
    entries = pd.DataFrame([{"kind": "short", "instruction": " ".join(words), "input": "", "output": "gold",
                             "check": {"max_words": 1}}
                            for words in product(("the", "gold", "salt", "ship"), repeat=3)])
    before = {name: p.clone() for name, p in model.named_parameters()}
    paid = []
    run = tool.grpo
    monkeypatch.setattr(tool, "grpo", lambda model, prompts, reward, *rest, **more: paid.append(
        reward([0, 1], [torch.tensor(tokenizer.encode(text)) for text in ("gold", "the gold bird")])) or run(
            model, prompts, reward, *rest, **more))
    row = tool.real_run(0, model, tokenizer, entries, max_steps=2, prompts_per_step=4, group_size=4, max_new_tokens=3)
    assert paid == [[1.0, 0.0]] and row["steps"] == 2 and row["samples"] == 16 and row["signal"] > 0
    assert row["prompts"] > 40 and 1 <= row["before"][1] == row["after"][1] < 64 - row["prompts"]
    after = dict(model.named_parameters())
    assert all(torch.equal(p, after.get(name, after.get(name.replace(".weight", ".base.weight")))) for name, p in
               before.items())
    assert max(p.abs().max() for name, p in after.items() if name.endswith(".B")) > 0


def test_only_checkable_instructions_are_asked():
    entries = tool.checkable()
    assert len(entries) > 1000 and all(isinstance(check, dict) for check in entries["check"])


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
    taught = {name: sum(row["after"]["right"][0] for row in stored["distill"] if row["name"] == name)
              for name in tool.TEACHERS}
    assert 3 * taught["answers"] < min(taught[name] for name in tool.TEACHERS[:3])
    hard = {when: sum(row[when]["right"][0] for row in stored["countdown"]) for when in ("before", "after", "longer")}
    assert hard["after"] > 1.2 * hard["before"] and hard["after"] > 1.2 * hard["longer"]
