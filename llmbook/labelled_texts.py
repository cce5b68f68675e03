"""Labelled texts made ready for a classifier: token ids, batches of about one length, features computed once.

`llmbook.classification` stands on this, and offers it under its own name. Chapter 6 teaches the ideas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm

from .devices import autocast, without_dropout
from .families import family_named, known_families
from .protocols import LanguageModel, Tokenizer
from .training import TrainingConfig

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Classifier", "ClassifierConfig", "LengthBatches", "PreparedTexts", "collate_texts", "config_for",
           "encode_texts", "precompute", "prepare_texts", "read_batches", "text_loader", "undersample"]


@dataclass(frozen=True)
class ClassifierConfig:
    """What a `TextClassifier` is made of: the language model's family and settings, and the labels.

    Raises ValueError for an unknown family, settings that are not its own, or labels that are fewer than two or not
    distinct.
    """

    family: str
    settings: Mapping[str, Any]
    labels: Sequence[str]

    def __post_init__(self) -> None:
        known = [family.name for family in known_families() if family.kind]  # those that write text
        if self.family not in known:
            raise ValueError(f"family is {self.family!r}: known are {', '.join(known)}")
        try:
            family_named(self.family).config_class(**self.settings)
        except TypeError as error:
            raise ValueError(f"the settings of the {self.family} do not fit: {error}") from None
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels are {list(self.labels)}: give at least two, all different")


class Classifier(Protocol):
    """What `prepare_texts` needs of a classifier; `llmbook.classification.TextClassifier` is such."""

    config: ClassifierConfig
    model: LanguageModel

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights."""


@dataclass(frozen=True)
class PreparedTexts:
    """Texts ready for a classifier.

    Attributes:
        inputs: token ids (tokens,) of each text; or, if `blocks` is a number, the features (tokens, d_model) that
            enter the model's last `blocks` blocks.
        targets: the class of each text. blocks: see `prepare_texts`.
    """

    inputs: Sequence[Tensor]
    targets: Sequence[int]
    blocks: int | None


def undersample(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """As many rows of each label as the rarest has, drawn by `seed`, in random order.

    Raises ValueError if there are not two labels at least.
    """
    counts = frame["label"].value_counts()
    if len(counts) < 2:
        raise ValueError(f"labels here: {list(counts.index)}: give at least two to balance")
    drawn = frame.groupby("label", sort=True).sample(n=int(counts.min()), random_state=seed)
    return drawn.sample(frac=1, random_state=seed).reset_index(drop=True)


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer, context_length: int,
                 max_tokens: int | None = None) -> list[Tensor]:
    """The token ids of each text, (tokens,). Special tokens in it are spelled out like any word.

    max_tokens: cut longer texts to their first `max_tokens`; None: a text longer than the context is an error. Raises
    ValueError for that and for an empty text, with the text's place from 0.
    """
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}: it must be at least 1")
    encoded = []
    for place, text in enumerate(texts):
        ids = tokenizer.encode(text, disallowed_special=())[:max_tokens]
        if not text.strip() or not ids:
            raise ValueError(f"text {place} is empty: there is nothing to classify")
        if len(ids) > context_length:
            raise ValueError(f"text {place} has {len(ids):,} tokens, the context {context_length:,}: shorten it, or "
                             "give max_tokens")
        encoded.append(torch.tensor(ids))
    return encoded


class LengthBatches(Sampler[list[int]]):
    """Batches of places whose texts have about the same length, so that little is padded.

    Args:
        lengths: of each text. batch_size: places in a batch; the last may have fewer.
        shuffle: draw the texts in random order, sort only within `pool` batches at a time, and shuffle the batches; a
            new order each pass. False: sort all.
        seed: makes the orders repeatable.
        pool: batches that are sorted together. The more, the less is padded, and the more alike is a batch.

    Raises ValueError if batch_size is below 1 or there is no text.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, shuffle: bool = True, seed: int = 0,
                 pool: int = 16):
        if batch_size < 1 or not len(lengths):
            raise ValueError(f"batch_size {batch_size}, texts {len(lengths)}: at least 1 each")
        self.lengths, self.batch_size, self.shuffle, self.pool = list(lengths), batch_size, shuffle, pool
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order, size = list(range(len(self.lengths))), self.batch_size
        if self.shuffle:
            order = torch.randperm(len(order), generator=self.generator).tolist()
        pool = self.pool * size if self.shuffle else len(order)
        batches = []
        for start in range(0, len(order), pool):
            near = sorted(order[start : start + pool], key=self.lengths.__getitem__)
            batches += [near[first : first + size] for first in range(0, len(near), size)]
        if self.shuffle:
            places = torch.randperm(len(batches), generator=self.generator).tolist()
            batches = [batches[place] for place in places]
        yield from batches


def collate_texts(items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of inputs (tokens, ...) and a class -> (padded, lengths, targets).

    Padding is zeros at the right: padded (batch, longest, ...), lengths and targets (batch,).
    """
    inputs, targets = zip(*items, strict=True)
    return (nn.utils.rnn.pad_sequence(inputs, batch_first=True),
            torch.tensor([len(row) for row in inputs]), torch.tensor(targets))


