"""The checks of chapter 6's exercises: wrong answers are told why, right ones pass however they are written."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch.nn.utils.rnn import pad_sequence

from llmbook.book.exercises import chapter_06 as check
from tests.support.exercise_tests import exercise_tests


def batches(lengths, size):
    return [lengths[start : start + size] for start in range(0, len(lengths), size)]


def share_of_padding(lengths, size):
    return 1 - sum(lengths) / sum(max(part) * len(part) for part in batches(lengths, size))


def share_by_tensors(lengths, size):
    texts = [torch.ones(length) for length in lengths]
    padded = [torch.nn.utils.rnn.pad_sequence(part) for part in batches(texts, size)]
    return torch.cat([part.flatten() == 0 for part in padded]).float().mean()


def sorted_in_place(lengths, size):
    share = share_of_padding(lengths, size)
    lengths.sort()
    return share


def mean_of_shares(lengths, size):
    return np.mean([share_of_padding(part, size) for part in batches(lengths, size)])


def mask_of(x, lengths):
    return (torch.arange(x.shape[1]) < lengths[:, None])[..., None]  # (batch, tokens, 1)


def masked_mean(x, lengths):
    return (x * mask_of(x, lengths)).sum(1) / lengths[:, None]


def mean_in_a_loop(x, lengths):
    return torch.stack([row[:length].mean(0) for row, length in zip(x, lengths)])


def mean_by_cumulative_sums(x, lengths):
    return x.cumsum(1)[torch.arange(len(x)), lengths - 1] / lengths.unsqueeze(1)


def mean_in_place(x, lengths):
    for row, length in zip(x, lengths):
        row[length:] = 0
    return x.sum(1) / lengths[:, None]


def flat_mask(x, lengths):
    return (x * (torch.arange(x.shape[1]) < lengths[:, None])).sum(1) / lengths[:, None]


def left_out(x, n):
    return (x * mask_of(x, n - 1)).sum(1) / (n - 1).clamp(min=1)[:, None]


def padding_only(x, n):
    real = mask_of(x, n)
    return (x * ~real).sum(1) / (~real).sum(1).clamp(min=1)


def mean_that_counts_down(x, n):
    found = masked_mean(x, n)
    n -= 1
    return found


def right_while_square(right, wrong):
    """An answer that is right where the first two sizes are equal, which the checks try first."""
    return lambda x, *rest: (right if x.shape[0] == x.shape[1] else wrong)(x, *rest)


def error_in_place(p, right, bins):
    found = error_by_sums(p, right, bins)
    p *= bins
    return found


def error_that_flips(p, right, bins):
    found = error_by_sums(p, right, bins)
    right.logical_not_()
    return found


def error_by_masks(p, right, bins):
    error, edges = 0.0, torch.linspace(0, 1, bins + 1)
    for low, high in zip(edges[:-1], edges[1:]):
        inside = (p > low) & (p <= high)
        if inside.any():
            error += inside.float().mean() * (p[inside].mean() - right[inside].float().mean()).abs()
    return error


def error_by_sums(p, right, bins):
    places = (p * bins).ceil().long() - 1
    return (torch.zeros(bins).index_add_(0, places, p - right.float()).abs().sum() / len(p)).item()


def error_by_arrays(p, right, bins):
    p, right = p.double().numpy(), right.numpy()
    places = np.digitize(p, np.arange(bins + 1) / bins, right=True)
    return sum(abs(p[places == i].sum() - right[places == i].sum()) for i in set(places)) / len(p)


def bin_by_bin(p, right, bins, value, places=None):
    """A wrong error: `value` of (share of answers, mean probability, share right, bin's number), added up."""
    places = (p * bins).ceil().long() - 1 if places is None else places
    return sum(value((places == i).float().mean(), p[places == i].mean(), right[places == i].float().mean(), i)
               for i in places.unique())


def bin_masks(p, bins):
    places = (p * bins).ceil()
    return [places == i for i in places.unique()]


def weighted(share, sure, right, _):
    return share * (sure - right).abs()


def nan_of_empty_bins(p, right, bins):
    places = (p * bins).ceil().long() - 1
    return sum((places == i).float().mean() * (p[places == i].mean() - right[places == i].float().mean()).abs()
               for i in range(bins))


def by_both_edges(p, right, bins, above, below):
    error = 0.0
    for i in range(bins):
        inside = above(p, i / bins) & below(p, (i + 1) / bins)
        if inside.any():
            error += inside.float().mean() * (p[inside].mean() - right[inside].float().mean()).abs()
    return error


def whole_batch(ids, **settings):
    return pad_sequence(ids, batch_first=True, **settings), torch.tensor([len(row) for row in ids])


def batch_by_zeros(ids):
    padded = pad_sequence(ids, batch_first=True)
    return padded, (padded != 0).sum(dim=1)


def batch_by_last_nonzero(ids):
    padded = pad_sequence(ids, batch_first=True)
    return padded, (torch.arange(1, padded.shape[1] + 1) * (padded != 0)).amax(dim=1)


def batch_in_place(ids):
    found = whole_batch(ids)
    ids[0] += 1
    return found


def words_alone(texts, labels):
    words = CountVectorizer(token_pattern=r"\w+")
    return make_pipeline(words, LogisticRegression(C=10, max_iter=1000)).fit(texts, labels).predict


def words_and_numbers(texts, labels):
    def with_lengths(text):
        return re.sub(r"\d+", lambda digits: f" digits{len(digits.group())} ", text.lower())

    words = CountVectorizer(token_pattern=r"\w+|[^\w\s]", binary=True, preprocessor=with_lengths)
    return make_pipeline(words, LogisticRegression(C=10, max_iter=1000)).fit(texts, labels).predict


RIGHT = {
    "exercise_1": [share_of_padding, share_by_tensors],
    "exercise_2": [masked_mean, mean_in_a_loop, mean_by_cumulative_sums,
                   lambda x, n: x.masked_fill(~mask_of(x, n), 0).sum(1) / n[:, None]],
    "exercise_3": [error_by_masks, error_by_sums, error_by_arrays],
    "exercise_4": [whole_batch, lambda ids: whole_batch(ids, padding_value=50_256)],
    "exercise_5": [words_and_numbers],
}
WRONG = [
    ("exercise_1", lambda n, size: share_of_padding(sorted(n), size), "You sorted the texts first"),
    ("exercise_1", lambda n, size: share_of_padding(sorted(n)[::-1], size), "You sorted the texts first"),
    ("exercise_1", lambda n, size: 1 / (1 - share_of_padding(n, size)) - 1, "divided by the real tokens"),
    ("exercise_1", lambda n, size: 1 - share_of_padding(n, size), "share of real tokens"),
    ("exercise_1", lambda n, size: 100 * share_of_padding(n, size), "in per cent"),
    ("exercise_1", lambda n, size: 1 - sum(n) / max(n) / len(n), "longest of all"),
    ("exercise_1", lambda n, size: sum(max(p) * len(p) for p in batches(n, size)) - sum(n), "number of padding"),
    ("exercise_1", mean_of_shares, "averaged the batches"),
    ("exercise_1", lambda n, size: share_of_padding(n[: max(len(n) // size, 1) * size], size), "left out the last"),
    ("exercise_1", lambda n, size: 1 - sum(n) / sum(max(p) * size for p in batches(n, size)), "as a full one"),
    ("exercise_1", sorted_in_place, "changed the list"),
    ("exercise_1", lambda n, size: str(share_of_padding(n, size)), "one number, not str"),
    ("exercise_1", lambda n, size: n, "one number"),
    ("exercise_2", lambda x, n: x.mean(1), "averaged the padding too"),
    ("exercise_2", lambda x, n: x.sum(1) / n[:, None], "padding is in the sum"),
    ("exercise_2", lambda x, n: (x * mask_of(x, n)).sum(1), "That is the sum"),
    ("exercise_2", lambda x, n: (x * mask_of(x, n)).mean(1), "divided by all places"),
    ("exercise_2", lambda x, n: x[torch.arange(len(x)), n - 1], "last token, not the mean"),
    ("exercise_2", lambda x, n: (x * mask_of(x, n)).sum(1) / n, "wrong dimension"),
    ("exercise_2", lambda x, n: (x * mask_of(x, n)).sum(1) / n.sum(), "whole batch"),
    ("exercise_2", lambda x, n: mean_in_a_loop(x, n + 1), "one token too many"),
    ("exercise_2", lambda x, n: (x * mask_of(x, n - 1)).sum(1) / n[:, None], "left out the last"),
    ("exercise_2", flat_mask, "third one"),
    ("exercise_2", lambda x, n: (x * mask_of(x, n + 1)).sum(1) / n[:, None], "summed one token too many"),
    ("exercise_2", lambda x, n: x[:, :n].mean(1), "takes one length for all texts"),
    ("exercise_2", left_out, "left out the last"),
    ("exercise_2", padding_only, "the wrong way round"),
    ("exercise_2", lambda x, n: (x * mask_of(x, n)[..., 0]).mean(1), "third one"),
    ("exercise_2", lambda x, n: masked_mean(x, n).squeeze(), r"x of shape \(2, 3, 1\) has shape \(2,\)"),
    ("exercise_2", right_while_square(masked_mean, lambda x, n: x.mean(1)), "averaged the padding too"),
    ("exercise_2", lambda x, n: list(mean_in_a_loop(x, n)), "a tensor, not list"),
    ("exercise_2", mean_that_counts_down, "changed what it was given"),
    ("exercise_2", mean_in_place, "changed what it was given"),
    ("exercise_2", lambda x, n: torch.tensor(mean_in_a_loop(x, n).tolist()), "no gradient"),
    ("exercise_2", lambda x, n: masked_mean(x, n).mean(0), "shape"),
    ("exercise_3", lambda p, right, bins: abs(p.mean() - right.float().mean()), "over all answers"),
    ("exercise_3", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i: n * (sure - share)),
     "absolute difference"),
    ("exercise_3", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i: (sure - share).abs())
     / bins, "divided by the number of bins"),
    ("exercise_3", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i: (sure - share).abs())
     / len((p * bins).ceil().unique()), "same weight"),
    ("exercise_3", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i: n * (sure - share) ** 2),
     "squared"),
    ("exercise_3", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i:
                                                     n * ((i + 0.5) / bins - share).abs()), "middle of each bin"),
    ("exercise_3", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i: n * (sure - share) ** 2)
     .sqrt(), "squared"),
    ("exercise_3", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i: (sure - share).abs()),
     "added the bins' differences up"),
    ("exercise_3", lambda p, right, bins: error_by_sums(p, right, bins) * len(p), "Divide by the number of answers"),
    ("exercise_3", lambda p, right, bins: max(error_by_sums(p[i], right[i], bins) for i in bin_masks(p, bins)),
     "the largest difference"),
    ("exercise_3", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i:
                                                     n * ((i + 1) / bins - share).abs()), "upper edge of each bin"),
    ("exercise_3", lambda p, right, bins: bin_by_bin(p, right, bins, weighted, (p * bins).round().long()),
     "rounded to the nearest edge"),
    ("exercise_3", lambda p, right, bins: torch.zeros(bins).index_add_(0, (p * bins).long(), p - right.float()).abs()
     .sum() / len(p), "a probability of 1 is in the last one"),
    ("exercise_3", error_in_place, "changed what it was given"),
    ("exercise_3", error_that_flips, "changed what it was given"),
    ("exercise_3", lambda p, right, bins: (p - right.float()).abs().mean(), "answer by answer"),
    ("exercise_3", lambda p, right, bins: ((p - right.float()) ** 2).mean(), "Brier"),
    ("exercise_3", lambda p, right, bins: 100 * error_by_sums(p, right, bins), "per cent"),
    ("exercise_3", lambda p, right, bins: bin_by_bin(p, right, bins, weighted, (p * bins).long()), "wrong bin"),
    ("exercise_3", lambda p, right, bins: bin_by_bin(p, right, bins, weighted, (p * bins).long().clamp(max=bins - 1)),
     "wrong bin"),
    ("exercise_3", partial(by_both_edges, above=torch.ge, below=torch.lt), "probability 1 are in no bin"),
    ("exercise_3", partial(by_both_edges, above=torch.ge, below=torch.le), "count twice"),
    ("exercise_3", partial(by_both_edges, above=torch.gt, below=torch.lt), "at an edge are in no bin"),
    ("exercise_3", nan_of_empty_bins, "NaN"),
    ("exercise_3", lambda p, right, bins: p - right.float(), "one number"),

    ("exercise_4", batch_by_zeros, "with a zero inside, your lengths.*count what is not 0"),
    ("exercise_4", batch_by_last_nonzero, "with zeros at the end.*last token that is not 0"),
    ("exercise_4", lambda ids: (whole_batch(ids)[0], whole_batch(ids)[1] - 1), "places of the last tokens"),
    ("exercise_4", lambda ids: (whole_batch(ids)[0], torch.full((len(ids),), max(map(len, ids)))), "longest text"),
    ("exercise_4", lambda ids: whole_batch(ids, padding_value=-1), "pad with -1, which is no id"),
    ("exercise_4", lambda ids: whole_batch(ids, padding_side="left"), "begins at the left"),
    ("exercise_4", lambda ids: whole_batch(ids)[0], "Return two tensors"),
    ("exercise_4", lambda ids: (whole_batch(ids)[0].float(), whole_batch(ids)[1]), "whole numbers"),
    ("exercise_4", batch_in_place, "changed the ids"),
    ("exercise_5", lambda texts, labels: words_alone(texts, labels), "91.3 % on average. The target is 94.0 %"),
    ("exercise_5", lambda texts, labels: texts, "a function from texts to labels, not list"),
    ("exercise_5", lambda texts, labels: lambda more: ["ham"], "returned 1 labels"),
    ("exercise_5", lambda texts, labels: lambda more: [True] * len(more), "is no label"),
]


test_right_answers_pass, test_wrong_answers, test_stubs_and_crashes = exercise_tests(check, RIGHT, WRONG)


@pytest.mark.parametrize("stub", [None, ...])
def test_stubs_that_return_dots_have_not_been_started(stub, capsys):
    for name in RIGHT:
        getattr(check, name)(lambda *arguments: stub)
        assert "not started" in capsys.readouterr().out


def test_other_errors_of_the_readers_code_are_shown_as_they_are(capsys):
    check.exercise_2(lambda x, lengths: x + "1")
    printed = capsys.readouterr().out
    assert "Your code stopped with TypeError: unsupported" in printed and "slice" not in printed
