"""The checks of chapter 8's exercises: wrong answers are told why, right ones pass however they are written."""

import itertools
import math

import numpy as np
import torch
from torch.nn import functional as F

from llmbook.book.exercises import chapter_08 as check
from llmbook.book.preference_study import told_stories
from llmbook.storyworld.tastes import taste
from tests.support.exercise_tests import exercise_tests


def surprise(chosen, rejected, wavering):
    return sum(math.log1p(math.exp((b - a) / wavering)) for a, b in zip(chosen, rejected)) / len(chosen)


def surprise_by_tensors(chosen, rejected, wavering):
    margins = (torch.tensor(chosen) - torch.tensor(rejected)) / wavering
    return F.binary_cross_entropy_with_logits(margins, torch.ones(len(margins)))


def surprise_as(combine):
    return lambda chosen, rejected, w: combine(np.array(chosen, float), np.array(rejected, float), w)


def softplus(x):
    return np.log1p(np.exp(x))


def best_of_two(rewards, values):
    pairs = list(itertools.combinations(zip(rewards, values), 2))
    return sum(max(pair)[1] for pair in pairs) / len(pairs)


def best_by_ranks(rewards, values):
    ordered = [value for _, value in sorted(zip(rewards, values))]
    return sum(place * value for place, value in enumerate(ordered)) / math.comb(len(values), 2)


def best_with_itself(rewards, values):
    pairs = list(itertools.product(zip(rewards, values), repeat=2))
    return sum(max(pair)[1] for pair in pairs) / len(pairs)


def worst_of_two(rewards, values):
    pairs = list(itertools.combinations(zip(rewards, values), 2))
    return sum(min(pair)[1] for pair in pairs) / len(pairs)


def sorted_in_place(rewards, values):
    found = best_of_two(rewards, values)
    rewards.sort()
    return found


def dpo(now, before, beta):
    ratios = beta * (now - before)
    return -F.logsigmoid(ratios[:, 0] - ratios[:, 1]).mean()


def dpo_in_a_loop(now, before, beta):
    total = 0
    for (chosen, rejected), (old_chosen, old_rejected) in zip(now, before):
        total = total + torch.log1p(torch.exp(-beta * ((chosen - old_chosen) - (rejected - old_rejected))))
    return total / len(now)


def dpo_in_place(now, before, beta):
    loss = dpo(now, before.clone(), beta)
    before *= 0
    return loss


def advantages(rewards, log_probs, reference, beta):
    total = rewards - beta * (log_probs - reference)
    return (total - total.mean()) * len(total) / (len(total) - 1)


def advantages_in_a_loop(rewards, log_probs, reference, beta):
    total = rewards - beta * log_probs + beta * reference
    return torch.stack([total[i] - torch.cat([total[:i], total[i + 1:]]).mean() for i in range(len(total))])


def advantages_as(combine):
    return lambda rewards, ours, theirs, beta: combine(rewards, ours - theirs, beta)


def liked(n=50, sign=1):
    """Stories that the taste prefers, out of those that were told."""
    best = sorted(told_stories(), key=lambda text: -sign * taste(text).score)
    return best[:n]


def score(text):
    return taste(text).score


def steady():
    from llmbook.storyworld import check as read_back
    return [text for text in liked(400) if read_back(text).consistent][:50]


