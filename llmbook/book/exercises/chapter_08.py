"""Checks for the exercises of chapter 8, learning from preferences."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llmbook.book.exercises import Wrong, compare, exercise, expect, expect_number, expect_tensor
from llmbook.book.preference_study import share_preferred, told_stories
from llmbook.book.storytelling import judge_stories
from llmbook.preferences import dpo_loss, leave_one_out


@exercise("8.1", "The same formula, with learned rewards in place of the scores, is what trains a reward model.")
def exercise_1(vote_surprise: Callable[[list[float], list[float], float], float]) -> None:
    for chosen, rejected, wavering in (([2.0], [1.0], 0.5), ([1.0, 0.0, 3.0], [0.5, 2.0, 3.0], 1.0),
                                       ([0.0, -1.0], [1.5, -1.5], 0.25), ([4.0, 1.0], [0.0, 1.5], 2.0)):
        given = list(chosen), list(rejected)
        got = expect_number(vote_surprise(*given, wavering), "The mean")
        expect(given == (chosen, rejected), "Your function changed a list that it was given: build a new one.")
        margins = [(a - b) / wavering for a, b in zip(chosen, rejected)]
        compare(got, _mean(_surprise(margin) for margin in margins),
                _surprise_mistakes(chosen, rejected, wavering, margins),
                f"For chosen scores {chosen}, rejected scores {rejected} and a wavering of {wavering} you return")


def _mean(numbers) -> float:
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


def _surprise(margin: float) -> float:
    return math.log1p(math.exp(-margin))


def _surprise_mistakes(chosen: Sequence[float], rejected: Sequence[float], wavering: float, margins: Sequence[float]
                       ) -> list[tuple[float, str]]:
    plain = [a - b for a, b in zip(chosen, rejected)]
    chances = [1 / (1 + math.exp(-margin)) for margin in margins]
    return [
        (_mean(_surprise(-margin) for margin in margins), "The difference is the wrong way round: the chosen answer's "
                                                          "score comes first."),
        (_mean(_surprise(margin) for margin in plain), "You left out the wavering: the difference is divided by it."),
        (_mean(_surprise(margin * wavering) for margin in plain), "You multiplied by the wavering: divide by it."),
        (sum(_surprise(margin) for margin in margins), "That is the sum over the votes: divide by how many there are."),
        (-_mean(_surprise(margin) for margin in margins), "The sign is missing: the logarithm of a probability is "
                                                          "negative, its negative is the loss."),
        (_mean(chances), "That is the mean probability of the votes. Take the negative logarithm of each first."),
        (-math.log(_mean(chances)), "You took the logarithm of the mean. Take it of each vote's probability, then the "
                                    "mean."),
        (_surprise(_mean(margins)), "You averaged the differences first. Each vote has a loss of its own."),
        (_mean(_surprise(margin) for margin in margins) / math.log(2), "That is in bits: take the natural logarithm."),
        (_mean(math.log(1 + math.exp(a / wavering - b / wavering)) for a, b in zip(rejected, chosen)) / 2,
         "Divide by the number of votes, not of answers."),
    ]


@exercise("8.2", "The formula of section 8.4 counts the same pairs without drawing them.")
def exercise_2(best_of_two: Callable[[list[float], list[float]], float]) -> None:
    for rewards, values in (([0.3, 0.1, 0.2], [5.0, 1.0, 3.0]), ([1.0, 2.0, 4.0], [7.0, -1.0, 3.0]),
                            ([0.5, 0.9, 0.1, 0.7], [2.0, 4.0, 9.0, 1.0]), ([3.0, 1.0, 2.0, 5.0, 4.0],
                                                                           [1.0, 0.0, 2.0, 6.0, 1.0])):
        given = list(rewards), list(values)
        got = expect_number(best_of_two(*given), "The mean")
        expect(given == (rewards, values), "Your function changed a list that it was given: use sorted, not .sort().")
        compare(got, _of_two(rewards, values), _two_mistakes(rewards, values),
                f"For rewards {rewards} and values {values} you return")


def _of_two(rewards: Sequence[float], values: Sequence[float], same: bool = False) -> float:
    """The mean over pairs of places; `same`: also of a place with itself, and both orders."""
    places = range(len(rewards))
    won = [values[max(i, j, key=lambda place: rewards[place])] for i in places for j in places if i < j or same]
    return _mean(won)


def _two_mistakes(rewards: Sequence[float], values: Sequence[float]) -> list[tuple[float, str]]:
    pairs = [(i, j) for i in range(len(rewards)) for j in range(i)]
    return [
        (_of_two(rewards, values, same=True), "You also paired each answer with itself. The two answers are different "
                                              "ones."),
        (_of_two([-reward for reward in rewards], values), "You kept the answer with the lower reward."),
        (_of_two(values, values), "You kept the answer with the higher value. The reward decides, the value counts."),
        (_of_two(rewards, rewards), "That is the mean reward of the kept answers. Return the mean of their values."),
        (_mean(values), "That is the mean of one answer, without a choice."),
        (values[max(range(len(rewards)), key=rewards.__getitem__)], "That is the best of all answers, not of two."),
        (max(values), "That is the best value of all. Only two answers are drawn."),
        (_of_two(rewards, values) * len(pairs), "That is the sum over the pairs: divide by how many there are."),
        (_of_two(rewards, values) * len(pairs) / len(rewards), "Divide by the number of pairs, not of answers."),
        (_of_two(rewards, values) / 2, "Each pair counts once: you divided by ordered pairs."),
        (_mean((values[i] + values[j]) / 2 for i, j in pairs), "You averaged both values of a pair. Keep one."),
    ]


@exercise("8.3", "With the reference fixed, the loss falls as votes are learned, and learned votes pull less.")
def exercise_3(mended_loss: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    torch.manual_seed(0)
    for beta in (0.1, 0.5, 1.0):
        now, before = (4 * torch.randn(2, 5, 2) - 60).double()
        now.requires_grad_()
        given = now.detach().clone(), before.clone()
        got = mended_loss(now, before, beta)
        if got is None or got is ...:
            raise NotImplementedError
        expect(torch.equal(now.detach(), given[0]) and torch.equal(before, given[1]),
               "Your function changed what it was given: compute with new tensors.")
        loss = expect_number(got, "The loss")
        right = float(dpo_loss(now.detach(), before, beta))
        where = f"With random log-probabilities of 5 pairs and a beta of {beta}, you return"
        expect(not math.isnan(loss), f"{where} NaN: use F.logsigmoid, or -log(1 + exp(-x)).")
        compare(loss, right, _dpo_mistakes(now.detach(), before, beta), where)
        expect(isinstance(got, Tensor) and got.requires_grad,
               "The loss is right, but it has no gradient: do not detach the model's own log-probabilities.")
        (gradient,) = torch.autograd.grad(got, now)
        (wanted,) = torch.autograd.grad(dpo_loss(now, before, beta), now)
        expect(torch.allclose(gradient, wanted, atol=1e-6), "The loss is right, but its gradient is not: is a part of "
                                                            "the model's log-probabilities detached?")


def _dpo_mistakes(now: Tensor, before: Tensor, beta: float) -> list[tuple[float, str]]:
    def loss(ratios: Tensor, scale: float = beta) -> float:
        return float(-torch.nn.functional.logsigmoid(scale * (ratios[:, 0] - ratios[:, 1])).mean())

    ratios = now - before
    return [
        (math.log(2), "That is log 2, whatever the model has learned: is your reference the model as it is now?"),
        (loss(-ratios), "The sign is wrong: the chosen answer should become likelier, relative to the reference."),
        (loss(ratios.flip(1)), "Chosen and rejected are exchanged: column 0 is the chosen answer."),
        (loss(ratios, 1.0), "You left out beta."),
        (loss(ratios, 1 / beta), "You divided by beta: multiply."),
        (loss(now), "You left out the reference: its log-probabilities are subtracted."),
        (loss(before), "You used the log-probabilities before training only."),
        (loss(now + before), "You added the reference: a ratio is a difference of logarithms."),
        (loss(ratios) * len(now), "That is the sum over the pairs: take the mean."),
        (-loss(ratios), "The loss is the negative of the log-probability of the votes."),
        (float(torch.sigmoid(beta * (ratios[:, 0] - ratios[:, 1])).mean()),
         "That is the mean probability of the votes: take the negative logarithm of each."),
    ]


@exercise("8.4", "A wrong sign trains as smoothly as the right one, away from the reward: look at the reward.")
def exercise_4(my_advantages: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
    torch.manual_seed(0)
    for answers, beta in ((3, 0.1), (5, 0.5), (2, 0.0), (6, 1.0)):
        rewards, log_probs, reference = torch.randn(answers), torch.randn(answers) - 50, torch.randn(answers) - 50
        given = rewards.clone(), log_probs.clone(), reference.clone()
        got = expect_tensor(my_advantages(*given, beta), (answers,), "The advantages")
        expect(all(map(torch.equal, given, (rewards, log_probs, reference))),
               "Your function changed a tensor that it was given: build a new one.")
        moved = log_probs - reference
        right = leave_one_out(rewards - beta * moved)
        if torch.allclose(got.float(), right, rtol=1e-4, atol=1e-5):
            continue
        hint = next((text for wrong, text in _advantage_mistakes(rewards, moved, beta, right)
                     if torch.allclose(got.float(), wrong, rtol=1e-4, atol=1e-5)), "")
        raise Wrong(f"For {answers} answers and a beta of {beta} you return {got.tolist()[:2]}..., expected "
                    f"{right.tolist()[:2]}... {hint}".rstrip())


def _advantage_mistakes(rewards: Tensor, moved: Tensor, beta: float, right: Tensor) -> list[tuple[Tensor, str]]:
    paid, earned = rewards - beta * moved, rewards + beta * moved
    return [
        (earned.mean() - earned, "That is still the colleague's: both mistakes are there."),
        (paid.mean() - paid, "The advantage is the reward minus the baseline, not the other way round; and the "
                             "baseline is the mean of the others."),
        (leave_one_out(earned), "To leave the reference should cost, not pay: the KL term is subtracted."),
        (earned - earned.mean(), "To leave the reference should cost, not pay: the KL term is subtracted. And the "
                                 "baseline is the mean of the others."),
        (-right, "The advantage is the reward minus the baseline, not the other way round."),
        (paid - paid.mean(), "The baseline is the mean of the *other* answers: the own reward is not in it."),
        (leave_one_out(rewards), "You left out the KL term."),
        (paid, "You left out the baseline."),
        ((paid - paid.mean()) / paid.std(), "You divided by the deviation, which section 8.8 does not."),
        (leave_one_out(rewards) - beta * moved, "The KL term is a part of the reward: the baseline has it, too."),
    ]


LAB_STORIES, LAB_PREFERRED, LAB_CONSISTENT = 50, 0.75, 0.5


@exercise("8.5", "So the votes of one reader are enough to turn a storyteller, if the taste is one it can follow.")
def exercise_5(my_taste_and_stories: Callable[[], tuple[Callable[[str], float], list[str]]]) -> None:
    got = my_taste_and_stories()
    if got is None or got is ...:
        raise NotImplementedError
    expect(isinstance(got, (tuple, list)) and len(got) == 2 and callable(got[0]),
           "Return two things: your taste, a function from a text to a number, and the stories.")
    score, told = got
    expect(len(told) == LAB_STORIES and all(isinstance(text, str) for text in told),
           f"The stories should be a list of {LAB_STORIES} texts, as tell_stories returns them.")
    expect(len(set(told)) > LAB_STORIES / 2, f"Only {len(set(told))} of your stories are different: the model tells "
                                             "one story again and again. Train for fewer steps, or with a higher beta.")
    before = told_stories()[-200:]
    for text in before[:3]:
        expect_number(score(text), "What your taste gives for a text")
    expect(len({float(score(text)) for text in before}) > 1, "Your taste gives all stories the same number.")
    preferred = share_preferred(told, before, 500, score=lambda text: float(score(text)))
    expect(preferred.value >= LAB_PREFERRED, f"Your taste prefers your stories in {100 * preferred.value:.0f} % of the "
           f"pairs, {100 * LAB_PREFERRED:.0f} % are wanted: more votes, a second pass over them, or a higher learning "
           "rate.")
    steady = judge_stories(told).consistent
    expect(steady.value >= LAB_CONSISTENT, f"{steady.right} of {steady.of} stories are without a problem, half "
           "are wanted: a higher beta or a lower learning rate keeps the model nearer to what it was.")
