"""Chapter 9's checks: right answers pass, however written; wrong ones are named."""

import copy

import torch

from llmbook.book.exercises import chapter_09 as check
from llmbook.problems import final_answer, is_right
from tests.support.exercise_tests import exercise_tests


def others_advantages(rewards):
    return (rewards - rewards.mean(1, keepdim=True)) * rewards.shape[1] / (rewards.shape[1] - 1)


def others_by_hand(rewards):
    rows = []
    for row in rewards.tolist():
        rows.append([own - sum(row[:i] + row[i + 1:]) / (len(row) - 1) for i, own in enumerate(row)])
    return torch.tensor(rows)


def repaired(logprobs, advantages, own):
    return -(advantages[:, None] * logprobs * own).sum(dim=1).mean()


def frozen(model):
    return copy.deepcopy(model).eval().requires_grad_(False)


def trainable(model):
    return copy.deepcopy(model).eval()


def noisy(model):
    return copy.deepcopy(model).requires_grad_(False).train()


def shared(model):
    other = copy.deepcopy(model).eval().requires_grad_(False)
    for mine, theirs in zip(other.parameters(), model.parameters()):
        mine.data = theirs.data
    return other


def freezes_both(model):
    model.requires_grad_(False)
    return copy.deepcopy(model).eval()


def stops_training(model):
    return copy.deepcopy(model.eval()).requires_grad_(False)


def short_and_right(problem, response):
    return is_right(problem, response) / (1 + len(response) / 100)


test_right, test_wrong, test_stubs = exercise_tests(
    check,
    {"exercise_1": [others_advantages, others_by_hand],
     "exercise_2": [lambda p: 3 * p**2 - 2 * p**3, lambda p: p**3 + 3 * p**2 * (1 - p)],
     "exercise_3": [repaired, lambda p, a, o: -(p.masked_fill(~o, 0).sum(1) * a).sum() / len(p)],
     "exercise_4": [is_right, lambda problem, response: float(final_answer(response) == problem.answer)],
     "exercise_5": [frozen, lambda model: copy.deepcopy(model).requires_grad_(False).eval()],
     "exercise_6": [short_and_right, lambda p, r: is_right(p, r) * (1 - 0.001 * len(r))]},
    [("exercise_1", lambda r: r - r.mean(1, keepdim=True), "Leave each one out"),
     ("exercise_1", lambda r: r - (r.sum(1, keepdim=True) - r) / r.shape[1], "one less remains"),
     ("exercise_1", lambda r: -others_advantages(r), "sign is wrong"),
     ("exercise_1", lambda r: r - (r.sum() - r) / (r.numel() - 1), "of its own row"),
     ("exercise_1", lambda r: 0 * r + 9, "mean of the other rewards"),
     ("exercise_2", lambda p: 1 - (1 - p) ** 3, "at least one of three"),
     ("exercise_2", lambda p: p**3, "two suffice"),
     ("exercise_2", lambda p: 3 * p**2 * (1 - p), "Exactly two"),
     ("exercise_2", lambda p: p**2 * (1 - p) + p**3, "three ways"),
     ("exercise_3", lambda p, a, o: -repaired(p, a, o), "The sign is wrong"),
     ("exercise_3", lambda p, a, o: repaired(p, a, torch.ones_like(o)), "did not choose are still"),
     ("exercise_3", lambda p, a, o: -repaired(p, a, torch.ones_like(o)), "Two mistakes"),
     ("exercise_3", lambda p, a, o: repaired(p, torch.ones_like(a), o), "advantages are gone"),
     ("exercise_3", lambda p, a, o: -(a[:, None] * p * o).mean(), "mean over tokens"),
     ("exercise_3", lambda p, a, o: 4 * repaired(p, a, o), "sum over rows"),
     ("exercise_4", lambda p, r: float(p.answer in r), "The right number somewhere"),
     ("exercise_4", lambda p, r: float(r.strip().endswith("answer: " + p.answer)), "cut before its end"),
     ("exercise_4", lambda p, r: 0.5, "return 1 or 0"),
     ("exercise_4", lambda p, r: float("answer: 12\n" == r.lstrip()), "A worked and right answer"),
     ("exercise_5", lambda model: model, "the model itself"),
     ("exercise_5", trainable, "still has trainable weights"),
     ("exercise_5", noisy, "in training mode"),
     ("exercise_5", shared, "share weights"),
     ("exercise_5", freezes_both, "freeze the copy only"),
     ("exercise_5", stops_training, "change the copy only"),
     ("exercise_5", lambda model: 3, "Return a model"),
     ("exercise_6", lambda p, r: float(is_right(p, r)), "shorter one should get more"),
     ("exercise_6", lambda p, r: is_right(p, r) - 0.05 * len(r), "being short pays more"),
     ("exercise_6", lambda p, r: 5 * is_right(p, r) - 0.01 * len(r), "Wrong answers of different lengths")],
)
