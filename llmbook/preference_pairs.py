"""Pairs of answers made ready: token ids, batches of about one length, and answers that are read in batches.

`llmbook.preferences` stands on this, and offers it under its own name. Chapter 8 teaches the ideas.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .devices import evaluation_mode
from .instructions import encode_entry
from .labelled_texts import LengthBatches
from .prompt_ends import end_token, refuse_special_tokens
from .protocols import Tokenizer

__all__ = ["Answer", "PreferenceDataset", "ends_of_rows", "check_learner", "checked_rewards", "collate_answers",
           "encode_answer", "encode_prompt_only", "preference_loader", "read_answers"]

Answer = tuple[Tensor, int]
"""Token ids (tokens,) of a prompt and an answer, and how many of them are the prompt."""


def encode_prompt_only(prompt: str, tokenizer: Tokenizer, style: str = "story") -> Tensor:
    """The ids of a prompt (tokens,), up to where an answer begins. See `encode_answer`."""
    ids, tokens = encode_answer(prompt, "", tokenizer, style)
    return ids[:tokens]


def encode_answer(prompt: str, answer: str, tokenizer: Tokenizer, style: str = "story", where: str = "the pair"
                  ) -> Answer:
    """Ids (tokens,) of a prompt, an answer and the token that ends it, and how many of them are the prompt.

    style: "story": the answer goes on where the prompt, which may be empty, ends, as in the texts of pretraining; or a
    format of `llmbook.instructions.format_prompt`, with the prompt as the instruction. Raises ValueError, which begins
    with `where`, if a text holds a special token.
    """
    if style != "story":
        return encode_entry({"instruction": prompt, "input": "", "output": answer}, tokenizer, style, where)
    refuse_special_tokens((prompt, answer), tokenizer, where)
    end = end_token(tokenizer, "plain")  # it begins a text, too
    begun, more = (tokenizer.encode(text, disallowed_special=()) for text in (prompt, answer))
    return torch.tensor([end, *begun, *more, end]), 1 + len(begun)


class PreferenceDataset(Dataset):
    """Votes as token ids: item i is (the chosen answer, the rejected one), each an `Answer`.

    An answer that is longer than the context loses its end, and a warning says so.

    Args:
        pairs: each with the texts "prompt", "chosen" and "rejected".
        tokenizer: the model's. context_length: the longest row, in tokens.
        style: see `encode_answer`.

    Raises ValueError, with the pair's place from 0, if there is no pair, its two answers are the same text, a text
    holds a special token, or the prompt leaves no room for an answer.
    """

    def __init__(self, pairs: Sequence[Mapping[str, str]], tokenizer: Tokenizer, context_length: int,
                 style: str = "story"):
        if not len(pairs):
            raise ValueError("there are no pairs: give at least one vote")
        self.style, self.rows = style, []
        for place, pair in enumerate(pairs):
            where = f"pair {place}"
            if pair["chosen"] == pair["rejected"]:
                raise ValueError(f"{where}: chosen and rejected are the same text ({pair['chosen'][:30]!r}): leave it "
                                 "out")
            answers = [encode_answer(pair["prompt"], pair[name], tokenizer, style, where)
                       for name in ("chosen", "rejected")]
            if answers[0][1] >= context_length:
                raise ValueError(f"{where}: its prompt has {answers[0][1]:,} tokens, the context {context_length:,}: "
                                 "shorten it")
            longest = max(len(ids) for ids, _ in answers)
            if longest > context_length:
                warnings.warn(f"{where}: an answer has {longest:,} tokens, the context {context_length:,}: its last "
                              f"{longest - context_length:,} are left out", stacklevel=2)
            self.rows.append(tuple((ids[:context_length], tokens) for ids, tokens in answers))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[Answer, Answer]:
        return self.rows[place]

    @property
    def answers(self) -> list[Answer]:
        """All answers one after the other, chosen and rejected in turn."""
        return [answer for pair in self.rows for answer in pair]


def collate_answers(answers: Sequence[Answer]) -> tuple[Tensor, Tensor]:
    """Answers -> (token ids, labels), each (answers, longest), padded at the right.

    A label is the token's own id where the token belongs to an answer, and -100 where it is the prompt's or padding.
    """
    longest = max(len(ids) for ids, _ in answers)
    token_ids = torch.zeros(len(answers), longest, dtype=torch.long)
    labels = torch.full((len(answers), longest), -100)
    for row, (ids, prompt_tokens) in enumerate(answers):
        token_ids[row, : len(ids)] = ids
        labels[row, prompt_tokens : len(ids)] = ids[prompt_tokens:]
    return token_ids, labels


def preference_loader(dataset: PreferenceDataset, batch_size: int = 8, shuffle: bool = True, seed: int = 0,
                      reference: Tensor | None = None) -> DataLoader:
    """Batches of votes of about the same length: token ids and labels, each (pairs, 2, tokens), the chosen first.

    reference: (all pairs, 2); if given, a batch's rows of it are the batch's third tensor.
    """
    def collate(places: list[int]) -> tuple[Tensor, ...]:
        token_ids, labels = collate_answers([answer for place in places for answer in dataset[place]])
        batch = token_ids.unflatten(0, (-1, 2)), labels.unflatten(0, (-1, 2))
        return batch if reference is None else (*batch, reference[places])

    lengths = [max(len(ids) for ids, _ in pair) for pair in dataset.rows]
    return DataLoader(range(len(dataset)), batch_sampler=LengthBatches(lengths, batch_size, shuffle, seed),
                      collate_fn=collate)


def ends_of_rows(labels: Tensor) -> Tensor:
    """Labels (answers, tokens) of `collate_answers` -> each answer's tokens, its prompt included, (answers,)."""
    places = torch.arange(1, labels.shape[-1] + 1, device=labels.device)
    return torch.where(labels != -100, places, 0).amax(dim=-1)


@torch.no_grad()
def read_answers(model: nn.Module, answers: Sequence[Answer], read: Callable[[Tensor, Tensor], Tensor],
                 batch_size: int = 16) -> Tensor:
    """What `read(token_ids, labels)` makes of each answer, (answers,), on the CPU, in their order; dropout off."""
    device, found = next(model.parameters()).device, torch.empty(len(answers))
    with evaluation_mode(model):
        for places in LengthBatches([len(ids) for ids, _ in answers], batch_size, shuffle=False):
            token_ids, labels = collate_answers([answers[place] for place in places])
            found[places] = read(token_ids.to(device), labels.to(device)).float().cpu()
    return found


def check_learner(model: nn.Module, reference: nn.Module | None) -> None:
    """Raise ValueError if the reference, which must not change, would be trained together with the model."""
    if reference is model:
        raise ValueError("the reference is the model itself: leave it out, and the model as it is now is the reference")
    trained = {id(weight) for weight in model.parameters() if weight.requires_grad}
    if reference is not None and any(id(weight) in trained for weight in reference.parameters()):
        raise ValueError("the reference shares weights that are trained: give a copy of the model (copy.deepcopy)")


def checked_rewards(rewards: Sequence[float] | Tensor, answers: int) -> Tensor:
    """Rewards as a tensor (answers,) of float32. Raises ValueError unless they are a finite number for each answer."""
    found = torch.as_tensor(rewards, dtype=torch.float32).detach().cpu()
    if found.shape != (answers,):
        raise ValueError(f"the reward function gave {tuple(found.shape)} for {answers} answers: one number for each, "
                         "(answers,)")
    if not bool(found.isfinite().all()):
        place = int((~found.isfinite()).nonzero()[0])
        raise ValueError(f"reward {place} is {found[place].item()}: the reward function must give finite numbers")
    return found
