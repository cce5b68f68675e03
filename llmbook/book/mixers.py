"""For the chapter beyond attention: the recall task, small models of equal size, the stored study and its pictures."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import tiktoken
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ..devices import evaluation_mode
from ..documents import make_document_loader
from ..experts import watch_routers
from ..extras import load_extra
from ..files import data_folder
from ..gpt import count_parameters
from ..sequence_mixers import HybridConfig, HybridLlama
from ..text import load_tokenizer
from .corpora import story_documents
from .figures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED
from .ladder import VALIDATION_SEED
from .storytelling import Share, story_loss
from .studies import STUDENT, read_study

__all__ = ["COLOURS", "KINDS", "PAIRS", "RECALL_SIZES", "STORY_SIZES", "TABLE_NAME", "RecallBatches",
           "draw_expert_shares", "draw_recall", "draw_state_bytes", "equal_hidden", "expert_shares", "expert_table",
           "held_out_bits", "mean_over_runs", "mixer_model", "mixer_study", "recall_batch", "recall_share",
           "recall_table", "recall_text", "seconds_per_token", "shares_by_kind", "short_story_batches", "story_table",
           "validation_bits"]

if TYPE_CHECKING:
    import pandas as pd

TABLE_NAME = "mixers.json"  # tools/mixers.py writes it
KINDS = ("attention", "window", "linear", "delta", "gated delta", "hybrid")
COLOURS = dict(zip(KINDS, (ORANGE, GREY, GREEN, PURPLE, BLUE, RED)))
HYBRID = ("gated delta", "gated delta", "gated delta", "attention")
N_KEYS, N_VALUES = 32, 8  # of the recall task
SMALL_WORDS = set("a an the and but or so to of in on at for with from was were is had has it he she they his her "
                  "their that this there not as by up out one when then".split())
PAIRS = (4, 8, 16, 24)
RECALL_SIZES = {"vocab_size": N_KEYS * (N_VALUES + 1), "context_length": 64, "d_model": 32, "n_heads": 1,
                "n_layers": 2, "d_hidden": 64, "window": 8}
STORY_SIZES = {"vocab_size": 2048, "context_length": 512, "d_model": 64, "n_heads": 2, "n_layers": 4, "d_hidden": 160,
               "window": 16}
RUNS = (2, 3, 4, 5)  # that an interval may be over


def mixer_model(kind: str, seed: int, **sizes: Any) -> HybridLlama:
    """A new model of one of `KINDS` with about as many parameters as the one of attention, to which the `sizes` belong.
    "hybrid" attends in its last block of four."""
    torch.manual_seed(seed)
    layers = sizes["n_layers"]
    mixers = HYBRID[-layers:] if kind == "hybrid" else (kind,)
    config = HybridConfig(**{"n_kv_heads": sizes["n_heads"], "mixers": mixers, "d_hidden": 1, **sizes})
    return HybridLlama(HybridConfig(**{**vars(config), "d_hidden": equal_hidden(config, sizes["d_hidden"])}))


def equal_hidden(config: HybridConfig, d_hidden: int) -> int:
    """The `d_hidden` with which a model has as many parameters as one with attention everywhere and this `d_hidden`, as
    nearly as it goes."""
    with torch.device("meta"):
        plain = HybridLlama(HybridConfig(**{**vars(config), "mixers": ("attention",), "d_hidden": d_hidden}))
        other = HybridLlama(HybridConfig(**{**vars(config), "d_hidden": d_hidden}))
    extra = count_parameters(other) - count_parameters(plain)
    return d_hidden - round(extra / (3 * config.d_model * config.n_layers))


# --- the recall task -------------------------------------------------------------------------------------------------

def recall_batch(n: int, pairs: int, questions: int = 4, generator: torch.Generator | None = None
                 ) -> tuple[Tensor, Tensor]:
    """`n` texts that say some pairs, such as `b=3`, each key once, and then ask for some of them: `b=?`.

    Returns inputs and targets, each (n, pairs + 2 * questions); only what follows a question is a target.
    """
    keys = torch.rand(n, N_KEYS, generator=generator).argsort(dim=1)[:, :pairs]
    values = torch.randint(N_VALUES, keys.shape, generator=generator)
    asked = torch.rand(n, pairs, generator=generator).argsort(dim=1)[:, :questions]
    told = keys * N_VALUES + values  # one token for a pair
    answers = told.gather(1, asked)
    ids = torch.cat([told, torch.stack([N_KEYS * N_VALUES + keys.gather(1, asked), answers], dim=2).flatten(1)], dim=1)
    targets = torch.full_like(ids, -100)
    targets[:, pairs::2] = answers
    return ids, targets


def recall_text(ids: Sequence[int]) -> str:
    """The tokens of a recall text as a person writes them."""
    names = [chr(ord("A") + key) if key < 26 else chr(ord("a") + key - 26) for key in range(N_KEYS)]
    pairs = N_KEYS * N_VALUES
    return " ".join(f"{names[i // N_VALUES]}={i % N_VALUES}" if i < pairs else f"{names[i - pairs]}=?" for i in ids)


class RecallBatches:
    """Batches without end of `recall_batch`, each with 4, 8, 16 or 24 pairs. The same seed gives the same ones."""

    def __init__(self, seed: int, batch_size: int = 32):
        self.seed, self.batch_size = seed, batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            pairs = PAIRS[int(torch.randint(len(PAIRS), (1,), generator=generator))]
            yield recall_batch(self.batch_size, pairs, generator=generator)


@torch.no_grad()
def recall_share(model: nn.Module, pairs: int, n: int = 250) -> Share:
    """How many of 4 `n` questions a model answers rightly, after so many pairs; never the texts of a training."""
    inputs, targets = recall_batch(n, pairs, generator=torch.Generator().manual_seed(10_000_019 + pairs))
    with evaluation_mode(model):
        right = (model(inputs).argmax(dim=-1) == targets)[targets != -100]
    return Share(int(right.sum()), len(right))


# --- stories ---------------------------------------------------------------------------------------------------------

@lru_cache(maxsize=1)
def _tokenizer() -> tiktoken.Encoding:
    return load_tokenizer(data_folder() / "storyteller" / "tokenizer.json")


def short_story_batches(seed: int, n: int = 2000, batch_size: int = 4) -> DataLoader:
    """Batches of the first `n` short training stories, in the storyteller's tokens."""
    tokenizer = _tokenizer()
    documents = [tokenizer.encode_ordinary(text) for text in story_documents(n, short=True)]
    return make_document_loader(documents, 512, batch_size, tokenizer.eot_token, seed)


