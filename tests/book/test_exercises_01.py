"""The checks of chapter 1's exercises: wrong answers are told why, right ones pass however they are written."""

from collections import Counter, defaultdict
from functools import partial

import numpy as np
import torch

from llmbook.book.exercises import chapter_01 as check
from tests.support.exercise_tests import exercise_tests


def pairs(words, n):
    return [(words[max(0, i - n) : i], words[i]) for i in range(1, len(words))]


def pairs_by_growing(words, n):
    found, context = [], []
    for word in words:
        if context:
            found.append((tuple(context), word))
        context = [*context, word][-n:]
    return found


def pairs_with(context_of, words, n, first=1, last=None):
    return [(context_of(words, n, i), words[i]) for i in range(first, len(words) if last is None else last)]


def in_place(words, n):
    found = pairs(words, n)
    words.pop()
    return found


def probabilities(words, word):
    counts = Counter(b for a, b in zip(words, words[1:]) if a == word)
    return {other: n / sum(counts.values()) for other, n in counts.items()}


def probabilities_by_table(words, word):
    table = defaultdict(list)
    for place in range(len(words) - 1):
        table[words[place]].append(words[place + 1])
    return {other: np.mean([other == found for found in table[word]]) for other in table[word]}


def divided_by(divisor, words, word):
    counts = Counter(b for a, b in zip(words, words[1:]) if a == word)
    return {other: n / divisor(words, word, other, counts) for other, n in counts.items()}


def of_all_words(words, word):
    counts = Counter(b for a, b in zip(words, words[1:]) if a == word)
    return {other: counts[other] / max(sum(counts.values()), 1) for other in words}


def unguarded(words, word):
    total = sum(a == word for a in words[:-1])
    table = {(a, b): 1 / total for a, b in zip(words, words[1:])}
    return probabilities(words, word) if table else {}


def seen(sizes, shares, total):
    return [share / sum(shares) * total / size for size, share in zip(sizes, shares)]


def seen_by_arrays(sizes, shares, total):
    sizes, shares = torch.tensor(sizes).double(), torch.tensor(shares).double()
    return shares / shares.sum() * total / sizes


def seen_with(change, sizes, shares, total):
    return [change(size, share, sum(shares), total, sum(sizes)) for size, share in zip(sizes, shares)]


def days(n, d, peak, used):
    return 6 * n * d / (peak * used) / 86_400


def days_step_by_step(n, d, peak, used):
    hours = torch.tensor(2 * n * d + 4 * n * d, dtype=torch.float64) / peak / used / 60 / 60
    return hours / 24


def mask(prompt, answer):
    n = prompt + answer
    allowed = torch.ones(n, n).tril().bool()
    allowed[:prompt, :prompt] = True
    return allowed


def mask_by_places(prompt, answer):
    places = torch.arange(prompt + answer)
    return (places[None, :] <= places[:, None]) | (places[None, :] < prompt)


def mask_in_loops(prompt, answer):
    n = prompt + answer
    return torch.tensor([[j < prompt or j <= i for j in range(n)] for i in range(n)])


def causal(n):
    return torch.ones(n, n).tril().bool()


def blind_to_itself(prompt, answer):
    return mask(prompt, answer) & ~torch.eye(prompt + answer).bool()


def changed(prompt, answer, rows, columns, value):
    allowed = mask(prompt, answer)
    parts = {"prompt": slice(0, prompt), "answer": slice(prompt, None)}
    allowed[parts[rows], parts[columns]] = value
    return allowed


def blocks(prompt, answer):
    return torch.block_diag(torch.ones(prompt, prompt), causal(answer)).bool()


def window(prompt, answer):
    return changed(prompt, answer, "answer", "answer", torch.eye(answer).bool())


RIGHT = {
    "exercise_1": [pairs, pairs_by_growing],
    "exercise_2": [probabilities, probabilities_by_table],
    "exercise_3": [seen, seen_by_arrays],
    "exercise_4": [days, days_step_by_step],
    "exercise_5": [mask, mask_by_places, mask_in_loops],
}

