"""The sizes of chapter 10's encoder."""

from __future__ import annotations

from dataclasses import dataclass

from .diagnosis import check_gpt_sizes

__all__ = ["EncoderConfig"]


@dataclass(frozen=True)
class EncoderConfig:
    """The sizes of an `Encoder`; the defaults are those of MiniLM with 6 layers.

    Args:
        vocab_size, context_length, d_model, n_heads, n_layers, dropout: as in
            `llmbook.gpt.GPTConfig`.
        norm_eps: what a layer norm adds to the variance.
        pad_id: the id that fills the ends of short texts.

    Raises ValueError for a size that cannot work.
    """
    vocab_size: int = 30522
    context_length: int = 512
    d_model: int = 384
    n_heads: int = 12
    n_layers: int = 6
    dropout: float = 0.1
    norm_eps: float = 1e-12
    pad_id: int = 0

    def __post_init__(self):
        check_gpt_sizes(self)
        if not 0 <= self.pad_id < self.vocab_size:
            raise ValueError(f"pad_id is {self.pad_id}: give an id below vocab_size ({self.vocab_size})")