RIGHT = {
    "exercise_1": [surprise, surprise_by_tensors],
    "exercise_2": [best_of_two, best_by_ranks],
    "exercise_3": [dpo, dpo_in_a_loop],
    "exercise_4": [advantages, advantages_in_a_loop],
    "exercise_5": [lambda: (score, steady())],
}
WRONG = [
    ("exercise_1", surprise_as(lambda a, b, w: softplus((a - b) / w).mean()), "the wrong way round"),
    ("exercise_1", surprise_as(lambda a, b, w: softplus(b - a).mean()), "left out the wavering"),
    ("exercise_1", surprise_as(lambda a, b, w: softplus((b - a) * w).mean()), "divide by it"),
    ("exercise_1", surprise_as(lambda a, b, w: softplus((b - a) / w).sum()), "divide by how many"),
    ("exercise_1", surprise_as(lambda a, b, w: -softplus((b - a) / w).mean()), "The sign is missing"),
    ("exercise_1", surprise_as(lambda a, b, w: (1 / (1 + np.exp((b - a) / w))).mean()), "mean probability"),
    ("exercise_1", surprise_as(lambda a, b, w: -np.log((1 / (1 + np.exp((b - a) / w))).mean())),
     "logarithm of the mean"),
    ("exercise_1", surprise_as(lambda a, b, w: softplus(((b - a) / w).mean())), "a loss of its own"),
    ("exercise_1", surprise_as(lambda a, b, w: softplus((b - a) / w).mean() / np.log(2)), "in bits"),
    ("exercise_1", lambda chosen, rejected, w: chosen.sort() or surprise(chosen, rejected, w), "changed a list"),
    ("exercise_2", best_with_itself, "with itself"),
    ("exercise_2", worst_of_two, "the lower reward"),
    ("exercise_2", lambda r, v: best_of_two(v, v), "The reward decides"),
    ("exercise_2", lambda r, v: best_of_two(r, r), "mean reward of the kept"),
    ("exercise_2", lambda r, v: sum(v) / len(v), "without a choice"),
    ("exercise_2", lambda r, v: v[r.index(max(r))], "best of all answers, not of two"),
    ("exercise_2", lambda r, v: best_of_two(r, v) * math.comb(len(r), 2), "sum over the pairs"),
    ("exercise_2", sorted_in_place, "changed a list"),
    ("exercise_3", lambda now, before, beta: dpo(now, now.detach(), beta), "is your reference the model as it is now"),
    ("exercise_3", lambda now, before, beta: dpo(before, now, beta), "The sign is wrong|exchanged"),
    ("exercise_3", lambda now, before, beta: dpo(now, before, 1 / beta), "divided by beta|left out beta"),
    ("exercise_3", lambda now, before, beta: dpo(now, 0 * before, beta), "left out the reference"),
    ("exercise_3", lambda now, before, beta: dpo(now, -before, beta), "a ratio is a difference"),
    ("exercise_3", lambda now, before, beta: dpo(now, before, beta) * len(now), "take the mean"),
    ("exercise_3", lambda now, before, beta: -dpo(now, before, beta), "negative of the log-probability"),
    ("exercise_3", lambda now, before, beta: dpo(now.detach(), before, beta), "no gradient"),
    ("exercise_3", dpo_in_place, "changed what it was given"),
    ("exercise_4", advantages_as(lambda r, moved, b: (r + b * moved).mean() - (r + b * moved)), "the colleague's"),
    ("exercise_4", advantages_as(lambda r, moved, b: check.leave_one_out(r + b * moved)), "should cost, not pay"),
    ("exercise_4", advantages_as(lambda r, moved, b: -check.leave_one_out(r - b * moved)), "not the other way round"),
    ("exercise_4", advantages_as(lambda r, moved, b: (r - b * moved) - (r - b * moved).mean()), r"mean of the \*other"),
    ("exercise_4", advantages_as(lambda r, moved, b: check.leave_one_out(r)), "left out the KL term"),
    ("exercise_4", advantages_as(lambda r, moved, b: r - b * moved), "left out the baseline"),
    ("exercise_4", advantages_as(lambda r, moved, b: check.leave_one_out(r) - b * moved), "a part of the reward"),
    ("exercise_4", advantages_as(lambda r, moved, b: (r - b * moved)[:1]), r"has shape \(1,\)"),
    ("exercise_5", lambda: (score, liked(50, -1)), "% are wanted"),
    ("exercise_5", lambda: (score, liked(40)), "a list of 50 texts"),
    ("exercise_5", lambda: (score, liked(1) * 50), "Only 1 of your stories are different"),
    ("exercise_5", lambda: (lambda text: 1.0, liked()), "the same number"),
    ("exercise_5", lambda: (score, [text[:-40] for text in steady()]), "are without a problem|% are wanted"),
    ("exercise_5", lambda: liked(), "Return two things"),
]
(test_right_answers_pass, test_wrong_answers_are_told_why,
 test_a_stub_is_not_started_and_a_crash_is_reported) = exercise_tests(check, RIGHT, WRONG)
