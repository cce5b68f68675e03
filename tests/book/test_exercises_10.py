"""Chapter 10's checks: right answers pass, however written; wrong ones are named."""

import math
from collections import Counter

import torch

from llmbook.book.exercises import chapter_10 as check
from tests.support.exercise_tests import exercise_tests


def clipped_share(words, reference, n):
    found, known = (Counter(zip(*(text[start:] for start in range(n)))) for text in (words, reference))
    return sum((found & known).values()) / sum(found.values())


def clipped_by_hand(words, reference, n):
    left = [reference[i : i + n] for i in range(len(reference) - n + 1)]
    right = total = 0
    for i in range(len(words) - n + 1):
        total += 1
        if words[i : i + n] in left:
            left.remove(words[i : i + n])
            right += 1
    return torch.tensor(right / total)


def unclipped(words, reference, n):
    known = [reference[i : i + n] for i in range(len(reference) - n + 1)]
    runs = [words[i : i + n] for i in range(len(words) - n + 1)]
    return sum(run in known for run in runs) / len(runs)


def recall(words, reference, n):
    return clipped_share(words, reference, n) * (len(words) - n + 1) / (len(reference) - n + 1)


def teacher_rows(target, pad_id):
    targets = target[:, 1:].clone()
    targets[targets == pad_id] = -100
    return target[:, :-1], targets


def lowest_loss(size, smoothing):
    share = torch.full((size,), smoothing / size, dtype=torch.double)
    share[0] += 1 - smoothing
    return torch.special.entr(share).sum()


def lowest_by_formula(size, smoothing):
    best, other = 1 - smoothing + smoothing / size, smoothing / size
    return -best * math.log(best) - (size - 1) * (other * math.log(other) if other else 0)


def fuse(first, second):
    return sum(1 / (1 + scores.argsort(descending=True).argsort()) for scores in (first, second))


def best_rank(first, second):
    return -torch.minimum(*(scores.argsort(descending=True).argsort() for scores in (first, second))).float()


test_right, test_wrong, test_stubs = exercise_tests(
    check,
    {"exercise_1": [clipped_share, clipped_by_hand],
     "exercise_2": [lambda n, m: (n * n, m * (m + 1) // 2, n * m), lambda n, m: [n**2, sum(range(1, m + 1)), m * n]],
     "exercise_3": [teacher_rows, lambda t, pad: (t[:, :-1], torch.where(t[:, 1:] == pad, -100, t[:, 1:]))],
     "exercise_4": [lowest_loss, lowest_by_formula],
     "exercise_5": [fuse, best_rank]},
    [("exercise_1", unclipped, "at most as often as the"),
     ("exercise_1", recall, "of the output, not"),
     ("exercise_1", lambda words, reference, n: 0.123, "Count runs of n words"),
     ("exercise_2", lambda n, m: (n * (n + 1) // 2, m * (m + 1) // 2, n * m), "no causal mask"),
     ("exercise_2", lambda n, m: (n * n, m * m, n * m), "no later ones"),
     ("exercise_2", lambda n, m: (n * n, m * (m + 1) // 2, m * (n + m)), "looks at the source only"),
     ("exercise_2", lambda n, m: (n, m, n), "Count the pairs"),
     ("exercise_2", lambda n, m: n * n, "Return three numbers"),
     ("exercise_3", lambda t, pad: (t, t.masked_fill(t == pad, -100)), "reads the token that it is to predict"),
     ("exercise_3", lambda t, pad: (t[:, :-1], t[:, 1:]), "still hold padding"),
     ("exercise_3", lambda t, pad: (t[:, 1:], t[:, 1:]), "without its last token"),
     ("exercise_3", lambda t, pad: (t[:, :-2], t[:, 2:]), "4 have a next one"),
     ("exercise_3", lambda t, pad: (t[:, :-1], t[:, 1:].masked_fill((t[:, 1:] == pad) | (t[:, 1:] == 2), -100)),
      "end token must be a target"),
     ("exercise_3", lambda t, pad: (t[:, :-1], t), "each input has one target"),
     ("exercise_3", lambda t, pad: t[:, :-1], "Return inputs and targets"),
     ("exercise_4", lambda size, smoothing: -math.log(1 - smoothing + smoothing / size), "each costs something"),
     ("exercise_4", lambda size, smoothing: 0.0, "cross-entropy with itself"),
     ("exercise_5", lambda first, second: first + second, "use the ranks, not the scores"),
     ("exercise_5", lambda first, second: second, "use the ranks, not the scores")],
)
