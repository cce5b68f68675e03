"""Make data/translator, and llmbook/book/translating.json: chapter 10's translator, trained for longer, and its scores.

    python tools/translator.py train             # the model of data/translator, about six minutes on one core
    python tools/translator.py                   # the scores, about five minutes on one core
    python tools/translator.py --seconds 100     # stop after so many; the same command goes on, to the last bit

val: BLEU on validation sentences, by which the settings were chosen. test: both baselines, the chapter's own training
with two more seeds, and the longer one, on the test sentences, each against the nearest training sentence.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tiktoken
import torch

from llmbook.book.studies import KeptRuns, seconds_option, tell_whether_complete
from llmbook.book.translating import STUDY_FILE, load_translator, measure_translations, nearest_translations
from llmbook.encoder_decoder import PAD, START, Translator, TranslatorConfig, pair_loader, translate, translation_loss
from llmbook.scale.checkpoints import Checkpoints
from llmbook.text import train_bpe
from llmbook.training import TrainingConfig, evaluate, save_model, train
from llmbook.translation_parts import END, encode_pairs
from llmbook.translations import Pair, PairSplit, split_pairs, translation_pairs

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "llmbook" / "book" / STUDY_FILE
RUN = ROOT / "build" / "translator"  # checkpoints, until the model is done
HOME = ROOT / "data" / "translator"
VOCABULARY, BATCH, SEEDS, BEAMS = 2000, 32, (1, 2), 4
SHORT = {"n_layers": 1, "dropout": 0.0, "max_steps": 1200}  # as the chapter has it
LONG = {"n_layers": 2, "dropout": 0.15, "max_steps": 4000}
EVERY = 100  # steps: a checkpoint
NEAREST = "nearest training sentence"


def learn_tokenizer(split: PairSplit) -> tiktoken.Encoding:
    """The chapter's tokenizer."""
    texts = [text for pair in split.train for text in (pair.english, pair.german)]
    return train_bpe(texts, VOCABULARY, special_tokens=(PAD, START, END))


def train_translator(split: PairSplit, tokenizer: tiktoken.Encoding, seed: int, n_layers: int, dropout: float,
                     max_steps: int, checkpoints: Checkpoints | None = None, on_step: Callable | None = None
                     ) -> Translator:
    """A model of the chapter's width, by the chapter's recipe. Raises TimeoutError if the training was interrupted."""
    torch.manual_seed(seed)
    pad_id = tokenizer.encode_single_token(PAD)
    model = Translator(TranslatorConfig(VOCABULARY, pad_id, 96, 128, n_layers=n_layers, dropout=dropout))
    config = TrainingConfig(max_steps, learning_rate=3e-3, warmup_steps=200, final_fraction=0.02, weight_decay=0.0,
                            betas=(0.9, 0.98), eval_every=10**9, device="cpu", progress=False)
    loader = pair_loader(encode_pairs(tokenizer, split.train), pad_id, BATCH, seed=seed)
    if train(model, loader, translation_loss, config, checkpoints=checkpoints, on_step=on_step).interrupted:
        raise TimeoutError
    return model.eval()


def translate_all(model: Translator, tokenizer: tiktoken.Encoding, pairs: Sequence[Pair], beams: int) -> list[str]:
    """Translations of all pairs' English sentences."""
    return [text for start in range(0, len(pairs), 100)
            for text in translate(model, tokenizer, [pair.english for pair in pairs[start : start + 100]], beams)]


class Study(KeptRuns):
    """The rows so far, and what makes the others."""

    def __init__(self, seconds: float):
        super().__init__(TABLE, ("val", "test"), seconds)
        self.split = split_pairs(translation_pairs())
        self.tokenizer = learn_tokenizer(self.split)

    def make_model(self) -> None:
        """Train the longer one and put it into data/translator. Raises TimeoutError when the time is over."""
        def look(record: dict[str, float]) -> None:
            if record["step"] % 250 == 0:
                print(int(record["step"]), f"loss {record['loss']:.3f}", flush=True)
            if time.monotonic() > self.end:
                raise KeyboardInterrupt  # as Ctrl-C: the loop is left, and goes on from the last checkpoint

        model = train_translator(self.split, self.tokenizer, 0, **LONG, on_step=look,
                                 checkpoints=Checkpoints(RUN, every_steps=EVERY, keep=1))
        save_model(model.to(torch.bfloat16), HOME)
        shutil.rmtree(RUN)

    def scores(self) -> None:
        """The rows that are missing."""
        for part in ("val", "test"):
            self.add(part, {"copying": lambda pairs: [pair.english for pair in pairs],
                            NEAREST: lambda pairs: nearest_translations(self.split.train,
                                                                        [pair.english for pair in pairs])})
        for seed in SEEDS:
            if any(self.missing(part, name) for part in ("val", "test") for name in self.names("short", seed)):
                self.wait()
                self.add_model("short", train_translator(self.split, self.tokenizer, seed, **SHORT), seed, SHORT)
        self.wait()
        self.add_model("longer", load_translator(), 0, LONG)

    def names(self, kind: str, seed: int) -> tuple[str, str]:
        return f"{kind}, greedy, seed {seed}", f"{kind}, four beams, seed {seed}"

    def missing(self, part: str, name: str) -> bool:
        return name not in {row["system"] for row in self.table[part]}

    def add_model(self, kind: str, model: Translator, seed: int, settings: dict[str, Any]) -> None:
        ways = {name: functools.partial(translate_all, model, self.tokenizer, beams=beams)
                for name, beams in zip(self.names(kind, seed), (1, BEAMS), strict=True)}
        for part in ("val", "test"):
            self.add(part, ways, blocks=settings["n_layers"], steps=settings["max_steps"],
                     val_loss=round(self.val_loss(model), 3))

    def add(self, part: str, ways: dict[str, Callable[[Sequence[Pair]], list[str]]], **facts: Any) -> None:
        """A row for each way to translate that has none yet."""
        pairs: Sequence[Pair] = getattr(self.split, part)
        ways = {name: way for name, way in ways.items() if self.missing(part, name)}
        if not ways:
            return
        english, german = ([getattr(pair, side) for pair in pairs] for side in ("english", "german"))
        outputs = {NEAREST: nearest_translations(self.split.train, english),
                   **{name: way(pairs) for name, way in ways.items()}}
        for row in measure_translations(outputs, german, NEAREST):
            if row["system"] in ways:
                self.keep(part, {**row, "sentences": len(pairs), **facts})

    def val_loss(self, model: Translator) -> float:
        """Nats per token of the validation sentences, without smoothing."""
        pad_id = self.tokenizer.encode_single_token(PAD)
        loader = pair_loader(encode_pairs(self.tokenizer, self.split.val), pad_id, 64, shuffle=False)
        return evaluate(model, loader, functools.partial(translation_loss, smoothing=0.0))


def main() -> None:
    parser = seconds_option(__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", default="scores", choices=("train", "scores"))
    asked = parser.parse_args()
    study = Study(asked.seconds)
    tell_whether_complete(study.make_model if asked.what == "train" else study.scores)


if __name__ == "__main__":
    main()
