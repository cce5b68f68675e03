"""The checks of chapter 5a's exercises: wrong answers are told why, right ones pass however they are written."""

import math

import torch
from torch.nn import functional as F

from llmbook.exercises import chapter_05a as check
from tests.exercise_tests import exercise_tests


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


def ramp(step, most, warmup, cooldown):
    if step < warmup:
        return (step + 1) / warmup
    return 1 if step < most - cooldown else (most - step) / cooldown


def smoothed(model, inputs, targets):
    logs = model(inputs).log_softmax(-1)[targets != -100]
    own = logs.gather(1, targets[targets != -100][:, None])
    return -(0.9 * own.mean() + 0.1 * logs.mean())


RIGHT = {
    "exercise_1": [F.cross_entropy, log_softmax_loss, one_hot_loss],
    "exercise_2": [lambda loss, n, b: loss * n / b / math.log(2), lambda loss, n, b: math.log2(math.exp(loss)) * n / b],
    "exercise_3": [min_p, min_p_of_logits],
    "exercise_4": [ramp, lambda s, m, w, c: max(0.0, min((s + 1) / w, (m - s) / c, 1.0))],
    "exercise_5": [smoothed, lambda model, x, y: F.cross_entropy(model(x).flatten(0, 1), y.flatten(),
                                                                 label_smoothing=0.1)],
}
WRONG = [
    ("exercise_1", lambda x, y: -F.cross_entropy(x, y), "wrong sign"),
    ("exercise_1", lambda x, y: F.cross_entropy(x, y, reduction="sum"), "sum over the positions"),
    ("exercise_1", lambda x, y: F.cross_entropy(x, y) / math.log(2), "in bits"),
    ("exercise_1", lambda x, y: -x.softmax(-1)[torch.arange(len(y)), y].mean().log(), "averaged the probabilities"),
    ("exercise_1", lambda x, y: -x.softmax(0)[torch.arange(len(y)), y].log().mean(), "over the positions. It belongs"),
    ("exercise_1", lambda x, y: -x[torch.arange(len(y)), y].mean(), "softmax first"),
    ("exercise_1", lambda x, y: -(x.exp() / x.exp().sum(-1, keepdim=True))[torch.arange(len(y)), y].log().mean(),
     "exp overflows"),
    ("exercise_1", lambda x, y: F.cross_entropy(x, y, reduction="none"), "one number"),
    ("exercise_2", lambda loss, n, b: loss * n / b, "in nats"),
    ("exercise_2", lambda loss, n, b: loss / math.log(2), "bits a token"),
    ("exercise_2", lambda loss, n, b: loss * n / b * math.log(2), "multiplied by ln 2"),
    ("exercise_2", lambda loss, n, b: loss * b / n / math.log(2), "upside down"),
    ("exercise_3", lambda x, p: x.masked_fill(x.softmax(-1) < p, -torch.inf), "compare with p itself"),
    ("exercise_3", lambda x, p: x.masked_fill(x.softmax(-1) < p * x.softmax(-1).max(), -torch.inf), "row"),
    ("exercise_3", lambda x, p: min_p(x, p).softmax(-1), "you keep"),
    ("exercise_3", in_place, "changed the logits"),
    ("exercise_3", lambda x, p: min_p(x, p)[0], "shape"),
    ("exercise_4", lambda s, m, w, c: min(1, s / w, (m - s) / c), "not move at all"),
    ("exercise_4", lambda s, m, w, c: min(1, (s + 1) / w, (m - 1 - s) / c), "one step early"),
    ("exercise_4", lambda s, m, w, c: min(1, (m - s) / c), "warm-up is missing"),
    ("exercise_4", lambda s, m, w, c: min(1, (s + 1) / w), "cooldown is missing"),
    ("exercise_5", lambda model, x, y: F.cross_entropy(model(x).flatten(0, 1), y.flatten()), "smoothing is missing"),
    ("exercise_5", lambda model, x, y: F.cross_entropy(model(x).flatten(0, 1), y.flatten(), label_smoothing=0.9),
     "exchanged"),
    ("exercise_5", lambda model, x, y: 0.9 * F.cross_entropy(model(x).flatten(0, 1), y.flatten())
     - 0.1 * model(x).log_softmax(-1).mean(), "-100 still count"),
    ("exercise_5", lambda model, x, y: smoothed(model, x, y).item(), "no gradient"),
]


test_right_answers_pass, test_wrong_answers, test_stubs_and_crashes = exercise_tests(check, RIGHT, WRONG)
