"""Checks for the exercises of chapter 6, fine-tuning to classify."""

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from llmbook.book.exercises import Wrong, close, compare, exercise, expect, expect_number, expect_tensor
from llmbook.book.spam_study import FOLDS, draw_labels, judge_spam, spam_messages
from llmbook.classification import split_by_key


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


@exercise("6.2", "Another way to make one vector of a text: models that search for texts often pool like this.")
def exercise_2(mean_of_tokens: Callable[[Tensor, Tensor], Tensor]) -> None:
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


@exercise("6.3", "Now a probability of 0.9 can be held to its word.")
def exercise_3(calibration_error: Callable[[Tensor, Tensor, int], float]) -> None:
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


@exercise("6.4", "Lengths come from the texts. What a batch has lost cannot be counted later.")
def exercise_4(batch_of: Callable[[list[Tensor]], tuple[Tensor, Tensor]]) -> None:
    for texts, which in (([[7, 8, 9, 4], [5, 6]], "without a zero"), ([[7, 0, 9, 4], [5, 6]], "with a zero inside"),
                         ([[7, 0, 9, 0], [5, 6, 3, 2, 1], [0, 0]], "with zeros at the end"), ([[0]], "of one zero")):
        ids = [torch.tensor(text) for text in texts]
        given = [row.clone() for row in ids]
        answer = batch_of(given)
        if answer is None or answer is ...:
            raise NotImplementedError
        expect(isinstance(answer, tuple) and len(answer) == 2, "Return two tensors: padded, lengths.")
        padded = expect_tensor(answer[0], (len(texts), max(map(len, texts))), "padded")
        lengths = expect_tensor(answer[1], (len(texts),), "lengths")
        expect(all(map(torch.equal, ids, given)), "Your function changed the ids that it was given.")
        expect(not padded.is_floating_point(), f"padded holds {padded.dtype}: token ids are whole numbers.")
        wanted = [len(text) for text in texts]
        where = f"For the texts {texts}, {which},"
        if lengths.tolist() != wanted:
            raise Wrong(f"{where} your lengths are {lengths.tolist()}, but the texts have {wanted} tokens. "
                        f"{_length_mistake(lengths, texts)}".rstrip())
        for row, text in zip(padded.tolist(), texts):
            expect(row[: len(text)] == text, f"{where} the row of {text} is {row}: a text begins at the left, "
                                             "unchanged, and padding stands at the right.")
            expect(all(0 <= value < 50_257 for value in row), f"{where} you pad with {row[-1]}, which is no id of "
                   "GPT-2's vocabulary, so the embedding has no row for it. Any id from 0 to 50,256 will do.")


def _length_mistake(lengths: Tensor, texts: list[list[int]]) -> str:
    ids = [torch.tensor(text) for text in texts]
    mistakes = [
        ([int((row != 0).sum()) for row in ids], "You count what is not 0, but 0 is a token like any other here."),
        ([int(row.nonzero().max()) + 1 if row.any() else 0 for row in ids],
         "You look for the last token that is not 0. A text may end with 0."),
        ([len(text) - 1 for text in texts], "Those are the places of the last tokens: `last_token` subtracts 1."),
        ([max(map(len, texts))] * len(texts), "That is the length of the longest text, for all."),
    ]
    return next((text for value, text in mistakes if lengths.tolist() == value), "")


TARGET, DRAWS, DRAWN = 0.94, 5, 100  # of exercise 6.5
Predict = Callable[[list[str]], Sequence[str]]


@exercise("6.5", "Words and signs will do, if you count the right ones. Section 6.10 has the other filters' figures.")
def exercise_5(learn: Callable[[list[str], list[str]], Predict]) -> None:
    found = [_balanced(learn, seed) for seed in range(DRAWS)]
    mean = sum(found) / DRAWS
    each = ", ".join(f"{100 * share:.1f}" for share in found)
    expect(mean >= TARGET, f"In {DRAWS} draws of {DRAWN} messages your filter has {each} % balanced accuracy, "
           f"{100 * mean:.1f} % on average. The target is {100 * TARGET:.1f} %. What do the messages have that your "
           "filter does not see: numbers and their lengths, signs?")


@cache
def _folds() -> list:
    return split_by_key(spam_messages(), FOLDS)


def _balanced(learn: Callable[[list[str], list[str]], Predict], seed: int) -> float:
    """Balanced accuracy on messages that were not drawn. None of them is in a test part of the chapter's study."""
    drawn = draw_labels(_folds()[4], DRAWN, seed)
    taken = set(drawn["place"])
    others = [row for fold in (_folds()[0], _folds()[4]) for row in fold.itertuples() if row.place not in taken]
    predict = learn(list(drawn["text"]), list(drawn["label"]))
    if predict is None or predict is ...:
        raise NotImplementedError
    expect(callable(predict), f"Return a function from texts to labels, not {type(predict).__name__}.")
    labels = [str(label) for label in predict([row.text for row in others])]
    expect(len(labels) == len(others), f"Given {len(others)} texts, your function returned {len(labels)} labels.")
    unknown = set(labels) - {"ham", "spam"}
    expect(not unknown, f"{sorted(unknown)[:1]} is no label: return 'ham' or 'spam' for each text.")
    return judge_spam([float(label == "spam") for label in labels], [row.label == "spam" for row in others]).balanced