WRONG = [
    ("exercise_1", partial(pairs_with, lambda w, n, i: w[max(0, i - n) : i + 1]), "hold the label itself"),
    ("exercise_1", partial(pairs_with, lambda w, n, i: w[max(0, i - n) : i], first=0), "no question"),
    ("exercise_1", partial(pairs_with, lambda w, n, i: w[max(0, i - n) : i], last=-1), "you return 0 pairs"),
    ("exercise_1", lambda w, n: pairs(w, n)[:-1], "last word is a label"),
    ("exercise_1", lambda w, n: [(w[max(0, i - n) : i], w[i - 1]) for i in range(1, len(w))], "word after it"),
    ("exercise_1", partial(pairs_with, lambda w, n, i: w[i - n : i]), "negative start"),
    ("exercise_1", lambda w, n: [(w[i - n : i], w[i]) for i in range(n, len(w))], "shorter than n_context"),
    ("exercise_1", partial(pairs_with, lambda w, n, i: w[:i]), "all words before"),
    ("exercise_1", partial(pairs_with, lambda w, n, i: w[: min(i, n)]), "first words of the text"),
    ("exercise_1", partial(pairs_with, lambda w, n, i: w[max(0, i - n) : i][::-1]), "backwards"),
    ("exercise_1", lambda w, n: [(w[i + 1 : i + 1 + n], w[i]) for i in range(len(w) - 1)], "after the label"),
    ("exercise_1", lambda w, n: [(" ".join(c), x) for c, x in pairs(w, n)], "is a string"),
    ("exercise_1", lambda w, n: [(c, [x]) for c, x in pairs(w, n)], "one word, not list"),
    ("exercise_1", lambda w, n: [(*c, x) for c, x in pairs(w, n)], "should be a pair"),
    ("exercise_1", lambda w, n: len(w), "list of pairs"),
    ("exercise_1", in_place, "changed the list"),
    ("exercise_2", partial(divided_by, lambda w, word, other, c: 1), "That is the count"),
    ("exercise_2", partial(divided_by, lambda w, word, other, c: len(w)), "length of the text"),
    ("exercise_2", partial(divided_by, lambda w, word, other, c: len(w) - 1), "number of all pairs"),
    ("exercise_2", partial(divided_by, lambda w, word, other, c: w.count(word)), "last word of the text"),
    ("exercise_2", partial(divided_by, lambda w, word, other, c: w.count(other)), "how often the next word occurs"),
    ("exercise_2", partial(divided_by, lambda w, word, other, c: c[other] * len(c)), "the same probability"),
    ("exercise_2", partial(divided_by, lambda w, word, other, c: sum(c.values()) / 100), "per cent"),
    ("exercise_2", lambda w, word: probabilities(w[::-1], word), "words before it"),
    ("exercise_2", of_all_words, "never follow it"),
    ("exercise_2", unguarded, "ZeroDivisionError"),
    ("exercise_2", lambda w, word: probabilities(w, word) or {word: 0.0}, "empty dictionary"),
    ("exercise_2", lambda w, word: list(probabilities(w, word).items()), "Return a dictionary"),
    ("exercise_3", partial(seen_with, lambda size, share, whole, n, every: share * n / size), "did not divide"),
    ("exercise_3", partial(seen_with, lambda size, share, whole, n, every: share / 100 * n / size), "for per cent"),
    ("exercise_3", partial(seen_with, lambda size, share, whole, n, every: share / whole * n), "tokens drawn"),
    ("exercise_3", partial(seen_with, lambda size, share, whole, n, every: size * whole / share / n), "upside down"),
    ("exercise_3", partial(seen_with, lambda size, share, whole, n, every: n / every), "in proportion to its size"),
    ("exercise_3", partial(seen_with, lambda size, share, whole, n, every: share / whole * n / every),
     "size of all sources"),
    ("exercise_3", partial(seen_with, lambda size, share, whole, n, every: share / whole * every / size),
     "Training reads"),
    ("exercise_3", partial(seen_with, lambda size, share, whole, n, every: share / whole), "share of the training"),
    ("exercise_3", lambda sizes, shares, total: seen(sizes, shares, total)[:1], "one number for each"),
    ("exercise_3", lambda sizes, shares, total: sum(seen(sizes, shares, total)), "Return a list"),
    ("exercise_4", lambda n, d, peak, used: days(n, d, peak, used) * 86_400, "Those are seconds"),
    ("exercise_4", lambda n, d, peak, used: days(n, d, peak, used) * 1440, "Those are minutes"),
    ("exercise_4", lambda n, d, peak, used: days(n, d, peak, used) * 24, "Those are hours"),
    ("exercise_4", lambda n, d, peak, used: days(n, d, peak, used) / 3, "forward pass alone"),
    ("exercise_4", lambda n, d, peak, used: days(n, d, peak, used) / 6, "left out the 6"),
    ("exercise_4", lambda n, d, peak, used: days(n, d, peak, used) / 1.5, "backward pass alone"),
    ("exercise_4", lambda n, d, peak, used: days(n, d, peak, 1), "utilisation out"),
    ("exercise_4", lambda n, d, peak, used: days(n, d, peak, 1) * used, "divide by it"),
    ("exercise_4", lambda n, d, peak, used: 6 * n * d, "Those are the operations"),
    ("exercise_4", lambda n, d, peak, used: 1 / days(n, d, peak, used), "upside down"),
    ("exercise_4", lambda n, d, peak, used: f"{days(n, d, peak, used)} days", "one number"),
    ("exercise_5", lambda p, a: ~mask(p, a), "turned over"),
    ("exercise_5", lambda p, a: mask(p, a).T, "exchanged"),
    ("exercise_5", lambda p, a: torch.ones(p + a, p + a).bool(), "sees everything"),
    ("exercise_5", lambda p, a: causal(p + a), "GPT's causal mask"),
    ("exercise_5", blind_to_itself, "the diagonal"),
    ("exercise_5", partial(changed, rows="prompt", columns="answer", value=True), "prompt sees the answer"),
    ("exercise_5", blocks, "see the whole prompt"),
    ("exercise_5", partial(changed, rows="answer", columns="answer", value=True), "sees a later one"),
    ("exercise_5", lambda p, a: mask(p, a) & (causal(p + a) | (torch.arange(p + a) > 1)), "All tokens of the prompt"),
    ("exercise_5", window, "all earlier tokens"),
    ("exercise_5", lambda p, a: mask(p, a).float(), "torch.bool"),
    ("exercise_5", lambda p, a: mask(p, a)[None], "shape"),
    ("exercise_5", lambda p, a: mask(p, a).tolist(), "a tensor"),
]


test_right_answers_pass, test_wrong_answers, test_stubs_and_crashes = exercise_tests(check, RIGHT, WRONG)
