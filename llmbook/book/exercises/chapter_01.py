"""Checks for the exercises of chapter 1, understanding large language models."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.book.exercises import Wrong, compare, exercise, expect, expect_number, expect_tensor
from llmbook.book.ladder import HELD_OUT_SEED, story_texts

N_CONTEXT, N_STORIES = 8, 15  # of exercise 1.5: tokens of context, and held-out stories of the ladder that judge
TARGET = 1.9  # bits per byte


@exercise("1.1", "That number falls from chapter to chapter in this book.")
def exercise_1(surprise_per_byte: Callable[[list[float], int], float]) -> None:
    for probabilities, n_bytes in (([0.5, 0.125], 3), ([0.9, 0.2, 0.6, 0.25], 11), ([0.01] * 3000, 9000)):
        got = expect_number(surprise_per_byte(list(probabilities), n_bytes), "The number of bits per byte")
        expect(math.isfinite(got), f"For {len(probabilities)} probabilities you return {got}. You multiplied the "
               "probabilities first: so many make a number too small for a float. Add up the logarithms.")
        n, bits = len(probabilities), -sum(map(math.log2, probabilities))
        mistakes = [
            (-bits / n_bytes, "The sign is missing: the logarithm of a probability is negative."),
            (bits * math.log(2) / n_bytes, "Those are nats per byte. Bits are logarithms to the base of 2."),
            (bits, "That is the surprise of the whole text. Divide it by the bytes."),
            (bits / n, "That is bits per token. Divide by the bytes, so that models with other tokens compare."),
            (-math.log2(sum(probabilities) / n) * n / n_bytes, "You took the mean of the probabilities first. Add up "
             "the surprises: one token that the model held for impossible must cost it dear."),
            (bits * n_bytes, "You multiplied by the bytes. Divide."),
        ]
        shown = f"{n} probabilities of 0.01" if n > 9 else f"the probabilities {probabilities}"
        compare(got, bits / n_bytes, mistakes, f"For {shown} and {n_bytes} bytes you return")


@exercise("1.2", "From 0.8 to 0.99 the tokens improve by a quarter, and the answers that count go from 1 in a hundred "
          "to 82. A measure of all or nothing makes a jump of a slope.")
def exercise_2(answers_right: Callable[[float], float]) -> None:
    for p in (0.8, 0.9, 0.95, 0.99):
        got = expect_number(answers_right(p), f"Your guess for p = {p}")
        right = 100 * p**20
        if abs(got - right) <= 10:
            continue
        hint = "Chances of things that must all happen multiply: 20 factors of p."
        if abs(got - 100 * p) <= 2:
            hint = "That is how often one token is right. All 20 have to be, and their chances multiply."
        elif abs(got - (100 - 20 * 100 * (1 - p))) <= 2 or (got == 0 and p <= 0.95):
            hint = "You took away 20 times the chance of a mistake. Some answers hold several mistakes and fail once."
        elif abs(got - 100 * (1 - p**20)) <= 10:
            hint = "That is how many answers fail."
        elif 0 < got <= 1 and abs(100 * got - right) <= 10:
            hint = "That is a share of 1. How many in a hundred?"
        raise Wrong(f"For p = {p} you say {got:g} in a hundred, and it is {'less' if got > right else 'more'}. {hint}")


@exercise("1.3", "The network had learned to copy the last token of its context, because that was the answer. A result "
          "that is far too good is a leak until you have shown that it is none.")
def exercise_3(examples: Callable[[list[int], int], list[tuple[list[int], int]]]) -> None:
    for ids, n_context in (([5, 3, 8, 5, 1, 8, 2, 9], 3), ([7, 4, 4, 1, 6], 2), ([2, 9, 2, 7], 1), ([6, 1, 5], 8)):
        given = list(ids)
        got = _read_pairs(examples(given, n_context))
        expect(given == ids, "Your function changed the list that it was given.")
        n = len(ids)
        right = [(ids[max(0, i - n_context) : i], ids[i]) for i in range(1, n)]
        mistakes = [
            ([(ids[max(0, i - n_context + 1) : i + 1], ids[i]) for i in range(1, n)],
             "The last token of your contexts is still the answer. A slice ids[a:b] ends before ids[b]."),
            ([(ids[i - n_context + 1 : i + 1], ids[i]) for i in range(n_context, n)],
             "That is the function of your colleague: the last token of each context is the answer."),
            ([(ids[max(0, i - n_context) : i + 1], ids[i]) for i in range(1, n)],
             "Your contexts hold the answer. A slice ids[a:b] ends before ids[b]."),
            ([(ids[max(0, i - n_context) : i], ids[i]) for i in range(1, n - 1)],
             "The last token is an answer too: it has tokens before it."),
            ([([], ids[0]), *right], "The first token has nothing before it. Begin with the second."),
            ([(ids[i - n_context : i], ids[i]) for i in range(1, n)],
             "Near the beginning i - n_context is below 0, and Python counts a negative start from the end of the "
             "list. Begin the slice at max(0, i - n_context)."),
            ([(ids[i - n_context : i], ids[i]) for i in range(n_context, n)],
             "You left out the beginning, where contexts are shorter than n_context. It counts too."),
            ([(ids[:i], ids[i]) for i in range(1, n)],
             "Your contexts hold all tokens before. Keep the last n_context of them."),
            ([(context[::-1], token) for context, token in right], "Your contexts run backwards."),
            ([(ids[i + 1 : i + 1 + n_context], ids[i]) for i in range(n - 1)],
             "Your contexts are the tokens after the answer. The context comes before it."),
            ([(ids[max(0, i - n_context - 1) : i - 1], ids[i]) for i in range(1, n)],
             "Between your contexts and their answers one token is missing."),
        ]
        _refuse(got, right, mistakes, f"n_context={n_context}, ids {ids}")


def _read_pairs(answer: Any) -> list[tuple[list[int], int]]:
    if answer is None or answer is ...:
        raise NotImplementedError
    try:
        pairs = [tuple(pair) for pair in answer]
        pairs = [(list(context), token) for context, token in pairs]
    except (TypeError, ValueError):
        raise Wrong("Return a list of pairs: (list of tokens, token).") from None
    return [([int(expect_number(each, "A token")) for each in context], int(expect_number(token, "The second of each "
             "pair"))) for context, token in pairs]


def _refuse(got: list, right: list, mistakes: list[tuple[list, str]], where: str) -> None:
    """Raise `Wrong` unless got is right: the hint of the mistake that gives got, and the first place that differs."""
    if got == right:
        return
    hint = next((text for value, text in mistakes if got == value), "")
    if len(got) != len(right):
        raise Wrong(f"For {where} you return {len(got)} pairs, expected {len(right)}. {hint}".rstrip())
    place = next(i for i, (a, b) in enumerate(zip(got, right)) if a != b)
    raise Wrong(f"For {where} pair {place} is {got[place]}, expected {right[place]}. {hint}".rstrip())


@exercise("1.4", "Twice the money buys a model 1.4 times as large, because it also reads 1.4 times as much.")
def exercise_4(best_model: Callable[[float, float, float, float], tuple[float, float]]) -> None:
    for dollars, price, peak, used in ((1000, 2.0, 1e15, 0.4), (4.6e6, 1.48, 125e12, 0.25), (50, 0.8, 3e13, 0.5)):
        answer = best_model(dollars, price, peak, used)
        if answer is None or answer is ...:
            raise NotImplementedError
        try:
            n, d = answer
        except (TypeError, ValueError):
            raise Wrong("Return two numbers, (n, d): parameters and tokens.") from None
        n, d = expect_number(n, "The number of parameters"), expect_number(d, "The number of tokens")
        hours = dollars / price
        flops = hours * 3600 * peak * used
        right = math.sqrt(flops / 120)
        mistakes = [
            (20 * right, "Those are the tokens. Parameters come first."),
            (math.sqrt(flops / 6 / 20 / 3600), "You took dollars / dollars_per_hour for seconds. They are hours."),
            (math.sqrt(flops / 6), "You read as many tokens as there are parameters: 20 times as many."),
            (math.sqrt(flops / 20), "You left out the 6: operations per parameter and token."),
            (math.sqrt(flops / 40), "You counted 2 operations per parameter and token, the forward pass alone."),
            (math.sqrt(flops / used / 120), "You left the utilisation out. Only that share of the peak is reached."),
            (math.sqrt(flops / used**2 / 120), "You divided by the utilisation. It makes the machine slower."),
            (math.sqrt(flops * price**2 / 120), "You multiplied by the price per hour. Divide: a dearer machine runs "
             "fewer hours."),
            (flops / 120, "The square root is missing: n occurs twice in 6 · n · 20 · n."),
            (flops, "Those are the operations. Share them out between parameters and tokens."),
        ]
        where = f"For {dollars:g} dollars at {price:g} per hour, a peak of {peak:.2e} and a utilisation of {used}"
        compare(n / 1e6, right / 1e6, [(value / 1e6, text) for value, text in mistakes], f"{where} n in millions is")
        hint = "That is n." if d == n else "Training reads 20 tokens per parameter."
        compare(d / 1e6, 20 * right / 1e6, [], f"{hint} {where} d in millions is")


@exercise("1.5", "Now look at the ladder again: chapter 3 lets the network see more than a few tokens back.")
def exercise_5(my_scores: Callable[[Tensor], Tensor]) -> None:
    contexts, following = _held_out()
    scores = expect_tensor(my_scores(contexts[:4].clone()), (4, 257), "The scores of 4 contexts")
    parts = [my_scores(part.clone()) for part in contexts.split(2000)]
    scores = torch.cat([expect_tensor(part, (len(part), 257), "The scores").detach().float() for part in parts])
    expect(bool(scores.isfinite().any(dim=1).all()), "Some scores are not numbers.")
    if bool((scores >= 0).all()) and torch.allclose(scores.sum(dim=1), torch.ones(len(scores)), atol=1e-3):
        raise Wrong("Your scores add up to 1: they are probabilities already. Return their logarithms, or the scores "
                    "before the softmax.")
    bits = F.cross_entropy(scores, following).item() / math.log(2)
    later = F.cross_entropy(scores[:-1], following[1:]).item() / math.log(2)
    if bits > TARGET:
        hint = "They fit the token after the next one better: your training pairs are one place off." \
            if later < bits - 0.2 else "A longer context, a wider layer or more steps brings it down."
        raise Wrong(f"Your model has {bits:.2f} bits per byte on the held-out stories, and at most {TARGET} are asked "
                    f"for. {hint}")


@lru_cache(maxsize=1)
def _held_out() -> tuple[Tensor, Tensor]:
    """Contexts of 8 tokens (examples, 8) and what followed (examples,), of the first held-out stories."""
    end = 256  # the ladder's one token that is no byte
    stories = [[end, *text.encode(), end] for text in story_texts(HELD_OUT_SEED, N_STORIES, "test")]
    rows = torch.cat([torch.tensor((N_CONTEXT - 1) * ids[:1] + ids).unfold(0, N_CONTEXT + 1, 1) for ids in stories])
    return rows[:, :-1], rows[:, -1]
