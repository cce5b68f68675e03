"""A model that says what it is told to, and counts what it has to read."""

import torch

from llmbook.llama import Llama, LlamaConfig


class Scripted(Llama):
    """Says the tokens it is told to, and notes what it was asked to read.

    Attributes: says, the tokens still to be said; passes, how many tokens each call was given; held, the whole text of
    the last call, what the cache holds of it included; read, that text at each call with several tokens.
    """

    def __init__(self, context_length: int = 400, vocab_size: int = 410, d_model: int = 8):
        super().__init__(LlamaConfig(vocab_size, context_length, d_model, 2, 1, 1, d_model))
        self.says, self.read, self.passes, self.held = [], [], [], []

    def hidden_states(self, token_ids, cache=None):
        """Notes what was read, and of each prompt the whole: what the cache holds of it, and the rest."""
        self.passes.append(token_ids.shape[1])
        ids = token_ids[0].tolist()
        self.held = [*self.held[: 0 if cache is None else cache.length], *ids]
        if len(ids) > 1:
            self.read.append(list(self.held))
        return super().hidden_states(token_ids, cache)

    def lm_head(self, hidden):
        """The next token of the script, whatever was read."""
        logits = torch.zeros(1, self.config.vocab_size)
        logits[0, self.says.pop(0)] = 1.0
        return logits
