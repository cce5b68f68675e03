"""Random windows over token files, to train on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .token_shards import TokenFiles

__all__ = ["FileWindows", "TokenWindows"]


class FileWindows(Sequence):
    """All windows of one file, by number: each (context_length + 1,), inputs and last target.

    A shard of n tokens has n - context_length places where one fits. Counted through all shards, each window has a
    number, so that drawing a number makes all of them equally likely.
    """

    def __init__(self, file: TokenFiles, context_length: int):
        self.shards, self.context_length = file.shards, context_length
        self.places = np.maximum(file.sizes - context_length, 0)  # in each shard
        self.ends = self.places.cumsum()  # the number after each shard's last window

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, number: int) -> np.ndarray:
        shard = int(np.searchsorted(self.ends, number, side="right"))
        start = int(number - self.ends[shard] + self.places[shard])
        return self.shards[shard][start : start + self.context_length + 1]  # a view of the file


class TokenWindows(Iterator):
    """Endless batches of random windows: (inputs, targets), int64, (batch_size, context_length).

    files: one `TokenFiles`, or several of the same tokenizer.
    context_length: tokens in a window. No window crosses two shards.
    shares: how much of the batches each file gives, in proportion to its tokens by default. Within a file all windows
        are equally likely.
    seed: batch number i depends on seed and i alone.

    Iterating goes on from the current position. `state_dict()` is the position after the batches handed out so far;
    `load_state_dict` goes there.
    Raises ValueError for sizes, shares or files that do not fit together.
    Source: shares: Brown et al., "Language Models are Few-Shot Learners" (2020), table 2.2.
    """

    def __init__(self, files: TokenFiles | Sequence[TokenFiles], context_length: int, batch_size: int,
                 shares: Sequence[float] | None = None, seed: int = 0):
        files = [files] if isinstance(files, TokenFiles) else list(files)
        if not files:
            raise ValueError("files is empty: give at least one TokenFiles")
        if context_length < 1 or batch_size < 1 or seed < 0:
            raise ValueError(f"context_length ({context_length}) and batch_size ({batch_size}) must be at least 1, "
                             f"seed ({seed}) at least 0")
        for file in files:
            self._check_file(file, files[0], context_length)
        self.shares, self.batch_size, self.seed = self._normalised(shares, files), batch_size, seed
        self.windows = [FileWindows(file, context_length) for file in files]
        self.batch, self.tokens = 0, [len(file) for file in files]

    @staticmethod
    def _check_file(file: TokenFiles, first: TokenFiles, context_length: int) -> None:
        if (file.vocab_size, file.tokenizer) != (first.vocab_size, first.tokenizer):
            raise ValueError(f"{first.folder} ({first.vocab_size} ids) and {file.folder} ({file.vocab_size} ids) are "
                             "of different tokenizers: write both with the same one")
        if file.sizes.max() <= context_length:
            raise ValueError(f"context_length ({context_length}) needs a shard of at least {context_length + 1} "
                             f"tokens, the longest of {file.folder} has {file.sizes.max()}: lower it, or write "
                             "larger shards")

    @staticmethod
    def _normalised(shares: Sequence[float] | None, files: Sequence[TokenFiles]) -> np.ndarray:
        """Shares that add up to 1, (files,); in proportion to the tokens if none are given."""
        weights = np.array([len(file) for file in files] if shares is None else shares, np.float64)
        if weights.shape != (len(files),):
            raise ValueError(f"shares has shape {weights.shape}: give one number for each of the {len(files)} files")
        if not (math.isfinite(weights.sum()) and (weights >= 0).all() and weights.sum() > 0):
            raise ValueError(f"shares {weights.tolist()} must not be negative, and their sum above 0")
        return weights / weights.sum()

    def draw(self, batch: int) -> Tensor:
        """Batch number `batch`: ids (batch_size, context_length + 1). The same for the same number: nothing has to be
        remembered of the batches before it."""
        random = np.random.default_rng([self.seed, batch])
        chosen = random.choice(len(self.windows), self.batch_size, p=self.shares)  # a file for each row
        ids = torch.empty(self.batch_size, self.windows[0].context_length + 1, dtype=torch.int64)
        for row, file in zip(ids.numpy(), chosen):
            windows = self.windows[file]
            row[:] = windows[random.integers(len(windows))]  # only this is read from the disk
        return ids

    def __next__(self) -> tuple[Tensor, Tensor]:
        ids = self.draw(self.batch)
        self.batch += 1
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def state_dict(self) -> dict[str, Any]:
        return {"batch": self.batch, "seed": self.seed, "batch_size": self.batch_size,
                "context_length": self.windows[0].context_length, "shares": self.shares.tolist(),
                "tokens": self.tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the position in a state. Raises ValueError, and stays, if it is one in other batches than these."""
        own = self.state_dict()
        for name in own:
            if name != "batch" and state.get(name) != own[name]:
                raise ValueError(f"the state has {name} {state.get(name)}, these windows have {own[name]}: make them "
                                 "as they were, or begin anew")
        if not isinstance(batch := state.get("batch"), int) or batch < 0:
            raise ValueError(f"the state has batch {batch!r}: it must be a number from 0")
        self.batch = batch
