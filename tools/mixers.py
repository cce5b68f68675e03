"""Make llmbook/book/mixers.json: chapter 11's small models beside each other, three seeds each.

    python tools/mixers.py                 # everything, about fifteen minutes on one core
    python tools/mixers.py --seconds 100   # begin no run after so many; the same command goes on
    python tools/mixers.py --part recall   # one part: choice, recall, stories, experts

choice: two learning rates, for attention and for the gated delta rule, judged on validation stories; all runs on
stories then take the one with the better mean. recall: the task of `llmbook.book.mixers.recall_batch`. stories: the
six kinds of layers with as many parameters, the same stories in the same order. experts: feed-forward parts of two
sizes and mixtures of experts, all with attention; the row of attention in `stories` has equal active parameters.
A seed is that of the first weights and of the order.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmbook.book.mixers import (
    KINDS,
    PAIRS,
    RECALL_SIZES,
    STORY_SIZES,
    TABLE_NAME,
    RecallBatches,
    expert_shares,
    held_out_bits,
    mixer_model,
    recall_share,
    short_story_batches,
    validation_bits,
)
from llmbook.book.studies import KeptRuns, seconds_option, tell_whether_complete
from llmbook.experts import ExpertLoss, ExpertsConfig, ExpertsLlama
from llmbook.gpt import count_parameters
from llmbook.training import TrainingConfig, next_token_loss, train

TABLE = Path(__file__).resolve().parents[1] / "llmbook" / "book" / TABLE_NAME
SEEDS = (0, 1, 2)
PARTS = ("choice", "recall", "stories", "experts")
RATES, CHOOSERS = (4e-3, 1e-2), ("attention", "gated delta")
STEPS = {"choice": 250, "recall": 400, "stories": 100}
EXPERTS = {"n_experts": 8, "experts_per_token": 2, "d_expert": 80}  # active: as many as STORY_SIZES["d_hidden"]
MIXTURES = {"dense, all parameters": None, "experts": (EXPERTS, 0.01), "experts, no balance": (EXPERTS, 0.0),
            "experts, one shared": ({**EXPERTS, "experts_per_token": 1, "d_shared": 80}, 0.01)}


def fit(model: nn.Module, loader: Any, steps: int, learning_rate: float, loss: Any = next_token_loss) -> float:
    """Train a model in place; returns the seconds of processor time."""
    start = time.process_time()
    config = TrainingConfig(max_steps=steps, learning_rate=learning_rate, warmup_steps=20, weight_decay=0.01,
                            eval_every=10**9, device="cpu", precision="float32", progress=False)
    train(model, loader, loss, config)
    return round(time.process_time() - start, 1)


def active_parameters(model: nn.Module) -> int:
    """Parameters that compute for one token."""
    config = model.config
    if not isinstance(config, ExpertsConfig):
        return count_parameters(model)
    one = 3 * config.d_model * config.d_expert
    return count_parameters(model) - config.n_layers * (config.n_experts - config.experts_per_token) * one


class Study(KeptRuns):
    """The runs, each kept as soon as it is done."""

    def __init__(self, seconds: float):
        super().__init__(TABLE, PARTS, seconds)

    def missing(self, part: str, names: tuple[str, ...], seed: int) -> list[str]:
        done = {row["kind"] for row in self.table[part] if row["seed"] == seed}
        return [name for name in names if name not in done]

    def rate(self) -> float:
        """The learning rate with the lowest sum. SystemExit while not all have been tried."""
        if len(self.table["choice"]) < len(RATES) * len(CHOOSERS):
            raise SystemExit("mixers: no learning rate is chosen yet: run --part choice first")
        return min(RATES, key=lambda rate: sum(row["bits"] for row in self.table["choice"] if row["rate"] == rate))

    def choice(self, seed: int = 0) -> None:
        for kind in CHOOSERS if seed == 0 else ():
            for rate in RATES:
                if not any((row["kind"], row["rate"]) == (kind, rate) for row in self.table["choice"]):
                    self.wait()
                    model = mixer_model(kind, seed, **STORY_SIZES)
                    fit(model, short_story_batches(seed), STEPS["choice"], rate)
                    self.keep("choice", {"kind": kind, "rate": rate, "bits": round(validation_bits(model), 4)})

    def recall(self, seed: int) -> None:
        for kind in self.missing("recall", KINDS, seed):
            self.wait()
            model = mixer_model(kind, seed, **RECALL_SIZES)
            seconds = fit(model, RecallBatches(seed), STEPS["recall"], 1e-2)
            shares = {pairs: recall_share(model, pairs) for pairs in PAIRS}
            self.keep("recall", {"kind": kind, "seed": seed, "parameters": count_parameters(model), "seconds": seconds,
                                 "right": {str(pairs): [share.right, share.of] for pairs, share in shares.items()}})

    def stories(self, seed: int) -> None:
        for kind in self.missing("stories", KINDS, seed):
            self.wait()
            model = mixer_model(kind, seed, **STORY_SIZES)
            seconds = fit(model, short_story_batches(seed), STEPS["stories"], self.rate())
            self.keep("stories", {"kind": kind, "seed": seed, "parameters": count_parameters(model),
                                  "seconds": seconds, "bits": round(held_out_bits(model), 4)})

    def experts(self, seed: int) -> None:
        for kind in self.missing("experts", tuple(MIXTURES), seed):
            self.wait()
            if MIXTURES[kind] is None:
                width = EXPERTS["n_experts"] * EXPERTS["d_expert"]
                model, loss = mixer_model("attention", seed, **{**STORY_SIZES, "d_hidden": width}), next_token_loss
            else:
                sizes, balance = MIXTURES[kind]
                torch.manual_seed(seed)
                model = ExpertsLlama(ExpertsConfig(**{**STORY_SIZES, "n_kv_heads": STORY_SIZES["n_heads"], **sizes}))
                loss = ExpertLoss(balance)
            seconds = fit(model, short_story_batches(seed), STEPS["stories"], self.rate(), loss)
            shares = [[round(share, 4) for share in layer.tolist()]
                      for layer in expert_shares(model, short_story_batches(99))]
            self.keep("experts", {"kind": kind, "seed": seed, "parameters": count_parameters(model),
                                  "active": active_parameters(model), "seconds": seconds,
                                  "bits": round(held_out_bits(model), 4), "shares": shares}, unprinted=["shares"])


def main() -> None:
    parser = seconds_option(__doc__.split("\n")[0])
    parser.add_argument("--part", choices=PARTS, help="only this one")
    asked = parser.parse_args()
    study = Study(asked.seconds)

    def go() -> None:
        for seed in SEEDS:  # so that a study that stops early has all kinds
            for part in [asked.part] if asked.part else PARTS:
                getattr(study, part)(seed)

    tell_whether_complete(go)


if __name__ == "__main__":
    main()
