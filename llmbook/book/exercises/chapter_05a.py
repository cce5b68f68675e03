"""Checks for the exercises of chapter 5a, pretraining."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.book.exercises import Wrong, close, compare, exercise, expect, expect_number, expect_tensor
from llmbook.documents import make_document_loader
from llmbook.gpt import GPT, GPTConfig
from llmbook.storyworld import stories
from llmbook.text import train_bpe
from llmbook.training import TrainingConfig, evaluate, next_token_loss, train


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


@exercise("5a.2", "A rule of your own for which tokens may be drawn.")
def exercise_2(filter_min_p: Callable[[Tensor, float], Tensor]) -> None:
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


@exercise("5a.3", "You know what a run will show before it begins; whatever differs is worth a look.")
def exercise_3(perplexity: float, first_move: float, targets: int) -> None:
    mistakes = {math.log(4096): "This is the loss; the perplexity is e to its power.",
                12.0: "These are the bits of one guess. The perplexity is the number of equally likely tokens.",
                1 / 4096: "This is the probability of each token. The perplexity is its inverse."}
    compare(expect_number(perplexity, "The perplexity"), 4096, mistakes.items(), "For the perplexity you say")
    mistakes = {0.002 * 0.00003: "Plain gradient descent would do that. AdamW divides by the gradient's size.",
                0.00003: "This is the gradient. The learning rate sets how far AdamW moves.",
                0.002 * 0.1 / math.sqrt(0.05): "You left out the corrections of the means (the hats): both began at 0.",
                0.002 * 0.1: "You left out the division by the root of the mean square."}
    expect(expect_number(first_move, "The move") != 0, "The gradient is small, not 0, so the weight moves.")
    compare(1000 * abs(expect_number(first_move, "The move")), 2.0,
            [(1000 * value, text) for value, text in mistakes.items()], "For the move, in thousandths, you say")
    mistakes = {8 * 256: "These are the targets of one part; the parts make one step together.",
                4 * 256: "Each part has 8 rows.", 32: "These are rows; each has 256 targets.",
                256: "These are the targets of one row."}
    compare(expect_number(targets, "The number of targets"), 8192, mistakes.items(), "For the targets you say")


class _Bigram(nn.Sequential):
    """Ids (batch, tokens) -> logits (batch, tokens, 5)."""

    def __init__(self) -> None:
        super().__init__(nn.Embedding(5, 4), nn.Linear(4, 5))


def _loop(shift: str, clip: str, clear: bool) -> list[Tensor]:
    """The weights after a loop that does as it is told; right is ("next", "before", True)."""
    model, optimizer, batches = _diagnosis()
    for ids in batches:
        seen, wanted = {"next": (ids[:, :-1], ids[:, 1:]), "same": (ids[:, :-1], ids[:, :-1]),
                        "back": (ids[:, 1:], ids[:, :-1])}[shift]
        F.cross_entropy(model(seen).flatten(0, 1), wanted.flatten()).backward()
        if clip == "before":
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        if clip == "after":
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        if clear:
            optimizer.zero_grad()
    return [p.detach() for p in model.parameters()]


def _diagnosis() -> tuple[nn.Module, torch.optim.Optimizer, list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    model = _Bigram()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model, torch.optim.SGD(model.parameters(), lr=2.0), list(torch.randint(5, (4, 3, 7), generator=generator))


@exercise("5a.4", "A loss that is too good is a bug until you have found out why it is not.")
def exercise_4(mended: Callable[..., None]) -> None:
    model, optimizer, batches = _diagnosis()
    before = [p.detach().clone() for p in model.parameters()]
    mended(model, batches, optimizer, 0.1)
    got = [p.detach() for p in model.parameters()]

    def same_as(*how: object) -> bool:
        return all(map(close, got, _loop(*how)))

    expect(not all(map(close, got, before)), "The weights did not move: does each batch end with optimizer.step()?")
    for shift, hint in (("same", "The loss compares each prediction with the token that the model has just read, so "
                                 "copying is enough. What is to be predicted?"),
                        ("back", "The model now predicts the token before the one that it reads.")):
        for clip in ("before", "after"):
            expect(not same_as(shift, clip, True), hint)
    expect(not same_as("next", "after", True), "The targets are right now. But the gradients are clipped when the step "
                                               "is done already, or not at all: clip between backward and step.")
    for clip in ("before", "after", "never"):
        expect(not same_as("next", clip, False), "The gradients are never cleared, so that each batch adds to all "
                                                 "earlier ones.")
    expect(same_as("next", "before", True), "After four batches the weights are others than those of the right loop: "
                                            "for each batch predict ids[:, 1:] from ids[:, :-1], then backward, clip "
                                            "to max_norm, step, zero_grad, once each.")


LAB_TARGET, LAB_STEPS = 4.0, 100


@exercise("5a.5", "You have tuned a training run on a fixed budget, which is most of what pretraining is.")
def exercise_5(config: TrainingConfig) -> None:
    expect(isinstance(config, TrainingConfig), f"Give a TrainingConfig, not {type(config).__name__}.")
    expect(config.max_steps <= LAB_STEPS, f"max_steps is {config.max_steps}; the budget is {LAB_STEPS}.")
    expect(config.accumulation_steps == 1, "Four stories a step are the budget: accumulation_steps must be 1.")
    loss = lab_loss(config)
    expect(loss < LAB_TARGET, f"The held-out loss is {loss:.2f}, and the target is below {LAB_TARGET}. "
                              f"{_advice(config)}")


def _advice(config: TrainingConfig) -> str:
    if config.max_steps < LAB_STEPS:
        return f"You may use all {LAB_STEPS} steps."
    if config.learning_rate < 2e-3:
        return "So small a model bears a far larger learning rate: multiply it by 3 and look again."
    if config.learning_rate > 5e-2:
        return "The learning rate is so large that the loss jumps: divide it by 3 and look again."
    if config.warmup_steps == 0:
        return "A large learning rate wants a few steps of warm-up."
    return "Change one setting at a time, and plot the training loss."


def lab_loss(config: TrainingConfig) -> float:
    """Held-out loss, nats per token, of the lab's model after a run with these settings, on the CPU in float32."""
    told = [story.text for story in stories(1, 400, split="train", plot="storm_carries")]
    held_out = [story.text for story in stories(5, 30, split="test", plot="storm_carries")]
    tokenizer = train_bpe("<|endoftext|>".join(told), vocab_size=1024)
    rows, held_rows = ([tokenizer.encode(text) for text in part] for part in (told, held_out))
    torch.default_generator.manual_seed(0)
    model = GPT(GPTConfig(1024, 320, d_model=64, n_heads=4, n_layers=2, dropout=0.0))
    with torch.no_grad():
        model.token_embedding.weight.mul_((768 / 64) ** 0.5)
    loader = make_document_loader(rows, 320, 4, tokenizer.eot_token, seed=0)
    train(model, loader, next_token_loss, replace(config, device="cpu", precision="float32"))
    held_loader = make_document_loader(held_rows, 320, 15, tokenizer.eot_token, shuffle=False, drop_last=False)
    return evaluate(model, held_loader, next_token_loss, precision="float32")