def held_out_bits(model: nn.Module) -> float:
    """Bits per byte on the 200 held-out short stories on which all of the book's losses on stories are measured."""
    return story_loss(model, _tokenizer())[1]


def validation_bits(model: nn.Module) -> float:
    """Bits per byte on 100 other stories, to choose settings with."""
    return story_loss(model, _tokenizer(), texts=story_documents(100, VALIDATION_SEED, "test", short=True))[1]


@torch.no_grad()
def expert_shares(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], batches: int = 20) -> list[Tensor]:
    """How much of all choices each expert gets, (n_experts,), for each layer with experts; padding does not count."""
    counts: list[Tensor] = []
    with evaluation_mode(model):
        for inputs, targets in islice(loader, batches):
            with watch_routers(model) as seen:
                model(inputs)
            kept = (targets != -100).flatten()
            found = [F.one_hot(scores[kept].topk(k, dim=1).indices, scores.shape[1]).sum((0, 1)) for scores, k in seen]
            counts = [sum(pair) for pair in zip(counts, found)] if counts else found
    return [count / count.sum() for count in counts]


def token_kind(token: int) -> str:
    """What a token of the stories' tokenizer is, for `shares_by_kind`."""
    text = _tokenizer().decode([token])
    word = text.strip()
    if not word or not any(letter.isalnum() for letter in word):
        return "punctuation"
    if word[0].isdigit():
        return "numbers"
    if word[0].isupper():
        return "capitals"
    if not text.startswith(" "):
        return "ends of words"
    return "small words" if word in SMALL_WORDS else "other words"


