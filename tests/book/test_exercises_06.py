"""The checks of chapter 6's exercises: wrong answers are told why, right ones pass however they are written."""

import math
from functools import partial

import numpy as np
import pytest
import torch

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


def rates(found, truth):
    hits = sum(a and b for a, b in zip(found, truth))
    precision = hits / sum(found) if any(found) else 0.0
    recall = hits / sum(truth) if any(truth) else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0


def rates_by_arrays(found, truth):
    found, truth = np.array(found), np.array(truth)
    hits = (found & truth).sum()
    return np.array([hits / max(found.sum(), 1), hits / max(truth.sum(), 1),
                     2 * hits / max(found.sum() + truth.sum(), 1)])


def rates_unguarded(found, truth):
    hits = sum(a and b for a, b in zip(found, truth))
    return hits / sum(found), hits / sum(truth), 2 * hits / (sum(found) + sum(truth))


def rates_guarded_but_for_f1(found, truth):
    precision, recall, _ = rates(found, truth)
    return precision, recall, 2 * precision * recall / (precision + recall)


def rates_guarded_for_found(found, truth):
    hits = sum(a and b for a, b in zip(found, truth))
    return hits / sum(found) if any(found) else 0.0, hits / sum(truth), 2 * hits / (sum(found) + sum(truth))


def rates_with_f1_guarded_for_found(found, truth):
    precision, recall, _ = rates(found, truth)
    return precision, recall, 2 * precision * recall / (precision + recall) if any(found) and any(truth) else 0.0


def rates_as_nan(found, truth):
    found, truth = torch.tensor(found), torch.tensor(truth)
    hits = (found & truth).sum()
    return hits / found.sum(), hits / truth.sum(), 2 * hits / (found.sum() + truth.sum())


def rates_with(change, found, truth):
    return change(*rates(found, truth))


def accuracy(found, truth):
    return sum(a == b for a, b in zip(found, truth)) / len(found)


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


def rows(x):
    return x / x.sum(-1, keepdim=True)


def shifted(p, old, new):
    return rows(p * new / old)


def shifted_logits(p, old, new):
    return (p.log() + new.log() - old.log()).softmax(-1)


def shifted_in_place(p, old, new):
    p *= new / old
    return rows(p)


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