def text_loader(inputs: Sequence[Tensor], targets: Sequence[int], batch_size: int = 16, shuffle: bool = True,
                seed: int = 0) -> DataLoader:
    """Batches as `collate_texts` makes them, of texts of about the same length."""
    batches = LengthBatches([len(row) for row in inputs], batch_size, shuffle, seed)
    return DataLoader(list(zip(inputs, targets, strict=True)), batch_sampler=batches, collate_fn=collate_texts)


def config_for(loader: DataLoader, epochs: int, learning_rate: float, **settings: Any) -> TrainingConfig:
    """`epochs` passes over a loader, a tenth of the steps to warm up, and an evaluation after each pass, unless
    `settings`, of `TrainingConfig`, say otherwise."""
    one_pass = -(-len(loader) // settings.get("accumulation_steps", 1))  # steps, rounded up
    steps = settings.get("max_steps", epochs * one_pass)
    return TrainingConfig(**{"max_steps": steps, "learning_rate": learning_rate, "warmup_steps": steps // 10,
                             "eval_every": one_pass, **settings})


@torch.no_grad()
def read_batches(classifier: Classifier, texts: PreparedTexts, run: Callable[[Tensor, Tensor], Tensor],
                 progress: bool = True) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Places, lengths (batch,) and what `run` makes of the padded inputs and lengths, one batch after the other, short
    texts first, dropout off. progress: show a bar if it takes more than two seconds."""
    device = next(classifier.parameters()).device
    batches = LengthBatches([len(row) for row in texts.inputs], 16, shuffle=False)
    for places in tqdm(batches, unit="batch", delay=2, disable=not progress):
        padded, lengths, _ = collate_texts([(texts.inputs[place], 0) for place in places])
        with without_dropout(classifier), autocast(device):
            found = run(padded.to(device), lengths)
        yield places, lengths, found


def precompute(classifier: Classifier, texts: PreparedTexts, blocks: int, progress: bool = True) -> PreparedTexts:
    """Prepared texts with the features that enter the last `blocks` blocks for inputs.

    For 0, they are what the last token has after all blocks, (1, d_model). progress: see `read_batches`. Raises
    ValueError if `blocks` is out of range: the model has fewer, or the texts are past that block already.
    """
    model = classifier.model
    most = len(model.blocks) if texts.blocks is None else texts.blocks
    if not 0 <= blocks <= most:
        raise ValueError(f"blocks is {blocks}: it must be from 0 to {most} here")
    caught: list[Tensor] = []
    watched = model.blocks[-blocks] if blocks else model.final_norm
    handle = watched.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))

    def run(padded: Tensor, lengths: Tensor) -> Tensor:
        if texts.blocks is None:
            model.hidden_states(padded)
        else:
            model.final_norm(model.run_blocks(padded, len(model.blocks) - texts.blocks))
        return caught.pop().float().cpu()  # (batch, tokens, d_model)

    results: list[Any] = [None] * len(texts.inputs)
    try:
        for places, lengths, x in read_batches(classifier, texts, run, progress):
            for row, place, length in zip(x, places, lengths.tolist()):
                results[place] = row[(0 if blocks else length - 1) : length].clone()
    finally:
        handle.remove()
    return PreparedTexts(results, texts.targets, blocks)


def prepare_texts(classifier: Classifier, tokenizer: Tokenizer, frame: pd.DataFrame, blocks: int | None = None,
                  max_tokens: int | None = None, progress: bool = True) -> PreparedTexts:
    """Encode the texts of a table, and compute once what training will not change.

    Args:
        frame: has the columns label and text.
        blocks: how many of the last blocks are to be trained with the head (0: the head alone); the features below
            them are computed here. None: everything is to be trained.
        max_tokens: see `encode_texts`. progress: see `precompute`.

    Raises ValueError for an unknown label, and as `precompute` and `encode_texts`.
    """
    labels = list(classifier.config.labels)
    if unknown := sorted(set(frame["label"]) - set(labels)):
        raise ValueError(f"the label {unknown[0]!r} is none of {', '.join(labels)}: correct it, or give the classifier "
                         "that label too")
    context = classifier.model.config.context_length
    inputs = encode_texts(list(frame["text"]), tokenizer, context, max_tokens)
    texts = PreparedTexts(inputs, [labels.index(label) for label in frame["label"]], None)
    return texts if blocks is None else precompute(classifier, texts, blocks, progress)
