"""The repetition penalty: what a text has said gets less likely."""

import torch
from torch import Tensor

__all__ = ["penalize_repetition"]


def penalize_repetition(logits: Tensor, penalty: float, seen: Tensor | None) -> Tensor:
    """Logits (batch, vocab_size), those of `seen` made smaller: divided by `penalty` where they are
    above 0 and multiplied where below. seen: (batch, vocab_size), true where a row has had a token.

    Source: Keskar et al., "CTRL" (2019), section 4.1, which divides all; that would raise those
        below 0, so here, as in the transformers library, they are multiplied.
    """
    if seen is None:
        raise ValueError(f"repetition_penalty is {penalty} and nothing says what was seen: hand in "
                         "seen, (batch, vocab_size)")
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
