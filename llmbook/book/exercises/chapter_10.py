"""Checks for the exercises of chapter 10, two more transformers."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llmbook.book.exercises import Wrong, close, exercise, expect, expect_number, expect_tensor


def _runs(words: Sequence[str], n: int) -> Counter:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


@exercise("10.1", "BLEU takes the geometric mean of these shares for n = 1 to 4.")
def exercise_1(clipped_share: Callable[[list[str], list[str], int], float]) -> None:
    cases = [("the the the the", "the cat sat on the mat", 1), ("the cat sat", "the cat sat on the mat", 2),
             ("a b a b", "a b c a b", 2), ("x y", "a b", 1), ("mat the on", "the cat sat on the mat", 2)]
    for output, reference, n in cases:
        words, wanted = output.split(), reference.split()
        where = f"For {output!r} against {reference!r} and n = {n}"
        answer = expect_number(clipped_share(list(words), list(wanted), n), where)
        runs, known = _runs(words, n), _runs(wanted, n)
        right = sum((runs & known).values()) / sum(runs.values())
        if close(torch.tensor(answer), torch.tensor(right), 1e-6):
            continue
        if close(torch.tensor(answer), torch.tensor(sum(c for run, c in runs.items() if run in known)
                                                    / sum(runs.values())), 1e-6):
            raise Wrong(f"{where}: {answer:.3f}, and it should be {right:.3f}. A run counts at most as often as the "
                        "reference has it.")
        if close(torch.tensor(answer), torch.tensor(sum((runs & known).values()) / sum(known.values())), 1e-6):
            raise Wrong(f"{where}: {answer:.3f}, and it should be {right:.3f}. Divide by the runs of the output, not "
                        "of the reference.")
        raise Wrong(f"{where}: {answer:.3f}, and it should be {right:.3f}. Count runs of n words in a row in both.")


@exercise("10.2", "Reading grows with the square of the source, writing with the square of the translation.")
def exercise_2(attention_scores: Callable[[int, int], tuple[int, int, int]]) -> None:
    for source, written in ((6, 4), (1, 1), (20, 30)):
        answer = attention_scores(source, written)
        if answer is None or answer is ...:
            raise NotImplementedError
        expect(isinstance(answer, (tuple, list)) and len(answer) == 3, "Return three numbers: encoder, decoder, cross.")
        right = (source * source, written * (written + 1) // 2, source * written)
        for name, found, wanted, mistakes in zip(
                ("the encoder", "the decoder's self-attention", "cross-attention"), answer, right,
                ({source * (source + 1) // 2: "The encoder has no causal mask."},
                 {written * written: "Token i of the translation looks at i tokens, itself included: no later ones."},
                 {written * (source + written): "Cross-attention looks at the source only."})):
            found = expect_number(found, name)
            hint = mistakes.get(int(found), "Count the pairs of a token that looks and one that is looked at.")
            expect(found == wanted, f"With {source} source tokens and {written} written, {name} computes {wanted} "
                                    f"scores per head and layer, not {found:g}. {hint}")


@exercise("10.3", "A model that reads the token it is asked for only learns to copy it.")
def exercise_3(teacher_rows: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> None:
    pad = 0
    target = torch.tensor([[1, 7, 8, 9, 2], [1, 5, 2, pad, pad], [1, 2, pad, pad, pad]])
    answer = teacher_rows(target.clone(), pad)
    if answer is None or answer is ...:
        raise NotImplementedError
    expect(isinstance(answer, (tuple, list)) and len(answer) == 2, "Return inputs and targets, in this order.")
    expect(all(isinstance(part, Tensor) for part in answer), "Both should be tensors of ids.")
    inputs, targets = answer
    expect(inputs.shape == targets.shape, f"inputs are {tuple(inputs.shape)}, targets {tuple(targets.shape)}: each "
                                          "input has one target.")
    expect(not torch.equal(inputs, target), "The inputs are the whole row, so the model reads the token that it is to "
                                            "predict. That is the mistake of this exercise: shift one of the two.")
    expect(inputs.shape == (3, 4), f"inputs are {tuple(inputs.shape)}; of 5 tokens, 4 have a next one: (3, 4).")
    expect(torch.equal(inputs, target[:, :-1]), "The inputs should be each row without its last token.")
    wanted = target[:, 1:].masked_fill(target[:, 1:] == pad, -100)
    expect(not torch.equal(targets, target[:, 1:]), "The targets still hold padding, so the model would learn to write "
                                                    "it: put -100 there, which the loss does not count.")
    expect(bool((targets[wanted == 2] == 2).all()), "The end token must be a target, or the model never learns to end.")
    expect(torch.equal(targets, wanted), "The targets should be each row without its first token, -100 for padding.")


@exercise("10.4", "No model can get below it: it is the entropy of the smoothed target.")
def exercise_4(lowest_loss: Callable[[int, float], float]) -> None:
    for size, smoothing in ((3000, 0.1), (10, 0.5), (3, 0.1), (50, 0.0)):
        where = f"For a vocabulary of {size} and a smoothing of {smoothing}"
        answer = expect_number(lowest_loss(size, smoothing), where)
        other, best = smoothing / size, 1 - smoothing + smoothing / size
        right = -best * math.log(best) - ((size - 1) * other * math.log(other) if other else 0.0)
        if abs(answer - right) < 1e-4:
            continue
        if abs(answer + math.log(best)) < 1e-4:
            raise Wrong(f"{where}: {answer:.3f}, and it should be {right:.3f}. The other tokens have a share of the "
                        "target too, and each costs something.")
        raise Wrong(f"{where}: {answer:.3f}, and it should be {right:.3f}. The best prediction is the smoothed target "
                    "itself; take its cross-entropy with itself.")


@exercise("10.5", "Two searches that fail on different questions make a better one together.")
def exercise_5(fuse: Callable[[Tensor, Tensor], Tensor]) -> None:
    draw = torch.Generator().manual_seed(0)
    found = {"alone": 0.0, "fused": 0.0}
    for number in range(200):
        right = int(torch.randint(50, (1,), generator=draw))
        first, second = torch.randn(2, 50, generator=draw)
        (first if number % 2 else second)[right] += 6.0  # each search knows half of the questions
        first, second = first * 1000, second / 1000  # on scales that cannot be compared
        for name, scores in (("alone", first), ("fused", fuse(first.clone(), second.clone()))):
            scores = expect_tensor(scores, (50,), "the fused scores")
            expect(bool(scores.isfinite().all()), "A fused score is not a finite number.")
            found[name] += 1 / (1 + int((scores > scores[right]).sum())) / 200
    expect(found["fused"] > found["alone"] + 0.1,
           f"The MRR of your fusion is {found['fused']:.2f}, and one search alone has {found['alone']:.2f}. One of the "
           "two has scores a million times as large here: use the ranks, not the scores.")
