"""How long `train_bpe` takes, beside Hugging Face's trainer, and why: `python -m tests.benchmarks.bpe`.

`rows` times 10 MB of real text to 16,384 tokens: Python's documentation and after it the source files of the standard
library. The peer is the trainer of the package `tokenizers`, in Rust, on the same text and one thread too. Its merges
differ where two pairs are equally frequent: it orders the bytes in another way. The limit is 90 s.

The command itself prints that, and how the time of 1 MB to 4,096 tokens comes about.

The text is the first 1,000,000 bytes of Python's own documentation (it differs a little between Python
versions), documents joined by the end-of-text token. Everything runs on one core. Beside it stands what the
textbook loop costs, which counts all pairs again for each merge: over every chunk of the text, and over every
distinct chunk with its frequency. The loops are run for the first merges, checked against train_bpe's, and
their total is estimated from the pairs that they would look at: those are counted exactly.
"""

import argparse
import json
import os
import platform
import statistics
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import regex

from llmbook.book.corpora import python_documentation
from llmbook.formats.tokenizer_descriptions import byte_alphabet
from llmbook.pair_counts import PairCounts, count_chunks, merge_pair
from llmbook.text import END_OF_TEXT, GPT2_PATTERN, bpe_merges, train_bpe
from tests.benchmarks.rows import Row, against_limit, alternate, compare, seconds, table

VOCAB_SIZE = 4096
TEXT_BYTES = 1_000_000
LARGE_VOCAB_SIZE = 16_384
LARGE_TEXT_BYTES = 10_000_000
LIMIT = 90.0  # seconds


def documentation() -> str:
    joined = END_OF_TEXT.join(python_documentation()).encode("utf-8")
    return joined[:TEXT_BYTES].decode("utf-8", errors="ignore")  # a character may be cut at the end


def real_text(size: int = LARGE_TEXT_BYTES) -> list[str]:
    """Documents of `size` bytes together, and a little more: English, then program text."""
    documents, total = [], 0
    library = Path(sysconfig.get_path("stdlib"))
    files = (path for path in sorted(library.rglob("*.py")) if "site-packages" not in path.parts)
    texts = (path.read_text(encoding="utf-8", errors="ignore") for path in files)
    for document in chain(python_documentation(), texts):
        documents.append(document)
        total += len(document.encode("utf-8"))
        if total >= size:
            break
    return documents


@contextmanager
def one_core() -> Iterator[None]:
    """Everything on one core, and the peer's threads switched off."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def their_merges(documents: Sequence[str], vocab_size: int) -> list[tuple[bytes, bytes]]:
    """What the peer learns, as bytes. `vocab_size` without special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    runner = Tokenizer(models.BPE())
    runner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    runner.train_from_iterator(documents, trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    byte_of = byte_alphabet()
    return [tuple(bytes(byte_of[character] for character in part) for part in merge)
            for merge in json.loads(runner.to_str())["model"]["merges"]]


def rows(rounds: int, size: int = LARGE_TEXT_BYTES, vocab_size: int = LARGE_VOCAB_SIZE) -> list[Row]:
    """`train_bpe` beside its peer and below its limit."""
    documents, learned = real_text(size), {}
    work = f"BPE, {size / 1e6:.3g} MB to {vocab_size:,} tokens, one core"

    def ours() -> None:
        learned["ours"] = bpe_merges(train_bpe(documents, vocab_size))

    def theirs() -> None:
        learned["theirs"] = their_merges(documents, vocab_size - 1)

    with one_core():
        times = alternate(rounds, ours=lambda: seconds(ours), theirs=lambda: seconds(theirs))
    common = len({*learned["ours"]} & {*learned["theirs"]})
    note = f"{common:,} of {len(learned['ours']):,} merges are the same, in an order that differs in ties"
    return [against_limit(work, times["ours"], LIMIT, "s"),
            compare(work, times["ours"], times["theirs"], "s", "tokenizers", note=note)]


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
        rows = [merge_pair(row, best, new_id) for row in rows]
    return tokens[256:], looked_at


class Watched(PairCounts):
    """The incremental counts, with the work counted: its own, and what the two rescans would have done."""

    def __init__(self, chunks: Counter[bytes]):
        self.touched = 0
        super().__init__(chunks)
        self.touched = 0  # the initial counts are not a merge's work
        self.distinct = sum(len(word) - 1 for word in self.words)
        self.occurring = sum((len(word) - 1) * n for word, n in zip(self.words, self.frequencies))
        self.distinct_total = self.occurring_total = 0

    def _add(self, index: int, sign: int) -> None:
        size = len(self.words[index]) - 1
        self.touched += size
        if hasattr(self, "distinct_total"):
            self.distinct += sign * size
            self.occurring += sign * size * self.frequencies[index]
        super()._add(index, sign)

    def merge(self, pair: tuple[int, int], new_id: int) -> None:
        self.distinct_total += self.distinct  # what a rescan looks at before this merge
        self.occurring_total += self.occurring
        super().merge(pair, new_id)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="train_bpe runs; the median counts")
    parser.add_argument("--merges", type=int, default=20, help="merges that the textbook loops really run")
    options = parser.parse_args()
    print(table(rows(options.rounds)), "\n")
    with one_core():
        explain(options.rounds, options.merges)


