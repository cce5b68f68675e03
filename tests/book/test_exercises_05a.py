"""The checks of chapter 5a's exercises: wrong answers are told why, right ones pass however they are written."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmbook.book.exercises import Wrong
from llmbook.book.exercises import chapter_05a as check
from llmbook.training import TrainingConfig
from tests.support.exercise_tests import exercise_tests


def log_softmax_loss(logits, targets):
    return F.nll_loss(logits.log_softmax(-1), targets)


def one_hot_loss(logits, targets):
    shifted = logits - logits.max(dim=-1, keepdim=True).values
    logs = shifted - shifted.exp().sum(-1, keepdim=True).log()
    return -(F.one_hot(targets, logits.shape[-1]) * logs).sum() / len(targets)


def min_p(logits, p):
    probabilities = logits.softmax(-1)
    return torch.where(probabilities >= p * probabilities.amax(-1, keepdim=True), logits, -torch.inf)


def min_p_of_logits(logits, p):
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), -torch.inf)


def in_place(logits, p):
    probabilities = logits.softmax(-1)
    return logits.masked_fill_(probabilities < p * probabilities.amax(-1, keepdim=True), -torch.inf)


def top_p(logits, p):
    values, order = logits.softmax(-1).sort(descending=True)
    cut = values.cumsum(-1) - values >= p
    return logits.masked_fill(torch.zeros_like(cut).scatter(-1, order, cut), -torch.inf)


def by_ratio(logits, p):
    result = torch.full_like(logits, -torch.inf)
    for row, numbers in enumerate(logits.softmax(-1)):
        stay = numbers / numbers.max() >= p
        result[row, stay] = logits[row, stay]
    return result


def kept(rule):
    """The logits for whose probabilities rule(probabilities, p) holds."""
    return lambda logits, p: torch.where(rule(logits.softmax(-1), p), logits, -torch.inf)


def logs_of(x, y):
    return x.softmax(-1)[torch.arange(len(y)), y].log()


def less_the_largest_of_all(x, y):
    x = x - x.max()
    return (x.exp().sum(-1).log() - x[torch.arange(len(y)), y]).mean()


def loop(shift="next", clip="before", clear=True, steps=1):
    """A loop as exercise 4 asks for it, or with one of its faults."""
    def mended(model, batches, optimizer, max_norm=1.0):
        for ids in batches:
            seen, wanted = {"next": (ids[:, :-1], ids[:, 1:]), "same": (ids[:, :-1], ids[:, :-1]),
                            "back": (ids[:, 1:], ids[:, :-1])}[shift]
            F.cross_entropy(model(seen).flatten(0, 1), wanted.flatten()).backward()
            if clip == "before":
                nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            for _ in range(steps):
                optimizer.step()
            if clip == "after":
                nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            if clear:
                optimizer.zero_grad()
    return mended


def cleared_first(model, batches, optimizer, max_norm):
    for ids in batches:
        optimizer.zero_grad()
        logits = model(ids)[:, :-1]
        F.cross_entropy(logits.transpose(1, 2), ids[:, 1:]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()


RIGHT = {
    "exercise_1": [F.cross_entropy, log_softmax_loss, one_hot_loss, lambda x, y: log_softmax_loss(x, y).item()],
    "exercise_2": [min_p, min_p_of_logits, by_ratio],
}
WRONG = [
    ("exercise_1", lambda x, y: -F.cross_entropy(x, y), "wrong sign"),
    ("exercise_1", lambda x, y: F.cross_entropy(x, y, reduction="sum"), "sum over the positions"),
    ("exercise_1", lambda x, y: F.cross_entropy(x, y, reduction="sum") / x.shape[1], "tokens in the vocabulary"),
    ("exercise_1", lambda x, y: F.cross_entropy(x, y) / math.log(2), "in bits"),
    ("exercise_1", lambda x, y: -x.softmax(-1)[torch.arange(len(y)), y].mean().log(), "averaged the probabilities"),
    ("exercise_1", lambda x, y: -x.softmax(-1)[torch.arange(len(y)), y].mean(), "logarithm is missing"),
    ("exercise_1", lambda x, y: -x.softmax(0)[torch.arange(len(y)), y].log().mean(), "over the positions. It belongs"),
    ("exercise_1", lambda x, y: -x[torch.arange(len(y)), y].mean(), "softmax first"),
    ("exercise_1", lambda x, y: -x.log_softmax(-1).mean(), "averaged over all tokens"),
    ("exercise_1", lambda x, y: -x.log_softmax(-1)[:, y].mean(), "every target's column"),
    ("exercise_1", lambda x, y: F.cross_entropy(x[:-1], y[1:]), "shifted the targets"),
    ("exercise_1", lambda x, y: F.cross_entropy(x, y) + 1, r"you return 3\.\d+, expected 2\.\d+\.$"),
    ("exercise_1", lambda x, y: -(x.exp() / x.exp().sum(-1, keepdim=True))[torch.arange(len(y)), y].log().mean(),
     "nan: exp\\(1000\\) overflows"),
    ("exercise_1", lambda x, y: -logs_of(x, y).mean(), "inf: .* a probability became 0"),
    ("exercise_1", less_the_largest_of_all, "inf: .* each row's own largest"),
    ("exercise_1", lambda x, y: -logs_of(x, y).clamp(min=-80).mean(), "26.8977, expected 333.5644. A clamp"),
    ("exercise_1", lambda x, y: -(x.softmax(-1)[torch.arange(len(y)), y] + 1e-12).log().mean(), "a small number added"),
    ("exercise_1", lambda x, y: F.cross_entropy(x, y, reduction="none"), "more than one number.*the mean"),
    ("exercise_1", lambda x, y: str(F.cross_entropy(x, y)), "one number, not str"),
    ("exercise_1", lambda x, y: "large" if x.max() > 500 else F.cross_entropy(x, y), "one number, not str"),
    ("exercise_2", kept(lambda q, p: q >= p), r"row 0 .* you keep tokens \[1, 3\], expected .*compare with p itself"),
    ("exercise_2", kept(lambda q, p: q >= p * q.max()), "each row's own"),
    ("exercise_2", kept(lambda q, p: q >= p * q.amax(0)), "largest of each column"),
    ("exercise_2", kept(lambda q, p: q > p * q.amax(-1, keepdim=True)), "With p = 1.0.*>=, not >"),
    ("exercise_2", kept(lambda q, p: q < p * q.amax(-1, keepdim=True)), "wrong way round"),
    ("exercise_2", kept(lambda q, p: q < 0.2), r"you keep tokens \[0, 2, 4\], expected \[0, 1, 3, 4\]\.$"),
    ("exercise_2", lambda x, p: x.masked_fill(x < p * x.amax(-1, keepdim=True), -torch.inf), "when logits are comp"),
    ("exercise_2", top_p, "That is top-p"),
    ("exercise_2", lambda x, p: min_p(x, p).nan_to_num(neginf=0.0), "Only -inf gives"),
    ("exercise_2", lambda x, p: min_p(x, p).nan_to_num(neginf=-100.0), "Only -inf gives"),
    ("exercise_2", lambda x, p: min_p(x, p).softmax(-1), r"tokens \[0, 1, 2, 3, 4\], expected .* -inf\.$"),
    ("exercise_2", lambda x, p: x.softmax(-1), "You return probabilities"),
    ("exercise_2", lambda x, p: x.softmax(-1) * min_p(x, p).isfinite(), "You return probabilities"),
    ("exercise_2", lambda x, p: x.clone(), r"Nothing is at -inf\.$"),
    ("exercise_2", lambda x, p: x + min_p(x, p).isinf() * -torch.inf, "are nan"),
    ("exercise_2", lambda x, p: torch.where(min_p(x, p).isfinite(), x, torch.inf), "inf, which is certainty"),
    ("exercise_2", lambda x, p: min_p(x, p).log_softmax(-1), "ones that were given"),
    ("exercise_2", lambda x, p: torch.where(min_p(x, p).isfinite(), x.softmax(-1), -torch.inf), "neither prob"),
    ("exercise_2", in_place, "changed the logits"),
    ("exercise_2", lambda x, p: min_p(x, p)[0], "shape"),
]


test_right_answers_pass, test_wrong_answers, test_stubs_and_crashes = exercise_tests(check, RIGHT, WRONG)


# --- what takes more than one answer, or a run -------------------------------------------------------------------

@pytest.mark.parametrize("answers", [(4096, 0.002, 8192), (4096.0, -0.002, torch.tensor(8192))])
def test_right_predictions_pass(answers, capsys):
    check.exercise_3.verify(*answers)
    check.exercise_3(*answers)
    assert "5a.3: solved." in capsys.readouterr().out


@pytest.mark.parametrize("answers, message", [
    ((math.log(4096), 0.002, 8192), "This is the loss"), ((12, 0.002, 8192), "bits of one guess"),
    ((1 / 4096, 0.002, 8192), "its inverse"), ((4000, 0.002, 8192), r"4000\.0000, expected 4096\.0000\.$"),
    ((4096, 6e-8, 8192), "Plain gradient descent"), ((4096, 0.00003, 8192), "This is the gradient"),
    ((4096, 0.002 * 0.1 / math.sqrt(0.05), 8192), "the hats"), ((4096, 0, 8192), "not 0, so the weight moves"),
    ((4096, 0.0002, 8192), "the root of the mean square"), ((4096, 0.002, 2048), "one part"),
    ((4096, 0.002, 1024), "8 rows"), ((4096, 0.002, 32), "These are rows"), ((4096, 0.002, 256), "one row"),
    ((4096, 0.002, "many"), "one number, not str"), ((4096, 0.002, 7), r"7\.0000, expected 8192")])
def test_wrong_predictions_are_told_why(answers, message):
    with pytest.raises(Wrong, match=message):
        check.exercise_3.verify(*answers)


def test_predictions_that_are_missing_are_not_started(capsys):
    check.exercise_3(4096, None, 8192)
    assert "5a.3: not started" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [loop(), cleared_first])
def test_a_mended_loop_passes(answer, capsys):
    check.exercise_4(answer)
    assert "5a.4: solved." in capsys.readouterr().out


@pytest.mark.parametrize("answer, message", [
    (loop("same", "after"), "copying is enough"),
    (loop("same"), "copying is enough"),
    (loop("back"), "the token before"),
    (loop(clip="after"), "clip between backward and step"),
    (loop(clip=None), "clip between backward and step"),
    (loop(clear=False), "never cleared"), (loop(clip=None, clear=False), "never cleared"),
    (loop(clip="after", clear=False), "never cleared"),
    (loop(steps=0), "did not move"),
    (loop(steps=2), "others than those of the right loop")])
def test_a_loop_with_a_fault_is_told_which(answer, message):
    with pytest.raises(Wrong, match=message):
        check.exercise_4.verify(answer)


def test_a_loop_that_stops_is_reported(capsys):
    check.exercise_4(lambda *arguments: 1 / 0)
    assert "not yet. Your code stopped with ZeroDivisionError" in capsys.readouterr().out


def test_the_lab_names_what_it_measured(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(check, "lab_loss", lambda config: asked.append(config) or 5.25 - len(asked))
    for config, message in ((TrainingConfig(100), "held-out loss is 4.25, and the target is below .*multiply it by 3"),
                            ("fast", "Give a TrainingConfig, not str"),
                            (TrainingConfig(101), "max_steps is 101; the budget is 100"),
                            (TrainingConfig(100, accumulation_steps=2), "accumulation_steps must be 1")):
        with pytest.raises(Wrong, match=message):
            check.exercise_5.verify(config)
    check.exercise_5(TrainingConfig(100, learning_rate=1e-2))
    assert "5a.5: solved." in capsys.readouterr().out and len(asked) == 2
    check.exercise_5(None)
    assert "5a.5: not started" in capsys.readouterr().out


@pytest.mark.parametrize("changes, advice", [
    ({"max_steps": 50}, "You may use all 100 steps"), ({"learning_rate": 1.0}, "divide it by 3"),
    ({"learning_rate": 1e-2}, "warm-up"), ({"learning_rate": 1e-2, "warmup_steps": 9}, "one setting at a time")])
def test_the_lab_gives_advice(monkeypatch, changes, advice):
    monkeypatch.setattr(check, "lab_loss", lambda config: 9.0)
    with pytest.raises(Wrong, match=advice):
        check.exercise_5.verify(TrainingConfig(**{"max_steps": 100, **changes}))


@pytest.mark.slow
def test_the_lab_s_target_is_met_by_the_solution_and_missed_by_the_defaults():
    good = TrainingConfig(100, learning_rate=1e-2, warmup_steps=20, final_fraction=0.02, betas=(0.9, 0.99),
                          progress=False)
    assert check.lab_loss(good) < check.LAB_TARGET - 0.1
    assert check.lab_loss(TrainingConfig(100, progress=False)) > check.LAB_TARGET + 0.5
