"""Checks for the exercises of chapter 12, quantisation and decoding."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from llmbook.book.exercises import Wrong, close, compare, exercise, expect, expect_number, expect_tensor

BITS = (2, 3, 4, 8)


@exercise("12.1", "Q4_0 of the GGUF format takes 4.5 bits, and Q4_1, which has a minimum, 5.")
def exercise_1(bits_per_weight: Callable[[int, int, bool], float]) -> None:
    for bits, block, minimum in ((4, 32, False), (4, 32, True), (8, 32, False), (3, 16, True), (2, 256, False)):
        where = f"For {bits} bits, blocks of {block} and {'a' if minimum else 'no'} minimum"
        answer = expect_number(bits_per_weight(bits, block, minimum), f"{where}, the answer")
        mistakes = [(bits + (32 if minimum else 16), "All weights of a block share its scale."),
                    (bits + 16 / block, "The minimum takes 16 bits as well."),
                    (answer, "Count the bits of a whole block, and divide.")]
        compare(answer, bits + (32 if minimum else 16) / block, mistakes, f"{where} you say")


@exercise("12.2", "For SmolLM2 and 100 MB that is 4,340 tokens; without groups it would be a third.")
def exercise_2(longest_text: Callable[[int, int, int, int, int], int]) -> None:
    cases = ((100_000_000, 30, 3, 64, 2), (8_000_000, 4, 4, 64, 4), (1000, 2, 1, 8, 2), (10, 2, 1, 8, 2))
    for memory, layers, heads, d_head, size in cases:
        where = f"For {memory:,} bytes, {layers} layers, {heads} heads of {d_head} and {size} bytes per number"
        answer = expect_number(longest_text(memory, layers, heads, d_head, size), f"{where}, the answer")
        exact = memory / (2 * layers * heads * d_head * size)
        hints = ((2 * exact, "A token leaves a key and a value."),
                 (layers * exact, "Each layer has a cache of its own."),
                 (exact, "A part of a token is none: round down."))
        mistakes = [(value, hint) for number, hint in hints for value in (number, number // 1, number // 1 + 1)]
        compare(answer, exact // 1, [*mistakes, (answer, "Divide by the bytes that one token takes.")],
                f"{where} you say")


@exercise("12.3", "Q4_1 stores a step and a minimum like this, and so does chapter 5b's model.")
def exercise_3(codes_with_minimum: Callable[[Tensor, int], Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    for bits, low, high in ((4, -0.2, 4.0), (3, 1.0, 2.0), (8, -3.0, -1.0)):
        numbers = torch.rand(200, generator=generator) * (high - low) + low
        where = f"For 200 numbers from {low} to {high} and {bits} bits"
        answer = codes_with_minimum(numbers.clone(), bits)
        if answer is None or answer is ...:
            raise NotImplementedError
        expect(isinstance(answer, (tuple, list)) and len(answer) == 3,
               "Return three things: codes, step and minimum, in this order.")
        codes = expect_tensor(torch.as_tensor(answer[0]).float(), (200,), "codes")
        step, minimum = (expect_number(part, f"{where}, {name}")
                         for part, name in zip(answer[1:], ("the step", "the minimum"), strict=True))
        expect(bool((codes == codes.round()).all()), f"{where}: the codes are no whole numbers. Round them.")
        most = 2**bits - 1
        expect(int(codes.min()) >= 0 and int(codes.max()) <= most,
               f"{where}: the codes go from {int(codes.min())} to {int(codes.max())}; with {bits} bits they go from 0 "
               f"to {most}.")
        error = float((minimum + step * codes - numbers).abs().max())
        least = float(numbers.max() - numbers.min()) / most / 2
        if error > 1.01 * least:
            if error > 1.8 * least and int(codes.max()) <= most // 2 + 1:
                raise Wrong(f"{where}: only half of the levels are used. The step is (largest - smallest) / {most}.")
            if error > 1.8 * least:
                raise Wrong(f"{where}: a number is off by {error:.4f}, and half a step is {least:.4f}. Round to the "
                            "nearest code, not down.")
            raise Wrong(f"{where}: a number is off by {error:.4f}, and half of the best step is {least:.4f}. The codes "
                        f"0 and {most} should give the smallest and the largest number.")


@exercise("12.4", "Tokens that the guesser likes more than the model does come too often.")
def exercise_4(what_it_draws: Callable[[Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    cases = [(torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.6, 0.2]))]
    cases += [tuple(torch.rand(2, 5, generator=generator).softmax(1).unbind(0)) for _ in range(3)]
    for p, q in cases:
        answer = what_it_draws(p.clone(), q.clone())
        if answer is None or answer is ...:
            raise NotImplementedError
        answer = expect_tensor(answer, p.shape, "the distribution")
        kept = torch.minimum(p, q)
        right = kept + (1 - kept.sum()) * p
        if torch.allclose(answer, right, atol=1e-5):
            continue
        where = f"For p = {[round(x, 2) for x in p.tolist()]} and q = {[round(x, 2) for x in q.tolist()]}"
        if torch.allclose(answer, p, atol=1e-5):
            raise Wrong(f"{where}: that is p, which the right method draws. This one redraws from p instead.")
        if torch.allclose(answer, kept + p, atol=1e-5):
            raise Wrong(f"{where}: the sum is {float(answer.sum()):.2f}. It redraws only when a guess is rejected: "
                        "how often is that?")
        if not close(answer.sum(), torch.tensor(1.0)):
            raise Wrong(f"{where}: the sum is {float(answer.sum()):.2f}, and probabilities add up to 1.")
        raise Wrong(f"{where}: add what is kept, min(p, q), and what is redrawn: p, as often as a guess is rejected.")


def _damage(layers: int, seed: int) -> tuple[list[int], Tensor]:
    """Sizes, and what each layer adds with 2, 3, 4 and 8 bits: sensitive layers and others."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [int(size) for size in torch.randint(1, 5, (layers,), generator=generator) * 1000]
    how = torch.randn(layers, generator=generator).mul(1.5).exp()[:, None]
    return sizes, how * torch.tensor([0.3, 0.06, 0.012, 1e-4])


