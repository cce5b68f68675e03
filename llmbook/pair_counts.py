"""Counts of neighbouring pairs that are kept up to date while a byte-pair encoding learns: what makes
`llmbook.text.train_bpe` fast. The loop, and a plain version that counts again for each merge, are chapter 2's."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import regex

from .tokenizing import utf8

__all__ = ["PairCounts", "check_bpe_settings", "count_chunks", "merge_pair"]


def check_bpe_settings(text: str | Iterable[str], vocab_size: int, special_tokens: Sequence[str], pattern: str) -> None:
    """Raises ValueError, in one line, for arguments of `train_bpe` that no encoding can be learned with."""
    if isinstance(text, bytes) or not isinstance(text, Iterable):
        raise ValueError(f"text is {text!r:.40}: give a string or an iterable of them")
    if isinstance(special_tokens, str):
        raise ValueError(f"special_tokens is one string: write [{special_tokens!r}], a list")
    if len(set(special_tokens)) < len(special_tokens) or "" in special_tokens:
        raise ValueError(f"special_tokens {list(special_tokens)} must be different and not empty")
    smallest = 256 + len(special_tokens)
    if not isinstance(vocab_size, int) or vocab_size < smallest:
        raise ValueError(f"vocab_size ({vocab_size!r}) is too small: 256 bytes and {len(special_tokens)} special "
                         f"tokens need at least {smallest}")
    try:
        regex.compile(pattern)
    except (regex.error, TypeError) as error:
        raise ValueError(f"pattern {pattern!r} is not a regular expression ({error})") from None


def count_chunks(text: str | Iterable[str], pattern: str, special_tokens: Sequence[str] = ()) -> Counter[bytes]:
    """How often each chunk of a text occurs, as UTF-8 bytes: the matches of `pattern`.

    No chunk crosses a special token of a text, or the border of two documents.

    Raises:
        ValueError: for a document that is no string or holds half of a surrogate pair, and if there is no chunk but
            white space.
    """
    if isinstance(text, str):
        borders = "|".join(map(regex.escape, special_tokens))
        text = regex.split(borders, text) if special_tokens else [text]
    counts: Counter[str] = Counter()
    for document in text:
        if not isinstance(document, str):
            raise ValueError(f"a document is {document!r:.40}: it must be a string")
        counts.update(match.group() for match in regex.finditer(pattern, document))
    if all(chunk.isspace() for chunk in counts):
        raise ValueError("text is empty: there is nothing to learn merges from")
    return Counter({utf8(chunk): count for chunk, count in counts.items()})


def merge_pair(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """`ids` with each occurrence of `pair`, left to right and without overlap, replaced by `new_id`."""
    merged: list[int] = []
    for id in ids:
        if merged and (merged[-1], id) == pair:
            merged[-1] = new_id
        else:
            merged.append(id)
    return merged


class PairCounts:
    """Counts of neighbouring pairs over all distinct chunks, kept up to date merge by merge.

    A merge changes few chunks, so `merge` goes only to those that hold the pair: it takes their pairs out of the
    counts, joins, and puts their new pairs in. The most frequent pair is on top of a heap. Only the pairs that a merge
    made are pushed; all others can only become rarer, and one that did is put back with its count when it comes out.

    Attributes:
        words: the ids of each distinct chunk, bytes at first.
        frequencies: how often each of them occurs.
        counts: pair of ids -> how often it occurs in all chunks.
        places: pair -> the indices of the words that hold it.
        heap: (minus a count, pair), one entry for each pair; its count may be too high, never too low.
    """

    def __init__(self, chunks: Counter[bytes]):
        self.words = [list(chunk) for chunk in chunks]
        self.frequencies = list(chunks.values())
        self.counts: defaultdict[tuple[int, int], int] = defaultdict(int)
        self.places: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        for index in range(len(self.words)):
            self._add(index, sign=1)
        self.heap = [(-count, pair) for pair, count in self.counts.items()]
        heapq.heapify(self.heap)

    def _add(self, index: int, sign: int) -> None:
        """Put the pairs of one word into the counts (sign 1) or take them out (-1)."""
        word, frequency = self.words[index], self.frequencies[index]
        for pair in zip(word, word[1:]):
            self.counts[pair] += sign * frequency
            (self.places[pair].add if sign > 0 else self.places[pair].discard)(index)

    def most_common(self) -> tuple[int, int] | None:
        """The most frequent pair; among equals the lowest ids. None when no pair is left."""
        while self.heap:
            count, pair = self.heap[0]
            if -count == self.counts[pair]:
                return pair if count else None
            heapq.heapreplace(self.heap, (-self.counts[pair], pair))  # it became rarer
        return None

    def merge(self, pair: tuple[int, int], new_id: int) -> None:
        """Replace `pair` by `new_id` in the words that hold it, and in no other."""
        new_pairs: set[tuple[int, int]] = set()
        for index in self.places.pop(pair):
            self._add(index, sign=-1)
            word = self.words[index] = merge_pair(self.words[index], pair, new_id)
            self._add(index, sign=1)
            new_pairs.update(other for other in zip(word, word[1:]) if new_id in other)
        for other in new_pairs:
            heapq.heappush(self.heap, (-self.counts[other], other))
