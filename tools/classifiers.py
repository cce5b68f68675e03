"""Make llmbook/book/classifiers.json: chapter 6's spam filters on all messages and on few labels, three seeds each.

    python tools/classifiers.py                 # everything, some twenty minutes on one core
    python tools/classifiers.py --seconds 100   # begin nothing after so many; the same command goes on

Three filters stand on a language model, two rivals count words or runs of characters. The messages are cut into
validation messages, three test parts that share no message, and a rest that is always for training
(`llmbook.book.spam_study.spam_parts`). A seed has one test part; it learns from the other two and the rest:
from all spam there and three times as much ham ("all"), or from a few messages, half of them spam ("few"). The blocks
of SmolLM2 below the last one compute their features once; these are kept in build/classifiers/.

Settings (learning rate and epochs, or the rivals' C) are chosen for 100 and 400 labels, which stand for few and all, by
the loss on the validation messages in which both classes count alike. A run on all messages keeps the probability of
spam for each test message, so that whoever reads the table can judge it in any way; a run on few keeps how many test
messages of each class it got right. Both keep the first of their probabilities, so that a test can compute them again.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from llmbook.book.adapters import train_adapter
from llmbook.book.spam_study import (
    FEW,
    RIVALS,
    STUDY_NAME,
    draw_labels,
    judge_spam,
    rival_filter,
    spam_messages,
    spam_parts,
    thin_ham,
)
from llmbook.book.studies import KeptRuns, seconds_option, tell_whether_complete
from llmbook.classification import (
    LengthBatches,
    PreparedTexts,
    TextClassifier,
    class_probabilities,
    encode_texts,
    finetune_classifier,
    precompute,
)
from llmbook.lora import add_lora
from llmbook.open_weights import load_pretrained

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "llmbook" / "book" / STUDY_NAME
FEATURES = ROOT / "build" / "classifiers"
LABELS = ["ham", "spam"]
SEEDS = (0, 1, 2)
CHOSEN_AT = {"few": 100, "all": 400}  # labels with which settings are chosen
TRIED: dict[str, list[dict[str, Any]]] = {  # method -> settings
    **{name: [{"C": C} for C in (1, 10, 100, 1000, 10_000)] for name in RIVALS},
    "frozen features": [{"learning_rate": rate, "epochs": 30} for rate in (3e-4, 1e-3, 3e-3, 1e-2)],
    "last block": [{"learning_rate": rate, "epochs": 3} for rate in (1e-3, 3e-3)],
    "adapters": [{"learning_rate": rate, "epochs": 3} for rate in (3e-3, 1e-2)],
}
METHODS = {"few": (*RIVALS, "frozen features", "last block"), "all": tuple(TRIED)}
KEPT = 12  # probabilities that every run keeps



class Features:
    """What enters the last block, of every message; what is missing is computed, a piece at a time, and kept."""

    def __init__(self, classifier: TextClassifier, tokenizer: object, texts: list[str],
                 wait: Callable[[], None]):
        FEATURES.mkdir(parents=True, exist_ok=True)
        ids = encode_texts(texts, tokenizer, classifier.model.config.context_length)
        self.classifier, self.heads = classifier, {}  # place -> what the head reads, (1, d_model)
        self.rows: dict[int, Tensor] = {}  # place -> (tokens, d_model)
        pieces = list(LengthBatches([len(row) for row in ids], 160, shuffle=False))
        for number, places in enumerate(pieces):
            path = FEATURES / f"{number}.pt"
            if not path.exists():
                wait()
                found = precompute(classifier, PreparedTexts([ids[i] for i in places], [0] * len(places), None), 1,
                                   progress=False)
                torch.save([row.half() for row in found.inputs], path)
                print(f"features: piece {number + 1} of {len(pieces)}", flush=True)
            self.rows.update(zip(places, torch.load(path, weights_only=True)))

    def prepared(self, frame: pd.DataFrame, blocks: int) -> PreparedTexts:
        """A table's messages, for training the last block (1) or the head alone (0)."""
        places = list(frame["place"])
        if not blocks and (missing := [place for place in places if place not in self.heads]):
            texts = PreparedTexts([self.rows[place].float() for place in missing], [0] * len(missing), 1)
            self.heads.update(zip(missing, precompute(self.classifier, texts, 0, progress=False).inputs))
        rows = [self.rows[place].float() if blocks else self.heads[place] for place in places]
        return PreparedTexts(rows, is_spam(frame), blocks)


def train_filter(method: str, model: torch.nn.Module, training: PreparedTexts, learning_rate: float, epochs: int,
                 seed: int) -> TextClassifier:
    """A classifier, trained in one of the three ways on texts prepared for it."""
    torch.manual_seed(seed)
    classifier = TextClassifier(copy.deepcopy(model), 2, LABELS)
    if method == "adapters":
        add_lora(classifier, 8, blocks=[len(classifier.model.blocks) - 1], also_train=["head"])
        train_adapter(classifier, training, epochs, learning_rate, seed, progress=False)
    else:
        finetune_classifier(classifier, training, None, epochs, learning_rate=learning_rate, seed=seed, progress=False)
    return classifier


