"""Checks for the exercises of chapter 9, reasoning."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llmbook.book.exercises import Wrong, close, compare, exercise, expect, expect_number, expect_tensor
from llmbook.gpt import GPT, GPTConfig
from llmbook.problems import WorkedProblem

PROBLEM = WorkedProblem("story", "Mira has 7 shells, finds 8, loses 3.", ("7+8=15", "15-3=12"), "12", 2)


def _numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@exercise("9.1", "No sample is compared with itself. With many samples the two baselines are nearly the same.")
def exercise_1(others_advantages: Callable[[Tensor], Tensor]) -> None:
    for seed, shape in enumerate(((2, 4), (3, 2), (1, 16))):
        rewards = (_numbers(seed, *shape) > 0).float() + seed
        answer = expect_tensor(others_advantages(rewards.clone()), shape)
        size = shape[1]
        right = rewards - (rewards.sum(1, keepdim=True) - rewards) / (size - 1)
        if close(answer, right):
            continue
        mistakes = {
            "You subtract the mean of the whole group, the sample itself included. Leave each one out of its own "
            "baseline.": rewards - rewards.mean(1, keepdim=True),
            "Your sum leaves the sample out, but it is divided by the size of the group: one less remains.":
                rewards - (rewards.sum(1, keepdim=True) - rewards) / size,
            "The sign is wrong: a sample that did better than the others must have a positive advantage.": -right,
            "The mean runs over all groups: compare a sample with the others of its own row.":
                rewards - (rewards.sum() - rewards) / max(rewards.numel() - 1, 1),
        }
        for mistake, values in mistakes.items():
            if close(answer, values):
                raise Wrong(mistake)
        raise Wrong(f"For rewards {rewards[0].tolist()} the first row is {answer[0].tolist()}; subtract from each the "
                    "mean of the other rewards in its row.")


@exercise("9.2", "A vote helps whoever is right more often than not, and harms whoever is not.")
def exercise_2(three_votes: Callable[[float], float]) -> None:
    for p in (0.5, 0.7, 0.2, 1.0):
        mistakes = [(1 - (1 - p) ** 3, "That is the chance that at least one of three is right: a vote needs two."),
                    (p**3, "That is the chance that all three are right: two suffice."),
                    (3 * p**2 * (1 - p), "Exactly two are right: add the chance that all three are."),
                    (p**2 * (1 - p) + p**3, "There are three ways for exactly one of the three to be wrong."), (p, "")]
        answer = expect_number(three_votes(p))
        compare(answer, 3 * p**2 - 2 * p**3, [pair for pair in mistakes if pair[1]], f"For p = {p}")


@exercise("9.3", "The sign makes it learn; the mask keeps questions and the tool's results out.")
def exercise_3(repaired: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    for seed in range(3):
        logprobs = -_numbers(seed, 4, 6).abs()
        advantages, own = _numbers(seed + 10, 4), _numbers(seed + 20, 4, 6) > -0.3
        answer = expect_number(repaired(logprobs.clone(), advantages.clone(), own.clone()))
        weighed = logprobs * advantages[:, None]
        right = -(weighed * own).sum(1).mean().item()
        mistakes = [
            (-right, "The sign is wrong: minimising this makes what was better than its group less likely."),
            (-weighed.sum(1).mean().item(), "The tokens that the model did not choose are still in the sum: use own."),
            (weighed.sum(1).mean().item(), "Two mistakes remain: the sign, and the tokens that the model did not "
                                           "choose."),
            (-(logprobs * own).sum(1).mean().item(), "The advantages are gone: without them it imitates all samples."),
            (-(weighed * own).mean().item(), "This is a mean over tokens, those that do not count included: sum over a "
                                             "row, then take the mean over rows."),
            (-(weighed * own).sum().item(), "This is the sum over rows: take their mean.")]
        compare(answer, right, mistakes, f"For the numbers of seed {seed}")


@exercise("9.4", "What is rewarded is what you get, so a reward must be as hard to please as the goal.")
def exercise_4(mended: Callable[[WorkedProblem, str], float]) -> None:
    cases = [(" think: 7+8=15; 15-3=12 answer: 12\n", True, "a worked and right answer"),
             (" answer: 12\n", True, "a right answer at once"),
             (" think: 7+8=15; 15-3=13 answer: 12\n", True, "a right answer after a wrong step (the answer counts)"),
             (" think: 10 11 12 13 14 answer: 15\n", False, "the right number somewhere, and another as the answer"),
             (" answer: 11\n", False, "a wrong answer"), (" answer: 1\n", False, "a part of the right number"),
             (" answer: 112\n", False, "a longer number that holds the right one"),
             (" answer: 12 answer: 13\n", False, "two answers, of which the last is wrong"),
             (" answer: 11, 12\n", False, "several numbers as the answer"),
             (" answer: 12", False, "a response that was cut before its end"), ("", False, "an empty response")]
    for response, right, what in cases:
        answer = mended(PROBLEM, response)
        if answer is None or answer is ...:
            raise NotImplementedError
        expect(isinstance(answer, (bool, int, float)) and float(answer) in (0.0, 1.0),
               f"For {response!r} the reward is {answer!r}: return 1 or 0.")
        if bool(answer) != right:
            raise Wrong(f"{what[0].upper()}{what[1:]} gets {float(answer):g}: {response!r}.")


@exercise("9.5", "A copy, frozen: only then does the penalty measure how far the model has gone.")
def exercise_5(reference_of: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=7, context_length=8, d_model=8, n_heads=2, n_layers=1, dropout=0.5)).train()
    ids = torch.tensor([[1, 2, 3]])
    reference = reference_of(model)
    if reference is None or reference is ...:
        raise NotImplementedError
    expect(isinstance(reference, nn.Module), f"Return a model, not {type(reference).__name__}.")
    expect(reference is not model, "This is the model itself: the distance to itself is always 0. Copy it.")
    expect(not any(p.requires_grad for p in reference.parameters()),
           "The reference still has trainable weights: freeze them, so that nobody moves it.")
    expect(all(p.requires_grad for p in model.parameters()), "The model itself is frozen now: freeze the copy only.")
    expect(not reference.training, "The reference is in training mode: with dropout it says something else each time.")
    expect(model.training, "The model itself is no longer in training mode: change the copy only.")
    before = reference(ids).clone()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    expect(close(reference(ids), before), "The reference changes when the model is trained: they share weights. Make a "
                                          "deep copy.")


@exercise("9.6", "Right first, short second. Now train with it for a minute, and look at the lengths.")
def exercise_6(short_and_right: Callable[[WorkedProblem, str], float]) -> None:
    def value(response: str) -> float:
        answer: Any = short_and_right(PROBLEM, response)
        return expect_number(answer)

    short, long = value(" answer: 12\n"), value(" think: 7+8=15; 15-3=12 answer: 12\n")
    longer = value(" think: 7+8=15; 15-3=12; 12+0=12; 12+0=12 answer: 12\n")
    wrongs = [value(response) for response in (" answer: 11\n", " think: 7+8=15; 15-3=11 answer: 11\n", "", "\n")]
    expect(short > long > longer, f"Right answers of 3, 13 and 25 tokens get {short:g}, {long:g} and {longer:g}: a "
                                  "shorter one should get more.")
    expect(longer > max(wrongs), f"A wrong answer gets {max(wrongs):g}, a long right one {longer:g}: then being short "
                                 "pays more than being right, and the model stops thinking.")
    expect(max(wrongs) - min(wrongs) < 1e-6, "Wrong answers of different lengths get different rewards: in a group "
                                             "that is all wrong, the model would learn to be short, and nothing else.")
