"""Spam filters over several seeds, also with every layer trained: `python -m tests.benchmarks.classification`.

Each seed splits the messages anew and trains anew. Balanced: as many ham as spam, in training and test. As they come:
all messages, one in nine spam. `--everything N` also trains every layer, on the first N seeds; that takes minutes each.
"""

import argparse
import copy
import statistics
import sys
import time

import pandas as pd
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from sklearn.pipeline import make_pipeline

from llmbook.assets import fetch
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
from llmbook.open_weights import load_pretrained

LABELS = ("ham", "spam")
Scores = dict[str, list[dict[str, float]]]


def show(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def scores(truth: list[str], found: list[str], **more: float) -> dict[str, float]:
    precision, recall, f1, _ = precision_recall_fscore_support(truth, found, average="binary", pos_label="spam",
                                                               zero_division=0)
    return {"accuracy": accuracy_score(truth, found), "precision": precision, "recall": recall, "f1": f1, **more}


def bag_of_words(train: pd.DataFrame, test: pd.DataFrame) -> dict[str, float]:
    start = time.perf_counter()
    model = make_pipeline(CountVectorizer(token_pattern=r"\w+"), LogisticRegression(C=10, max_iter=1000))
    model.fit(train["text"], train["label"])
    return scores(list(test["label"]), list(model.predict(test["text"])), seconds=time.perf_counter() - start)


class Runs:
    """Trains classifiers on one pretrained model and one set of features."""

    def __init__(self, messages: pd.DataFrame):
        self.model, self.tokenizer = load_pretrained("smollm2-135m-instruct", dtype=torch.float32)
        start, classifier = time.perf_counter(), TextClassifier(self.model, 2, LABELS)
        kinds = {1: prepare_texts(classifier, self.tokenizer, messages, blocks=1)}
        self.seconds_a_text = (time.perf_counter() - start) / len(messages)
        kinds[0] = precompute(classifier, kinds[1], 0)
        self.inputs = {blocks: dict(zip(messages["text"], texts.inputs, strict=True))
                       for blocks, texts in kinds.items()}

    def prepared(self, frame: pd.DataFrame, blocks: int | None) -> PreparedTexts:
        if blocks is None:
            return prepare_texts(TextClassifier(self.model, 2, LABELS), self.tokenizer, frame)
        return PreparedTexts([self.inputs[blocks][text] for text in frame["text"]],
                             [LABELS.index(label) for label in frame["label"]], blocks)

    def run(self, train: pd.DataFrame, test: pd.DataFrame, blocks: int | None, seed: int,
            **settings) -> dict[str, float]:
        torch.manual_seed(seed)
        classifier, start = TextClassifier(copy.deepcopy(self.model), 2, LABELS), time.perf_counter()
        finetune_classifier(classifier, self.prepared(train, blocks), seed=seed, progress=False, **settings)
        seconds = time.perf_counter() - start + (0 if blocks is None else self.seconds_a_text * len(train))
        trained = sum(p.numel() for p in classifier.parameters() if p.requires_grad)
        places = class_probabilities(classifier, self.prepared(test, blocks)).argmax(dim=1).tolist()
        return scores(list(test["label"]), [LABELS[i] for i in places], seconds=seconds, trained=trained)


def table(title: str, rows: Scores, names: list[str]) -> None:
    show(f"\n{title}\n{'':22}" + "".join(f"{name:>17}" for name in names))
    for name, runs in rows.items():
        cells = []
        for key in names:
            values = [run[key] for run in runs if key in run]
            if not values:
                cells.append("")
            elif key in ("seconds", "trained"):
                cells.append(f"{statistics.mean(values):,.0f}")
            else:
                spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
                cells.append(f"{100 * statistics.mean(values):.2f}{spread}")
        show(f"{name:22}" + "".join(f"{cell:>17}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--everything", type=int, default=0, metavar="N", help="train all layers too, on N seeds")
    options = parser.parse_args()
    messages = drop_repeats(read_labelled_texts(fetch("sms-spam"), LABELS))
    show(f"{len(messages):,} messages, {sum(messages['label'] == 'spam')} of them spam; seeds 0 to {options.seeds - 1}")
    runs, balanced, natural = Runs(messages), {}, {}
    show(f"features of all messages: {runs.seconds_a_text * len(messages):.0f} s")
    for seed in range(options.seeds):
        train, _, test = split_by_key(messages, seed=seed)
        even, even_test = undersample(train, seed), undersample(test, seed)
        show(f"seed {seed}: {len(even)} and {len(even_test)} balanced, {len(train)} and {len(test)} as they come")
        balanced.setdefault("bag of words", []).append(bag_of_words(even, even_test))
        balanced.setdefault("head only", []).append(
            runs.run(even, even_test, 0, seed, epochs=40, learning_rate=1e-2))
        balanced.setdefault("last block", []).append(runs.run(even, even_test, 1, seed, epochs=5))
        natural.setdefault("bag of words", []).append(bag_of_words(train, test))
        natural.setdefault("last block", []).append(runs.run(train, test, 1, seed, epochs=3))
        if seed < options.everything:
            balanced.setdefault("everything", []).append(
                runs.run(even, even_test, None, seed, epochs=2, learning_rate=5e-5))
        table("balanced, %", balanced, ["accuracy", "precision", "recall", "seconds", "trained"])
        table("as they come, spam, %", natural, ["accuracy", "precision", "recall", "f1", "seconds"])


if __name__ == "__main__":
    main()