RIGHT = {
    "exercise_1": [share_of_padding, share_by_tensors],
    "exercise_2": [rates, rates_by_arrays, lambda f, t: [torch.tensor(rate) for rate in rates(f, t)]],
    "exercise_3": [masked_mean, mean_in_a_loop, mean_by_cumulative_sums,
                   lambda x, n: x.masked_fill(~mask_of(x, n), 0).sum(1) / n[:, None]],
    "exercise_4": [shifted, shifted_logits],
    "exercise_5": [error_by_masks, error_by_sums, error_by_arrays],
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
    ("exercise_2", lambda f, t: rates_with(lambda p, r, f1: (r, p, f1), f, t), "That is the recall"),
    ("exercise_2", lambda f, t: rates_with(lambda p, r, f1: (p, p, f1), f, t), "That is the precision"),
    ("exercise_2", lambda f, t: rates_with(lambda p, r, f1: (p, r, (p + r) / 2), f, t), "ordinary mean"),
    ("exercise_2", lambda f, t: rates_with(lambda p, r, f1: (p, r, math.sqrt(p * r)), f, t), "geometric"),
    ("exercise_2", lambda f, t: rates_with(lambda p, r, f1: (p, r, f1 / 2), f, t), "factor 2"),
    ("exercise_2", lambda f, t: rates_with(lambda p, r, f1: (p, r, f1 / (2 - f1)), f, t), "count twice"),
    ("exercise_2", lambda f, t: rates_with(lambda p, r, f1: (accuracy(f, t), r, f1), f, t), "That is the accuracy"),
    ("exercise_2", lambda f, t: rates([not a for a in f], [not b for b in t]), "counted ham"),
    ("exercise_2", lambda f, t: rates_with(lambda p, r, f1: (p, r), f, t), "three numbers"),
    ("exercise_2", accuracy, "three numbers"),
    ("exercise_2", lambda f, t: rates_with(lambda p, r, f1: (1 - p, r, f1), f, t), "share of ham in what was found"),
    ("exercise_2", lambda f, t: (sum(map(min, f, t)) / len(f), *rates(f, t)[1:]), "by all texts"),
    ("exercise_2", rates_unguarded, "nothing is found, you divide by 0"),
    ("exercise_2", rates_guarded_but_for_f1, "nothing is found, you divide by 0"),
    ("exercise_2", rates_guarded_for_found, "Where no text is spam, you divide by 0"),
    ("exercise_2", lambda f, t: rates_guarded_for_found(f, t) if any(t) else rates(f, t) if any(f) else 1 / 0,
     "nothing is found and no text is spam, you divide by 0"),
    ("exercise_2", rates_with_f1_guarded_for_found, "all that is found is wrong, you divide by 0"),
    ("exercise_2", lambda f, t: rates_with(lambda p, r, f1: (p, None, None), f, t), "recall is None. Return a number"),
    ("exercise_2", lambda f, t: rates_with(lambda p, r, f1: (p, r, ...), f, t), "F1 is Ellipsis. Return a number"),
    ("exercise_2", lambda f, t: ("precision", "recall", "f1"), "precision should be one number, not str"),
    ("exercise_2", rates_as_nan, "precision is NaN"),
    ("exercise_2", lambda f, t: rates_with(lambda p, r, f1: (p if any(f) else 1.0, r, f1), f, t), "defined as 0.0"),
    ("exercise_2", lambda f, t: rates_with(lambda p, r, f1: (p, r if any(t) else 1.0, f1), f, t), "defined as 0.0"),
    ("exercise_2", lambda f, t: rates_with(lambda p, r, f1: (p, r if any(t) else None, f1), f, t),
     "Where no text is spam, recall is None. Return 0.0 where"),
    ("exercise_3", lambda x, n: x.mean(1), "averaged the padding too"),
    ("exercise_3", lambda x, n: x.sum(1) / n[:, None], "padding is in the sum"),
    ("exercise_3", lambda x, n: (x * mask_of(x, n)).sum(1), "That is the sum"),
    ("exercise_3", lambda x, n: (x * mask_of(x, n)).mean(1), "divided by all places"),
    ("exercise_3", lambda x, n: x[torch.arange(len(x)), n - 1], "last token, not the mean"),
    ("exercise_3", lambda x, n: (x * mask_of(x, n)).sum(1) / n, "wrong dimension"),
    ("exercise_3", lambda x, n: (x * mask_of(x, n)).sum(1) / n.sum(), "whole batch"),
    ("exercise_3", lambda x, n: mean_in_a_loop(x, n + 1), "one token too many"),
    ("exercise_3", lambda x, n: (x * mask_of(x, n - 1)).sum(1) / n[:, None], "left out the last"),
    ("exercise_3", flat_mask, "third one"),
    ("exercise_3", lambda x, n: (x * mask_of(x, n + 1)).sum(1) / n[:, None], "summed one token too many"),
    ("exercise_3", lambda x, n: x[:, :n].mean(1), "takes one length for all texts"),
    ("exercise_3", left_out, "left out the last"),
    ("exercise_3", padding_only, "the wrong way round"),
    ("exercise_3", lambda x, n: (x * mask_of(x, n)[..., 0]).mean(1), "third one"),
    ("exercise_3", lambda x, n: masked_mean(x, n).squeeze(), r"x of shape \(2, 3, 1\) has shape \(2,\)"),
    ("exercise_3", right_while_square(masked_mean, lambda x, n: x.mean(1)), "averaged the padding too"),
    ("exercise_3", lambda x, n: list(mean_in_a_loop(x, n)), "a tensor, not list"),
    ("exercise_3", mean_that_counts_down, "changed what it was given"),
    ("exercise_3", mean_in_place, "changed what it was given"),
    ("exercise_3", lambda x, n: torch.tensor(mean_in_a_loop(x, n).tolist()), "no gradient"),
    ("exercise_3", lambda x, n: masked_mean(x, n).mean(0), "shape"),
    ("exercise_4", lambda p, old, new: p * new / old, "adds up to 1: divide"),
    ("exercise_4", lambda p, old, new: shifted(p, new, old), "are exchanged"),
    ("exercise_4", lambda p, old, new: rows(p * new), "by new only"),
    ("exercise_4", lambda p, old, new: rows(p / old), "by old only"),
    ("exercise_4", lambda p, old, new: (p * new / old).softmax(-1), "no logits"),
    ("exercise_4", lambda p, old, new: p * new / old / (p * new / old).sum(0), "the columns add up"),
    ("exercise_4", lambda p, old, new: p * new / old / (p * new / old).sum(), "all texts"),
    ("exercise_4", lambda p, old, new: p * new / old / (p * new / old).sum(-1), "keepdim"),
    ("exercise_4", lambda p, old, new: rows(p * (new / old)[:, None]), "Nothing has changed"),
    ("exercise_4", lambda p, old, new: rows(p + new - old), "added the difference"),
    ("exercise_4", lambda p, old, new: p * old / new, "exchanged, and a row no longer"),
    ("exercise_4", lambda p, old, new: rows(p * (new - old)), "multiplied by the difference"),
    ("exercise_4", lambda p, old, new: p * rows(new / old), "renormalised the factors"),
    ("exercise_4", lambda p, old, new: p * (new / old)[:, None], "factors belong to the classes"),
    ("exercise_4", lambda p, old, new: torch.nn.functional.normalize(p * new / old), "root of the sum of squares"),
    ("exercise_4", right_while_square(shifted, lambda p, old, new: p), "Nothing has changed"),
    ("exercise_4", lambda p, old, new: shifted(p, old, new).tolist(), "a tensor, not list"),
    ("exercise_4", shifted_in_place, "changed what it was given"),
    ("exercise_5", lambda p, right, bins: abs(p.mean() - right.float().mean()), "over all answers"),
    ("exercise_5", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i: n * (sure - share)),
     "absolute difference"),
    ("exercise_5", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i: (sure - share).abs())
     / bins, "divided by the number of bins"),
    ("exercise_5", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i: (sure - share).abs())
     / len((p * bins).ceil().unique()), "same weight"),
    ("exercise_5", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i: n * (sure - share) ** 2),
     "squared"),
    ("exercise_5", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i:
                                                     n * ((i + 0.5) / bins - share).abs()), "middle of each bin"),
    ("exercise_5", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i: n * (sure - share) ** 2)
     .sqrt(), "squared"),
    ("exercise_5", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i: (sure - share).abs()),
     "added the bins' differences up"),
    ("exercise_5", lambda p, right, bins: error_by_sums(p, right, bins) * len(p), "Divide by the number of answers"),
    ("exercise_5", lambda p, right, bins: max(error_by_sums(p[i], right[i], bins) for i in bin_masks(p, bins)),
     "the largest difference"),
    ("exercise_5", lambda p, right, bins: bin_by_bin(p, right, bins, lambda n, sure, share, i:
                                                     n * ((i + 1) / bins - share).abs()), "upper edge of each bin"),
    ("exercise_5", lambda p, right, bins: bin_by_bin(p, right, bins, weighted, (p * bins).round().long()),
     "rounded to the nearest edge"),
    ("exercise_5", lambda p, right, bins: torch.zeros(bins).index_add_(0, (p * bins).long(), p - right.float()).abs()
     .sum() / len(p), "a probability of 1 is in the last one"),
    ("exercise_5", error_in_place, "changed what it was given"),
    ("exercise_5", error_that_flips, "changed what it was given"),
    ("exercise_5", lambda p, right, bins: (p - right.float()).abs().mean(), "answer by answer"),
    ("exercise_5", lambda p, right, bins: ((p - right.float()) ** 2).mean(), "Brier"),
    ("exercise_5", lambda p, right, bins: 100 * error_by_sums(p, right, bins), "per cent"),
    ("exercise_5", lambda p, right, bins: bin_by_bin(p, right, bins, weighted, (p * bins).long()), "wrong bin"),
    ("exercise_5", lambda p, right, bins: bin_by_bin(p, right, bins, weighted, (p * bins).long().clamp(max=bins - 1)),
     "wrong bin"),
    ("exercise_5", partial(by_both_edges, above=torch.ge, below=torch.lt), "probability 1 are in no bin"),
    ("exercise_5", partial(by_both_edges, above=torch.ge, below=torch.le), "count twice"),
    ("exercise_5", partial(by_both_edges, above=torch.gt, below=torch.lt), "at an edge are in no bin"),
    ("exercise_5", nan_of_empty_bins, "NaN"),
    ("exercise_5", lambda p, right, bins: p - right.float(), "one number"),
]


test_right_answers_pass, test_wrong_answers, test_stubs_and_crashes = exercise_tests(check, RIGHT, WRONG)


@pytest.mark.parametrize("stub", [None, ...])
def test_three_stubs_and_stubs_that_return_dots_have_not_been_started(stub, capsys):
    for name in RIGHT:
        getattr(check, name)(lambda *arguments: stub)
        assert "not started" in capsys.readouterr().out
    check.exercise_2(lambda *arguments: (stub,) * 3)
    assert "not started" in capsys.readouterr().out


def test_other_errors_of_the_readers_code_are_shown_as_they_are(capsys):
    check.exercise_3(lambda x, lengths: x + "1")
    printed = capsys.readouterr().out
    assert "Your code stopped with TypeError: unsupported" in printed and "slice" not in printed
