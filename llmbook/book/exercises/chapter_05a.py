"""Checks for the exercises of chapter 5a, pretraining."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.book.exercises import Wrong, close, compare, exercise, expect, expect_number, expect_tensor


@exercise("5a.1", "You have computed the number that all of pretraining makes smaller.")
def exercise_1(my_cross_entropy: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits, targets = torch.randn(7, 5), torch.tensor([0, 4, 2, 2, 1, 3, 0])
    answer = my_cross_entropy(logits, targets)
    expect(not (isinstance(answer, Tensor) and answer.numel() > 1), "You return more than one number. The loss is the "
                                                                    "mean over the positions.")
    got, wanted = expect_number(answer, "The loss"), F.cross_entropy(logits, targets).item()
    picked = logits.softmax(-1)[torch.arange(7), targets]
    mistakes = {
        -wanted: "This is the right number with the wrong sign: a loss is smaller for a better guess.",
        wanted * 7: "This is the sum over the positions. Divide by their number.",
        wanted * 7 / 5: "You divided by the number of tokens in the vocabulary. Divide by the number of positions.",
        wanted / math.log(2): "This is in bits. Use the natural logarithm.",
        -picked.mean().log().item(): "You averaged the probabilities first. Take the logarithm of each, then the mean.",
        -picked.mean().item(): "The logarithm is missing.",
        -logits[torch.arange(7), targets].mean().item(): "The logits are not probabilities yet: softmax first.",
        -logits.softmax(0)[torch.arange(7), targets].log().mean().item():
            "The softmax runs over the positions. It belongs over the vocabulary, the last dimension.",
        -logits.log_softmax(-1).mean().item(): "You averaged over all tokens. Only the target of each position counts.",
        -logits.log_softmax(-1)[:, targets].mean().item():
            "[:, targets] takes every target's column in every row. Row i has one target: [torch.arange(n), targets].",
        F.cross_entropy(logits[:-1], targets[1:]).item():
            "You shifted the targets by one position. They are the next tokens already: row i belongs to target i.",
    }
    compare(got, wanted, mistakes.items(), "For 7 positions and 5 tokens you return")
    large = torch.tensor([[1000.0, 0.0], [0.0, 1000.0], [3.0, 3.0]])
    got = expect_number(my_cross_entropy(large, torch.tensor([0, 0, 1])), "The loss")
    where = f"With logits of 1,000 the loss is {got:.4f}"
    expect(not math.isnan(got), f"{where}: exp(1000) overflows to inf, and inf / inf is no number. Subtract each row's "
                                "largest logit first, or use log_softmax or logsumexp.")
    expect(math.isfinite(got), f"{where}: either exp(1000) overflowed, or a probability became 0 before its logarithm "
                               "was taken. Subtract each row's own largest logit first, and take logits minus their "
                               "logsumexp instead of the logarithm of a probability; log_softmax does both.")
    expect(abs(got - (1000 + math.log(2)) / 3) < 0.01,
           f"{where}, expected 333.5644. A clamp, or a small number added to the probabilities, keeps log away from 0, "
           "but makes the loss of a very wrong guess too small. Use log_softmax or logsumexp.")


@exercise("5a.2", "Now losses of models with different tokenizers can stand side by side.")
def exercise_2(bits_per_byte: Callable[[float, int, int], float]) -> None:
    for loss, tokens, size in ((2.0, 100, 350), (4.86, 59_000, 221_000)):
        wanted = loss * tokens / size / math.log(2)
        mistakes = {
            loss * tokens / size: "This is in nats. One bit is ln 2 nats, so divide by ln 2.",
            wanted * math.log(2) ** 2: "You multiplied by ln 2. A nat is more than a bit: divide.",
            loss / math.log(2): "This is bits a token. A token spells several bytes, which share its cost.",
            loss * size / tokens / math.log(2): "The ratio is upside down: n_tokens shares of the loss over n_bytes.",
            loss * tokens / math.log(2): "These are the bits of the whole text. Divide by its bytes.",
            loss / size / math.log(2): "`loss` is the mean of one token. The text costs n_tokens times as much.",
            wanted / 8: "You counted the bits of the text, 8 a byte. One byte is the unit.",
        }
        compare(expect_number(bits_per_byte(loss, tokens, size), "The result"), wanted, mistakes.items(),
                f"For a loss of {loss}, {tokens} tokens and {size} bytes you return")


@exercise("5a.3", "A rule of your own for which tokens may be drawn.")
def exercise_3(filter_min_p: Callable[[Tensor, float], Tensor]) -> None:
    probabilities = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15], [0.02, 0.03, 0.9, 0.04, 0.01]])
    for logits in (probabilities.log(), probabilities.log() + 3.0):  # logits are free to shift
        before = logits.clone()
        for p in (0.16, 0.5, 0.05, 1.0):  # with 0.16 each mistake below keeps other tokens
            got = expect_tensor(filter_min_p(logits, p), (2, 5), "The result")
            expect(torch.equal(logits, before), "Your function changed the logits that it was given: return new ones, "
                                                "for example with masked_fill.")
            expect(not got.isnan().any(), "Some of your logits are nan, as 0 times -inf is: set them with masked_fill "
                                          "or torch.where.")
            expect(not got.isposinf().any(), "Some of your logits are +inf, which is certainty. The others belong at "
                                             "-inf.")
            wanted, kept = probabilities >= p * probabilities.amax(-1, keepdim=True), got.isfinite()
            if not torch.equal(kept, wanted):
                row = int((kept != wanted).any(dim=-1).nonzero()[0])
                of, yours, right = (numbers[row] for numbers in (probabilities, kept, wanted))
                raise Wrong(f"With p = {p}, of row {row} with the probabilities {[round(x, 2) for x in of.tolist()]} "
                            f"you keep tokens {yours.nonzero().flatten().tolist()}, expected "
                            f"{right.nonzero().flatten().tolist()}. {_min_p_mistake(got, logits, p)}".rstrip())
            expect(close(got[kept], logits[kept]), "You keep the right tokens, but the logits that stay should be the "
                                                   "ones that were given, neither probabilities nor normalised.")


def _min_p_mistake(got: Tensor, logits: Tensor, p: float) -> str:
    probabilities, kept = logits.softmax(-1), got.isfinite()
    least = p * probabilities.amax(-1, keepdim=True)
    likelier = probabilities[:, None] * (probabilities[:, None] > probabilities[..., None])  # (batch, token, other)
    if kept.all():
        if torch.equal(got != logits, probabilities < least):
            return "The others have some other logit in your result. Only -inf gives the probability 0."
        if close(got, probabilities) or close(got, probabilities * (probabilities >= least)):
            return "You return probabilities. Return the logits, the others at -inf."
        return "Nothing is at -inf."
    mistakes = [
        (probabilities > least, "A token with exactly p times the largest probability stays: >=, not >."),
        (probabilities >= p, "You compare with p itself; compare with p times the largest probability of the row."),
        (probabilities >= p * probabilities.max(),
         "The largest probability is each row's own: max over the last dimension, keepdim=True."),
        (probabilities >= p * probabilities.amax(0),
         "You took the largest of each column. A row is one text: max over the last dimension, keepdim=True."),
        (logits >= p * logits.amax(-1, keepdim=True),
         "That happens when logits are compared. The rule is about probabilities: softmax first."),
        (probabilities < least, "That is the wrong way round: masked_fill fills where its mask is True."),
        (likelier.sum(-1) < p, "That is top-p: you add probabilities up. Compare each with the largest."),
    ]
    return next((text for mask, text in mistakes if torch.equal(kept, mask)), "")


@exercise("5a.4", "A schedule is a function of the step; now you can try any.")
def exercise_4(trapezoid: Callable[[int, int, int, int], float]) -> None:
    for most, warmup, cooldown in ((10, 2, 4), (100, 10, 20), (6, 1, 1)):
        for step in range(most):
            got = expect_number(trapezoid(step, most, warmup, cooldown), "The factor")
            wanted, mistakes = min(1.0, (step + 1) / warmup, (most - step) / cooldown), []
            early = "You reach 0 one step early: 0 belongs to the step after the last one."
            if step < warmup:
                mistakes = [(step / warmup, "The first step would not move at all: count it as step 1 of the warm-up."),
                            ((step + 1) / (warmup + 1), "You reach 1 one step late: the last of the warm-up steps, "
                                                        "step warmup - 1, has the factor 1."),
                            (1.0, "The warm-up is missing.")]
            elif step >= most - cooldown:
                mistakes = [((most - 1 - step) / cooldown, early), ((most - 1 - step) / max(1, cooldown - 1), early),
                            (1.0, "The cooldown is missing."),
                            (1 - wanted, "The cooldown is upside down: it rises. Count the steps that are left."),
                            ((1 - math.cos(math.pi * wanted)) / 2, "You fall along a cosine. The task asks for a "
                                                                   "straight line.")]
            else:
                mistakes = [((most - step) / (most - warmup), "The flat part is missing: the factor stays 1 until the "
                                                              "last `cooldown` steps.")]
            if got > 1:
                mistakes = [(got, "It is never more than 1: take the smallest of 1 and the two ramps.")]
            compare(got, wanted, mistakes, f"At step {step} of {most}, with warmup {warmup} and cooldown {cooldown}, "
                                           "you return")


class _Table(nn.Module):
    """A model that looks its logits up: (batch, tokens) -> (batch, tokens, 5)."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(5, 5))

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.rows[token_ids]


