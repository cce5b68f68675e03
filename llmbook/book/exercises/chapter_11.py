"""Checks for the exercises of chapter 11, beyond attention."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llmbook.book.exercises import Wrong, close, compare, exercise, expect, expect_number, expect_tensor
from llmbook.book.mixers import RECALL_SIZES
from llmbook.sequence_mixers import MIXERS, HybridConfig, linear_attention


@exercise("11.1", "The larger a head, the longer the text before its state pays.")
def exercise_1(tokens_until_worse: Callable[[int], int]) -> None:
    for d_head in (8, 64, 128):
        mistakes = [(d_head // 2, "At that number both keep the same: one token more is needed."),
                    (d_head + 1, "Attention keeps two things for a token, a key and a value."), (d_head, ""),
                    (d_head**2 // 2 + 1, "A token's key has d_head numbers, not one."),
                    (2 * d_head + 1, "It is the other way round: each token brings two rows of d_head numbers.")]
        compare(expect_number(tokens_until_worse(d_head)), d_head // 2 + 1, mistakes, f"For d_head = {d_head}")


@exercise("11.2", "A decay of 0.99 sounds like hardly anything, and half is gone after 69 tokens.")
def exercise_2(tokens_to_forget: Callable[[float, float], int]) -> None:
    for decay, share in ((0.99, 0.5), (0.9, 0.5), (0.5, 0.1), (0.999, 0.01)):
        exact = math.log(share) / math.log(decay)
        right = math.floor(exact) + 1
        mistakes = [(exact, "Tokens are whole: take the first number after which less than the share is left."),
                    (math.floor(exact), "After that many tokens, more than the share is still there: one more."),
                    (math.ceil((1 - share) / (1 - decay)), "The decay multiplies what is left; it does not take away "
                                                           "the same amount each time.")]
        compare(expect_number(tokens_to_forget(decay, share)), right, mistakes,
                f"For decay = {decay} and share = {share}")


@exercise("11.3", "Each token now sees only itself and what stands before it. Losses that are too good deserve a look.")
def exercise_3(mended_attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    for seed, tokens in enumerate((5, 40, 1)):
        query, key, value = torch.randn(3, 2, 3, tokens, 4, generator=torch.Generator().manual_seed(seed))
        answer = expect_tensor(mended_attention(query.clone(), key.clone(), value.clone()), tuple(value.shape))
        right, _ = linear_attention(query, key, value)
        if close(answer, right, 1e-4):
            continue
        scores = query @ key.mT
        mistakes = {
            "Each token still sees those after it: the entries above the diagonal of the scores must be 0.":
                scores @ value,
            "You keep what is above the diagonal: there, a token sees what comes after it. Keep what is below.":
                scores.triu() @ value,
            "A token does not see itself: the diagonal stays.": scores.tril(-1) @ value,
            "There is a softmax in it: linear attention has none.":
                scores.masked_fill(~torch.ones(tokens, tokens, dtype=torch.bool).tril(), -torch.inf).softmax(-1)
                @ value,
            "Linear attention here is not divided by anything.":
                scores.tril() @ value / torch.arange(1, tokens + 1)[:, None],
        }
        for mistake, values in mistakes.items():
            if close(answer, values, 1e-4):
                raise Wrong(mistake)
        raise Wrong(f"For {tokens} tokens the result is not the one that the loop over tokens gives: token i must get "
                    "the sum over j up to i of (query i times key j) times value j.")


@exercise("11.4", "The counts say where too much goes, and the probabilities carry the gradient that changes it.")
def exercise_4(working_balance: Callable[[Tensor], Tensor]) -> None:
    n = 4
    even = 30.0 * torch.eye(n).repeat(3, 1)
    for name, scores, right in (("all alike", even, 1.0), ("one gets everything", even[:1].repeat(12, 1), float(n))):
        value = expect_number(working_balance(scores.clone()))
        compare(value, right, [(right / n, "Multiply by the number of experts.")], f"If {name}, the loss is")
    scores = torch.tensor([[1.0, 0.5, 0.0, -1.0]]).repeat(8, 1).requires_grad_()
    loss = working_balance(scores)
    expect(isinstance(loss, Tensor), f"Return a tensor, not {type(loss).__name__}: it needs a gradient.")
    expect(loss.requires_grad, "The loss has no gradient: counting by argmax has none. Use each expert's mean "
                               "probability as well.")
    gradient = torch.autograd.grad(loss, scores)[0][0]
    expect(bool(gradient.isfinite().all()), "The gradient is not finite.")
    expect(gradient[0] > 1e-6, f"All tokens choose expert 0, and its score has the gradient {gradient[0]:.4f}: it must "
                               "be above 0, so that a step makes the score smaller. Multiply its share with its mean "
                               "probability.")
    expect(bool((gradient[1:] < 0).all()), "The others' scores must be pushed up: take the probabilities of a softmax "
                                           "over the experts.")


@exercise("11.5", "Within the budget. Now train it, and try where the attention stands.")
def exercise_5(my_mixers: Callable[[], Sequence[str]]) -> None:
    names = my_mixers()
    if names is None or names is ...:
        raise NotImplementedError
    expect(isinstance(names, (list, tuple)) and len(names) == 4, f"Return a list of four names, not {names!r}.")
    for name in names:
        expect(name in MIXERS, f"There is no layer {name!r}: choose from {', '.join(MIXERS)}.")
    sizes = {**RECALL_SIZES, "n_layers": 4, "n_kv_heads": 1}
    kept = HybridConfig(**sizes, mixers=names).state_bytes(1024)
    most = HybridConfig(**sizes, mixers=("attention",)).state_bytes(1024)
    expect(kept < 0.4 * most, f"It keeps {100 * kept / most:.0f} % of what attention everywhere keeps at 1,024 tokens: "
                              "have fewer blocks of attention.")
    expect("attention" in names, f"It keeps {100 * kept / most:.0f} %, well within the budget, but without any "
                                 "attention it will forget pairs (section 11.7): you can afford one block of it.")
