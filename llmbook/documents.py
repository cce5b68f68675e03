"""Rows that begin where a document begins, to train on: stories, pages, answers, each by itself.

`llmbook.text.NextTokenDataset` cuts one long row of ids into windows, wherever that falls. A model that reads those has
to learn from beginnings it has not seen. Here each row is one document from its first token on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

__all__ = ["DocumentDataset", "DocumentBatches", "make_document_loader", "pad_rows"]

NO_TARGET = -100  # what `next_token_loss` and torch's cross-entropy leave out
POOL = 16  # batches whose rows are sorted by length together: enough that little is padded


class DocumentDataset(Dataset):
    """Documents as rows of (inputs, targets): each begins with the id that ends documents, and ends with it.

    Args:
        documents: the ids of each, without `end`: lists, arrays or tensors of integers. Empty ones are left out.
        context_length: the most tokens of a row. A longer document goes on in further rows, each of which begins where
            the one before ended, so every id is a target once.
        end: the id of `<|endoftext|>`, which stands before the first document and after each.

    Item `i` is `(inputs, targets)`, each (tokens,), int64, with 1 to `context_length` tokens; `targets[t]` is the id
    that follows `inputs[t]`.

    Attributes: lengths, the tokens of each row, (rows,), int64.

    Raises ValueError if `context_length` is not positive, ids are not whole numbers or not 1-D, a document holds `end`,
    or there is no document that is not empty.
    """

    def __init__(self, documents: Sequence[Sequence[int] | np.ndarray | Tensor], context_length: int, end: int):
        parts = []
        for number, document in enumerate(documents):
            ids = np.asarray(document)
            if ids.ndim != 1 or len(ids) and ids.dtype.kind not in "iu":
                raise ValueError(f"document {number} is {document!r:.40}: give its ids, a 1-D row of whole numbers")
            if len(ids) and (ids == end).any():
                raise ValueError(f"document {number} holds {end}, the id that ends documents: cut it there, or take "
                                 "that id out")
            parts += [ids.astype(np.int64), [end]] if len(ids) else []
        self._take([np.concatenate(parts)] if parts else [], context_length, end)

    @classmethod
    def from_shards(cls, shards: Sequence[np.ndarray], context_length: int, end: int) -> DocumentDataset:
        """The same from long rows of ids in which `end` follows each document, as in the token files of
        `llmbook.scale.token_files`. They are not copied. The beginning of a shard begins a document."""
        dataset = cls.__new__(cls)
        dataset._take(shards, context_length, end)
        return dataset

    def _take(self, shards: Sequence[np.ndarray], context_length: int, end: int) -> None:
        if context_length < 1:
            raise ValueError(f"context_length ({context_length}) must be at least 1")
        found = [_rows_of(shards[number], number, context_length, end) for number in range(len(shards))]
        self.rows = np.concatenate(found) if found else np.empty((0, 3), np.int64)
        if not len(self.rows):
            raise ValueError("there is no document with a token in it: give at least one")
        self.shards, self.context_length, self.end = shards, context_length, end

    @property
    def lengths(self) -> Tensor:
        return torch.from_numpy(self.rows[:, 2] - self.rows[:, 1])

    def split(self, share: float) -> tuple[DocumentDataset, DocumentDataset]:
        """All but the last `share` of the rows, and those; no document is in both. Raises ValueError if one of the two
        is empty."""
        border = int(len(self.rows) * (1 - share))
        while 0 < border < len(self.rows) and not self._begins_document(border):
            border -= 1
        if not 0 < border < len(self.rows):
            raise ValueError(f"a share of {share} of {len(self.rows)} rows leaves one side empty: give more documents, "
                             "or another share")
        return self.choose(slice(None, border)), self.choose(slice(border, None))

    def choose(self, rows: slice | Sequence[int]) -> DocumentDataset:
        """A dataset of some of the rows."""
        part = self.__class__.__new__(self.__class__)
        part.rows = self.rows[rows]
        part.shards, part.context_length, part.end = self.shards, self.context_length, self.end
        return part

    def _begins_document(self, row: int) -> bool:
        shard, start, _ = self.rows[row]
        return start == 0 or self.shards[shard][start - 1] == self.end

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        shard, start, stop = self.rows[index]
        ids = np.empty(stop - start + 1, np.int64)
        ids[1:] = self.shards[shard][start:stop]
        ids[0] = self.shards[shard][start - 1] if start else self.end
        row = torch.from_numpy(ids)
        return row[:-1], row[1:]


def _rows_of(shard: np.ndarray, number: int, context_length: int, end: int) -> np.ndarray:
    """Shard, start and stop of each row's targets, (rows, 3)."""
    stops = np.flatnonzero(np.asarray(shard) == end) + 1
    if len(shard) and (not len(stops) or stops[-1] < len(shard)):
        stops = np.append(stops, len(shard))  # a document that the shard's end cuts
    starts = np.concatenate([[0], stops[:-1]]).astype(np.int64)[: len(stops)]
    filled = (stops - starts > 1) | (np.asarray(shard)[starts] != end) if len(stops) else np.empty(0, bool)
    starts, stops = starts[filled], stops[filled]
    counts = -(-(stops - starts) // context_length)  # rows of each document
    first = np.repeat(counts.cumsum() - counts, counts)
    begins = np.repeat(starts, counts) + (np.arange(counts.sum()) - first) * context_length
    ends = np.minimum(begins + context_length, np.repeat(stops, counts))
    return np.stack([np.full(len(begins), number), begins, ends], axis=1).astype(np.int64)


class DocumentBatches(Sampler[list[int]]):
    """The numbers of each batch's rows: rows of similar length together, so that little is padded.

    Rows are shuffled, sorted by length within pools of 16 batches, and the batches are shuffled again. So a batch's
    rows are random but for their lengths. Each pass has an order of its own.

    Args:
        lengths: of the rows, (rows,).
        batch_size: rows in a batch.
        shuffle: False: all rows in the order of their lengths, the same in each pass.
        drop_last: leave out, at random, the rows that do not fill a batch.
        generator: of the random order; PyTorch's global one if None.
    """

    def __init__(self, lengths: Tensor, batch_size: int, shuffle: bool = True, drop_last: bool = True,
                 generator: torch.Generator | None = None):
        self.lengths, self.batch_size, self.shuffle = lengths, batch_size, shuffle
        self.drop_last, self.generator = drop_last, generator

    def __len__(self) -> int:
        rows = len(self.lengths)
        return rows // self.batch_size if self.drop_last else math.ceil(rows / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rows = len(self.lengths)
        order = torch.randperm(rows, generator=self.generator) if self.shuffle else torch.arange(rows)
        order = order[: len(self) * self.batch_size]
        pools = order.split(self.batch_size * POOL if self.shuffle else max(1, rows))
        batches = [batch for pool in pools
                   for batch in pool[self.lengths[pool].argsort(stable=True)].split(self.batch_size)]
        numbers = torch.randperm(len(batches), generator=self.generator) if self.shuffle else range(len(batches))
        for number in numbers:
            yield batches[number].tolist()


def pad_rows(rows: Sequence[tuple[Tensor, Tensor]], end: int) -> tuple[Tensor, Tensor]:
    """Rows of (inputs, targets), each (tokens,), as a batch, each (batch, tokens of the longest): inputs are filled up
    with `end`, targets with -100, which no loss counts."""
    longest = max(len(inputs) for inputs, _ in rows)
    inputs = torch.full((len(rows), longest), end)
    targets = torch.full((len(rows), longest), NO_TARGET)
    for number, (row_inputs, row_targets) in enumerate(rows):
        inputs[number, : len(row_inputs)] = row_inputs
        targets[number, : len(row_targets)] = row_targets
    return inputs, targets


class _Pad:
    """`pad_rows` with its `end`; a class, so that worker processes can be given it."""

    def __init__(self, end: int):
        self.end = end

    def __call__(self, rows: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return pad_rows(rows, self.end)


def make_document_loader(documents: DocumentDataset | Sequence[Sequence[int]], context_length: int, batch_size: int,
                         end: int, seed: int | None = None, shuffle: bool = True, drop_last: bool = True) -> DataLoader:
    """Batches of documents: (inputs, targets), each (batch_size, tokens), where `tokens` is the batch's longest row.

    Args:
        documents: the ids of each document without `end`, or a `DocumentDataset`.
        context_length, end: as for `DocumentDataset`.
        batch_size: documents (or parts of long ones) in a batch.
        seed: makes the random order repeatable.
        shuffle: a new random order in each pass; False: in the order of their lengths.
        drop_last: leave out rows that do not fill a batch.

    Rows of similar length come together; shorter ones are filled up with `end` and targets of -100. `train` goes on
    with a loader like this one, from a checkpoint, exactly where it was.

    Raises ValueError as `DocumentDataset`, or if the documents give no batch.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size ({batch_size}) must be at least 1")
    dataset = documents if isinstance(documents, DocumentDataset) else DocumentDataset(documents, context_length, end)
    if drop_last and len(dataset) < batch_size:
        raise ValueError(f"{len(dataset)} documents do not fill a batch of batch_size {batch_size}: lower batch_size, "
                         "pass drop_last=False, or give more documents")
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    batches = DocumentBatches(dataset.lengths, batch_size, shuffle, drop_last, generator)
    return DataLoader(dataset, batch_sampler=batches, collate_fn=_Pad(end), generator=generator)
