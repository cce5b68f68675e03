"""Checks for the exercises of chapter 6, fine-tuning to classify."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.book.exercises import Wrong, close, compare, exercise, expect, expect_number, expect_tensor


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


@exercise("6.1", "Try it on the chapter's texts, in their order and sorted: that is what `LengthBatches` saves.")
def exercise_1(padding_share: Callable[[Sequence[int], int], float]) -> None:
    for lengths, size in (([5, 2, 7, 1, 3, 12], 2), ([9, 4, 6, 30, 2, 8, 11], 3), ([3, 8, 4], 10), ([4, 9, 2], 1)):
        given = list(lengths)
        got = expect_number(padding_share(given, size), "The share")
        expect(given == lengths, "Your function changed the list of lengths that it was given.")
        real, padded = sum(lengths), _padded(lengths, size)
        whole = lengths[: len(lengths) // size * size]  # without an incomplete last batch
        starts = range(0, len(lengths), size)
        parts = [lengths[start : start + size] for start in starts]
        right = 1 - real / padded
        mistakes = [
            (padded / real - 1, "You divided by the real tokens. The share is of all tokens, padding included."),
            (real / padded, "That is the share of real tokens. Padding is the rest."),
            (100 * right, "That is in per cent: return a share between 0 and 1."),
            (padded - real, "That is the number of padding tokens. Divide it by all tokens, padding included."),
            (1 - real / (max(lengths) * len(lengths)),
             "You padded all texts to the longest of all. Each batch is padded to its own longest."),
            (1 - real / _padded(sorted(lengths), size), "You sorted the texts first. Leave them in the given order."),
            (sum(1 - sum(part) / _padded(part, size) for part in parts) / len(parts),
             "You averaged the batches' shares, but batches differ in size. Add up the tokens of all, divide once."),
            (1 - _share(sum(whole), _padded(whole, size)),
             "You left out the last batch, which has fewer texts than the others. It counts too."),
            (1 - real / sum(max(part) * size for part in parts),
             "You counted the last batch as a full one. It has only the texts that are left."),
        ]
        compare(got, right, mistakes, f"For the lengths {lengths} and batches of {size} you return")


def _padded(lengths: Sequence[int], size: int) -> int:
    """Tokens of all batches, padding included."""
    parts = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return sum(max(part) * len(part) for part in parts)


_NAMES = ("precision", "recall", "F1")


def _pairs(hits: int, false: int, missed: int, passed: int) -> tuple[list[bool], list[bool]]:
    """(found, truth) with so many of each of the four outcomes, in mixed order."""
    pairs = [(True, True)] * hits + [(True, False)] * false + [(False, True)] * missed + [(False, False)] * passed
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()
    return [pairs[i][0] for i in order], [pairs[i][1] for i in order]


@exercise("6.2", "Accuracy hides rare classes; these three do not.")
def exercise_2(precision_recall_f1: Callable[[list[bool], list[bool]], tuple[float, float, float]]) -> None:
    for counts in ((3, 1, 2, 4), (2, 6, 1, 4), (1, 2, 9, 28), (4, 0, 0, 3)):
        _check_rates(precision_recall_f1(*_pairs(*counts)), *counts)
    for counts, what in (((0, 0, 3, 4), "nothing is found"), ((0, 2, 0, 5), "no text is spam"),
                         ((0, 0, 0, 4), "nothing is found and no text is spam"),
                         ((0, 2, 3, 4), "all that is found is wrong")):
        try:
            answer = precision_recall_f1(*_pairs(*counts))
        except ZeroDivisionError:
            raise Wrong(f"Where {what}, you divide by 0. Return 0.0 for what cannot be divided.") from None
        _check_rates(answer, *counts, f"Where {what}, ")


def _check_rates(answer: object, hits: int, false: int, missed: int, passed: int, where: str = "") -> None:
    if answer is None or answer is ...:
        raise NotImplementedError
    try:
        answer = list(answer)
    except TypeError:
        raise Wrong(f"Return three numbers, (precision, recall, F1), not {type(answer).__name__}.") from None
    expect(len(answer) == 3, f"Return three numbers, (precision, recall, F1); you return {len(answer)}.")
    if all(value is None or value is ... for value in answer):
        raise NotImplementedError
    for value, name in zip(answer, _NAMES):
        expect(value is not None and value is not ..., f"{where}{name} is {value}. Return "
               + ("0.0 where nothing can be divided." if where else "a number for each of the three."))
    texts = hits + false + missed + passed
    precision, recall = _share(hits, hits + false), _share(hits, hits + missed)
    other_precision, other_recall = _share(passed, passed + missed), _share(passed, passed + false)
    accuracy = ((hits + passed) / texts, "That is the accuracy, in which the ham that was let through counts.")
    per_text = (hits / texts, "You divided by all texts.")
    ham = "You counted ham as the class that is looked for. It is spam: True."
    mistakes = {
        "precision": [(recall, "That is the recall. Precision divides by what was found."), accuracy, per_text,
                      (1 - precision, "That is the share of ham in what was found. Precision is that of spam."),
                      (other_precision, ham)],
        "recall": [(precision, "That is the precision. Recall divides by what is there."), accuracy, per_text,
                   (other_recall, "That is the share of ham that was let through. Recall is about the spam.")],
        "F1": [((precision + recall) / 2, "That is the ordinary mean. F1 is the harmonic one: 2 P R / (P + R)."),
               (_share(precision * recall, precision + recall), "The factor 2 is missing."),
               (math.sqrt(precision * recall), "That is the geometric mean. F1 is the harmonic one: 2 P R / (P + R)."),
               (_share(hits, hits + false + missed), "You counted the texts that were found rightly once; in "
                "2 hits / (2 hits + wrong + missed) they count twice."), accuracy],
    }
    wanted = precision, recall, _share(2 * hits, 2 * hits + false + missed)
    for value, right, name in zip(answer, wanted, _NAMES):
        got = expect_number(value, name)
        expect(not math.isnan(got), f"{where}{name} is NaN, which 0 / 0 gives. Return 0.0 there.")
        hints = mistakes[name] if hits else [(1.0, "It is defined as 0.0 where nothing can be divided.")]
        compare(got, right, hints, f"{where}{hits + false} texts found, {hits} of them rightly, {missed} missed, "
                                    f"{passed} rightly let through: your {name} is")


@exercise("6.3", "Another way to make one vector of a text: models that search for texts often pool like this.")
def exercise_3(mean_of_tokens: Callable[[Tensor, Tensor], Tensor]) -> None:
    # all sizes equal first: there, a mask or a division along the wrong dimension gives an answer too
    for shape, sizes in (((4, 4, 4), (4, 2, 1, 3)), ((3, 7, 5), (2, 7, 4)), ((2, 3, 1), (3, 1)), ((1, 6, 8), (6,))):
        x, lengths = torch.randn(shape) + 0.5, torch.tensor(sizes)
        before = x.clone(), lengths.clone()
        try:
            answer = mean_of_tokens(x, lengths)
        except TypeError as error:
            if "index" not in str(error):
                raise
            raise Wrong(f"Your code stopped with TypeError: {error}. A slice such as x[:, :lengths] takes one length "
                        "for all texts. Compare each place with lengths[:, None] to get a mask.") from None
        got = expect_tensor(answer, (shape[0], shape[2]), f"The result for x of shape {shape}")
        expect(torch.equal(x, before[0]) and torch.equal(lengths, before[1]),
               "Your function changed what it was given. Write into a new tensor, for example with masked_fill.")
        right = torch.stack([row[:length].mean(dim=0) for row, length in zip(x, sizes)])
        if not close(got, right):
            text, feature = (~torch.isclose(got, right, rtol=1e-5, atol=1e-5)).nonzero()[0].tolist()
            raise Wrong(f"x of shape {shape}, lengths {list(sizes)}: feature {feature} of text {text} is "
                        f"{got[text, feature].item():.4f}, expected {right[text, feature].item():.4f}. "
                        f"{_pooling_mistake(got, x, lengths)}".rstrip())
    x = torch.randn(2, 3, 4, requires_grad=True)
    expect(mean_of_tokens(x, torch.tensor([3, 1])).requires_grad,
           "The result has no gradient, so nothing could be trained through it. Compute with tensors throughout, "
           "without .item(), .tolist(), .detach() or torch.tensor(...) on the way.")


def _pooling_mistake(got: Tensor, x: Tensor, lengths: Tensor) -> str:
    batch, tokens, features = x.shape
    places, column = torch.arange(tokens), lengths[:, None]
    mask = (places < column).float()  # (batch, tokens)
    total = (x * mask[..., None]).sum(dim=1)  # (batch, d_model)
    longer, shorter = (places < column + 1).float()[..., None], (places < column - 1).float()[..., None]
    mistakes = [
        (x.mean(dim=1), "You averaged the padding too. Only the first `lengths` tokens of a text are real."),
        (total, "That is the sum. Divide it by the number of real tokens."),
        (total / tokens, "You set the padding to 0, but divided by all places. Divide by each text's length."),
        (x.sum(dim=1) / column, "The padding is in the sum: its features are not 0, because the model computes some "
                                "for every place. Mask them."),
        (x[torch.arange(batch), lengths - 1], "Those are the features of the last token, not the mean."),
        ((x * longer).sum(1) / longer.sum(1), "You took one token too many of each text."),
        ((x * longer).sum(1) / column, "You summed one token too many of each text."),
        ((x * shorter).sum(1) / shorter.sum(1).clamp(min=1), "You left out the last real token of each text."),
        ((x * shorter).sum(1) / column, "You left out the last real token of each text."),
        ((x * (1 - mask[..., None])).sum(1) / (1 - mask).sum(1, keepdim=True).clamp(min=1),
         "You averaged the padding: the mask is the wrong way round."),
        (total / lengths.sum(), "You divided by the tokens of the whole batch. Each text has its own length."),
    ]
    if batch == features:
        mistakes.append((total / lengths, "You divided along the wrong dimension: lengths belong to the texts, the "
                                          "first dimension. Divide by lengths[:, None]."))
    if batch == tokens == features:
        mistakes += [((x * mask).sum(1) / column, "The mask (batch, tokens) lines up with the last two dimensions of "
                      "x. Give it a third one: mask[..., None]."),
                     ((x * mask[None]).mean(1), "The mask (batch, tokens) lines up with the last two dimensions of x. "
                      "Give it a third one: mask[..., None].")]
    return next((text for value, text in mistakes if close(got, value)), "")


@exercise("6.4", "A classifier can move to a place where spam is rarer, without any training.")
def exercise_4(shift_prior: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    cases = [  # as many texts as classes first: there, weights along the wrong dimension give an answer too
        (2, (0.7, 0.3), (0.9, 0.1)), (3, (0.5, 0.3, 0.2), (0.2, 0.2, 0.6)), (5, (0.6, 0.4), (0.1, 0.9)),
        (4, (0.2, 0.5, 0.3), (0.2, 0.5, 0.3)), (1, (0.4, 0.4, 0.1, 0.1), (0.25, 0.25, 0.5, 0.0)),
    ]
    for texts, *both in cases:
        old, new = (torch.tensor(shares) for shares in both)
        probabilities = torch.randn(texts, len(old)).softmax(dim=-1)
        given = probabilities.clone(), old.clone(), new.clone()
        got = expect_tensor(shift_prior(*given), (texts, len(old)), f"The result for {texts} texts, {len(old)} classes")
        expect(all(torch.equal(a, b) for a, b in zip(given, (probabilities, old, new))),
               "Your function changed what it was given: compute new tensors, without *= or /=.")
        weighted = probabilities * (new / old)
        right = _rows(weighted)
        if not close(got, right):
            text = int((~torch.isclose(got, right, rtol=1e-5, atol=1e-5)).any(dim=1).nonzero()[0])
            raise Wrong(f"old {_listed(old)}, new {_listed(new)}: the probabilities {_listed(probabilities[text])} "
                        f"become {_listed(got[text])}, expected {_listed(right[text])}. "
                        f"{_prior_mistake(got, probabilities, old, new)}".rstrip())


def _rows(x: Tensor) -> Tensor:
    """Each row divided by its sum."""
    return x / x.sum(dim=-1, keepdim=True)


def _listed(x: Tensor) -> str:
    return "(" + ", ".join(f"{number:.3f}" for number in x.tolist()) + ")"


def _prior_mistake(got: Tensor, p: Tensor, old: Tensor, new: Tensor) -> str:
    weights = new / old
    weighted = p * weights
    mistakes = [
        (p, "Nothing has changed. Multiply each class's column by its own new / old; one factor for a whole row is "
            "lost in the renormalising."),
        (weighted, "A row no longer adds up to 1: divide it by its sum."),
        (_rows(p * old / new), "Old and new are exchanged: a class that is more frequent now should gain."),
        (p * old / new, "Old and new are exchanged, and a row no longer adds up to 1."),
        (_rows(p * new), "You multiplied by new only. Divide by old: its effect is in the probabilities already."),
        (_rows(p / old), "You divided by old only. Multiply by new."),
        (_rows(p * (new - old)), "You multiplied by the difference. It is the ratio, new / old."),
        (_rows(p + new - old), "You added the difference. Multiply by the ratio, new / old."),
        (weighted / weighted.sum(dim=0), "Now the columns add up to 1. Divide each row by its sum: dim=-1, "
                                         "keepdim=True."),
        (weighted / weighted.sum(), "You divided by the sum over all texts. Each row has its own sum."),
        (F.normalize(weighted, dim=-1), "You divided by the root of the sum of squares. Divide by the sum."),
        (weighted.softmax(dim=-1), "You used softmax to renormalise. Divide by the sum: these are no logits."),
        (p * _rows(weights), "You renormalised the factors. Renormalise the products, each row."),
    ]
    if len(p) == p.shape[1]:
        sums = weighted.sum(dim=-1)
        mistakes += [(weighted / sums, "You divided along the wrong dimension: each row by its own sum takes "
                                       "keepdim=True."),
                     (p * weights[:, None], "The factors belong to the classes, which are the columns.")]
    return next((text for value, text in mistakes if close(got, value)), "")


@exercise("6.5", "Now a probability of 0.9 can be held to its word.")
def exercise_5(calibration_error: Callable[[Tensor, Tensor, int], float]) -> None:
    for probabilities, right, bins, where in _answers():
        given = probabilities.clone(), right.clone()
        try:
            answer = calibration_error(*given, bins)
        except IndexError as error:
            raise Wrong(f"{where} your code stops: {error}. Bins are numbered from 0 to {bins - 1}, and an edge "
                        "belongs to the bin below it, so that a probability of 1 is in the last one.") from None
        got = expect_number(answer, "The error")
        expect(torch.equal(given[0], probabilities) and torch.equal(given[1], right),
               "Your function changed what it was given: compute new tensors.")
        places = (probabilities * bins).ceil().long() - 1
        expect(not math.isnan(got), f"{where} you return NaN, as the mean over an empty bin does. Empty bins count "
                                    "nothing: leave them out.")
        compare(got, _gaps(probabilities, right, places), _calibration_mistakes(probabilities, right, places, bins),
                 f"{where} you return")


def _answers() -> list[tuple[Tensor, Tensor, int, str]]:
    """(probabilities, right, bins, what they are): inside the bins, at their edges, and few."""
    draw = torch.Generator().manual_seed(3)
    inside = (torch.rand(60, generator=draw) * 6).floor() / 10 + 0.4 + 0.01 + 0.08 * torch.rand(60, generator=draw)
    right = torch.rand(60, generator=draw) < torch.where(inside < 0.6, inside + 0.25, inside - 0.2)
    edges = torch.tensor([0.5, 1.0, 0.25, 0.75, 0.6, 1.0, 0.5, 0.9, 0.25, 0.5, 0.4])
    hits = torch.tensor([0, 1, 1, 0, 0, 0, 1, 0, 1, 1, 0]).bool()
    one = torch.ones(1)
    return [(inside, right, 10, "For 60 answers and 10 bins"), (inside, right, 7, "For 60 answers and 7 bins"),
            (edges, hits, 4, "With probabilities of exactly 0.25, 0.5, 0.75 and 1, and 4 bins,"),
            (inside, right, 1, "For a single bin"),
            (one, one.bool(), 5, "For one right answer with probability 1 and 5 bins"),
            (one, ~one.bool(), 5, "For one wrong answer with probability 1 and 5 bins")]


def _gaps(p: Tensor, right: Tensor, places: Tensor, how: str = "weighted") -> float:
    """The calibration error of answers that fall in these bins; or, by `how`, what is mistaken for it."""
    filled = places.unique()
    counts = torch.tensor([(places == i).sum() for i in filled]).double()
    gaps = torch.stack([p[places == i].double().mean() - right[places == i].double().mean() for i in filled])
    values = {"weighted": (gaps.abs() * counts).sum() / counts.sum(), "plain": gaps.abs().mean(),
              "sum": gaps.abs().sum(), "largest": gaps.abs().max(), "counts": (gaps.abs() * counts).sum(),
              "squares": (gaps.square() * counts).sum() / counts.sum()}
    return values[how].item()


def _gaps_between(p: Tensor, right: Tensor, bins: int, above: Callable, below: Callable) -> float:
    """The calibration error where each bin compares with both of its edges in these ways."""
    inside = [above(p, i / bins) & below(p, (i + 1) / bins) for i in range(bins)]
    return sum((p[mask].double().sum() - right[mask].double().sum()).abs().item() for mask in inside) / len(p)


def _calibration_mistakes(p: Tensor, right: Tensor, places: Tensor, bins: int) -> list[tuple[float, str]]:
    truth, whole = right.double(), _gaps(p, right, places)
    middle = (places + 0.5) / bins
    below = (p * bins).long()  # bins that hold their lower edge instead of their upper one
    inner = below < bins
    edge = "An edge belongs to the bin below it, as in (0.25, 0.5]."
    cancelled = ("That is the difference of the means over all answers: too sure in one bin and too modest in another "
                 "cancel out. Take each bin's absolute difference.")
    signed = (p.double().mean() - truth.mean()).item()
    mistakes = [
        (signed, cancelled), (-signed, cancelled),
        (_gaps(p, right, places, "plain"), "You gave every bin the same weight. A bin counts by its answers."),
        (_gaps(p, right, places, "sum") / bins, "You divided by the number of bins. A bin counts by its answers."),
        (_gaps(p, right, places, "sum"), "You added the bins' differences up. Weight each by its share of answers."),
        (_gaps(p, right, places, "counts"), "Divide by the number of answers."),
        (_gaps(p, right, places, "largest"), "That is the largest difference of a bin. Take the weighted mean."),
        (_gaps(p, right, places, "squares"), "You squared the differences. Take their absolute values."),
        (math.sqrt(_gaps(p, right, places, "squares")), "You squared the differences. Take their absolute values."),
        (_gaps(middle, right, places), "You used the middle of each bin. Use the mean probability of its answers."),
        (_gaps((places + 1) / bins, right, places), "You used the upper edge of each bin. Use the mean probability "
                                                    "of its answers."),
        ((p.double() - truth).abs().mean().item(), "You compared answer by answer. Take the means of a bin first."),
        ((p.double() - truth).square().mean().item(), "That is the Brier score, the mean square of each answer."),
        (100 * whole, "That is in per cent: return a share between 0 and 1."),
        (_gaps(p, right, below), "Some answers are in the wrong bin. " + edge),
        (_gaps_between(p, right, bins, torch.ge, torch.le), "Answers at an edge count twice. " + edge),
        (_gaps_between(p, right, bins, torch.gt, torch.lt), "Answers at an edge are in no bin of yours. " + edge),
        (_gaps(p, right, (p * bins).round().long()), "You rounded to the nearest edge. Bins lie between edges."),
    ]
    lost = "Answers with probability 1 are in no bin of yours. The last bin holds its upper edge."
    if inner.any():
        kept = _gaps(p[inner], right[inner], below[inner])
        mistakes += [(kept, lost), (kept * inner.double().mean().item(), lost)]
    return mistakes
