"""Texts that a model continues side by side: `llmbook.generation.stream` and `generate` stand on this.

Prompts of unequal length are padded at the left, so that all end at one place and are read in one pass, equal ones only
once. The cache hides the padding and gives each text its own positions. Texts that have ended leave the batch. When the
context is full, a text goes on with its later half, and that is read anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor, nn

from .devices import without_dropout
from .diagnosis import check_cache, explain_bad_logits
from .gpt import check_token_ids
from .protocols import Cache, LanguageModel

__all__ = ["LOOK_EVERY", "Choice", "TextBatch", "new_tokens", "whole_rows"]

LOOK_EVERY = {"cpu": 1, "cuda": 8, "mps": 8}  # tokens; to look is to wait until a GPU has caught up

Choice = Callable[[Tensor, "torch.Generator | None", "Tensor | None"], Tensor]
"""Scores (rows, vocab_size), a generator, and what each row has had, (rows, vocab_size): one token a row, (rows,)."""


class TextBatch:
    """Texts that a model continues side by side, and the cache of what it has read of them.

    Args:
        model: see `llmbook.generation.generate`.
        token_ids: prompts, (batch, tokens), or a list of them, each (tokens,), which may differ in length.
        max_new_tokens: at most so many are appended to each.
        cache: what the model has read of the prompts already, if anything.
        remember: whether to keep `seen`.

    Attributes: ids, (rows, room), filled up to `length`; padding, (rows,), places at the left that hold no token;
    `padded`, whether there are any; seen, (rows, vocab_size), which tokens each row's whole text has had, prompt
    included and padding not, or None.

    Raises ValueError for prompts, a number or a cache that do not fit the model.
    """

    def __init__(self, model: LanguageModel, token_ids: Tensor | Sequence[Tensor], max_new_tokens: int,
                 cache: Cache | None = None, remember: bool = False):
        prompts = _checked(model, token_ids)
        self.model, self.cache, self.own_cache = model, cache, cache is None
        self.modules = [*model.modules()]  # some may be in training mode
        self.context_length, device = model.config.context_length, next(model.parameters()).device
        ids = nn.utils.rnn.pad_sequence(prompts, batch_first=True, padding_side="left")
        padding = torch.tensor([ids.shape[1] - len(prompt) for prompt in prompts])
        self.padding, self.padded = padding.to(device), bool(padding.any())
        self.length = ids.shape[1]
        self.most = min(self.context_length, self.length + max_new_tokens)
        self.ids = nn.functional.pad(ids.to(device), (0, self.most + 1 - self.length))
        self.seen = self._tokens_of_each_row() if remember else None
        if cache is not None:
            check_cache(cache, self.length, not self.padded, self.most)

    def _tokens_of_each_row(self) -> Tensor:
        ids, vocab_size = self.ids[:, : self.length], self.model.config.vocab_size
        is_padding = torch.arange(self.length, device=ids.device) < self.padding[:, None]
        seen = torch.zeros(len(ids), vocab_size + 1, dtype=torch.bool, device=ids.device)  # the last one: padding
        return seen.scatter_(1, ids.masked_fill(is_padding, vocab_size), True)[:, :vocab_size]

    def next_logits(self) -> Tensor:
        """Reads what is new; returns the scores (rows, vocab_size) of each row's next token."""
        if self.is_full():
            self._go_on_with_later_halves()
        if self.cache is not None:
            return self._read(self.ids[:, self.cache.length : self.length])
        rows = torch.cat([self.padding[:, None], self.ids[:, : self.length]], dim=1)
        texts, copies = rows.cpu().unique(dim=0, return_inverse=True)
        texts = rows if len(texts) == len(rows) else texts.to(rows.device)
        padding = {"padding": texts[:, 0]} if self.padded else {}
        self.cache = self.model.new_cache(len(texts), self.most, **padding)
        logits = self._read(texts[:, 1:])
        if len(texts) == len(rows):
            return logits
        self.cache.select(copies)  # equal texts were read once; now each row gets its copy
        return logits[copies.to(logits.device)]

    def _read(self, unread: Tensor) -> Tensor:
        with without_dropout(self.modules):
            hidden = self.model.hidden_states(unread, self.cache)[:, -1]  # (rows, d_model)
            return self.model.lm_head(hidden)

    def is_full(self) -> bool:
        """Whether the texts are longer than what the model can look at."""
        return self.length > self.context_length

    def _go_on_with_later_halves(self) -> None:
        """The context is full: texts that fill it are cut, and all are read anew."""
        lengths = self.length - self.padding
        half = max(1, self.context_length // 2)
        lengths = torch.where(lengths > self.context_length, half, lengths)
        shortest, longest = int(lengths.min()), int(lengths.max())
        ids = self.ids[:, self.length - longest : self.length]
        self.padding, self.padded, self.length = longest - lengths, shortest < longest, longest
        self.cache, self.own_cache, self.most = None, True, self.context_length
        self.ids = nn.functional.pad(ids, (0, self.most + 1 - longest))

    def append(self, new: Tensor) -> None:
        """One more token for each row, (rows,)."""
        self.ids[:, self.length] = new
        self.length += 1
        if self.seen is not None:
            self.seen.scatter_(1, new[:, None], True)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, (kept,) of int64."""
        self.ids, self.padding = self.ids[rows], self.padding[rows]
        self.seen = None if self.seen is None else self.seen[rows]
        self.cache.select(rows)


def _checked(model: LanguageModel, token_ids: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The prompts, each (tokens,), if the model can read them."""
    if isinstance(token_ids, str):
        raise ValueError("token_ids are a str: encode the text first, with the model's tokenizer")
    batches = [token_ids] if isinstance(token_ids, Tensor) else [
        torch.as_tensor(prompt)[None] for prompt in token_ids]
    for batch in batches or [torch.empty(0)]:
        check_token_ids(batch, model.config.vocab_size, model.config.context_length)
    return [row for batch in batches for row in batch]


@torch.inference_mode()
def new_tokens(texts: TextBatch, max_new_tokens: int, choose: Choice, stop_tokens: Collection[int],
               seed: int | None) -> Iterator[Tensor]:
    """Yields each place's new tokens, (batch,), until all texts have ended.

    A GPU computes while Python already prepares what comes next, and to ask it for a number means to wait until it has
    caught up. So which texts have ended stays on the device, which is asked once in `LOOK_EVERY` tokens. Once a quarter
    of the texts has ended, they leave the batch. What was computed beyond an end is thrown away.
    """
    batch, device = texts.ids.shape[0], texts.ids.device
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    stops = torch.tensor(sorted(stop_tokens), dtype=torch.long, device=device)
    filler = stops[0] if len(stops) else torch.zeros((), dtype=torch.long, device=device)
    going = torch.arange(batch, device=device)  # the rows that are computed
    ended = torch.zeros(batch, dtype=torch.bool, device=device)  # which of them have ended
    unseen, states, every = [], [], LOOK_EVERY.get(device.type, 8)
    for count in range(1, max_new_tokens + 1):
        logits, read = texts.next_logits(), texts.length
        new = torch.where(ended, filler, choose(logits, generator, texts.seen))  # (going,)
        ended = ended | (new[:, None] == stops).any(dim=1)
        texts.append(new)
        best = logits.amax(dim=-1)
        unseen.append((filler.expand(batch).index_copy(0, going, new), best, read))
        states.append(torch.where(best.isfinite().all(), ended.sum(), -1))  # how many have ended
        if count % every and count < max_new_tokens and not texts.is_full():
            continue
        for (column, best, read), done in zip(unseen, torch.stack(states).tolist()):
            if done < 0:
                raise FloatingPointError(explain_bad_logits(texts.model, best[:, None], read))
            yield column
            if done == len(ended):
                return texts.cache.rewind(read)  # tokens beyond the end are thrown away
        unseen, states = [], []
        if done and texts.own_cache and 4 * done >= len(ended):  # worth the copying
            rows = ended.int().argsort(stable=True)[: len(ended) - done]  # those that go on
            going, ended = going[rows], ended[rows]
            texts.keep(rows)


def whole_rows(prompts: Sequence[Tensor], new: Tensor, stop_tokens: Collection[int]) -> list[Tensor]:
    """Each prompt, (tokens,), with its new tokens, a row of (batch, new tokens), to its first stop token."""
    stops = torch.isin(new, torch.tensor([*stop_tokens], dtype=torch.long)).long()
    lengths = (stops.cumsum(dim=1) - stops == 0).sum(dim=1)
    return [torch.cat([torch.as_tensor(prompt).cpu(), row[:length]])
            for prompt, row, length in zip(prompts, new, lengths.tolist())]
