"""The checks of chapter 5a's exercises: wrong answers are told why, right ones pass however they are written."""

import math

import torch
from torch.nn import functional as F

from llmbook.book.exercises import chapter_05a as check
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


def ramp(step, most, warmup, cooldown):
    if step < warmup:
        return (step + 1) / warmup
    return 1 if step < most - cooldown else (most - step) / cooldown


def changed(part, value):
    """The ramp, but `value` in one part of the steps: "up", "flat" or "down"."""
    def answer(step, most, warmup, cooldown):
        here = "up" if step < warmup else "flat" if step < most - cooldown else "down"
        return value(step, most, warmup, cooldown) if here == part else ramp(step, most, warmup, cooldown)
    return answer


def smoothed(model, inputs, targets):
    logs = model(inputs).log_softmax(-1)[targets != -100]
    own = logs.gather(1, targets[targets != -100][:, None])
    return -(0.9 * own.mean() + 0.1 * logs.mean())


def smoothed_targets(model, inputs, targets):
    keep = targets.flatten() != -100
    logits = model(inputs).flatten(0, 1)[keep]
    return F.cross_entropy(logits, 0.9 * F.one_hot(targets.flatten()[keep], logits.shape[-1]) + 0.1 / logits.shape[-1])


def parts(model, inputs, targets):
    """(cross-entropy with the targets, log-probabilities of the positions that count, those of all)."""
    logs = model(inputs).log_softmax(-1)
    return F.nll_loss(logs.flatten(0, 1), targets.flatten()), logs[targets != -100], logs


def mixed(change):
    return lambda model, x, y: change(*parts(model, x, y))


def over_all_positions(model, x, y):
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten(), label_smoothing=0.1, reduction="sum") / y.numel()


def without_the_target(model, x, y):
    own, logs, _ = parts(model, x, y)
    others = logs.scatter(1, y[y != -100][:, None], 0).sum(-1) / 4
    return 0.9 * own - 0.1 * others.mean()


def gathered_at_once(model, x, y):
    logs = model(x).log_softmax(-1)
    return -(0.9 * logs.gather(2, y[..., None]).mean() + 0.1 * logs.mean())


def indexed_at_once(model, x, y):
    logs = model(x).log_softmax(-1).flatten(0, 1)
    return -(0.9 * logs[torch.arange(len(logs)), y.flatten()].mean() + 0.1 * logs.mean())


def logs_of(x, y):
    return x.softmax(-1)[torch.arange(len(y)), y].log()


def less_the_largest_of_all(x, y):
    x = x - x.max()
    return (x.exp().sum(-1).log() - x[torch.arange(len(y)), y]).mean()


