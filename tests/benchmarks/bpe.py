"""How long `train_bpe` takes on 1 MB of text to 4,096 tokens, and why: `python tests/benchmarks/bpe.py`.

The text is the first 1,000,000 bytes of Python's own documentation (it differs a little between Python
versions), documents joined by the end-of-text token. Everything runs on one core. Beside it stands what the
textbook loop costs, which counts all pairs again for each merge: over every chunk of the text, and over every
distinct chunk with its frequency. The loops are run for the first merges, checked against train_bpe's, and
their total is estimated from the pairs that they would look at: those are counted exactly.
"""

import argparse
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence

import regex

from llmbook import text as module
from llmbook.book.corpora import python_documentation
from llmbook.text import END_OF_TEXT, GPT2_PATTERN, train_bpe

VOCAB_SIZE = 4096
TEXT_BYTES = 1_000_000


def documentation() -> str:
    joined = END_OF_TEXT.join(python_documentation()).encode("utf-8")
    return joined[:TEXT_BYTES].decode("utf-8", errors="ignore")  # a character may be cut at the end


def rescan(rows: list[list[int]], frequencies: Sequence[int], n_merges: int) -> tuple[list[bytes], int]:
    """The textbook loop. Returns the learned tokens and how many pairs it looked at to count."""
    tokens, looked_at = [bytes([byte]) for byte in range(256)], 0
    for new_id in range(256, 256 + n_merges):
        counts: Counter[tuple[int, int]] = Counter()
        for row, frequency in zip(rows, frequencies):
            for pair in zip(row, row[1:]):
                counts[pair] += frequency
        looked_at += sum(max(0, len(row) - 1) for row in rows)
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        tokens.append(tokens[best[0]] + tokens[best[1]])
        rows = [module._merge(row, best, new_id) for row in rows]
    return tokens[256:], looked_at


class Watched(module._PairCounts):
    """The incremental counts, with the work counted: its own, and what the two rescans would have done."""

    def __init__(self, chunks: Counter[bytes]):
        self.touched = 0
        super().__init__(chunks)
        self.touched = 0  # the initial counts are not a merge's work
        self.distinct = sum(len(word) - 1 for word in self.words)
        self.occurring = sum((len(word) - 1) * n for word, n in zip(self.words, self.frequencies))
        self.distinct_total = self.occurring_total = 0

    def _add(self, index: int, sign: int) -> set[tuple[int, int]]:
        size = len(self.words[index]) - 1
        self.touched += size
        if hasattr(self, "distinct_total"):
            self.distinct += sign * size
            self.occurring += sign * size * self.frequencies[index]
        return super()._add(index, sign)

    def merge(self, pair: tuple[int, int], new_id: int) -> None:
        self.distinct_total += self.distinct  # what a rescan looks at before this merge
        self.occurring_total += self.occurring
        super().merge(pair, new_id)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="train_bpe runs; the median counts")
    parser.add_argument("--merges", type=int, default=20, help="merges that the textbook loops really run")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    text = documentation()
    print(f"Python {platform.python_version()}, one core; {len(text.encode()):,} bytes of documentation, "
          f"to {VOCAB_SIZE:,} tokens ({VOCAB_SIZE - 257:,} merges)\n")

    rounds = []
    for _ in range(options.rounds):
        start = time.perf_counter()
        encoding = train_bpe(text, VOCAB_SIZE)
        rounds.append(time.perf_counter() - start)
    total = statistics.median(rounds)
    print(f"train_bpe            {total:8.2f} s  median of {options.rounds}: "
          f"{', '.join(f'{value:.2f}' for value in rounds)}")

    chunks = module._count_chunks(text, GPT2_PATTERN, (END_OF_TEXT,))
    counting = seconds(lambda: module._count_chunks(text, GPT2_PATTERN, (END_OF_TEXT,)))
    initial = seconds(lambda: module._PairCounts(chunks))
    print(f"  cut and count      {counting:8.2f} s  {sum(chunks.values()):,} chunks, {len(chunks):,} of them distinct")
    print(f"  initial counts     {initial:8.2f} s  {sum(len(chunk) - 1 for chunk in chunks):,} pairs, once")
    watched = Watched(chunks)
    for new_id in range(256, VOCAB_SIZE - 1):
        watched.merge(watched.most_common(), new_id)
    print(f"  merges and the rest{total - counting - initial:8.2f} s  {watched.touched:,} pairs taken out or put in, "
          f"{watched.touched / (VOCAB_SIZE - 257):.0f} a merge\n")

    learned = [encoding.decode_single_token_bytes(256 + n) for n in range(options.merges)]
    rows = {"distinct chunks": ([list(chunk) for chunk in chunks], list(chunks.values()), watched.distinct_total)}
    every = [list(chunk.encode("utf-8")) for piece in text.split(END_OF_TEXT)
             for chunk in regex.findall(GPT2_PATTERN, piece)]
    rows["every chunk"] = (every, [1] * len(every), watched.occurring_total)
    print(f"A rescan per merge (its first {options.merges} merges are run, and give the same tokens):")
    for name, (ids, frequencies, pairs_in_all) in rows.items():
        start = time.perf_counter()
        tokens, looked_at = rescan(ids, frequencies, options.merges)
        taken = time.perf_counter() - start
        assert tokens == learned, "the rescan learned other tokens"
        whole = taken * pairs_in_all / looked_at
        print(f"  over {name:15} {taken:7.1f} s for {options.merges} merges, {looked_at:,} pairs; {pairs_in_all:,} "
              f"pairs in all: about {whole:,.0f} s, {whole / total:,.0f} times train_bpe")
    print("\nHow: the pair counts are kept and corrected where a merge changes a chunk. Nothing is counted again.")


if __name__ == "__main__":
    main()
