"""Make llmbook/book/instructions.json: chapter 7's two models over three seeds, with more data than its cells use.

    python tools/instructions.py                 # everything, two or three hours on one core
    python tools/instructions.py --seconds 100   # begin no run after so many; the same command goes on
    python tools/instructions.py --part stories  # or entries

Stories: the storyteller learns conversations as in the chapter ("mixed"), ten times as many ("longer"), the same
without any story text to learn ("questions only"), or those of the chapter and plain stories between them ("replay").
500 held-out tasks of the kinds it saw, 150 of those kept out, and the loss on held-out stories, before and after.
Entries: SmolLM2-135M learns all training entries
of data/instructions.json through adapters of rank 8. Learning rates are chosen first, by the loss on validation data.

"rules" says how many of the tasks about stories a rule gets right that names what a story names most often.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmbook.book.corpora import data_folder
from llmbook.book.story_tasks import STUDY_NAME, answer_tasks, as_entry, right_by_kind, rule_answer
from llmbook.book.storytelling import story_loss
from llmbook.book.studies import KeptRuns, seconds_option, tell_whether_complete
from llmbook.instructions import (
    ConversationDataset,
    InstructionDataset,
    finetune_instructions,
    held_out_loss,
    read_instructions,
    respond_all,
    score_responses,
    split_instructions,
)
from llmbook.lora import add_lora
from llmbook.open_weights import load_pretrained
from llmbook.storyworld import Task, conversations, stories, tasks
from llmbook.storyworld.tasks import KEPT_OUT, KINDS
from llmbook.text import read_text
from llmbook.training import next_token_loss

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "llmbook" / "book" / STUDY_NAME
SEEDS = (0, 1, 2)
TALKS, TURNS, BATCH = 640, 8, 4  # as in the chapter
ASKED = tuple(kind for kind in KINDS if kind not in ("tell", "continue"))
RECIPES = ("mixed", "longer", "replay", "questions only")
RATES = {"stories": (5e-4, 1e-3, 2e-3), "entries": (1e-3, 3e-3)}
HELD_OUT_TASKS, KEPT_OUT_TASKS, STORIES = 500, 150, 100
TEST_SEED, VALIDATION_SEED = 900, 800


def story_rows(recipe: str, seed: int, tokenizer: Any, context_length: int, talks: int = TALKS) -> ConversationDataset:
    """What the storyteller learns from: conversations, ten times `talks` for "longer", and, for "replay", one plain
    story for each four of them."""
    talks = 10 * talks if recipe == "longer" else talks
    kinds = ASKED if recipe == "questions only" else tuple(KINDS)
    learned = [[as_entry(task) for task in talk]
               for talk in conversations(100 + seed, talks, "train", kinds=kinds, turns=TURNS)]
    rows = ConversationDataset(learned, tokenizer, context_length, "plain")
    if recipe == "replay":
        for story in stories(200 + seed, talks // 4, split="train", short=True):
            ids = torch.tensor([tokenizer.eot_token, *tokenizer.encode_ordinary(story.text), tokenizer.eot_token])
            rows.rows.append((ids, torch.ones(len(ids), dtype=torch.bool)))
    return rows


class Study(KeptRuns):
    """The runs; each is written as soon as it is done, and read from disk if an earlier call made it."""

    def __init__(self, seconds: float):
        super().__init__(TABLE, ("choice", "stories", "entries", "rules"), seconds)

    def rate(self, part: str) -> float:
        """The learning rate with the lowest validation loss, which is measured first where it is missing."""
        tried = {row["learning_rate"]: row["val_loss"] for row in self.table["choice"] if row["part"] == part}
        for rate in RATES[part]:
            if rate not in tried:
                self.wait()
                tried[rate] = (story_validation if part == "stories" else entry_validation)(rate)
                self.keep("choice", {"part": part, "learning_rate": rate, "val_loss": tried[rate]})
        return min(tried, key=tried.__getitem__)

    def go(self, parts: tuple[str, ...]) -> None:
        if "stories" in parts:
            if not self.table["rules"]:
                self.keep("rules", {name: shares(asked, [rule_answer(task) for task in asked])
                                    for name, asked in asked_tasks(tuple(KINDS)).items()})
            for recipe in RECIPES:
                self.run("stories", "recipe", recipe, story_run)
        if "entries" in parts:
            self.run("entries", "method", "rank 8", entry_run)

    def run(self, part: str, by: str, value: str, do: Callable[..., dict[str, Any]]) -> None:
        done = {(row[by], row["seed"]) for row in self.table[part]}
        for seed in SEEDS:
            if (value, seed) not in done:
                rate = self.rate(part)
                self.wait()
                self.keep(part, {by: value, "seed": seed, "learning_rate": rate, **do(value, seed, rate)})


def story_training(recipe: str, seed: int, rate: float) -> tuple[nn.Module, Any, dict[str, Any]]:
    model, tokenizer = load_pretrained("storyteller", device="cpu")
    rows = story_rows(recipe, seed, tokenizer, model.config.context_length)
    torch.manual_seed(seed)
    start = time.process_time()
    history = finetune_instructions(model, rows, batch_size=BATCH, learning_rate=rate, seed=seed, progress=False)
    return model, tokenizer, {"steps": len(history.steps), "cpu_seconds": round(time.process_time() - start),
                              "tokens": sum(len(ids) for ids, _ in rows.rows),
                              "targets": sum(int(own.sum()) for _, own in rows.rows)}


def story_validation(rate: float) -> float:
    model, tokenizer, _ = story_training("mixed", 0, rate)
    talks = [[as_entry(task) for task in talk]
             for talk in conversations(VALIDATION_SEED, 40, "train", kinds=ASKED, turns=TURNS)]
    return round(held_out_loss(model, ConversationDataset(talks, tokenizer, model.config.context_length, "plain")), 4)


def story_run(recipe: str, seed: int, rate: float) -> dict[str, Any]:
    untouched, tokenizer = load_pretrained("storyteller", device="cpu")
    loss_before = story_loss(untouched, tokenizer, STORIES)[0]
    model, tokenizer, figures = story_training(recipe, seed, rate)
    seen = ASKED if recipe == "questions only" else tuple(KINDS)
    for name, asked in asked_tasks(seen).items():
        figures[name] = shares(asked, answer_tasks(model, tokenizer, asked))
    return {**figures, "story_loss_before": round(loss_before, 4),
            "story_loss_after": round(story_loss(model, tokenizer, STORIES)[0], 4)}


def asked_tasks(seen: tuple[str, ...]) -> dict[str, list[Task]]:
    """The test tasks of the kinds that were learned, and of those that were not."""
    return {"right": list(tasks(TEST_SEED, HELD_OUT_TASKS, "test", kinds=seen)),
            "kept_out": list(tasks(TEST_SEED, KEPT_OUT_TASKS, "test", kinds=tuple(KEPT_OUT)))}


def shares(asked: list[Task], answers: list[str]) -> dict[str, list[int]]:
    """Kind -> [right answers, tasks]."""
    return {kind: [share.right, share.of] for kind, share in right_by_kind(asked, answers).items()}


def entry_training(seed: int, rate: float) -> tuple[nn.Module, Any, list[Any]]:
    model, tokenizer = load_pretrained("smollm2-135m-instruct", device="cpu", dtype=torch.float32)
    parts = split_instructions(read_instructions(data_folder() / "instructions.json"), seed=seed)
    torch.manual_seed(seed)
    add_lora(model, rank=8)
    training = InstructionDataset(parts[0], tokenizer, model.config.context_length)
    finetune_instructions(model, training, learning_rate=rate, seed=seed, progress=False)
    return model, tokenizer, parts


def entry_validation(rate: float) -> float:
    model, tokenizer, parts = entry_training(0, rate)
    return round(held_out_loss(model, InstructionDataset(parts[1], tokenizer, model.config.context_length)), 4)


def entry_run(_: str, seed: int, rate: float) -> dict[str, Any]:
    untouched, _ = load_pretrained("smollm2-135m-instruct", device="cpu", dtype=torch.float32)
    model, tokenizer, parts = entry_training(seed, rate)
    test, figures, marks = parts[2], {}, {}
    for name, net in (("before", untouched), ("after", model)):
        scores = score_responses(test, respond_all(net, tokenizer, test, max_new_tokens=40, progress=False))
        content, form = (scores[scores["checked"] == sort] for sort in ("content", "format"))
        marks[name] = {"right": content["right"].astype(bool), "contained": content["contained"].astype(bool)}
        figures[name] = {"strict": [int(content["right"].sum()), len(content)],
                         "contained": [int(content["contained"].sum()), len(content)],
                         "format": [int(form["right"].sum()), len(form)], "words": round(scores["words"].mean(), 1),
                         "loss": round(held_out_loss(net, InstructionDataset(test, tokenizer, 2048)), 3),
                         "perplexity": round(perplexity(net, tokenizer), 2)}
    for sort in ("right", "contained"):
        old, new = marks["before"][sort], marks["after"][sort]
        figures[f"{sort}_changes"] = [int((old & ~new).sum()), int((~old & new).sum())]  # lost, won
    return figures


@torch.no_grad()
def perplexity(model: nn.Module, tokenizer: Any, tokens: int = 500) -> float:
    """On the first tokens of the book's own story."""
    ids = torch.tensor([tokenizer.encode(read_text(data_folder() / "twenty_in_hand.txt"))[: tokens + 1]])
    return math.exp(next_token_loss(model.eval(), ids[:, :-1], ids[:, 1:]))


def main() -> None:
    parser = seconds_option(__doc__.split("\n")[0])
    parser.add_argument("--part", choices=("stories", "entries"), help="one of the two; both if not given")
    asked = parser.parse_args()
    parts = (asked.part,) if asked.part else ("stories", "entries")
    tell_whether_complete(lambda: Study(asked.seconds).go(parts))


if __name__ == "__main__":
    main()