@torch.no_grad()
def shares_by_kind(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], block: int = 0, batches: int = 20
                   ) -> pd.DataFrame:
    """How the tokens of each kind are distributed over the experts of a block, 0 to 1: a row for each kind, which adds
    up to 1, a column for each expert."""
    counts: dict[str, Tensor] = {}
    kinds = [token_kind(token) for token in range(_tokenizer().n_vocab)]
    with evaluation_mode(model):
        for inputs, targets in islice(loader, batches):
            with watch_routers(model) as seen:
                model(inputs)
            scores, per_token = seen[block]
            chosen = F.one_hot(scores.topk(per_token, dim=1).indices, scores.shape[1]).sum(dim=1)
            for token, row in zip(inputs[targets != -100].tolist(), chosen[(targets != -100).flatten()]):
                counts[kinds[token]] = counts.get(kinds[token], 0) + row
    rows = {kind: (row / row.sum()).tolist() for kind, row in sorted(counts.items())}
    return load_extra("pandas").DataFrame.from_dict(rows, orient="index")


@torch.no_grad()
def seconds_per_token(model: HybridLlama, tokens: int, repeats: int = 15) -> float:
    """Seconds of processor time for one more token after so many, the least of a few tries."""
    cache = model.eval().new_cache(1, tokens + repeats)
    for part in torch.zeros(1, tokens, dtype=torch.long).split(1024, dim=1):
        model(part, cache)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        model(torch.zeros(1, 1, dtype=torch.long), cache)
        times.append(time.process_time() - start)
    return min(times)


# --- the stored study ------------------------------------------------------------------------------------------------

def mixer_study() -> dict[str, list[dict[str, Any]]]:
    """The rows of tools/mixers.py, part -> rows. Raises FileNotFoundError if it has not been run."""
    return read_study(TABLE_NAME, "python tools/mixers.py")


def mean_over_runs(values: Sequence[float]) -> tuple[float, float]:
    """The mean of a few runs, and half of its 95 % interval by Student's t. Raises ValueError for fewer than 2 runs or
    more than 5."""
    if len(values) not in RUNS:
        raise ValueError(f"{len(values)} runs: give 2 to 5")
    return float(np.mean(values)), float(STUDENT[len(values)] * np.std(values, ddof=1) / len(values) ** 0.5)


