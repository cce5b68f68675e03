"""Checks for the exercises of chapter 5a, pretraining."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.exercises import Wrong, close, compare, exercise, expect, expect_number, expect_tensor


@exercise("5a.1", "You have computed the number that all of pretraining makes smaller.")
def exercise_1(my_cross_entropy: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(7, 5), torch.tensor([0, 4, 2, 2, 1, 3, 0])
    got, wanted = expect_number(my_cross_entropy(logits, targets), "The loss"), F.cross_entropy(logits, targets).item()
    picked = logits.softmax(-1)[torch.arange(7), targets]
    mistakes = {
        -wanted: "This is the right number with the wrong sign: a loss is smaller for a better guess.",
        wanted * 7: "This is the sum over the positions. Divide by their number.",
        wanted / math.log(2): "This is in bits. Use the natural logarithm.",
        -picked.mean().log().item(): "You averaged the probabilities first. Take the logarithm of each, then the mean.",
        -picked.mean().item(): "The logarithm is missing.",
        -logits[torch.arange(7), targets].mean().item(): "The logits are not probabilities yet: softmax first.",
        -logits.softmax(0)[torch.arange(7), targets].log().mean().item():
            "The softmax runs over the positions. It belongs over the vocabulary, the last dimension.",
        -logits.log_softmax(-1).mean().item(): "You averaged over all tokens. Only the target of each position counts.",
    }
    compare(got, wanted, mistakes.items(), "For 7 positions and 5 tokens you return")
    large = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    got = expect_number(my_cross_entropy(large, torch.tensor([0, 0])), "The loss")
    expect(math.isfinite(got), f"With logits of 1,000 the loss is {got}: exp overflows. Subtract the largest logit "
                               "first, or use log_softmax or logsumexp.")
    expect(abs(got - 500) < 0.01, f"With logits of 1,000 the loss is {got:.4f}, expected 500.")


@exercise("5a.2", "Now losses of models with different tokenizers can stand side by side.")
def exercise_2(bits_per_byte: Callable[[float, int, int], float]) -> None:
    for loss, tokens, size in ((2.0, 100, 350), (4.86, 59_000, 221_000)):
        wanted = loss * tokens / size / math.log(2)
        mistakes = {
            loss * tokens / size: "This is in nats. One bit is ln 2 nats, so divide by ln 2.",
            wanted * math.log(2) ** 2: "You multiplied by ln 2. A nat is more than a bit: divide.",
            loss / math.log(2): "This is bits a token. A token spells several bytes, which share its cost.",
            loss * size / tokens / math.log(2): "The ratio is upside down: n_tokens shares of the loss over n_bytes.",
        }
        compare(expect_number(bits_per_byte(loss, tokens, size), "The result"), wanted, mistakes.items(),
                f"For a loss of {loss}, {tokens} tokens and {size} bytes you return")


@exercise("5a.3", "A rule of your own for which tokens may be drawn.")
def exercise_3(filter_min_p: Callable[[Tensor, float], Tensor]) -> None:
    probabilities = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15], [0.02, 0.03, 0.9, 0.04, 0.01]])
    for logits in (probabilities.log(), probabilities.log() + 3.0):  # logits are free to shift
        before = logits.clone()
        for p in (0.3, 0.5, 0.05):
            got = expect_tensor(filter_min_p(logits, p), (2, 5), "The result")
            expect(torch.equal(logits, before), "Your function changed the logits that it was given: return new ones, "
                                                "for example with masked_fill.")
            wanted = probabilities >= p * probabilities.max(dim=-1, keepdim=True).values
            kept = got.isfinite()
            if not torch.equal(kept, wanted):
                hint = ""
                if torch.equal(kept, probabilities >= p):
                    hint = " You compare with p itself; compare with p times the largest probability of the row."
                elif torch.equal(kept, probabilities >= p * probabilities.max()):
                    hint = " The largest probability is each row's own: max over the last dimension, keepdim=True."
                elif torch.equal(kept, logits >= p * logits.max(dim=-1, keepdim=True).values):
                    hint = " You compare logits. The rule is about probabilities: softmax first."
                raise Wrong(f"With p = {p} you keep {kept.tolist()}, expected {wanted.tolist()}.{hint}")
            expect(close(got[kept], logits[kept]), "The logits that stay should be the ones that were given.")


@exercise("5a.4", "A schedule is a function of the step; now you can try any.")
def exercise_4(trapezoid: Callable[[int, int, int, int], float]) -> None:
    for most, warmup, cooldown in ((10, 2, 4), (100, 10, 20), (6, 1, 1)):
        for step in range(most):
            wanted = min(1.0, (step + 1) / warmup, (most - step) / cooldown)
            got = expect_number(trapezoid(step, most, warmup, cooldown), "The factor")
            where = f"At step {step} of {most}, with warmup {warmup} and cooldown {cooldown},"
            hint = ""
            if step < warmup and abs(got - step / warmup) < 1e-6:
                hint = "The first step would not move at all: count it as step 1 of the warm-up."
            elif abs(got - (most - 1 - step) / cooldown) < 1e-6:
                hint = "You reach 0 one step early: 0 belongs to the step after the last one."
            elif step < warmup and abs(got - 1) < 1e-6:
                hint = "The warm-up is missing."
            elif step >= most - cooldown and abs(got - 1) < 1e-6:
                hint = "The cooldown is missing."
            expect(abs(got - wanted) < 1e-6, f"{where} you return {got:.4f}, expected {wanted:.4f}. {hint}".rstrip())


class _Table(nn.Module):
    """A model that looks its logits up: (batch, tokens) -> (batch, tokens, 5)."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(5, 5))

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.rows[token_ids]


@exercise("5a.5", "The loop does not care which loss it makes smaller; chapters 6 and 7 rely on that.")
def exercise_5(smoothed_loss: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, inputs = _Table(), torch.tensor([[0, 1, 2], [3, 4, 0]])
    for targets, what in ((torch.tensor([[1, 2, 3], [4, 0, 1]]), ""),
                          (torch.tensor([[1, 2, -100], [4, -100, -100]]), "With targets of -100, ")):
        logs = model(inputs).log_softmax(-1)[targets != -100]  # (n, 5)
        chosen = targets[targets != -100]
        own, mean = F.nll_loss(logs, chosen), -logs.mean()
        loss = smoothed_loss(model, inputs, targets)
        got, wanted = expect_number(loss, f"{what}the loss"), (0.9 * own + 0.1 * mean).item()
        mistakes = {
            own.item(): "This is the plain cross-entropy: the smoothing is missing.",
            (0.9 * own).item(): "The part for all tokens is missing.",
            (0.1 * own + 0.9 * mean).item(): "The two shares are exchanged.",
            (0.9 * own + 0.1 * -logs.sum(-1).mean()).item():
                "You summed over the vocabulary; take the mean over its tokens.",
            (0.9 * own + 0.1 * -model(inputs).log_softmax(-1).mean()).item():
                "Positions with target -100 still count in the part for all tokens.",
        }
        compare(got, wanted, mistakes.items(), f"{what}a small model: you return")
        expect(isinstance(loss, Tensor) and loss.requires_grad, "The loss has no gradient: return a tensor, "
                                                                "without .item() or detach().")
