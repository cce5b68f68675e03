"""Make data/storyteller-chat: the storyteller that has learned to answer, by chapter 7's recipe and far more of it.

    python tools/storyteller_chat.py train --out runs/storyteller-chat   # an hour on one core; goes on if interrupted
    python tools/storyteller_chat.py pack --run runs/storyteller-chat
    python tools/storyteller_chat.py judge                               # 500 held-out tasks, 150 of kinds kept out
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from llmbook.book.corpora import data_folder
from llmbook.book.packing import pack_model
from llmbook.book.story_tasks import answer_tasks, as_entry, right_by_kind, share_of
from llmbook.book.storytelling import story_loss
from llmbook.cli.models import keep_tokenizer
from llmbook.files import replace_file
from llmbook.instructions import ConversationDataset, finetune_instructions
from llmbook.open_weights import load_pretrained
from llmbook.scale.checkpoints import Checkpoints
from llmbook.storyworld import Task, check_task, conversations, tasks
from llmbook.storyworld.tasks import KEPT_OUT, KINDS
from llmbook.text import load_tokenizer
from llmbook.training import load_model, save_model

NAME = "storyteller-chat"
TALKS, WISHES, TURNS = 20_000, 12_000, 8
BATCH, RATE, WARMUP = 8, 1.5e-3, 200
TALKS_SEED, WISHES_SEED, TEST_SEED = 300, 301, 900
TEST_TASKS, KEPT_OUT_TASKS = 500, 150


def fail(text: str) -> None:
    raise SystemExit(f"storyteller_chat: {text}")


def rows(talks: int, wishes: int, tokenizer: Any, context_length: int) -> ConversationDataset:
    """Conversations, and between them single wishes for a story or for the rest of one, which are rare in these."""
    learned = [[as_entry(task) for task in talk]
               for talk in conversations(TALKS_SEED, talks, "train", turns=TURNS)]
    learned += [[as_entry(task)] for task in tasks(WISHES_SEED, wishes, "train", kinds=("tell", "continue"))]
    return ConversationDataset(learned, tokenizer, context_length, "plain")


def train(out: Path, talks: int, wishes: int) -> None:
    """The second stage, from the shipped storyteller on; every token counts, so that it goes on learning stories."""
    model, tokenizer = load_pretrained("storyteller", device="cpu", dtype=torch.float32)
    data = rows(talks, wishes, tokenizer, model.config.context_length)
    print(f"{len(data):,} rows, {sum(len(ids) for ids, _ in data.rows):,} tokens, "
          f"{sum(int(own.sum()) for _, own in data.rows):,} of them the assistant's", flush=True)
    start = time.perf_counter()

    def tell(record: dict[str, float]) -> None:
        if record["step"] % 100 == 0:
            print(f"step {record['step']:,}: loss {record['loss']:.3f}, {time.perf_counter() - start:,.0f} s",
                  flush=True)

    history = finetune_instructions(model, data, batch_size=BATCH, learning_rate=RATE, mask_prompt=False,
                                    warmup_steps=WARMUP, progress=False, on_step=tell,
                                    checkpoints=Checkpoints(out / "checkpoints", every_minutes=3))
    if len(history.steps) < -(-len(data) // BATCH):
        fail("interrupted: the same command goes on from the checkpoint")
    save_model(model, out / "model")
    keep_tokenizer(tokenizer, out / "model", begins_with_end=True)
    print(f"saved in {out / 'model'}")


def pack(run: Path, target: Path) -> None:
    """A finished run's model in bfloat16, and its tokenizer, in `target`."""
    if not (run / "model" / "config.json").is_file():
        fail(f"{run} has no model yet: wait until the run is complete")
    pack_model(load_model(run / "model", "cpu"), load_tokenizer(run / "model" / "tokenizer.json"), target)
    print(f"{target} holds {sum(path.stat().st_size for path in target.iterdir()) / 1e6:.1f} MB")


def test_tasks() -> dict[str, list[Task]]:
    """The tasks of chapter 7's study: of the kinds that were learned, and of those that were kept out."""
    return {"right": list(tasks(TEST_SEED, TEST_TASKS, "test", kinds=tuple(KINDS))),
            "kept_out": list(tasks(TEST_SEED, KEPT_OUT_TASKS, "test", kinds=tuple(KEPT_OUT)))}


def judge(model: Any, tokenizer: Any, target: Path | None) -> dict[str, Any]:
    """Print and return the shares of right answers, by kind, and the loss on held-out stories."""
    figures: dict[str, Any] = {}
    for part, asked in test_tasks().items():
        answers = answer_tasks(model, tokenizer, asked)
        by_kind = right_by_kind(asked, answers)
        figures[part] = {kind: [share.right, share.of] for kind, share in by_kind.items()}
        for kind, share in by_kind.items():
            print(f"{kind:16} {share}")
        print(f"{part:16} {share_of(check_task(*pair) for pair in zip(asked, answers))}", flush=True)
    loss, _ = story_loss(model, tokenizer)
    figures["story_loss"] = round(loss, 4)
    print(f"held-out stories {loss:.3f} nats a token")
    if target is not None:
        replace_file(target, (json.dumps(figures, indent=1) + "\n").encode())
    return figures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train", help="the second stage of the storyteller")
    one.add_argument("--out", type=Path, default=Path("runs/storyteller-chat"))
    one.add_argument("--talks", type=int, default=TALKS, help=f"conversations ({TALKS:,})")
    one.add_argument("--wishes", type=int, default=WISHES, help=f"single wishes for a story ({WISHES:,})")
    two = commands.add_parser("pack", help="put a run's model into the book's data")
    two.add_argument("--run", type=Path, default=Path("runs/storyteller-chat"))
    two.add_argument("--to", type=Path, default=data_folder() / NAME)
    three = commands.add_parser("judge", help="ask the held-out tasks")
    three.add_argument("--model", type=Path, default=data_folder() / NAME, help="a folder of save_model")
    three.add_argument("--to", type=Path, help="the file to write, data/storyteller-chat/judged.json")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    if args.command == "train":
        train(args.out, args.talks, args.wishes)
    elif args.command == "pack":
        pack(args.run, args.to)
    else:
        judge(load_model(args.model, "cpu"), load_tokenizer(args.model / "tokenizer.json"), args.to)


if __name__ == "__main__":
    main()