@exercise("5a.5", "The loop does not care which loss it makes smaller; chapters 6 and 7 rely on that.")
def exercise_5(smoothed_loss: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
    model, inputs = _Table(), torch.tensor([[0, 1, 2], [3, 4, 0]])
    for targets, what in ((torch.tensor([[1, 2, 3], [4, 0, 1]]), "For a small model and 6 targets"),
                          (torch.tensor([[1, 2, -100], [4, -100, -100]]), "With 3 targets of 6 at -100")):
        try:
            loss = smoothed_loss(model, inputs, targets)
        except (IndexError, RuntimeError) as error:
            if "target size" in str(error):
                raise Wrong("F.cross_entropy wants the vocabulary in the second dimension. Make positions of batch and "
                            "tokens: logits.flatten(0, 1) and targets.flatten().") from None
            if (targets == -100).any():
                raise Wrong(f"{what} your code stops: {error} -100 names no token. Leave these positions out first, "
                            "with logits[targets != -100] and targets[targets != -100].") from None
            raise
        logs = model(inputs).log_softmax(-1)[targets != -100]  # (n, 5)
        chosen = targets[targets != -100]
        own, mean = F.nll_loss(logs, chosen), -logs.mean()
        right = 0.9 * own + 0.1 * mean
        got, wanted = expect_number(loss, "The loss"), right.item()
        all_rows = model(inputs).log_softmax(-1)
        others = -(logs.sum(-1) - logs.gather(1, chosen[:, None])[:, 0]).mean() / 4
        mistakes = [
            (own.item(), "This is the plain cross-entropy: the smoothing is missing."),
            ((0.9 * own).item(), "The part for all tokens is missing."),
            ((own + 0.1 * mean).item(), "The shares add up to 1: the target's is 0.9, not 1."),
            ((0.1 * own + 0.9 * mean).item(), "The two shares are exchanged."),
            ((0.9 * own - 0.1 * mean).item(), "The part for all tokens has the wrong sign: it is a loss too."),
            ((0.9 * own - 0.1 * logs.sum(-1).mean()).item(),
             "You summed over the vocabulary; take the mean over its tokens."),
            ((0.9 * own + 0.1 * others).item(),
             "You left the target out of the part for all tokens. All tokens of the vocabulary count, it too."),
            (wanted * len(chosen), "This is the sum over the positions. Take the mean."),
            (wanted * len(chosen) / 6, "You divided by all positions. Those with target -100 do not count."),
            ((0.9 * own - 0.1 * all_rows.mean()).item(),
             "Positions with target -100 still count in the part for all tokens."),
            ((0.9 * own + 0.1 * mean * len(chosen) / 6).item(),
             "You divided the part for all tokens by all positions. Those with target -100 do not count."),
        ]
        compare(got, wanted, mistakes, f"{what} you return")
        expect(isinstance(loss, Tensor) and loss.requires_grad, "The loss has no gradient: return a tensor, "
                                                                "without .item() or detach().")
        gradient, = torch.autograd.grad(loss, model.rows, allow_unused=True)
        expected, = torch.autograd.grad(right, model.rows)
        expect(gradient is not None and close(gradient, expected),
               "The number is right, its gradient is not: a part was cut off on the way, by .item(), detach(), "
               "torch.tensor(...) or torch.no_grad().")
