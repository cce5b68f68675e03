"""Checks for the exercises of chapter 1, understanding large language models."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from llmbook.book.exercises import Wrong, compare, exercise, expect, expect_number, expect_tensor

_TEXT = "the clock was fast and the clock was right and the road was dry".split()


def _pairs(words: list[str], n_context: int) -> list[tuple[list[str], str]]:
    return [(words[max(0, i - n_context) : i], words[i]) for i in range(1, len(words))]


@exercise("1.1", "Every text is a heap of labelled questions; chapter 2 cuts them into batches.")
def exercise_1(labelled_examples: Callable[[list[str], int], list[tuple[list[str], str]]]) -> None:
    for words, n_context in ((_TEXT, 3), (_TEXT[:5], 2), (_TEXT[:6], 1), (_TEXT[:3], 8)):
        given = list(words)
        got = _read_pairs(labelled_examples(given, n_context))
        expect(given == words, "Your function changed the list of words that it was given.")
        right = _pairs(words, n_context)
        n = len(words)
        mistakes = [
            (_pairs(words[:-1], n_context), "The last word is a label too: it has words before it."),
            ([([], words[0]), *right], "The first word has nothing before it, so it is no question. Begin with the "
             "second."),
            ([(words[max(0, i - n_context) : i + 1], words[i]) for i in range(1, n)],
             "Your contexts hold the label itself. A slice words[a:b] ends before words[b]."),
            ([(context, words[i - 1]) for i, (context, _) in enumerate(right, 1)],
             "Your label is the last word of the context. It is the word after it."),
            ([(words[i - n_context : i], words[i]) for i in range(1, n)],
             "Near the beginning i - n_context is below 0, and Python counts a negative start from the end of the "
             "list. Begin the slice at max(0, i - n_context)."),
            ([(words[i - n_context : i], words[i]) for i in range(n_context, n)],
             "You left out the questions at the beginning, whose contexts are shorter than n_context. They count too."),
            ([(words[:i], words[i]) for i in range(1, n)],
             "Your contexts hold all words before. Keep the last n_context of them."),
            ([(words[: min(i, n_context)], words[i]) for i in range(1, n)],
             "Your contexts are the first words of the text. Take those right before the label."),
            ([(context[::-1], label) for context, label in right],
             "Your contexts run backwards. Keep the order of the text."),
            ([(words[i + 1 : i + 1 + n_context], words[i]) for i in range(n - 1)],
             "Your contexts are the words after the label. The context comes before it."),
        ]
        _refuse(got, right, mistakes, f"n_context={n_context}, words {' '.join(words)!r}")


def _read_pairs(answer: Any) -> list[tuple[list[str], str]]:
    if answer is None or answer is ...:
        raise NotImplementedError
    try:
        pairs = [tuple(pair) for pair in answer]
    except TypeError:
        raise Wrong(f"Return a list of pairs (context, word), not {type(answer).__name__}.") from None
    expect(all(len(pair) == 2 for pair in pairs), "Each entry should be a pair, (context, word).")
    for context, label in pairs:
        expect(not isinstance(context, str), f"The context {context!r} is a string: return a list of words.")
        expect(isinstance(label, str), f"The second of each pair should be one word, not {type(label).__name__}.")
    return [(list(context), label) for context, label in pairs]


def _refuse(got: list, right: list, mistakes: list[tuple[list, str]], where: str) -> None:
    """Raise `Wrong` unless got is right: the hint of the mistake that gives got, and the first place that differs."""
    if got == right:
        return
    hint = next((text for value, text in mistakes if got == value), "")
    if len(got) != len(right):
        raise Wrong(f"For {where} you return {len(got)} pairs, expected {len(right)}. {hint}".rstrip())
    place = next(i for i, (a, b) in enumerate(zip(got, right)) if a != b)
    raise Wrong(f"For {where} pair {place} is {got[place]}, expected {right[place]}. {hint}".rstrip())


@exercise("1.2", "That is a whole bigram model, one row at a time.")
def exercise_2(next_word_probabilities: Callable[[list[str], str], dict[str, float]]) -> None:
    for words, word in ((_TEXT, "the"), (_TEXT, "was"), (_TEXT[:7], "clock"), ("go go go stop go".split(), "go")):
        where = f"For {word!r} in {' '.join(words)!r}"
        got = _read_probabilities(next_word_probabilities(list(words), word))
        after = Counter(b for a, b in zip(words, words[1:]) if a == word)
        before = Counter(a for a, b in zip(words, words[1:]) if b == word)
        right = {other: n / after.total() for other, n in after.items()}
        if got.keys() != right.keys():
            hint = "Those are the words before it." if got.keys() == before.keys() else ""
            hint = hint or ("You list words that never follow it. Leave them out." if got.keys() > right.keys() else "")
            raise Wrong(f"{where} your words are {sorted(got)}, expected {sorted(right)}. {hint}".rstrip())
        for other, n in after.items():
            mistakes = [
                (n, "That is the count. Divide by how often anything follows the word."),
                (n / len(words), "You divided by the length of the text. Divide by how often anything follows the "
                 "word."),
                (n / (len(words) - 1), "You divided by the number of all pairs. Divide by the pairs that begin with "
                 "the word."),
                (n / words.count(word), "You divided by how often the word occurs. Once it is the last word of the "
                 "text, and nothing follows it there."),
                (n / words.count(other), "You divided by how often the next word occurs. Divide by the pairs that "
                 "begin with the word before it."),
                (1 / len(after), "You gave each next word the same probability. Count how often each follows."),
                (100 * n / after.total(), "That is in per cent: return probabilities between 0 and 1."),
            ]
            compare(got[other], right[other], mistakes, f"{where} the probability of {other!r} is")
    try:
        got = next_word_probabilities(["no", "more"], "more")
    except (ZeroDivisionError, KeyError) as error:
        raise Wrong(f"In 'no more' nothing follows 'more', and your code stops with {type(error).__name__}. Return an "
                    "empty dictionary.") from None
    expect(_read_probabilities(got) == {}, "In 'no more' nothing follows 'more': return an empty dictionary.")


def _read_probabilities(answer: Any) -> dict[str, float]:
    if answer is None or answer is ...:
        raise NotImplementedError
    expect(isinstance(answer, dict), f"Return a dictionary, word: probability, not {type(answer).__name__}.")
    return {word: expect_number(value, f"The probability of {word!r}") for word, value in answer.items()}


@exercise("1.3", "Put in GPT-3's five sources: those are the bars of section 1.10.")
def exercise_3(times_seen: Callable[[Sequence[float], Sequence[float], float], Sequence[float]]) -> None:
    for sizes, shares, total in (([10.0, 40.0], [3.0, 1.0], 20.0), ([410, 19, 12, 55, 3], [60, 22, 8, 8, 3], 300),
                                 ([5.0, 2.0, 8.0], [0.5, 0.3, 0.2], 30.0)):
        got = _read_numbers(times_seen(list(sizes), list(shares), total), len(sizes))
        whole = sum(shares)
        for place, (size, share, value) in enumerate(zip(sizes, shares, got)):
            mistakes = [
                (share * total / size, f"You did not divide the share by the sum of all shares, here {whole:g}."),
                (share / 100 * total / size, f"You took the shares for per cent. They add up to {whole:g}: divide by "
                 "that."),
                (share / whole * total, "Those are the tokens drawn from the source. Divide by its size."),
                (size / (share / whole * total), "That is upside down: tokens drawn from the source, divided by its "
                 "size."),
                (total / sum(sizes), "You drew from each source in proportion to its size. The shares decide."),
                (share / whole * total / sum(sizes), "You divided by the size of all sources. Divide by that of this "
                 "source."),
                (share / whole * sum(sizes) / size, "You drew as many tokens as all sources hold. Training reads "
                 "`total`."),
                (share / whole, "That is the source's share of the training. Times total, divided by the source's "
                 "size, it says how often it is read."),
            ]
            compare(value, share / whole * total / size, mistakes,
                    f"For sizes {sizes}, shares {shares} and a total of {total:g}, source {place} is read")


def _read_numbers(answer: Any, n: int) -> list[float]:
    if answer is None or answer is ...:
        raise NotImplementedError
    try:
        values = list(answer)
    except TypeError:
        raise Wrong(f"Return a list, one number a source, not {type(answer).__name__}.") from None
    expect(len(values) == n, f"Return one number for each of the {n} sources; you return {len(values)}.")
    return [expect_number(value, f"Number {place} of the list") for place, value in enumerate(values)]


@exercise("1.4", "Try it on GPT-3 with the speed of your own machine.")
def exercise_4(training_days: Callable[[float, float, float, float], float]) -> None:
    for n, d, peak, used in ((1e6, 1e7, 1e10, 0.5), (175e9, 300e9, 312e12, 0.3), (8e9, 15e12, 989e12, 0.4)):
        got = expect_number(training_days(n, d, peak, used), "The number of days")
        seconds = 6 * n * d / (peak * used)
        right = seconds / 86_400
        mistakes = [
            (seconds, "Those are seconds. A day has 24 × 60 × 60 of them."),
            (seconds / 60, "Those are minutes. An hour has 60 of them, a day 24 hours."),
            (seconds / 3600, "Those are hours. A day has 24."),
            (right / 3, "You counted 2 operations a parameter and token, the forward pass alone. Backwards takes 4 "
             "more."),
            (right / 6, "You left out the 6: operations a parameter and token."),
            (right * 2 / 3, "You counted 4 operations, the backward pass alone. Forwards takes 2 more."),
            (right * used, "You left the utilisation out. Only that share of the peak is reached."),
            (right * used**2, "You multiplied the time by the utilisation. A machine that reaches less takes longer: "
             "divide by it."),
            (6 * n * d, "Those are the operations. Divide by how many are done in a second, and seconds by those of "
             "a day."),
            (1 / right, "That is upside down: operations, divided by operations a second."),
        ]
        compare(got, right, mistakes, f"For {n:.0e} parameters, {d:.0e} tokens, a peak of {peak:.2e} and a utilisation "
                f"of {used} you return")


@exercise("1.5", "One row decides what a token may know. In chapter 3 such a mask enters the attention.")
def exercise_5(prefix_mask: Callable[[int, int], Tensor]) -> None:
    for prompt, answer in ((3, 4), (4, 2), (1, 3), (5, 0), (0, 4)):
        n = prompt + answer
        got = expect_tensor(prefix_mask(prompt, answer), (n, n), "The mask")
        expect(got.dtype == torch.bool, f"The mask has dtype {got.dtype}, expected torch.bool.")
        right = torch.ones(n, n).tril().bool()
        right[:prompt, :prompt] = True
        if torch.equal(got, right):
            continue
        row, column = (got != right).nonzero()[0].tolist()
        is_what = "may look" if got[row, column] else "may not look"
        raise Wrong(f"For prompt={prompt} and answer={answer}, token {row} {is_what} at token {column} in your mask. "
                    f"{_mask_mistake(got, right, prompt)}".rstrip())


def _mask_mistake(got: Tensor, right: Tensor, prompt: int) -> str:
    n = len(right)
    causal = torch.ones(n, n).tril().bool()
    if torch.equal(got, ~right):
        return "Your mask is turned over: True means that a token may look."
    if torch.equal(got, right.T):
        return "Rows and columns are exchanged. The row is the token that looks, the column what it looks at."
    if got.all():
        return "Everyone sees everything: the answer would be read before it is written."
    if torch.equal(got, causal):
        return "That is GPT's causal mask. Within the prompt, tokens also look at later ones."
    if not got.diagonal().all():
        return "A token may look at itself: the diagonal is True."
    if got[:prompt, prompt:].any():
        return "The prompt sees the answer, which is not written yet."
    if not got[prompt:, :prompt].all():
        return "The answer must see the whole prompt."
    if (got & causal.T & ~causal)[prompt:, prompt:].any():
        return "A token of the answer sees a later one. Within the answer the mask is causal."
    if not got[:prompt, :prompt].all():
        return "All tokens of the prompt look at all tokens of the prompt."
    return "Within the answer, a token looks at itself and at all earlier tokens."
