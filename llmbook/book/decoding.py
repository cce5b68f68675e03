"""For the chapter on your own device: its pictures, what a layer waits for, what guesses bring, a server's client."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import mean, stdev
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import torch
from matplotlib.axis import Axis
from torch import Tensor, nn

from ..generation import generate
from ..quantization import BlockLinear, Draft, speculate
from .figures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from .studies import STUDENT
from .timing import median_time

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare_drafts", "completion", "draw_bit_losses", "draw_roofline", "draw_weight_errors", "layer_errors",
           "pass_time", "plain_ticks"]

TEXTS = (4, 6, 8, 10, 12)  # that an interval may be over


def plain_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Ticks at these values alone, written as plain numbers, also where the scale is logarithmic."""
    axis.set_ticks(values, [f"{value:g}" for value in values])
    axis.set_ticks([], minor=True)


def draw_weight_errors(errors: Mapping[int, Sequence[float]], blocks: Sequence[int], title: str) -> None:
    """Draw the errors of rounded weights, in per cent: bits -> one for each length of a block."""
    _, ax = plt.subplots(figsize=(5.5, 3.4))
    for (bits, found), colour in zip(errors.items(), (BLUE, ORANGE, GREEN, PURPLE)):
        ax.semilogy([bits + 16 / block for block in blocks], found, "o-", color=colour, label=f"{bits} bits")
    ax.set(title=title, xlabel="bits per weight, scales counted",
           ylabel="error, % of the weights", xticks=range(2, 11))
    plain_ticks(ax.yaxis, (0.5, 1, 2, 5, 10, 20, 50))
    ax.legend(title=f"blocks of {', '.join(map(str, sorted(blocks, reverse=True)))}")
    plt.show()


def draw_bit_losses(damage: Mapping[int, tuple[float, float]], title: str) -> None:
    """Draw what rounding adds to the loss: bits -> nats per token, and half of their interval."""
    figure, ax = plt.subplots(figsize=(5.5, 3.2))
    figure.set_label("Loss added against bits per code: " + ", ".join(
        f"{abs(more):.3f} nats at {bits} bits" for bits, (more, _) in damage.items()))
    ax.errorbar(list(damage), [more for more, _ in damage.values()], [half for _, half in damage.values()], fmt="o-",
                color=RED, capsize=4)
    ax.set(title=title, xlabel="bits per code, blocks of 32",
           ylabel="loss added, nats per token", xticks=list(damage))
    ax.set_yscale("symlog", linthresh=0.01)
    plain_ticks(ax.yaxis, (0, 0.01, 0.1, 1, 10))
    ax.set_ylim(-0.002, 10)
    plt.show()


@torch.no_grad()
def layer_errors(model: nn.Module, token_ids: Tensor, bits: int) -> pd.DataFrame:
    """How far the output of each linear layer in the blocks is off if it alone is rounded, % of the output: a row for
    each block, a column for each kind of layer."""
    import pandas as pd

    table: dict[str, dict[str, float]] = {}

    def note(name: str, layer: nn.Linear, given: tuple[Tensor], out: Tensor) -> None:
        error = BlockLinear(layer, bits)(given[0]) - out
        number, kind = name.split(".", 1)
        table.setdefault(f"block {int(number) + 1}", {})[kind] = 100 * float(error.norm() / out.norm())

    hooks = [layer.register_forward_hook(partial(note, name)) for name, layer in model.blocks.named_modules()
             if isinstance(layer, nn.Linear)]
    try:
        model(token_ids)
    finally:
        for hook in hooks:
            hook.remove()
    return pd.DataFrame(table).T.round(1)


def completion(url: str, prompt: str, tokens: int) -> str:
    """What a server in OpenAI's protocol appends to a prompt, with the likeliest token each time."""
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # straight to it
    with opener.open(request, timeout=60) as reply:
        return json.load(reply)["choices"][0]["text"]