RIGHT = {
    "exercise_1": [F.cross_entropy, log_softmax_loss, one_hot_loss, lambda x, y: log_softmax_loss(x, y).item()],
    "exercise_2": [lambda loss, n, b: loss * n / b / math.log(2), lambda loss, n, b: math.log2(math.exp(loss)) * n / b],
    "exercise_3": [min_p, min_p_of_logits, by_ratio],
    "exercise_4": [ramp, lambda s, m, w, c: max(0.0, min((s + 1) / w, (m - s) / c, 1.0)),
                   lambda *sizes: torch.tensor(ramp(*sizes))],
    "exercise_5": [smoothed, smoothed_targets, lambda model, x, y: F.cross_entropy(model(x).flatten(0, 1), y.flatten(),
                                                                                   label_smoothing=0.1)],
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
    ("exercise_2", lambda loss, n, b: loss * n / b, "in nats"),
    ("exercise_2", lambda loss, n, b: loss / math.log(2), "bits a token"),
    ("exercise_2", lambda loss, n, b: loss * n / b * math.log(2), "multiplied by ln 2"),
    ("exercise_2", lambda loss, n, b: loss * b / n / math.log(2), "upside down"),
    ("exercise_2", lambda loss, n, b: loss * n / math.log(2), "bits of the whole text"),
    ("exercise_2", lambda loss, n, b: loss / b / math.log(2), "n_tokens times as much"),
    ("exercise_2", lambda loss, n, b: loss * n / (8 * b) / math.log(2), "8 a byte"),
    ("exercise_2", lambda loss, n, b: math.exp(loss), r"350 bytes you return 7\.3891, expected 0\.8244\.$"),
    ("exercise_2", lambda loss, n, b: int(loss) * n / b / math.log(2), "59000 tokens and 221000 bytes"),
    ("exercise_2", lambda loss, n, b: torch.ones(2) * loss, "one number, not Tensor"),
    ("exercise_3", kept(lambda q, p: q >= p), r"row 0 .* you keep tokens \[1, 3\], expected .*compare with p itself"),
    ("exercise_3", kept(lambda q, p: q >= p * q.max()), "each row's own"),
    ("exercise_3", kept(lambda q, p: q >= p * q.amax(0)), "largest of each column"),
    ("exercise_3", kept(lambda q, p: q > p * q.amax(-1, keepdim=True)), "With p = 1.0.*>=, not >"),
    ("exercise_3", kept(lambda q, p: q < p * q.amax(-1, keepdim=True)), "wrong way round"),
    ("exercise_3", kept(lambda q, p: q < 0.2), r"you keep tokens \[0, 2, 4\], expected \[0, 1, 3, 4\]\.$"),
    ("exercise_3", lambda x, p: x.masked_fill(x < p * x.amax(-1, keepdim=True), -torch.inf), "when logits are comp"),
    ("exercise_3", top_p, "That is top-p"),
    ("exercise_3", lambda x, p: min_p(x, p).nan_to_num(neginf=0.0), "Only -inf gives"),
    ("exercise_3", lambda x, p: min_p(x, p).nan_to_num(neginf=-100.0), "Only -inf gives"),
    ("exercise_3", lambda x, p: min_p(x, p).softmax(-1), r"tokens \[0, 1, 2, 3, 4\], expected .* -inf\.$"),
    ("exercise_3", lambda x, p: x.softmax(-1), "You return probabilities"),
    ("exercise_3", lambda x, p: x.softmax(-1) * min_p(x, p).isfinite(), "You return probabilities"),
    ("exercise_3", lambda x, p: x.clone(), r"Nothing is at -inf\.$"),
    ("exercise_3", lambda x, p: x + min_p(x, p).isinf() * -torch.inf, "are nan"),
    ("exercise_3", lambda x, p: torch.where(min_p(x, p).isfinite(), x, torch.inf), "inf, which is certainty"),
    ("exercise_3", lambda x, p: min_p(x, p).log_softmax(-1), "ones that were given"),
    ("exercise_3", lambda x, p: torch.where(min_p(x, p).isfinite(), x.softmax(-1), -torch.inf), "neither prob"),
    ("exercise_3", in_place, "changed the logits"),
    ("exercise_3", lambda x, p: min_p(x, p)[0], "shape"),
    ("exercise_4", lambda s, m, w, c: min(1, s / w, (m - s) / c), "not move at all"),
    ("exercise_4", lambda s, m, w, c: min(1, (s + 1) / (w + 1), (m - s) / c), "reach 1 one step late"),
    ("exercise_4", lambda s, m, w, c: min(1, (s + 1) / w, (m - 1 - s) / c), "At step 6 of 10.*one step early"),
    ("exercise_4", changed("down", lambda s, m, w, c: (m - 1 - s) / max(1, c - 1)), "At step 7 of 10.*one step early"),
    ("exercise_4", lambda s, m, w, c: min(1, (m - s) / c), "warm-up is missing.$"),
    ("exercise_4", lambda s, m, w, c: (m - s) / m, "warm-up is missing"),
    ("exercise_4", lambda s, m, w, c: min(1, (s + 1) / w), "cooldown is missing"),
    ("exercise_4", lambda s, m, w, c: min(1, (s + 1) / w, (m - s) / (m - w)), "flat part is missing"),
    ("exercise_4", changed("down", lambda s, m, w, c: (1 - math.cos(math.pi * (m - s) / c)) / 2), "along a cosine"),
    ("exercise_4", changed("down", lambda s, m, w, c: (s - (m - c)) / c), "upside down"),
    ("exercise_4", changed("flat", lambda s, m, w, c: (s + 1) / w), "never more than 1"),
    ("exercise_4", lambda s, m, w, c: min((s + 1) / w, (m - s) / c), "At step 2 of 10.*never more than 1"),
    ("exercise_4", changed("flat", lambda s, m, w, c: 0.5), r"you return 0\.5000, expected 1\.0000\.$"),
    ("exercise_4", lambda s, m, w, c: ramp(s, m, w, 4), "At step 81 of 100, with warmup 10 and cooldown 20"),
    ("exercise_4", lambda s, m, w, c: ramp(s, m, max(w, 2), c), "At step 0 of 6, with warmup 1"),
    ("exercise_4", lambda *sizes: sizes, "one number, not tuple"),
    ("exercise_5", lambda model, x, y: F.cross_entropy(model(x).flatten(0, 1), y.flatten()), "smoothing is missing"),
    ("exercise_5", mixed(lambda own, logs, _: 0.9 * own), "part for all tokens is missing"),
    ("exercise_5", mixed(lambda own, logs, _: own - 0.1 * logs.mean()), "0.9, not 1"),
    ("exercise_5", lambda model, x, y: F.cross_entropy(model(x).flatten(0, 1), y.flatten(), label_smoothing=0.9),
     "exchanged"),
    ("exercise_5", mixed(lambda own, logs, _: 0.9 * own + 0.1 * logs.mean()), "wrong sign"),
    ("exercise_5", mixed(lambda own, logs, _: 0.9 * own - 0.1 * logs.sum(-1).mean()), "summed over the vocabulary"),
    ("exercise_5", without_the_target, "left the target out"),
    ("exercise_5", lambda model, x, y: smoothed(model, x, y) * (y != -100).sum(), "sum over the positions"),
    ("exercise_5", over_all_positions, "With 3 targets .* divided by all positions"),
    ("exercise_5", mixed(lambda own, logs, all_rows: 0.9 * own - 0.1 * all_rows.mean()), "-100 still count"),
    ("exercise_5", mixed(lambda own, logs, all_rows: 0.9 * own - 0.1 * logs.sum() / all_rows.numel()),
     "part for all tokens by all positions"),
    ("exercise_5", mixed(lambda own, logs, _: own + 1), r"6 targets you return \d\.\d+, expected \d\.\d+\.$"),
    ("exercise_5", gathered_at_once, "your code stops: .*-100 names no token"),
    ("exercise_5", indexed_at_once, "your code stops: .*-100 names no token"),
    ("exercise_5", lambda model, x, y: F.cross_entropy(model(x), y, label_smoothing=0.1), "in the second dimension"),
    ("exercise_5", lambda model, x, y: smoothed(model, x, y).item(), "no gradient"),
    ("exercise_5", lambda model, x, y: smoothed(model, x, y).detach(), "no gradient"),
    ("exercise_5", mixed(lambda own, logs, _: 0.9 * own - 0.1 * logs.detach().mean()), "its gradient is not"),
    ("exercise_5", lambda model, x, y: torch.tensor(smoothed(model, x, y).item(), requires_grad=True),
     "its gradient is not"),
    ("exercise_5", lambda model, x, y: model(x), "one number"),
]


test_right_answers_pass, test_wrong_answers, test_stubs_and_crashes = exercise_tests(check, RIGHT, WRONG)


def test_an_error_that_is_not_about_targets_is_the_readers_own(capsys):
    check.exercise_5(lambda model, x, y: model(x).view(7))
    assert "Your code stopped with RuntimeError: shape '[7]' is invalid" in capsys.readouterr().out
