"""Short stories with hidden words, for chapter 10's encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmbook.encoder import Encoder, mask_tokens
from llmbook.protocols import Tokenizer
from llmbook.storyworld import stories

from .storytelling import Share

__all__ = ["masked_story_batches", "named_shares"]

MOST_TOKENS = 128


def masked_story_batches(tokenizer: Tokenizer, seed: int, count: int, split: str, size: int, mask_id: int, pad_id: int
                         ) -> list[tuple[Tensor, Tensor]]:
    """`count` short stories in batches of `size`: inputs and targets of `mask_tokens`, (size, 128) each. A story is cut
    or filled up at the right; what is hidden depends on the seed alone."""
    told = stories(seed, count, split=split, short=True)
    rows = [torch.tensor(tokenizer.encode(story.text)[:MOST_TOKENS]) for story in told]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id)
    draw = torch.Generator().manual_seed(seed)
    return [mask_tokens(some, mask_id, tokenizer.n_vocab, pad_id=pad_id, generator=draw) for some in ids.split(size)]


@torch.no_grad()
def named_shares(model: Encoder, inputs: Tensor, targets: Tensor) -> dict[str, Share]:
    """How many of the hidden tokens a model names, beside always naming the most frequent one."""
    asked = targets != -100
    truth = targets[asked]
    rights = {"encoder": model.lm_head(model(inputs)[asked]).argmax(dim=1) == truth,
              "most frequent token": truth == truth.mode().values}
    return {name: Share(int(right.sum()), len(right)) for name, right in rights.items()}