def recall_table(study: Mapping[str, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """The runs on the recall task, one row a kind: % right after 24 pairs, with half of the 95 % interval of the mean,
    the lowest of the runs and how many there are. One run alone has no interval."""
    rows = []
    for kind in KINDS:
        runs = [row for row in study["recall"] if row["kind"] == kind]
        if not runs:
            continue
        last = [100 * row["right"][str(PAIRS[-1])][0] / row["right"][str(PAIRS[-1])][1] for row in runs]
        mean, half = _mean_and_half(last, 1)
        rows.append({"kind": kind, "parameters": runs[0]["parameters"], "right, %": mean,
                     "± (95 %, t)": half, "lowest": min(last), "runs": len(runs)})
    return load_extra("pandas").DataFrame(rows)


def story_table(study: Mapping[str, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """The runs on stories, one row a kind: parameters, held-out bits per byte with half of the 95 % interval of the
    mean, how many runs, and what is kept of a text of 256 and of 8,192 tokens. One run alone has no interval."""
    rows = []
    for kind in KINDS:
        runs = [row for row in study["stories"] if row["kind"] == kind]
        if not runs:
            continue
        mean, half = _mean_and_half([row["bits"] for row in runs], 3)
        config = mixer_model(kind, 0, **STORY_SIZES).config
        rows.append({"kind": kind, "parameters": runs[0]["parameters"], "bits per byte": mean,
                     "± (95 %, t)": half, "runs": len(runs),
                     "kB at 256": round(config.state_bytes(256) / 1e3, 1),
                     "kB at 8,192": round(config.state_bytes(8192) / 1e3, 1)})
    return load_extra("pandas").DataFrame(rows)


def expert_table(study: Mapping[str, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """The runs with experts, one row a kind of feed-forward part: parameters, those active for a token, held-out bits
    per byte with half of the 95 % interval of the mean, how many runs, and the largest share of all choices that one
    expert of a block gets, the mean over runs. One run alone has no interval."""
    dense = [{**row, "kind": "dense, active parameters", "active": row["parameters"]} for row in study["stories"]
             if row["kind"] == "attention"]
    table, rows = [], [*dense, *study["experts"]]
    for name in dict.fromkeys(row["kind"] for row in rows):
        runs = [row for row in rows if row["kind"] == name]
        mean, half = _mean_and_half([row["bits"] for row in runs], 3)
        busiest = [max(map(max, row["shares"])) for row in runs if row.get("shares")]
        table.append({"feed-forward": name, "parameters": runs[0]["parameters"], "active": runs[0]["active"],
                      "bits per byte": mean, "± (95 %, t)": half, "runs": len(runs),
                      "busiest, %": round(100 * float(np.mean(busiest))) if busiest else "-"})
    return load_extra("pandas").DataFrame(table)


def draw_state_bytes(configs: Mapping[str, HybridConfig], lengths: Sequence[int]) -> Axes:
    """What must be kept of one text against its length, a line for each kind."""
    _, ax = plt.subplots(figsize=(5, 3.4))
    for (kind, config), mark in zip(configs.items(), "osD^v*"):
        ax.plot(lengths, [config.state_bytes(tokens) / 1e3 for tokens in lengths], marker=mark, color=COLOURS[kind],
                label=kind)
    ax.set(xscale="log", yscale="log", xlabel="tokens of the text so far", ylabel="kB kept of one text",
           title="What must be kept to write the next token")
    ax.set_xticks(lengths, [f"{tokens:,}" for tokens in lengths], fontsize=8)
    ax.minorticks_off()
    ax.legend(fontsize=8, ncol=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return ax


def _mean_and_half(values: Sequence[float], digits: int) -> tuple[float, float | str]:
    mean, half = mean_over_runs(values) if len(values) > 1 else (values[0], None)
    return round(mean, digits), "-" if half is None else round(half, digits)


def draw_recall(rows: Sequence[Mapping[str, Any]]) -> Axes:
    """Right answers against the number of pairs: a mark for each run, a line through the means, one colour a kind."""
    _, ax = plt.subplots(figsize=(5, 3.4))
    for kind, mark in zip(KINDS, "osD^v*"):
        runs = [row["right"] for row in rows if row["kind"] == kind]
        if runs:
            shares = np.array([[run[str(pairs)][0] / run[str(pairs)][1] for pairs in PAIRS] for run in runs])
            ax.plot(PAIRS, shares.mean(axis=0), "--" if kind == "hybrid" else "-", color=COLOURS[kind], label=kind)
            for share in shares:
                ax.plot(PAIRS, share, mark, color=COLOURS[kind], alpha=0.6, markersize=4)
    ax.axhline(1 / N_VALUES, color=GREY, linestyle=":")
    ax.set(xlabel="pairs to remember (dotted: guessing)", ylabel="right answers", ylim=(0, 1.03), xticks=PAIRS,
           title="Recall: the mean of each kind, and its runs")
    ax.legend(fontsize=8, ncol=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return ax


def draw_expert_shares(shares: Mapping[str, Tensor]) -> Axes:
    """Bars for how much of all choices each expert gets, (n_experts,), for two or three trainings, on one scale."""
    size = (5, 1.9 * len(shares))
    _, axes = plt.subplots(len(shares), 1, figsize=size, sharex=True, sharey=True, squeeze=False)
    for ax, (name, share), colour in zip(axes[:, 0], shares.items(), (ORANGE, BLUE, GREEN)):
        ax.bar(range(len(share)), share.tolist(), color=colour)
        ax.axhline(1 / len(share), color=GREY, linestyle=":")
        ax.set(ylabel="share", title=name)
    axes[-1, 0].set(xlabel="expert (dotted: all alike)")
    axes[-1, 0].figure.set_layout_engine("constrained")
    return axes[0, 0]
