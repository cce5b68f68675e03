"""The checks of chapter 1's exercises: wrong answers are told why, right ones pass however they are written."""

import math
from functools import cache, partial

import numpy as np
import torch

from llmbook.book.exercises import chapter_01 as check
from llmbook.book.exercises.chapter_01 import _held_out
from llmbook.book.ladder import ladder_data
from tests.support.exercise_tests import exercise_tests


def surprise(probabilities, n_bytes):
    return -sum(math.log2(p) for p in probabilities) / n_bytes


def surprise_by_tensor(probabilities, n_bytes):
    return -torch.tensor(probabilities, dtype=torch.float64).log2().sum() / n_bytes


def product_first(probabilities, n_bytes):
    product = np.prod(probabilities)
    return math.inf if product == 0 else -math.log2(product) / n_bytes


def guesses(p):
    return {0.8: 1, 0.9: 10, 0.95: 40, 0.99: 80}[p]


def pairs(ids, n):
    return [(ids[max(0, i - n) : i], ids[i]) for i in range(1, len(ids))]


def pairs_by_growing(ids, n):
    found, context = [], []
    for token in ids:
        if context:
            found.append((tuple(context), torch.tensor(token)))
        context = [*context, token][-n:]
    return found


def in_place(ids, n):
    found = pairs(ids, n)
    ids.pop()
    return found


def pairs_with(context_of, ids, n):
    return [(context_of(ids, n, i), ids[i]) for i in range(1, len(ids))]


def best(dollars, price, peak, used):
    n = (dollars / price * 3600 * peak * used / 120) ** 0.5
    return n, 20 * n


def best_by_steps(dollars, price, peak, used):
    flops = torch.tensor(dollars / price, dtype=torch.float64) * 60 * 60 * peak * used
    tokens = (flops * 20 / 6).sqrt()
    return [tokens / 20, tokens]


def changed(change, dollars, price, peak, used):
    """The best model for changed numbers: a mistake."""
    return best(*change(dollars, price, peak, used))


def scaled(factor, *numbers):
    return best(*numbers)[0] * factor, best(*numbers)[1] * factor


@cache
def answers(shift):
    """Each held-out context -> its row, and (rows, 257): how often what follows `shift` places later is each token."""
    known, following = _held_out()
    row_of = {}
    rows = torch.tensor([row_of.setdefault(tuple(context), len(row_of)) for context in known.tolist()])
    counts = torch.full((len(row_of), 257), 1e-3)
    return row_of, counts.index_put_((rows, following.roll(-shift)), torch.ones(len(rows)), accumulate=True)


def memory(contexts, shift=0):
    """Log-probabilities of one who has read the answers."""
    row_of, counts = answers(shift)
    counts = counts[[row_of[tuple(context)] for context in contexts.tolist()]]
    return (counts / counts.sum(dim=1, keepdim=True)).log()


RIGHT = {
    "exercise_1": [surprise, surprise_by_tensor],
    "exercise_2": [lambda p: 100 * p**20, guesses],
    "exercise_3": [pairs, pairs_by_growing],
    "exercise_4": [best, best_by_steps],
    "exercise_5": [memory, lambda contexts: memory(contexts).double() + 3],
}