def explain(train_rounds: int, merges: int) -> None:
    """Where the time of a smaller training goes, and what it would be with a rescan per merge."""
    text = documentation()
    print(f"Python {platform.python_version()}, one core; {len(text.encode()):,} bytes of documentation, "
          f"to {VOCAB_SIZE:,} tokens ({VOCAB_SIZE - 257:,} merges)\n")

    times = []
    for _ in range(train_rounds):
        start = time.perf_counter()
        encoding = train_bpe(text, VOCAB_SIZE)
        times.append(time.perf_counter() - start)
    total = statistics.median(times)
    print(f"train_bpe            {total:8.2f} s  median of {train_rounds}: "
          f"{', '.join(f'{value:.2f}' for value in times)}")

    chunks = count_chunks(text, GPT2_PATTERN, (END_OF_TEXT,))
    counting = seconds(lambda: count_chunks(text, GPT2_PATTERN, (END_OF_TEXT,)))
    initial = seconds(lambda: PairCounts(chunks))
    print(f"  cut and count      {counting:8.2f} s  {sum(chunks.values()):,} chunks, {len(chunks):,} of them distinct")
    print(f"  initial counts     {initial:8.2f} s  {sum(len(chunk) - 1 for chunk in chunks):,} pairs, once")
    watched = Watched(chunks)
    for new_id in range(256, VOCAB_SIZE - 1):
        watched.merge(watched.most_common(), new_id)
    print(f"  merges and the rest{total - counting - initial:8.2f} s  {watched.touched:,} pairs taken out or put in, "
          f"{watched.touched / (VOCAB_SIZE - 257):.0f} a merge\n")

    learned = [encoding.decode_single_token_bytes(256 + n) for n in range(merges)]
    kinds = {"distinct chunks": ([list(chunk) for chunk in chunks], list(chunks.values()), watched.distinct_total)}
    every = [list(chunk.encode("utf-8")) for piece in text.split(END_OF_TEXT)
             for chunk in regex.findall(GPT2_PATTERN, piece)]
    kinds["every chunk"] = (every, [1] * len(every), watched.occurring_total)
    print(f"A rescan per merge (its first {merges} merges are run, and give the same tokens):")
    for name, (ids, frequencies, pairs_in_all) in kinds.items():
        start = time.perf_counter()
        tokens, looked_at = rescan(ids, frequencies, merges)
        taken = time.perf_counter() - start
        assert tokens == learned, "the rescan learned other tokens"
        whole = taken * pairs_in_all / looked_at
        print(f"  over {name:15} {taken:7.1f} s for {merges} merges, {looked_at:,} pairs; {pairs_in_all:,} "
              f"pairs in all: about {whole:,.0f} s, {whole / total:,.0f} times train_bpe")
    print("\nHow: the pair counts are kept and corrected where a merge changes a chunk. Nothing is counted again.")


if __name__ == "__main__":
    main()
