"""What the parts of the package expect of each other, written down once.

A class need not inherit from these: having the methods is enough (PEP 544). `llmbook.families` is the third protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

LossFunction = Callable[..., Tensor]
"""`loss_fn(model, *batch)`: the mean over what the batch counts (see `llmbook.training.count_targets`), a scalar."""


class Cache(Protocol):
    """What a model keeps of the tokens that it has read, so as not to read them again: keys and values, or a state."""

    @property
    def length(self) -> int:
        """Tokens read so far, left padding included."""

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, (kept,) of int64, in this order; a row may occur more than once."""

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens. Raises ValueError if it holds fewer."""


class LanguageModel(Protocol):
    """A model that gives each next token a score. `GPT` and `Llama` are such."""

    config: Any  # a dataclass with vocab_size, context_length, d_model
    blocks: nn.ModuleList

    def hidden_states(self, token_ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Token ids (batch, tokens) -> features (batch, tokens, d_model); ids continue what a cache holds."""

    def lm_head(self, hidden: Tensor) -> Tensor:
        """Features (..., d_model) -> logits (..., vocab_size)."""

    def new_cache(self, batch_size: int, max_tokens: int | None = None, padding: Tensor | None = None) -> Cache:
        """An empty cache for texts of `max_tokens`. padding: (batch,), how many tokens at the left
        of each row are none."""

    def run_blocks(self, x: Tensor, first: int = 0, cache: Cache | None = None) -> Tensor:
        """Features that enter block `first`, (batch, tokens, d_model), through it and all later ones.
        The final norm is left to the caller."""


class Tokenizer(Protocol):
    """Text to ids and back. `tiktoken.Encoding` is such, and so is what `load_pretrained` returns."""

    n_vocab: int
    special_tokens_set: set[str]

    def encode(self, text: str, *, allowed_special: Any = (), disallowed_special: Any = "all") -> list[int]:
        """Ids of a text. Special tokens in it are an error unless allowed, as in tiktoken."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD."""


class Team(Protocol):
    """The processes that train one model together. `llmbook.training.OneProcess` is a team of one."""

    size: int
    rank: int
    leads: bool  # whether this process prints and writes
    device: torch.device

    def share(self, model: nn.Module, loss_fn: LossFunction) -> LossFunction:
        """Prepare a model; returns what to call in place of `loss_fn`, with the same arguments and attributes (its
        rule of counting, `count_targets`, where it has one)."""

    def own_rows(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """This process's rows of a batch, each tensor (batch, ...) -> (own rows, ...)."""

    def exchange(self, last: bool) -> AbstractContextManager:
        """The context of one of a step's forward and backward passes; gradients are exchanged in the last only. They
        become the mean over the processes."""

    def sum(self, number: Tensor) -> Tensor:
        """A scalar on the team's device, added up over the processes; nobody waits for the device."""


class RunKeeper(Protocol):
    """What `train` tells of its progress. `llmbook.scale.checkpoints.Checkpoints` is such."""

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer, loader: Iterable, history: Any, config: Any,
              team: Team, val_loader: Iterable | None = None) -> Iterable:
        """Called before the first step; may bring everything to where an earlier run was. Returns the loader to use."""

    def after_step(self, last: bool) -> bool:
        """Called after each step; returns True if the run has been asked to end."""

    def end(self) -> None:
        """Called at the end, whatever ended it: wait until all is on the disk."""