def best_choice(sizes: Sequence[int], damage: Tensor, bits: float = 4) -> float:
    """The least damage that the budget allows, by looking at every choice."""
    budget, found = bits * sum(sizes), float("inf")
    for choice in itertools.product(range(len(BITS)), repeat=len(sizes)):
        if sum(size * BITS[option] for size, option in zip(sizes, choice, strict=True)) <= budget:
            found = min(found, sum(float(damage[layer, option]) for layer, option in enumerate(choice)))
    return found


@exercise("12.5", "Tools that write mixed formats, such as llama.cpp's Q4_K_M, spend their bits in this way.")
def exercise_5(choose_bits: Callable[[list[int], Tensor], list[int]]) -> None:
    for seed in range(4):
        sizes, damage = _damage(6, seed)
        answer = choose_bits(list(sizes), damage.clone())
        if answer is None or answer is ...:
            raise NotImplementedError
        answer = [int(option) for option in answer]
        expect(len(answer) == len(sizes) and all(0 <= option < len(BITS) for option in answer),
               f"The answer is {answer}; it should have an option from 0 to 3 for each of the {len(sizes)} layers.")
        mean = sum(size * BITS[option] for size, option in zip(sizes, answer, strict=True)) / sum(sizes)
        if mean > 4 + 1e-9:
            plain = sum(BITS[option] for option in answer) / len(answer)
            hint = " Large layers count more." if plain <= 4 else ""
            raise Wrong(f"Case {seed}: that takes {mean:.2f} bits per weight, and 4 are allowed.{hint}")
        total = sum(float(damage[layer, option]) for layer, option in enumerate(answer))
        least = best_choice(sizes, damage)
        if total <= 1.15 * least:
            continue
        if set(answer) == {2}:
            raise Wrong(f"Case {seed}: 4 bits everywhere add {total:.4f}; {least:.4f} is possible. Take bits from the "
                        "layers that hardly need them.")
        raise Wrong(f"Case {seed}: the damage is {total:.4f}, and {least:.4f} is possible. Compare what a layer "
                    "gains per bit that it takes, and look whether what is left of the budget buys more.")
