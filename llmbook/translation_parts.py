"""What the translator of chapter 10 needs beside its layers: sizes, a cache, batches of pairs, its special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import tiktoken
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .caching import KeyValueCache
from .diagnosis import check_gpt_sizes
from .labelled_texts import LengthBatches
from .translations import Pair

__all__ = ["END", "PAD", "START", "TranslationCache", "TranslatorConfig", "check_beams", "encode_pairs",
           "encode_source", "pair_loader"]

PAD, START, END = "<|pad|>", "<|start|>", "<|end|>"


class TranslationCache(KeyValueCache):
    """What a `Translator` has read: keys and values of the source, and those of its own words.

    Attributes: source, keys and values for each block, (rows, n_heads, source, d_head) each;
    source_mask, (rows, 1, 1, source), False at padding; and those of `KeyValueCache`.
    """

    def __init__(self, source: Sequence[tuple[Tensor, Tensor]], source_mask: Tensor,
                 max_tokens: int):
        key = source[0][0]
        super().__init__(len(source), len(key), key.shape[1], max_tokens, key.shape[3], key.dtype,
                         key.device)
        self.source, self.source_mask = list(source), source_mask

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, (kept,) of int64, in this order; a row may come twice."""
        super().select(rows)
        self.source = [(key[rows], value[rows]) for key, value in self.source]
        self.source_mask = self.source_mask[rows]


@dataclass(frozen=True)
class TranslatorConfig:
    """The sizes of a `Translator`.

    Args:
        vocab_size: token ids of both languages together.
        pad_id: the id that fills the ends of short source texts.
        context_length: the most tokens of a source or of a translation.
        d_model, n_heads, dropout: as in `llmbook.gpt.GPTConfig`.
        n_layers: blocks of the encoder, and as many of the decoder.

    Raises ValueError for a size that cannot work.
    """
    vocab_size: int
    pad_id: int
    context_length: int = 64
    d_model: int = 192
    n_heads: int = 4
    n_layers: int = 2
    dropout: float = 0.1

    def __post_init__(self):
        check_gpt_sizes(self)
        if not 0 <= self.pad_id < self.vocab_size or self.d_model % 2:
            raise ValueError(f"pad_id is {self.pad_id}, d_model {self.d_model}: give an id below "
                             f"vocab_size ({self.vocab_size}), and an even d_model")


def pair_loader(pairs: Sequence[tuple[Tensor, Tensor]], pad_id: int, batch_size: int = 64,
                shuffle: bool = True, seed: int = 0) -> DataLoader:
    """Batches of (source, inputs, targets), each (batch, tokens), of pairs of similar length.

    pairs: source ids (tokens,) and target ids (tokens,), from the start token to the end token.
    Inputs are the target without its last token, targets without its first.
    """
    def collate(items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        def pad(rows: Sequence[Tensor], value: int) -> Tensor:
            return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

        return (pad([source for source, _ in items], pad_id),
                pad([target[:-1] for _, target in items], pad_id),
                pad([target[1:] for _, target in items], -100))

    lengths = [1000 * len(target) + len(source) for source, target in pairs]  # the target's length decides
    batches = LengthBatches(lengths, batch_size, shuffle, seed, pool=len(pairs))
    return DataLoader(list(pairs), batch_sampler=batches, collate_fn=collate)


def encode_pairs(tokenizer: tiktoken.Encoding, pairs: Sequence[Pair]) -> list[tuple[Tensor, Tensor]]:
    """The ids of each pair for `pair_loader`: English with its end, German from START to END."""
    start, end = (tokenizer.encode_single_token(token) for token in (START, END))
    return [(torch.tensor([*tokenizer.encode_ordinary(pair.english), end]),
             torch.tensor([start, *tokenizer.encode_ordinary(pair.german), end])) for pair in pairs]


def check_beams(beams: int) -> None:
    """Raise ValueError for a number of beams that no search can have."""
    if isinstance(beams, bool) or not isinstance(beams, Integral) or beams < 1:
        raise ValueError(f"beams is {beams!r}: it must be a whole number, at least 1")


def encode_source(tokenizer: tiktoken.Encoding, texts: Sequence[str]) -> Tensor:
    """Source ids (texts, longest), each with END at its end and PAD after it. Raises ValueError for anything but a list
    of texts, one or more."""
    if isinstance(texts, str) or not texts:
        raise ValueError(f"texts is {texts!r}: give a list of sentences, at least one")
    end, pad = (tokenizer.encode_single_token(token) for token in (END, PAD))
    rows = [torch.tensor([*ids, end]) for ids in tokenizer.encode_ordinary_batch(list(texts))]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
