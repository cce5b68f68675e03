"""Chapter 11's checks: right answers pass, however written; wrong ones are named."""

import math

import torch
from torch.nn import functional as F

from llmbook.book.exercises import chapter_11 as check
from llmbook.experts import balance_loss
from tests.support.exercise_tests import exercise_tests


def forget_by_counting(decay, share):
    left, tokens = 1.0, 0
    while left >= share:
        left, tokens = left * decay, tokens + 1
    return tokens


def by_loop(query, key, value):
    rows = []
    for i in range(query.shape[2]):
        weights = (query[:, :, i, None] * key[:, :, : i + 1]).sum(-1, keepdim=True)
        rows.append((weights * value[:, :, : i + 1]).sum(2))
    return torch.stack(rows, 2)


def soft(query, key, value):
    hidden = ~torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()
    return (query @ key.mT).masked_fill(hidden, -torch.inf).softmax(-1) @ value


def counts_only(scores):
    share = F.one_hot(scores.argmax(1), scores.shape[1]).float().mean(0)
    return scores.shape[1] * (share * share).sum()


def probabilities_only(scores):
    mean = scores.softmax(1).mean(0)
    return scores.shape[1] * (mean * mean).sum()


def upside_down(scores):
    share = F.one_hot(scores.argmax(1), scores.shape[1]).float().mean(0)
    value = scores.shape[1] * (share * scores.softmax(1).mean(0)).sum()
    return 2 * value.detach() - value


def by_score(scores):
    share = F.one_hot(scores.argmax(1), scores.shape[1]).float().mean(0)
    return counts_only(scores) + (share * (scores - scores.detach()).mean(0)).sum()


test_right, test_wrong, test_stubs = exercise_tests(
    check,
    {"exercise_1": [lambda d: d // 2 + 1, lambda d: next(n for n in range(10**5) if 2 * n * d > d * d)],
     "exercise_2": [forget_by_counting, lambda d, s: math.floor(math.log(s) / math.log(d)) + 1],
     "exercise_3": [lambda q, k, v: (q @ k.mT).tril() @ v, by_loop],
     "exercise_4": [lambda scores: balance_loss(scores, 1), probabilities_only],
     "exercise_5": [lambda: ["gated delta", "gated delta", "gated delta", "attention"],
                    lambda: ("window", "attention", "window", "delta")]},
    [("exercise_1", lambda d: d // 2, "one token more"), ("exercise_1", lambda d: d + 1, "a key and a value"),
     ("exercise_1", lambda d: d * d // 2 + 1, "not one"), ("exercise_1", lambda d: 2 * d + 1, "other way round"),
     ("exercise_2", lambda d, s: math.log(s) / math.log(d), "Tokens are whole"),
     ("exercise_2", lambda d, s: math.floor(math.log(s) / math.log(d)), "one more"),
     ("exercise_2", lambda d, s: math.ceil((1 - s) / (1 - d)), "multiplies what is left"),
     ("exercise_3", lambda q, k, v: q @ k.mT @ v, "still sees those after it"),
     ("exercise_3", lambda q, k, v: (q @ k.mT).triu() @ v, "above the diagonal"),
     ("exercise_3", lambda q, k, v: (q @ k.mT).tril(-1) @ v, "does not see itself"),
     ("exercise_3", soft, "softmax"), ("exercise_3", lambda q, k, v: v, "loop over tokens"),
     ("exercise_4", counts_only, "no gradient"), ("exercise_4", lambda s: balance_loss(s, 1) / 4, "Multiply by"),
     ("exercise_4", upside_down, "must be above 0"), ("exercise_4", by_score, "must be pushed up"),
     ("exercise_5", lambda: ["attention"] * 4, "fewer blocks"), ("exercise_5", lambda: ["delta"] * 4, "afford one"),
     ("exercise_5", lambda: ["mamba"] * 4, "no layer 'mamba'"), ("exercise_5", lambda: ["delta"], "four names")])
