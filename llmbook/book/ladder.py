"""The common setting of the loss ladder: one text, one split, one number that falls from chapter to chapter.

The text is short stories of `llmbook.storyworld`. What is predicted is each token of a story and its end, given what
the story says before; what is reported is bits per byte, so that models with different tokens can be compared. The
ladder's own tokens are bytes, which need no tokenizer to be trained first. With longer tokens, counting is too good to
be passed in seconds by anything that learns: the phrases of the stories return.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import tiktoken
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.storyworld import stories
from llmbook.text import END_OF_TEXT, GPT2_PATTERN
from llmbook.tokenizing import tokenizer_from_merges

TRAIN_STORIES, VALIDATION_STORIES, HELD_OUT_STORIES = 1_000, 100, 200
TRAIN_SEED, HELD_OUT_SEED, VALIDATION_SEED = 1, 2, 3
CONTEXT, BATCH, STEPS = 64, 8, 3_000  # what every rung that learns is given
RUNGS = ("1-gram", "2-gram", "3-gram", "4-gram", "network", "attention", "blocks", "reader", "storyteller")
RIVAL = "4-gram"  # no rung: counts with the network's context of three tokens, to compare with
TABLE = Path(__file__).with_name("ladder.json")


class LadderData(NamedTuple):
    """What every rung is trained and measured on. A document is a list of ids: end, the story's bytes, end.

    Attributes:
        tokenizer: 257 ids: the 256 bytes, and `<|endoftext|>` (`tokenizer.eot_token`), which begins and ends a story.
        train: documents to learn from.
        validation: documents to choose settings with.
        held_out: documents to report, once; names, things and plots meet here that never meet in `train`.
        validation_bytes, held_out_bytes: bytes of their texts, ends not counted.
    """

    tokenizer: tiktoken.Encoding
    train: list[list[int]]
    validation: list[list[int]]
    held_out: list[list[int]]
    validation_bytes: int
    held_out_bytes: int


@lru_cache(maxsize=1)
def _texts() -> tuple[list[str], list[str], list[str]]:
    return (story_texts(TRAIN_SEED, TRAIN_STORIES, "train"), story_texts(VALIDATION_SEED, VALIDATION_STORIES, "test"),
            story_texts(HELD_OUT_SEED, HELD_OUT_STORIES, "test"))


def story_texts(seed: int, n: int, split: str) -> list[str]:
    """The texts of `n` short stories of a seed and a split, "train" or "test"."""
    return [story.text for story in stories(seed, n, split=split, short=True)]


def ladder_data() -> LadderData:
    """The ladder's tokenizer and documents; two to four seconds the first time. See `LadderData`."""
    train, validation, held_out = _texts()
    tokenizer = tokenizer_from_merges([], (END_OF_TEXT,), GPT2_PATTERN)
    return LadderData(tokenizer, encode_documents(train, tokenizer), encode_documents(validation, tokenizer),
                      encode_documents(held_out, tokenizer), count_bytes(validation), count_bytes(held_out))


def encode_documents(texts: Iterable[str], tokenizer: tiktoken.Encoding) -> list[list[int]]:
    """Each text as its ids between two `<|endoftext|>`."""
    end = tokenizer.eot_token
    return [[end, *tokenizer.encode_ordinary(text), end] for text in texts]


def held_out_documents(tokenizer: tiktoken.Encoding) -> tuple[list[list[int]], int]:
    """The ladder's held-out stories as documents of another tokenizer, and the bytes of their texts."""
    held_out = _texts()[2]
    return encode_documents(held_out, tokenizer), count_bytes(held_out)


def count_bytes(texts: Iterable[str]) -> int:
    """Bytes of some texts in UTF-8."""
    return sum(len(text.encode()) for text in texts)


def bits_per_byte(total_nats: float, total_bytes: int) -> float:
    """Nats that a model needs for some texts, ends included, as bits for each byte of the texts.

    Raises:
        ValueError: if there is no byte.
    """
    if total_bytes < 1:
        raise ValueError(f"total_bytes is {total_bytes}: give the bytes of the texts that were predicted")
    return total_nats / math.log(2) / total_bytes


def cut_windows(documents: Sequence[Sequence[int]], context_length: int = CONTEXT) -> tuple[Tensor, Tensor]:
    """Documents cut into inputs and targets, each (windows, context_length); what a last window lacks is -100 in the
    targets."""
    inputs, targets = [], []
    for document in documents:
        for start in range(0, len(document) - 1, context_length):
            ids = document[start : start + context_length + 1]
            missing = context_length + 1 - len(ids)
            inputs.append(list(ids[:-1]) + [document[-1]] * missing)
            targets.append(list(ids[1:]) + [-100] * missing)
    return torch.tensor(inputs), torch.tensor(targets)


def train_rung(model: nn.Module, documents: Sequence[Sequence[int]], seed: int, learning_rate: float,
               steps: int = STEPS, batch_size: int = BATCH) -> None:
    """Train a model in place: the same budget for every rung that learns, 3,000 steps of 8 windows of 64 bytes.

    AdamW with a warm-up of 50 steps and a straight way down to 0; gradients no longer than 1.

    Args:
        model: ids (batch, tokens) -> logits (batch, tokens, vocab_size).
        documents: what to learn from, as in `LadderData`.
        seed: of the windows' order.
        learning_rate: the highest; each rung's is chosen on the validation stories.
    """
    inputs, targets = cut_windows(documents)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(steps):
        rows = torch.randint(len(inputs), (batch_size,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / 50) * (1 - step / steps)
        logits = model(inputs[rows])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[rows].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@torch.no_grad()
def total_nats(model: Callable[[Tensor], Tensor], held_out: Sequence[Sequence[int]],
               context_length: int | None = None) -> float:
    """Nats that a model needs for documents: the sum over every token but a document's first.

    Args:
        model: ids (batch, tokens) -> logits (batch, tokens, vocab_size), each from the ids up to its place.
        held_out: documents, as in `LadderData`.
        context_length: the most ids that the model takes, an even number. Longer documents are read in windows that
            overlap by half, so that a token is predicted from at least half a window, or all there is before it.
    """
    total = 0.0
    for document in held_out:
        ids = torch.tensor(list(document))
        places = len(ids) - 1
        size = context_length or places
        starts = list(range(0, max(1, places - size + size // 2), max(1, size // 2)))
        inputs = torch.full((len(starts), min(size, places)), document[-1])
        targets = torch.full_like(inputs, -100)
        for row, start in enumerate(starts):  # all windows of a document at once; what they lack stands at their ends
            window = ids[start : start + size + 1]
            inputs[row, : len(window) - 1] = window[:-1]
            counted = size // 2 if row else 0  # targets that the window before has counted
            targets[row, counted : len(window) - 1] = window[1 + counted :]
        logits = model(inputs).float()
        total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum").item()
    return total


def ladder_table() -> dict[str, list[float]]:
    """The stored rungs, lowest first: held-out bits per byte, one for each seed. `python tools/ladder.py` writes it."""
    stored = json.loads(TABLE.read_text(encoding="utf-8"))["rungs"] if TABLE.is_file() else {}
    return {name: stored[name] for name in RUNGS if name in stored}