def draw_roofline(speeds: Mapping[int, float], bandwidth: float, peak: float) -> None:
    """Draw how fast a layer of float32 computes, under the two roofs.

    speeds: rows -> 10⁹ operations per second, from the fewest rows on. bandwidth: 10⁹ bytes per second. peak: 10⁹
    operations per second.
    """
    intensity = [rows / 2 for rows in speeds]  # 2 operations for each of a weight's 4 bytes, and for each row
    corner = peak / bandwidth
    _, ax = plt.subplots(figsize=(5.5, 3.4))
    ax.loglog(intensity, list(speeds.values()), "o-", color=SKY, label="measured")
    ax.loglog([intensity[0], corner, max(corner, intensity[-1])], [intensity[0] * bandwidth, peak, peak], "--",
              color=GREY, label="the two roofs")
    ax.set(title="One layer on this machine", xlabel="operations per byte of weights (below them the rows)",
           ylabel="10⁹ operations per second")
    ax.set_xticks(intensity, [f"{x:g}\n{rows}" for x, rows in zip(intensity, speeds, strict=True)])
    ax.set_xticks([], minor=True)
    low, high = min(speeds.values()), max(peak, *speeds.values())
    plain_ticks(ax.yaxis, [step * 10**power for power in range(-1, 6) for step in (1, 2, 5)
                           if low / 1.6 <= step * 10**power <= high * 1.6])
    ax.legend(loc="lower right")
    plt.show()


@torch.inference_mode()
def pass_time(model: nn.Module, tokens: int = 1, past: int = 64) -> float:
    """Seconds of a pass over so many tokens after `past` others: the median of 15."""
    ids = torch.zeros(1, past + tokens, dtype=torch.long)
    cache = model.new_cache(1, past + tokens)
    model.hidden_states(ids[:, :past], cache)

    def once() -> Tensor:
        cache.rewind(past)
        return model.lm_head(model.hidden_states(ids[:, past:], cache))

    return median_time(once, repeats=15)


def compare_drafts(model: nn.Module, drafts: Mapping[str, Draft], openings: Sequence[Tensor], tokens: int,
                   temperature: float) -> pd.DataFrame:
    """What each draft brings, on the same texts in one run: a row for each draft.

    Args:
        openings: beginnings of texts, each (1, tokens); 4, 6, 8, 10 or 12 of them. tokens: to write to each.

    Columns: tokens that a pass gave, and half of their 95 % interval; how many times as fast as `generate` it was (the
    geometric mean), from and to. The intervals are over texts. Each text is written by all in turn, so that what else
    the machine does meets all alike.
    """
    import pandas as pd

    if len(openings) not in TEXTS:
        raise ValueError(f"there are {len(openings)} openings: give {', '.join(map(str, TEXTS))}, for an interval")
    given: dict[str, list[float]] = {name: [] for name in drafts}
    faster: dict[str, list[float]] = {name: [] for name in drafts}
    generate(model, openings[0], 4, temperature=temperature)
    for number, opening in enumerate(openings):
        start = time.perf_counter()
        generate(model, opening, tokens, temperature=temperature, seed=number)
        alone = time.perf_counter() - start
        for name, draft in drafts.items():
            start = time.perf_counter()
            _, passes = speculate(model, opening, tokens, draft, temperature, seed=number)
            faster[name].append(alone / (time.perf_counter() - start))
            given[name].append(tokens / passes)
    return pd.DataFrame({name: _row(given[name], faster[name]) for name in drafts}).T


def _row(given: Sequence[float], faster: Sequence[float]) -> dict[str, float]:
    logs = torch.tensor(faster, dtype=torch.float64).log().tolist()
    half, wide = (STUDENT[len(each)] * stdev(each) / len(each) ** 0.5 for each in (given, logs))
    middle, low, high = torch.tensor([mean(logs), mean(logs) - wide, mean(logs) + wide]).exp().tolist()
    return {"tokens per pass": mean(given), "±": half, "times as fast": middle, "from": low, "to": high}
