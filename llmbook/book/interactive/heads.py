"""One attention head, from its query, key and value vectors: scores, weights, and the context that they make."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..figures import heatmap
from .frame import STILL_WIDTH, Interactive, visible

__all__ = ["attention_picture", "number_rows", "weigh"]

MOST_TOKENS = 24


def attention_picture(tokens: Sequence[str], query: Tensor, key: Tensor, value: Tensor, start: int = -1,
                      scaled: bool = True, masked: bool = False,
                      features: Sequence[str] | None = None) -> Interactive:
    """Choose the token that looks; its scores, weights and context follow, with scaling and causal mask on or off.

    Args:
        tokens: the sentence, n strings, at most 24.
        query, key: (n, d_head), one head's; may be the same tensor.
        value: (n, d_value).
        start: the token that looks at first; -1 is the last.
        scaled, masked: whether scores are divided by sqrt(d_head), and later tokens hidden, at first.
        features: names of the values' features, d_value strings.

    Raises:
        ValueError: if the shapes do not fit the tokens.

    Source: Vaswani et al., "Attention Is All You Need" (2017), section 3.2.1.
    """
    n = len(tokens)
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 2 or len(tensor) != n:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: {n} tokens need ({n}, d)")
    if query.shape != key.shape:
        raise ValueError(f"query {tuple(query.shape)} and key {tuple(key.shape)} differ: dot products need equal sizes")
    if not 1 <= n <= MOST_TOKENS:
        raise ValueError(f"{n} tokens: give 1 to {MOST_TOKENS}, so that each has its row")
    if features is not None and len(features) != value.shape[1]:
        raise ValueError(f"{len(features)} features for values of {value.shape[1]}: name each, or none")
    query, key, value = (tensor.detach().float().cpu() for tensor in (query, key, value))
    data = {"tokens": list(tokens), "query": number_rows(query), "key": number_rows(key), "value": number_rows(value),
            "start": range(n)[start], "scaled": scaled, "masked": masked,
            "features": None if features is None else list(features)}
    weights = weigh(query, key, scaled, masked)[data["start"]]
    best = int(weights.argmax())
    sentence, own = " ".join(token.strip() for token in tokens), tokens[data["start"]].strip()
    description = (f"Attention in the sentence {sentence!r}: {own!r} gives most weight, {weights[best]:.2f}, to "
                   f"{tokens[best].strip()!r}.")
    return Interactive("attention", data, lambda: _still(tokens, query, key, value, data), description)


def number_rows(matrix: Tensor) -> list[list[float]]:
    """A matrix as lists, its numbers to six digits, which the page can show four of."""
    return [[float(f"{number:.7g}") for number in row] for row in matrix.tolist()]


def weigh(query: Tensor, key: Tensor, scaled: bool, masked: bool) -> Tensor:
    """Attention weights (n, n) of one head's queries and keys, (n, d_head) each."""
    scores = query @ key.T
    if scaled:
        scores = scores / math.sqrt(query.shape[1])
    if masked:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
    return scores.softmax(dim=-1)


def _still(tokens: Sequence[str], query: Tensor, key: Tensor, value: Tensor, data: dict) -> Figure:
    """The chosen token's weights and contexts with and without scaling and mask, and all tokens' weights."""
    names = [visible(token.strip() or token) for token in tokens]
    chosen, n, width = data["start"], len(tokens), value.shape[1]
    settings = [("no scaling", False, False), (f"÷ √{query.shape[1]}", True, False),
                (f"÷ √{query.shape[1]}, mask", True, True)]
    weights = torch.stack([weigh(query, key, scaled, masked)[chosen] for _, scaled, masked in settings])
    labels = [name for name, _, _ in settings]
    form = ".2f" if n <= 8 else None
    figure = Figure(figsize=(STILL_WIDTH, 4.4 + 0.3 * n), layout="constrained")
    first, second, third = figure.subplots(3, 1, height_ratios=[3.2, 3.2, n + 0.2])
    turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) * n > 40 else {}
    heatmap(weights, labels, names, f"weights of “{names[chosen]}”", form=form, limits=(0, 1), colorbar=False, ax=first)
    contexts = weights @ value
    heatmap(contexts, labels, data["features"], f"context of “{names[chosen]}”: weighted sum of values",
            xlabel="" if data["features"] else "feature of the values", form=".2f" if width <= 8 else None,
            colorbar=False, ax=second)
    title = f"all weights, {'scaled' if data['scaled'] else 'not scaled'}, {'masked' if data['masked'] else 'no mask'}"
    heatmap(weigh(query, key, data["scaled"], data["masked"]), names, names, title, xlabel="key: token looked at",
            ylabel="query", form=form, limits=(0, 1), colorbar=False, ax=third)
    for axes in (first, third):
        for label in axes.get_xticklabels():
            label.set(**turned)
    return figure
