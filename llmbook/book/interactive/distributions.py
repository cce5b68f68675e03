"""Temperature, top-k and top-p over a model's real next-token distributions, and the text that is sampled with them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..figures import BLUE
from .frame import STILL_WIDTH, Interactive, visible

__all__ = ["TEMPERATURES", "TOP_KS", "TOP_PS", "kept_choices", "sampled", "sampling"]

NextLogits = Callable[[list[list[int]]], Tensor]

TEMPERATURES = (0.2, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
TOP_KS = (1, 2, 3, 5, 10, 20, None)  # None: all
TOP_PS = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0)
LISTED = 20  # the likeliest tokens, whose logits the page holds one by one


def sampling(tokens: Sequence[str], logits: Tensor | NextLogits, prompt: str = "", length: int = 12, draws: int = 3,
             stop_tokens: Collection[int] = (), seed: int = 0, temperature: float = 0.8, top_k: int | None = None,
             top_p: float = 1.0) -> Interactive:
    """Sliders for temperature, top-k and top-p; the bars of the next token's probabilities follow, and so does a text.

    The text is sampled by one random number in [0, 1) per position, the same for all settings: the kept tokens lie
    side by side, the likeliest first, each as wide as its probability, and the number says which one is hit. What
    the model would go on with is computed beforehand for every setting of the sliders, so the page needs no model.

    Args:
        tokens: the text of each id, (vocab_size,) strings.
        logits: a function from texts that follow the prompt, a list of n lists of ids that are equally long, to the
            logits of each one's next token, (n, vocab_size). Or those of the prompt's next token alone, (vocab_size,);
            then one token is sampled.
        prompt: what the model has read; shown only.
        length: most tokens that are sampled.
        draws: how many times the random numbers can be drawn anew.
        stop_tokens: ids that end the text.
        seed: of the random numbers.
        temperature, top_k, top_p: where the sliders stand at first, the nearest value that they have.

    Raises:
        ValueError: if `tokens` and the logits differ in number, or logits are not finite.

    Source: as `llmbook.generation.filter_logits`.
    """
    if isinstance(logits, Tensor):
        length, alone = 1, logits

        def logits(rows: list[list[int]]) -> Tensor:
            return alone.expand(len(rows), -1)

    random = np.random.default_rng(seed)
    darts = np.floor(1000 * random.random((draws, length))) / 1000
    tree = _Tree(tokens, logits, frozenset(stop_tokens), darts)
    data = {"prompt": prompt, "vocabulary": len(tokens), "temperatures": TEMPERATURES,
            "topKs": [top_k or 0 for top_k in TOP_KS], "topPs": TOP_PS,
            "start": [_nearest(TEMPERATURES, temperature), _nearest(TOP_KS, top_k), _nearest(TOP_PS, top_p)],
            **tree.as_json()}
    return Interactive("sampling", data, lambda: _still(data), _description(data))


def _nearest(values: Sequence[float | None], value: float | None) -> int:
    distances = [abs((known or math.inf) - value) if value is not None else known is not None for known in values]
    return distances.index(min(distances))


class _Node:
    """The distribution after one text, what each setting keeps of it, and what each random number hits.

    Args:
        logits: (vocab_size,), of all tokens.
        darts: (draws,), random numbers in [0, 1).

    Attributes:
        ids, logits: of the listed tokens, the likeliest first.
        normalizers: (temperatures,), log of the sum of exp(logit / temperature) over all tokens.
        kept, mass: (temperatures, top-ks, top-ps), how many tokens stay, and their share of the probability.
        hits: (draws, temperatures, top-ks, top-ps), the ids that are sampled.
    """

    def __init__(self, logits: np.ndarray, darts: np.ndarray):
        order = np.argsort(-logits, kind="stable")
        size = len(order)
        self.ids, self.logits = order[:LISTED], logits[order[:LISTED]]
        scaled = logits[order] / np.array(TEMPERATURES)[:, None]
        self.normalizers = np.logaddexp.reduce(scaled, axis=1)
        probabilities = np.exp(scaled - self.normalizers[:, None])  # (temperatures, vocab_size)
        cumulative = probabilities.cumsum(axis=1)
        before = cumulative - probabilities
        self.kept = np.empty((len(TEMPERATURES), len(TOP_KS), len(TOP_PS)), dtype=int)
        for row, column in np.ndindex(self.kept.shape[:2]):
            most = min(TOP_KS[column] or size, size)
            limits = np.array(TOP_PS) * cumulative[row, most - 1]
            self.kept[row, column] = np.searchsorted(before[row, :most], limits).clip(1)
            self.kept[row, column, -1] = most  # top_p = 1 excludes nothing
        rows = np.arange(len(TEMPERATURES))[:, None, None]
        self.mass = cumulative[rows, self.kept - 1]
        places = np.stack([[np.searchsorted(line, dart * mass, side="right")
                            for line, mass in zip(cumulative, self.mass)] for dart in darts])
        self.hits = order[np.minimum(places, self.kept - 1)]

    def as_json(self, words: dict[int, int]) -> dict:
        """`words` numbers the ids that the page knows; new ones are added. Beyond the listed tokens, `far` has for
        "temperature,top-p" how many stay without top-k, and their share."""
        far = np.argwhere(self.kept[:, -1, :-1] > LISTED).tolist()
        return {"words": [words.setdefault(id, len(words)) for id in self.ids.tolist()],
                "logits": self.logits.tolist(), "normalizers": self.normalizers.round(6).tolist(),
                "far": {f"{row},{column}": [int(self.kept[row, -1, column]),
                                            round(float(self.mass[row, -1, column]), 6)] for row, column in far},
                "after": {}}


class _Tree:
    """All texts that some setting of the sliders leads to, and the distribution after each of them.

    Args:
        tokens, next_logits, stop_tokens: as for `sampling`.
        darts: (draws, length), the random numbers.
    """

    def __init__(self, tokens: Sequence[str], next_logits: NextLogits, stop_tokens: frozenset[int], darts: np.ndarray):
        self.tokens, self.darts = tokens, darts
        self.nodes: dict[tuple[int, ...], _Node] = {}
        # for each row of random numbers: text -> the settings, numbered, that lead to it
        self.texts: list[dict[tuple[int, ...], np.ndarray]] = [{} for _ in darts]
        growing = [{(): np.arange(len(TEMPERATURES) * len(TOP_KS) * len(TOP_PS))} for _ in darts]
        for step in range(darts.shape[1]):
            self._read(next_logits, sorted({text for texts in growing for text in texts}), darts[:, step])
            for draw, texts in enumerate(growing):
                longer = {}
                for text, settings in texts.items():
                    hits = self.nodes[text].hits[draw].reshape(-1)[settings]
                    for id in dict.fromkeys(hits.tolist()):
                        ends = id in stop_tokens or step + 1 == darts.shape[1]
                        (self.texts[draw] if ends else longer)[(*text, id)] = settings[hits == id]
                growing[draw] = longer

    @torch.no_grad()
    def _read(self, next_logits: NextLogits, texts: list[tuple[int, ...]], darts: np.ndarray) -> None:
        logits = next_logits([list(text) for text in texts])
        if logits.shape != (len(texts), len(self.tokens)):
            raise ValueError(f"logits have shape {tuple(logits.shape)}: {len(texts)} texts and {len(self.tokens)} "
                             f"tokens need ({len(texts)}, {len(self.tokens)})")
        rows = logits.detach().double().cpu().numpy()
        if not np.isfinite(rows).all():
            raise ValueError("some logits are not finite: give the model's own, before filter_logits")
        rows = (rows - rows.max(axis=1, keepdims=True)).round(4)  # as the page has them
        self.nodes |= {text: _Node(row, darts) for text, row in zip(texts, rows)}

    def as_json(self) -> dict:
        words: dict[int, int] = {}
        numbers = {text: number for number, text in enumerate(self.nodes)}
        nodes = [node.as_json(words) for node in self.nodes.values()]
        for text, number in list(numbers.items())[1:]:
            nodes[numbers[text[:-1]]]["after"][words.setdefault(text[-1], len(words))] = number
        draws = []
        for darts, texts in zip(self.darts.tolist(), self.texts):
            which = np.empty(sum(map(len, texts.values())), dtype=int)
            for number, settings in enumerate(texts.values()):
                which[settings] = number
            starts = [0, *(np.flatnonzero(np.diff(which)) + 1).tolist()]
            runs = [[int(which[a]), b - a] for a, b in zip(starts, [*starts[1:], len(which)])]
            draws.append({"darts": darts, "runs": runs, "texts": [
                [words.setdefault(id, len(words)) for id in text] for text in texts]})
        return {"nodes": nodes, "draws": draws, "pieces": [self.tokens[id] for id in words]}


def kept_choices(data: dict, node: int, setting: Sequence[int]) -> tuple[list[str], list[float], int, float]:
    """What the page shows at a node: listed tokens, their probabilities after renormalising (0 where cut), how many
    tokens are kept, and the share of the probability that these had."""
    here, (row, column, depth) = data["nodes"][node], setting
    scaled = np.array(here["logits"]) / data["temperatures"][row]
    probabilities = np.exp(scaled - here["normalizers"][row])
    most, mass = min(data["topKs"][column] or data["vocabulary"], data["vocabulary"]), 1.0
    if most <= len(probabilities):
        mass = probabilities[:most].sum()
    kept = most
    if data["topPs"][depth] < 1:
        before = probabilities.cumsum() - probabilities
        kept = int((before[:most] < data["topPs"][depth] * mass).sum())
        if far := here["far"].get(f"{row},{depth}") if not data["topKs"][column] else None:
            kept, mass = far
        else:
            mass = probabilities[:kept].sum()
    renormalized = np.where(np.arange(len(probabilities)) < kept, probabilities / mass, 0.0)
    return [data["pieces"][word] for word in here["words"]], renormalized.tolist(), kept, float(mass)


def sampled(data: dict, draw: int, setting: Sequence[int]) -> list[str]:
    """The text that the page shows for a row of random numbers, token by token."""
    place = int(np.ravel_multi_index(setting, (len(TEMPERATURES), len(TOP_KS), len(TOP_PS))))
    for number, count in data["draws"][draw]["runs"]:
        if place < count:
            return [data["pieces"][word] for word in data["draws"][draw]["texts"][number]]
        place -= count
    raise ValueError(f"{tuple(setting)} is no setting of the sliders")


def _description(data: dict) -> str:
    pieces, probabilities, _, _ = kept_choices(data, 0, (TEMPERATURES.index(1.0), len(TOP_KS) - 1, len(TOP_PS) - 1))
    listed = ", ".join(f"{piece.strip() or repr(piece)} {100 * probability:.0f} %"
                       for piece, probability in list(zip(pieces, probabilities))[:3])
    return (f"How temperature, top-k and top-p change what a model samples after the text {data['prompt']!r}. "
            f"Its likeliest next tokens: {listed}.")


def _still(data: dict) -> Figure:
    """The first distribution under four settings, each with the text that it leads to."""
    whole, everything = len(TOP_KS) - 1, len(TOP_PS) - 1
    settings = [("temperature 1: the model's own", (TEMPERATURES.index(1.0), whole, everything)),
                ("temperature 0.5", (TEMPERATURES.index(0.5), whole, everything)),
                ("top-k 3", (TEMPERATURES.index(1.0), TOP_KS.index(3), everything)),
                ("top-p 0.8", (TEMPERATURES.index(1.0), whole, TOP_PS.index(0.8)))]
    shown = min(6, len(data["nodes"][0]["words"]))
    figure = Figure(figsize=(STILL_WIDTH, 7.6), layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(f"After “{data['prompt']}”", 58)), fontsize=10, x=0.02, ha="left")
    for axes, (title, setting) in zip(figure.subplots(4, 1, sharex=True), settings):
        pieces, probabilities, kept, _ = kept_choices(data, 0, setting)
        own = kept_choices(data, 0, settings[0][1])[1]
        places = range(shown)
        axes.barh(places, own[:shown], color="none", edgecolor="#777777", linewidth=0.8, linestyle=":")
        axes.barh(places, probabilities[:shown], color=BLUE, height=0.62)
        for place, probability in zip(places, probabilities):
            gone = place >= kept
            axes.text(max(own[place], probability) + 0.01, place, "cut" if gone else f"{probability:.3f}", va="center",
                      fontsize=8, color="#777777" if gone else "black")
        axes.set_yticks(places, [visible(piece) for piece in pieces[:shown]], family="monospace")
        axes.set(xlim=(0, 1.12), xticks=[0, 0.25, 0.5, 0.75, 1], title=title)
        axes.invert_yaxis()
        text = "".join(sampled(data, 0, setting)).replace("\n", "⏎")
        axes.set_xlabel("\n".join(textwrap.wrap(f"sampled: …{text}", 62)), loc="left", fontstyle="italic")
    axes.xaxis.set_tick_params(labelbottom=True)
    return figure
