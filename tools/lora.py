"""Make llmbook/book/lora.json: adapters of seven ranks beside other ways to fine-tune, on chapter 6's messages.

    python tools/lora.py                 # everything, about twenty minutes on one core
    python tools/lora.py --seconds 100   # stop after the run that is under way then; the same command goes on

The last two blocks of SmolLM2 and the classifier's head are trained, on features that the blocks below computed once.
Three seeds, each with 160 training messages of its own, half of them spam; the same 198 test messages for all. Learning
rates are chosen first, by the loss on 40 validation messages after training on the first seed's.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch

from llmbook.assets import fetch
from llmbook.book.adapters import TABLE_NAME, train_adapter
from llmbook.classification import (
    PreparedTexts,
    TextClassifier,
    class_probabilities,
    drop_repeats,
    finetune_classifier,
    precompute,
    prepare_texts,
    read_labelled_texts,
    split_by_key,
    undersample,
)
from llmbook.files import replace_file
from llmbook.lora import add_lora
from llmbook.open_weights import load_pretrained

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "llmbook" / "book" / TABLE_NAME
FEATURES = ROOT / "build" / "lora"
BLOCKS, EPOCHS, SEEDS = 2, 3, (0, 1, 2)
RATES = {"rank 8": (1e-3, 3e-3), "two blocks": (3e-4, 1e-3), "last block": (3e-4, 1e-3)}
METHODS = (("rank 8", "two blocks", "last block", "head", "rank 1", "rank 64"),  # for all seeds first
           ("rank 4", "rank 16", "rank 2", "rank 32"))


class Study:
    """The runs and what they need; each part is read from disk if an earlier call made it."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds
        FEATURES.mkdir(parents=True, exist_ok=True)
        self.table = json.loads(TABLE.read_text()) if TABLE.exists() else {"choice": [], "runs": []}
        self.model, self.tokenizer = load_pretrained("smollm2-135m-instruct", device="cpu", dtype=torch.float32)
        messages = drop_repeats(read_labelled_texts(fetch("sms-spam"), ("ham", "spam")))
        training, validation, test = (undersample(part) for part in split_by_key(messages, seed=0))
        self.frames = {f"training {seed}": training[160 * seed : 160 * (seed + 1)].reset_index(drop=True)
                       for seed in SEEDS} | {"validation": validation[:40], "test": test}
        self.parts: dict[str, PreparedTexts] = {}

    def classifier(self, seed: int = 0) -> TextClassifier:
        torch.manual_seed(seed)
        return TextClassifier(copy.deepcopy(self.model), 2, ["ham", "spam"])

    def part(self, name: str) -> PreparedTexts:
        if name not in self.parts:
            path = FEATURES / f"{name.replace(' ', '-')}.pt"
            if not path.exists():
                self.wait()
                texts = prepare_texts(self.classifier(), self.tokenizer, self.frames[name], BLOCKS, progress=False)
                torch.save({"inputs": list(texts.inputs), "targets": list(texts.targets)}, path)
            self.parts[name] = PreparedTexts(**torch.load(path, weights_only=True), blocks=BLOCKS)
        return self.parts[name]

    def wait(self) -> None:
        """Raise TimeoutError once the time is over."""
        if time.monotonic() > self.end:
            raise TimeoutError

    def rate(self, method: str) -> float:
        kind = "rank 8" if method.startswith("rank") else method
        if kind not in RATES:
            return 1e-2  # the head alone, as in chapter 6
        tried = [row for row in self.table["choice"] if row["method"] == kind]
        return min(tried, key=lambda row: row["val_loss"])["learning_rate"]

    def run(self, method: str, seed: int, rate: float, judged: str) -> dict:
        self.wait()
        training, held_out = self.part(f"training {seed}"), self.part(judged)
        self.wait()
        classifier, epochs = self.classifier(seed), EPOCHS
        if method == "last block" or method == "head":
            training, held_out = (precompute(classifier, part, int(method == "last block"), progress=False)
                                  for part in (training, held_out))
            epochs = 30 if method == "head" else EPOCHS
        start = time.perf_counter()
        if method.startswith("rank"):
            layers = len(classifier.model.blocks)
            add_lora(classifier, int(method.split()[1]), blocks=range(layers - BLOCKS, layers), also_train=["head"])
            train_adapter(classifier, training, epochs, rate, seed, progress=False)
        else:
            finetune_classifier(classifier, training, None, epochs, learning_rate=rate, seed=seed, progress=False)
        seconds = time.perf_counter() - start
        chances = class_probabilities(classifier, held_out, progress=False)
        truth = torch.tensor(held_out.targets)
        return {"method": method, "seed": seed, "learning_rate": rate,
                "trained": sum(p.numel() for p in classifier.parameters() if p.requires_grad),
                "seconds": round(seconds, 1), "n": len(truth),
                "right": int((chances.argmax(dim=1) == truth).sum()),
                "loss": round(float(-chances[range(len(truth)), truth].log().mean()), 4)}

    def keep(self, kind: str, row: dict) -> None:
        self.table[kind].append(row)
        lines = [f'"{name}": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n]" for name, rows in self.table.items()
                 if rows]
        empty = [f'"{name}": []' for name, rows in self.table.items() if not rows]
        replace_file(TABLE, ("{" + ",\n".join(lines + empty) + "}\n").encode())
        print(row, flush=True)

    def go(self) -> None:
        for method, rates in RATES.items():
            done = {row["learning_rate"] for row in self.table["choice"] if row["method"] == method}
            for rate in rates:
                if rate not in done:
                    row = self.run(method, 0, rate, "validation")
                    self.keep("choice", {"method": method, "learning_rate": rate, "val_loss": row["loss"],
                                         "n": row["n"]})
        done = {(row["method"], row["seed"]) for row in self.table["runs"]}
        for methods in METHODS:
            for seed in SEEDS:
                for method in methods:
                    if (method, seed) not in done:
                        self.keep("runs", self.run(method, seed, self.rate(method), "test"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin nothing after so many")
    study = Study(parser.parse_args().seconds)
    try:
        study.go()
        print("complete")
    except TimeoutError:
        print("not complete: the same command goes on")


if __name__ == "__main__":
    main()
