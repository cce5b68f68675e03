"""Chapter 12's checks: right answers pass, however written; wrong ones are named."""

import itertools

import torch

from llmbook.book.exercises import chapter_12 as check
from tests.support.exercise_tests import exercise_tests

BITS = (2, 3, 4, 8)


def per_weight(bits, block, minimum):
    return bits + 16 * (1 + minimum) / block


def longest(memory, layers, heads, d_head, size):
    return memory // (2 * layers * heads * d_head * size)


def with_minimum(numbers, bits):
    minimum, step = numbers.min(), (numbers.max() - numbers.min()) / (2**bits - 1)
    return ((numbers - minimum) / step).round(), step, minimum


def rounded_down(numbers, bits):
    codes, step, minimum = with_minimum(numbers, bits)
    return ((numbers - minimum) / step).floor(), step, minimum


def half_used(numbers, bits):
    codes, step, minimum = with_minimum(numbers, bits)
    return ((numbers - minimum) / step / 2).round(), 2 * step, minimum


def drawn(p, q):
    kept = torch.minimum(p, q)
    return kept + (1 - kept.sum()) * p


def every_choice(sizes, damage):
    allowed = [choice for choice in itertools.product(range(4), repeat=len(sizes))
               if sum(s * BITS[o] for s, o in zip(sizes, choice)) <= 4 * sum(sizes)]
    return min(allowed, key=lambda choice: sum(float(damage[i, o]) for i, o in enumerate(choice)))


def by_table(sizes, damage):
    """The same by a table of what each budget allows."""
    unit, best = 1000, {0: (0.0, [])}
    for layer, size in enumerate(sizes):
        wider = {}
        for used, (total, choice) in best.items():
            for option, bits in enumerate(BITS):
                cost, more = used + size // unit * bits, total + float(damage[layer, option])
                if cost <= 4 * sum(sizes) // unit and (cost not in wider or more < wider[cost][0]):
                    wider[cost] = more, [*choice, option]
        best = wider
    return min(best.values())[1]


def cheap_first(sizes, damage):
    """All with 2 bits: within the budget, and bad."""
    return [0] * len(sizes)


test_right, test_wrong, test_stubs = exercise_tests(
    check,
    {"exercise_1": [per_weight, lambda bits, block, minimum: (bits * block + 16 + 16 * minimum) / block],
     "exercise_2": [longest, lambda m, n, h, d, s: int(m / (2 * n * h * d * s))],
     "exercise_3": [with_minimum, lambda numbers, bits: tuple(part.double() for part in with_minimum(numbers, bits))],
     "exercise_4": [drawn, lambda p, q: p * (1 - torch.minimum(p, q).sum()) + torch.where(p < q, p, q)],
     "exercise_5": [every_choice, by_table]},
    [("exercise_1", lambda bits, block, minimum: bits + 16 * (1 + minimum), "All weights of a block share"),
     ("exercise_1", lambda bits, block, minimum: bits + 16 / block, "The minimum takes 16 bits as well"),
     ("exercise_1", lambda bits, block, minimum: float(bits), "Count the bits of a whole block"),
     ("exercise_1", lambda bits, block, minimum: "4.5", "the answer should be one number, not str"),
     ("exercise_2", lambda m, n, h, d, s: m // (n * h * d * s), "a key and a value"),
     ("exercise_2", lambda m, n, h, d, s: m // (2 * h * d * s), "Each layer has a cache"),
     ("exercise_2", lambda m, n, h, d, s: m / (2 * n * h * d * s), "A part of a token is none"),
     ("exercise_2", lambda m, n, h, d, s: 1, "Divide by the bytes that one token takes"),
     ("exercise_3", rounded_down, "nearest code, not down"),
     ("exercise_3", half_used, "only half of the levels"),
     ("exercise_3", lambda numbers, bits: with_minimum(numbers, bits)[:2], "Return three things"),
     ("exercise_3", lambda numbers, bits: (with_minimum(numbers, bits)[0], "1", 0.0), "the step should be one number"),
     ("exercise_3", lambda numbers, bits: (with_minimum(numbers, bits)[0] + 1, 1.0, 0.0), "they go from 0"),
     ("exercise_3", lambda numbers, bits: (numbers * 0 + 0.5, 1.0, 0.0), "no whole numbers"),
     ("exercise_4", lambda p, q: p, "that is p, which the right method draws"),
     ("exercise_4", lambda p, q: torch.minimum(p, q) + p, "only when a guess is rejected"),
     ("exercise_4", lambda p, q: torch.minimum(p, q), "probabilities add up to 1"),
     ("exercise_4", lambda p, q: (p + q) / 2, "add what is kept"),
     ("exercise_5", lambda sizes, damage: [3] * len(sizes), "8.00 bits per weight, and 4 are allowed"),
     ("exercise_5", lambda sizes, damage: [2] * len(sizes), "4 bits everywhere add"),
     ("exercise_5", cheap_first, "Compare what a layer gains"),
     ("exercise_5", lambda sizes, damage: [0], "an option from 0 to 3")],
)
