"""Make llmbook/book/lora.json: adapters of seven ranks beside other ways to fine-tune, on chapter 6's messages.

    python tools/lora.py                 # everything, some five minutes on one core
    python tools/lora.py --seconds 100   # begin no run after so many; the same command goes on

What is trained, with the classifier's head: adapters in all linear layers of SmolLM2's last block; or all weights of
that block and the final norm; or those of the last two blocks; or the head alone. The blocks below compute their
features once. 160 messages to learn from and 160 to test with, half of each spam, always the same ones. Three seeds,
of the first weights of head and adapters and of the order. Learning rates are chosen first, by the loss on
40 of the training messages after training on the other 120.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path

import torch

from llmbook.assets import fetch
from llmbook.book.adapters import TABLE_NAME, train_adapter
from llmbook.book.studies import KeptRuns, seconds_option, tell_whether_complete
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
from llmbook.lora import add_lora
from llmbook.open_weights import load_pretrained

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "llmbook" / "book" / TABLE_NAME
FEATURES = ROOT / "build" / "lora"
EPOCHS, SEEDS = 3, (0, 1, 2)
BLOCKS = {"head": 0, "two blocks": 2}  # that are trained; 1 for all other methods
RATES = {"rank 8": (1e-3, 3e-3, 1e-2), "last block": (3e-4, 1e-3, 3e-3), "two blocks": (3e-4, 1e-3)}
METHODS = ("rank 8", "last block", "head", "rank 1", "rank 64", "two blocks", "rank 2", "rank 4", "rank 16", "rank 32")


class Study(KeptRuns):
    """The runs and what they need; each part is read from disk if an earlier call made it."""

    def __init__(self, seconds: float):
        super().__init__(TABLE, ("choice", "runs"), seconds)
        FEATURES.mkdir(parents=True, exist_ok=True)
        self.model, self.tokenizer = load_pretrained("smollm2-135m-instruct", device="cpu", dtype=torch.float32)
        messages = drop_repeats(read_labelled_texts(fetch("sms-spam"), ("ham", "spam")))
        training, _, test = (undersample(part)[:160] for part in split_by_key(messages, seed=0))
        self.frames = {"training": training, "test": test}
        self.parts: dict[tuple[str, int], PreparedTexts] = {}

    def classifier(self, seed: int = 0) -> TextClassifier:
        torch.manual_seed(seed)
        return TextClassifier(copy.deepcopy(self.model), 2, ["ham", "spam"])

    def part(self, name: str, blocks: int) -> PreparedTexts:
        """The features of "training" or "test" that enter the last `blocks` blocks."""
        if (name, blocks) not in self.parts:
            path = FEATURES / f"{name}.pt"
            if not path.exists():
                self.wait()
                texts = prepare_texts(self.classifier(), self.tokenizer, self.frames[name], 2, progress=False)
                torch.save({"inputs": list(texts.inputs), "targets": list(texts.targets)}, path)
            texts = PreparedTexts(**torch.load(path, weights_only=True), blocks=2)
            if blocks < 2:
                texts = precompute(self.classifier(), texts, blocks, progress=False)
            self.parts[name, blocks] = texts
        return self.parts[name, blocks]

    def rate(self, method: str) -> float:
        kind = "rank 8" if method.startswith("rank") else method
        if kind not in RATES:
            return 1e-2  # the head alone, as in chapter 6
        tried = [row for row in self.table["choice"] if row["method"] == kind]
        return min(tried, key=lambda row: row["val_loss"])["learning_rate"]

    def run(self, method: str, seed: int, rate: float, judged: str) -> dict:
        """One run; judged: "test", or "validation" for the last 40 training messages, which are left out then."""
        self.wait()
        blocks = BLOCKS.get(method, 1)
        training = self.part("training", blocks)
        if judged == "test":
            held_out = self.part("test", blocks)
        else:
            training, held_out = (PreparedTexts(training.inputs[cut], training.targets[cut], blocks)
                                  for cut in (slice(120), slice(120, None)))
        self.wait()
        classifier, epochs = self.classifier(seed), 30 if method == "head" else EPOCHS
        start = time.perf_counter()
        if method.startswith("rank"):
            last = len(classifier.model.blocks) - 1
            add_lora(classifier, int(method.split()[1]), blocks=[last], also_train=["head"])
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

    def go(self) -> None:
        for method, rates in RATES.items():
            done = {row["learning_rate"] for row in self.table["choice"] if row["method"] == method}
            for rate in rates:
                if rate not in done:
                    row = self.run(method, 0, rate, "validation")
                    self.keep("choice", {"method": method, "learning_rate": rate, "val_loss": row["loss"],
                                         "n": row["n"]})
        done = {(row["method"], row["seed"]) for row in self.table["runs"]}
        for method in METHODS:
            for seed in SEEDS:
                if (method, seed) not in done:
                    self.keep("runs", self.run(method, seed, self.rate(method), "test"))


def main() -> None:
    seconds = seconds_option(__doc__.split("\n")[0]).parse_args().seconds
    tell_whether_complete(lambda: Study(seconds).go())


if __name__ == "__main__":
    main()