def balanced_loss(spam: Tensor, targets: list[int]) -> float:
    """Cross-entropy in nats, (n,) probabilities of spam against the truth, in which both classes count alike."""
    truth, log = torch.tensor(targets), torch.stack([1 - spam, spam]).clamp(min=1e-6).log()
    return float(-(log[0][truth == 0].mean() + log[1][truth == 1].mean()) / 2)


class Study(KeptRuns):
    """The runs and what they need; each part is read from disk if an earlier call made it."""

    def __init__(self, seconds: float):
        super().__init__(TABLE, ("choice", "few", "all"), seconds)
        self.messages = spam_messages()
        self.parts = [spam_parts(self.messages, seed) for seed in SEEDS]

    @cached_property
    def features(self) -> Features:
        """The model and what it computes, which the rivals do without."""
        model, tokenizer = load_pretrained("smollm2-135m-instruct", device="cpu", dtype=torch.float32)
        return Features(TextClassifier(model, 2, LABELS), tokenizer, list(self.messages["text"]), self.wait)

    def spam(self, method: str, training: pd.DataFrame, held_out: pd.DataFrame, settings: dict[str, Any],
             seed: int) -> tuple[Tensor, int, float]:
        """Probabilities of spam (n,) of the held-out messages, how many weights were trained, and in how many seconds
        of the processor."""
        self.wait()
        if method in RIVALS:
            start = time.process_time()
            rival = rival_filter(method, **settings).fit(training["text"], training["label"])
            seconds = time.process_time() - start
            return torch.tensor(rival.predict_proba(held_out["text"])[:, 1]), rival[-1].coef_.size + 1, seconds
        blocks = int(method != "frozen features")
        prepared, held = (self.features.prepared(frame, blocks) for frame in (training, held_out))
        start = time.process_time()
        classifier = train_filter(method, self.features.classifier.model, prepared, seed=seed, **settings)
        seconds = time.process_time() - start
        trained = sum(p.numel() for p in classifier.parameters() if p.requires_grad)
        return class_probabilities(classifier, held, progress=False)[:, 1], trained, seconds

    def settings(self, kind: str, method: str) -> dict[str, Any]:
        """Those with the lowest validation loss."""
        tried = [row for row in self.table["choice"] if (row["kind"], row["method"]) == (kind, method)]
        best = min(tried, key=lambda row: row["val_loss"])
        return {name: best[name] for name in TRIED[method][0]}

    def choose(self, kind: str, method: str) -> None:
        drawn = draw_labels(self.parts[0]["training"], CHOSEN_AT[kind], seed=0)
        held_out = self.parts[0]["validation"]
        for settings in TRIED[method]:
            row = {"kind": kind, "method": method, **settings, "n": len(held_out)}
            if not any(row.items() <= kept.items() for kept in self.table["choice"]):
                spam, _, _ = self.spam(method, drawn, held_out, settings, 0)
                self.keep("choice", {**row, "val_loss": round(balanced_loss(spam, is_spam(held_out)), 4)})

    def run(self, kind: str, method: str, seed: int, labels: int | None = None) -> None:
        training, test = self.parts[seed]["training"], self.parts[seed]["test"]
        training = thin_ham(training, seed=seed) if labels is None else draw_labels(training, labels, seed)
        settings = self.settings(kind, method)
        spam, trained, seconds = self.spam(method, training, test, settings, seed)
        row = {"method": method, "seed": seed, "labels": len(training), **settings, "trained": trained,
               "seconds": round(seconds, 1)}
        whole = [round(1e4 * value) for value in spam.tolist()]
        if kind == "all":
            self.keep(kind, {**row, "spam": whole}, unprinted=["spam"])
        else:
            found = judge_spam(spam.tolist(), is_spam(test))
            self.keep(kind, {**row, "caught": found.caught, "spam": found.spam, "passed": found.passed,
                             "ham": found.ham, "first": whole[:KEPT]})

    def go(self) -> None:
        for kind, methods in METHODS.items():
            for method in methods:
                self.choose(kind, method)
        for seed in SEEDS:
            for method in METHODS["all"]:
                if not self.done("all", method, seed):
                    self.run("all", method, seed)
            for labels in FEW:
                for method in METHODS["few"]:
                    if not self.done("few", method, seed, labels):
                        self.run("few", method, seed, labels)

    def done(self, kind: str, method: str, seed: int, labels: int | None = None) -> bool:
        return any((row["method"], row["seed"]) == (method, seed) and labels in (None, row["labels"])
                   for row in self.table[kind])


def is_spam(frame: pd.DataFrame) -> list[int]:
    """1 for each spam message of a table, else 0."""
    return [int(label == "spam") for label in frame["label"]]


def main() -> None:
    seconds = seconds_option(__doc__.split("\n")[0]).parse_args().seconds
    tell_whether_complete(lambda: Study(seconds).go())


if __name__ == "__main__":
    main()
