"""One token on its way through a transformer block, step by step, with the shapes and the numbers of a real one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from ...gpt import TransformerBlock
from ..figures import BLUE, GREY, ORANGE, RED
from .frame import STILL_WIDTH, Interactive, visible
from .heads import weigh

__all__ = ["Stage", "block_picture", "stages"]

MOST_TOKENS = 16
SHOWN = 32  # features of a vector that are drawn
SIGNS = LinearSegmentedColormap.from_list("signs", [RED, "white", BLUE])  # below 0, 0, above


@dataclass(frozen=True)
class Stage:
    """One step: its name, what happens in it, its result (tokens, features), and whether that is the residual stream.

    weights: (n_heads, tokens, tokens), where the step is attention.
    """

    name: str
    text: str
    result: Tensor
    stream: bool = False
    weights: Tensor | None = None


@torch.no_grad()
def stages(block: TransformerBlock, x: Tensor) -> list[Stage]:
    """The steps of a block for x, (tokens, d_model); the last result is the block's own, without dropout."""
    attention, norm = block.attention, block.attention_norm(x)
    query, key, value = (part[0] for part in attention.project(norm[None]))  # (n_heads, tokens, d_head)
    weights = torch.stack([weigh(q, k, scaled=True, masked=True) for q, k in zip(query, key)])
    heads, d_head = query.shape[0], query.shape[2]
    context = (weights @ value).transpose(0, 1).flatten(1)  # heads end to end: (tokens, d_model)
    attended = attention.out(context)
    middle = x + attended
    second = block.feed_forward_norm(middle)
    wide = block.feed_forward.expand(second)
    bent = F.gelu(wide, approximate="tanh")
    contracted = block.feed_forward.contract(bent)
    d_model, d_hidden = x.shape[1], wide.shape[1]
    return [
        Stage("input", "What the block receives: for each token one vector. It flows down the left edge, the skip "
              "connection, and each part of the block adds to it.", x, stream=True),
        Stage("layer norm", "A normalised copy: mean 0 and standard deviation 1, then a learned scale and shift for "
              "each feature. The vector at the left edge stays as it is.", norm),
        Stage("attention", f"Each of the {heads} heads compares this token's query with the keys of the tokens up to "
              f"it, and adds up their values with these weights. The {heads} contexts of {d_head} features stand end "
              "to end. Only here do tokens exchange anything.", context, weights=weights),
        Stage("output projection", f"A linear layer, {d_model} to {d_model}, mixes the heads.", attended),
        Stage("input + attention", "Addition: the input, and what attention found.", middle, stream=True),
        Stage("layer norm", "A normalised copy again, for the second part.", second),
        Stage("linear, wider", f"From {d_model} to {d_hidden} features, the same matrix for every token.", wide),
        Stage("GELU", "Negative numbers shrink to almost 0, positive ones pass.", bent),
        Stage("linear, narrower", f"Back from {d_hidden} to {d_model} features.", contracted),
        Stage("output", "Addition again. The result has the input's shape, so the next block can go on from here.",
              middle + contracted, stream=True),
    ]


def block_picture(transformer_block: TransformerBlock, x: Tensor, tokens: Sequence[str],
                  start: int = -1) -> Interactive:
    """Follow one token through a block: each step with its shape, its numbers, their mean and standard deviation.

    Args:
        transformer_block: a GPT's; dropout is left out.
        x: what enters it, (n, d_model).
        tokens: n strings, at most 16.
        start: the token that is followed at first; -1 is the last.

    Raises:
        ValueError: if x does not have one row per token.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.3, for the norms
        before each part.
    """
    n = len(tokens)
    if x.dim() != 2 or len(x) != n:
        raise ValueError(f"x has shape {tuple(x.shape)}: {n} tokens need ({n}, d_model)")
    if not 1 <= n <= MOST_TOKENS:
        raise ValueError(f"{n} tokens: give 1 to {MOST_TOKENS}, so that each can be chosen")
    steps = stages(transformer_block, x.detach())
    start = range(n)[start]
    data = {"tokens": list(tokens), "start": start, "stages": [_as_json(stage) for stage in steps]}
    before, after = (float(step.result[start].norm()) for step in (steps[0], steps[-1]))
    return Interactive("block", data, lambda: _still(steps, tokens, start),
                       f"The token {tokens[start].strip()!r} on its way through a transformer block in {len(steps)} "
                       f"steps, with {x.shape[1]} features; its vector's length goes from {before:.2f} to {after:.2f}.")


def _as_json(stage: Stage) -> dict:
    result = stage.result.float().cpu()
    weights = None if stage.weights is None else [
        [[round(weight, 5) for weight in row] for row in head] for head in stage.weights.float().cpu().tolist()]
    return {"name": stage.name, "text": stage.text, "stream": stage.stream, "shape": list(result.shape),
            "mean": [round(float(mean), 5) for mean in result.mean(dim=1)],
            "deviation": [round(float(deviation), 5) for deviation in result.std(dim=1, correction=0)],
            "limit": float(result[:, :SHOWN].abs().max()) or 1.0, "weights": weights,
            "values": [[round(number, 5) for number in row] for row in result[:, :SHOWN].tolist()]}


def _still(steps: list[Stage], tokens: Sequence[str], start: int) -> Figure:
    """The steps one under another: name, shape, the token's vector as coloured cells, its mean and deviation."""
    figure = Figure(figsize=(STILL_WIDTH, 0.62 * len(steps) + 0.7), layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"“{visible(tokens[start].strip() or tokens[start])}” through one block")
    streams = [place for place, step in enumerate(steps) if step.stream]
    axes.plot([0.02, 0.02], [0, -streams[-1]], color=ORANGE, linewidth=3, zorder=0)
    for place, step in enumerate(steps):
        result = step.result[start].float().cpu()
        limit = float(step.result[:, :SHOWN].abs().max()) or 1.0
        row = result[None, :SHOWN].numpy()
        axes.imshow(row, extent=(0.16, 1, -place - 0.36, -place + 0.02), cmap=SIGNS, vmin=-limit, vmax=limit,
                    aspect="auto")
        mean, deviation = round(float(result.mean()), 2) + 0.0, float(result.std(correction=0))  # no -0.00
        axes.text(0.16, -place + 0.08, step.name, va="bottom", weight="bold" if step.stream else "normal")
        axes.text(1, -place + 0.08, f"{tuple(step.result.shape)}   {mean:.2f} ± {deviation:.2f}", va="bottom",
                  ha="right", fontsize=8)
        axes.plot(0.02 if step.stream else 0.12, -place - 0.17, "o", color=ORANGE if step.stream else BLUE,
                  markersize=7)
    for first, last in zip(streams, streams[1:]):  # what each part reads, and where it adds its result
        axes.plot([0.02, 0.12, 0.12, 0.02], [-first - 0.17, -first - 1.17, -last + 0.83, -last - 0.17], color=BLUE,
                  linewidth=1.5, zorder=0)
    count = min(SHOWN, steps[0].result.shape[1])
    axes.text(0.08, -len(steps) + 0.3, f"cells: the first {count} features, blue above 0, orange below,\n"
              "each row with its own colour scale; right: shape (tokens, features),\n"
              "and this token's mean ± standard deviation", fontsize=7.5, color=GREY, va="top")
    axes.set(xlim=(0, 1.01), ylim=(-len(steps) - 0.4, 0.45))
    axes.axis("off")
    return figure
