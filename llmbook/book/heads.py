"""The attention weights of a trained model, word by word, and short sentences to try its heads on."""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from llmbook.attention import MultiHeadAttention, causal_attention
from llmbook.protocols import LanguageModel, Tokenizer

__all__ = ["SubjectSentence", "attention_maps", "noun_weights", "subject_sentences", "word_attention"]


@torch.no_grad()
def attention_maps(model: LanguageModel, token_ids: Sequence[int]) -> Tensor:
    """The attention weights of every head on one text: (n_layers, n_heads, tokens, tokens), float32.

    Row i holds what token i attends to. The layer's own queries and keys go through the same fused computation, whose
    output with one-hot values is the weights. Works for models whose blocks hold a `MultiHeadAttention` named
    `attention`, such as `GPT` and `Llama`.
    """
    found: list[Tensor] = []

    def look(layer: nn.Module, inputs: tuple, options: dict[str, Any]) -> None:
        assert isinstance(layer, MultiHeadAttention)
        given = signature(layer.forward).bind(*inputs, **options).arguments
        query, key, _ = layer.project(given["x"], given.get("rotate"))
        one_hot = torch.eye(key.shape[2], dtype=key.dtype, device=key.device).expand(*key.shape[:2], -1, -1)
        found.append(causal_attention(query, key, one_hot, window=layer.window, scale=layer.scale)[0].float().cpu())

    hooks = [block.attention.register_forward_pre_hook(look, with_kwargs=True) for block in model.blocks]
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        device = next(model.parameters()).device
        model.hidden_states(torch.tensor([list(token_ids)], device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for part in training:
            part.training = True
    return torch.stack(found)


def word_attention(model: LanguageModel, tokenizer: Tokenizer, text: str) -> tuple[list[str], Tensor]:
    """The words of a text, cut at spaces, and how much each attends to each: (n_layers, n_heads, words, words).

    A word of several tokens attends with its last one, which has seen the others, and is attended to with the sum over
    all of them. So each row still adds up to 1.
    """
    ids = tokenizer.encode(text)
    maps = attention_maps(model, ids)
    words, word_of = text.split(" "), []
    read = 0  # characters; a token that begins with a space belongs to the word after it
    for token in ids:
        piece = tokenizer.decode([token])
        read += len(piece)
        word_of.append(text[:read].rstrip(" ").count(" "))
    belongs = torch.zeros(len(ids), len(words))
    belongs[torch.arange(len(ids)), torch.tensor(word_of)] = 1
    last = [len(ids) - 1 - word_of[::-1].index(word) for word in range(len(words))]
    return words, maps[:, :, last] @ belongs


@dataclass(frozen=True)
class SubjectSentence:
    """A sentence in which *it* means the subject, and `other` is a noun that it does not mean."""

    text: str
    subject: str
    other: str


SUBJECTS = (
    ("lamp", "flickered", "shook"), ("boat", "sank", "leaked"), ("clock", "stopped", "rusted"),
    ("engine", "failed", "overheated"), ("bridge", "closed", "cracked"), ("window", "rattled", "was loose"),
    ("cake", "collapsed", "cooled"), ("radio", "hummed", "was old"), ("ladder", "slipped", "was wet"),
    ("candle", "smoked", "was damp"), ("wheel", "squeaked", "was dry"), ("bell", "rang", "swung"),
    ("tent", "fell", "was torn"), ("soup", "spilled", "boiled over"), ("mirror", "broke", "fell"),
    ("kite", "rose", "was light"), ("piano", "buzzed", "was broken"), ("truck", "skidded", "braked"),
    ("robot", "paused", "was tired"), ("pump", "groaned", "was blocked"))
PLACES = ("in the garden", "near the river", "behind the house", "under the roof", "on the table")


def subject_sentences(part: str) -> list[SubjectSentence]:
    """Twenty sentences: ten subjects, each once before and once after a place with a noun of its own.

    part: "choose", to look for a head with, or "measure", ten other subjects to try it on. ValueError for another.
    """
    if part not in ("choose", "measure"):
        raise ValueError(f'part is {part!r}: it must be "choose" or "measure"')
    sentences = []
    for number, (subject, verb, reason) in enumerate(SUBJECTS[:10] if part == "choose" else SUBJECTS[10:]):
        place = PLACES[number % len(PLACES)]
        for text in (f"the {subject} {place} {verb} because it {reason}",
                     f"{place} the {subject} {verb} because it {reason}"):
            sentences.append(SubjectSentence(text, subject, place.split()[-1]))
    return sentences


def noun_weights(model: LanguageModel, tokenizer: Tokenizer, sentences: Sequence[SubjectSentence],
                 attending: str = "it") -> tuple[Tensor, Tensor]:
    """How much one word attends to the subject and to the other noun: each (sentences, n_layers, n_heads)."""
    subject, other = [], []
    for sentence in sentences:
        words, maps = word_attention(model, tokenizer, sentence.text)
        row = maps[:, :, words.index(attending)]  # (n_layers, n_heads, words)
        subject.append(row[..., words.index(sentence.subject)])
        other.append(row[..., words.index(sentence.other)])
    return torch.stack(subject), torch.stack(other)