WRONG = [
    ("exercise_1", lambda p, n: -surprise(p, n), "sign is missing"),
    ("exercise_1", lambda p, n: surprise(p, n) * math.log(2), "nats per byte"),
    ("exercise_1", lambda p, n: surprise(p, 1), "Divide it by the bytes"),
    ("exercise_1", lambda p, n: surprise(p, len(p)), "bits per token"),
    ("exercise_1", lambda p, n: -math.log2(sum(p) / len(p)) * len(p) / n, "mean of the probabilities first"),
    ("exercise_1", lambda p, n: surprise(p, 1 / n), "You multiplied by the bytes"),
    ("exercise_1", product_first, "multiplied the probabilities first"),
    ("exercise_1", lambda p, n: "1.3", "one number"),
    ("exercise_2", lambda p: 100 * p, "how often one token is right"),
    ("exercise_2", lambda p: 100 - 2000 * (1 - p), "took away 20 times"),
    ("exercise_2", lambda p: 0, "took away 20 times"),
    ("exercise_2", lambda p: 100 * (1 - p**20), "how many answers fail"),
    ("exercise_2", lambda p: p**20, "a share of 1"),
    ("exercise_2", lambda p: 100 * p**10, "multiply: 20 factors"),
    ("exercise_2", lambda p: 70, "and it is less"),
    ("exercise_2", lambda p: min(100 * p**20, 50), "and it is more"),
    ("exercise_3", partial(pairs_with, lambda ids, n, i: ids[max(0, i - n + 1) : i + 1]), "still the answer"),
    ("exercise_3", lambda ids, n: [(ids[i - n + 1 : i + 1], ids[i]) for i in range(n, len(ids))], "your colleague"),
    ("exercise_3", partial(pairs_with, lambda ids, n, i: ids[max(0, i - n) : i + 1]), "hold the answer"),
    ("exercise_3", lambda ids, n: pairs(ids, n)[:-1], "last token is an answer"),
    ("exercise_3", lambda ids, n: [([], ids[0]), *pairs(ids, n)], "nothing before it"),
    ("exercise_3", partial(pairs_with, lambda ids, n, i: ids[i - n : i]), "negative start"),
    ("exercise_3", lambda ids, n: [(ids[i - n : i], ids[i]) for i in range(n, len(ids))], "left out the beginning"),
    ("exercise_3", partial(pairs_with, lambda ids, n, i: ids[:i]), "all tokens before"),
    ("exercise_3", partial(pairs_with, lambda ids, n, i: ids[max(0, i - n) : i][::-1]), "backwards"),
    ("exercise_3", lambda ids, n: [(ids[i + 1 : i + 1 + n], ids[i]) for i in range(len(ids) - 1)], "after the answer"),
    ("exercise_3", partial(pairs_with, lambda ids, n, i: ids[max(0, i - n - 1) : i - 1]), "one token is missing"),
    ("exercise_3", lambda ids, n: [(*context, token) for context, token in pairs(ids, n)], "list of pairs"),
    ("exercise_3", lambda ids, n: len(ids), "list of pairs"),
    ("exercise_3", in_place, "changed the list"),
    ("exercise_4", lambda *numbers: best(*numbers)[::-1], "Parameters come first"),
    ("exercise_4", partial(changed, lambda m, p, peak, u: (m / 3600, p, peak, u)), "They are hours"),
    ("exercise_4", partial(scaled, 20**0.5), "20 times as many"),
    ("exercise_4", partial(scaled, 6**0.5), "left out the 6"),
    ("exercise_4", partial(scaled, 3**0.5), "forward pass alone"),
    ("exercise_4", partial(changed, lambda m, p, peak, u: (m, p, peak, 1)), "utilisation out"),
    ("exercise_4", partial(changed, lambda m, p, peak, u: (m, p, peak, 1 / u)), "divided by the utilisation"),
    ("exercise_4", partial(changed, lambda m, p, peak, u: (m, 1 / p, peak, u)), "multiplied by the price"),
    ("exercise_4", lambda *numbers: (best(*numbers)[0] ** 2, best(*numbers)[1]), "square root is missing"),
    ("exercise_4", lambda *numbers: (120 * best(*numbers)[0] ** 2, 1.0), "Those are the operations"),
    ("exercise_4", lambda *numbers: (best(*numbers)[0], best(*numbers)[0]), "That is n"),
    ("exercise_4", lambda *numbers: (best(*numbers)[0], 5.0), "20 tokens per parameter"),
    ("exercise_4", lambda *numbers: best(*numbers)[0], "two numbers"),
    ("exercise_5", lambda contexts: torch.zeros(len(contexts), 257), "longer context"),
    ("exercise_5", lambda contexts: memory(contexts).softmax(dim=1), "probabilities already"),
    ("exercise_5", partial(memory, shift=1), "one place off"),
    ("exercise_5", lambda contexts: torch.full((len(contexts), 257), math.nan), "not numbers"),
    ("exercise_5", lambda contexts: torch.zeros(len(contexts), 8, 257), "shape"),
    ("exercise_5", lambda contexts: memory(contexts).tolist(), "a tensor"),
]


test_right_answers_pass, test_wrong_answers, test_stubs_and_crashes = exercise_tests(check, RIGHT, WRONG)


def test_the_lab_judges_on_the_first_held_out_stories_of_the_ladder():
    contexts, following = _held_out()
    first = ladder_data().held_out[0]
    assert following[: len(first) - 1].tolist() == first[1:]
    assert contexts[0].tolist() == 8 * first[:1] and contexts[9].tolist() == first[2:10]
