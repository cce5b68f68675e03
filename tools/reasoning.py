"""Make data/reasoner, and llmbook/book/reasoning.json: chapter 9's runs over three seeds, with more than its cells do.

    python tools/reasoning.py base               # the small model that the chapter begins with, a few minutes
    python tools/reasoning.py                    # the study, about ten minutes on one core
    python tools/reasoning.py --seconds 100      # begin no run after so many; the same command goes on
    python tools/reasoning.py --part main        # one part: main, hole, equal, tool

All runs begin with data/reasoner. main: GRPO as in the chapter. hole: the same with a reward that also pays for each
step. equal: supervised training on worked examples, and rejection sampling, each for as
many seconds of the processor as the first run of main took. tool: products, with the calculator and without,
first from examples and then by reward.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmbook.book.reasoning import (
    STUDY_FILE,
    ask_problems,
    entropy_of,
    load_reasoner,
    problem_ids,
    reward_for,
    right_share_of,
    with_steps,
)
from llmbook.book.studies import KeptRuns, seconds_option, tell_whether_complete
from llmbook.gpt import GPT, GPTConfig
from llmbook.group_samples import GRPOConfig
from llmbook.instructions import collate_instructions, response_loss
from llmbook.problems import ANSWER, THINK, PieceTokenizer, WorkedProblem, boxes, is_right, number_stories
from llmbook.reasoning import Calculator, grpo, write_with_tool
from llmbook.training import TrainingConfig, save_model, train

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "llmbook" / "book" / STUDY_FILE
REASONER = ROOT / "data" / "reasoner"
SEEDS = (0, 1, 2)
PARTS = ("main", "hole", "equal", "tool")
SIZES = {"context_length": 80, "d_model": 64, "n_heads": 4, "n_layers": 3, "dropout": 0.0}
STEPS, LONGEST = (2, 3, 4), (5, 6)  # of the problems that are trained on, and of those that are kept out
ENOUGH = 0.42  # of validation answers right: the base stops there
BASE = {"max_steps": 2000, "learning_rate": 4e-3, "warmup_steps": 30, "final_fraction": 0.3, "weight_decay": 0.01}
CALL_STEPS = 400  # of batches of examples, before the calculator is taught by reward
IN_STEPS, BOXES, CALLS = 0.45, 0.1, 0.3  # shares: of stories with steps, of box problems, of these with calls
GRPO = {"max_steps": 30, "prompts_per_step": 24, "group_size": 16, "max_new_tokens": 40, "learning_rate": 1e-3,
        "device": "cpu", "progress": False}


# --- the model that the chapter begins with ------------------------------------------------------------------------

class Examples:
    """Batches of (inputs, targets) without end, of examples that are made as they are needed."""

    def __init__(self, make: Callable[[int, int], list[tuple[str, str]]], seed: int, batch_size: int = 64):
        self.make, self.seed, self.batch_size, self.tokenizer = make, seed, batch_size, PieceTokenizer()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        number = 1000 * self.seed
        while True:
            rows = []
            for prompt, response in self.make(number, 20 * self.batch_size):
                ids = self.tokenizer.encode(prompt)
                rows.append((torch.tensor(ids + self.tokenizer.encode(response)), len(ids)))
            rows.sort(key=lambda row: row[1])  # by prompts: both ways to answer are in each batch
            batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
            random.Random(number).shuffle(batches)
            number += 1
            yield from map(collate_instructions, batches)


def mixed_examples(seed: int, n: int) -> list[tuple[str, str]]:
    """What the base learns from: stories, some with steps, and a few box problems, some of these with calls."""
    draw, count = random.Random(seed), round(BOXES * n)
    rows = [(problem.prompt, problem.worked() if draw.random() < IN_STEPS else problem.at_once())
            for problem in number_stories(seed, n - count, steps=STEPS)]
    for problem in boxes(seed % 4, count):  # few different ones
        rows.append((problem.prompt, problem.with_calls() if draw.random() < CALLS else problem.at_once()))
    draw.shuffle(rows)
    return rows


def worked_examples(seed: int, n: int) -> list[tuple[str, str]]:
    """Stories with steps."""
    return [(problem.prompt, problem.worked()) for problem in number_stories(seed, n, steps=STEPS)]


def new_model(seed: int) -> GPT:
    torch.manual_seed(seed)
    return GPT(GPTConfig(vocab_size=PieceTokenizer().n_vocab, **SIZES))


def make_base(steps: int) -> None:
    model, start = new_model(0), time.process_time()

    def tell(record: dict[str, float]) -> None:
        if record["step"] % 100 == 0 or record["step"] == steps:
            found = judged(model, 200)
            print(record["step"], f"loss {record['loss']:.3f}, {time.process_time() - start:.0f} s,", found, flush=True)
            if found["right"][0] >= ENOUGH * found["right"][1]:
                raise KeyboardInterrupt  # as Ctrl-C: it leaves the loop, and the model stays

    config = TrainingConfig(**{**BASE, "max_steps": steps}, progress=False, device="cpu", eval_every=10**9)
    train(model, Examples(mixed_examples, 0), response_loss, config, on_step=tell)
    save_model(model.to(torch.bfloat16), REASONER)


# --- the study -------------------------------------------------------------------------------------------------------

def judged(model: nn.Module, n: int = 300, part: str = "val") -> dict[str, Any]:
    """What a model gets right of new problems, as [right, of]: as it likes; made to give steps; made to answer at once;
    of the longest, kept out; and taking the likeliest token."""
    tokenizer, model = PieceTokenizer(), model.eval()
    some, long = number_stories(77, n, part, STEPS), number_stories(77, n, part, LONGEST)
    answers = ask_problems(model, tokenizer, some)
    shares = {"right": right_share_of(some, answers),
              "likeliest": right_share_of(some, ask_problems(model, tokenizer, some, temperature=0.0)),
              "made_to_think": right_share_of(some, ask_problems(model, tokenizer, some, first=THINK)),
              "made_to_answer": right_share_of(some, ask_problems(model, tokenizer, some, first=ANSWER)),
              "longest": right_share_of(long, ask_problems(model, tokenizer, long, max_new_tokens=60))}
    model.train()
    return {**{name: [share.right, share.of] for name, share in shares.items()},
            "with_steps": round(with_steps(answers), 3)}


class Curve:
    """Every few steps: accuracy, steps and entropy on validation problems, beside the training's own figures."""

    def __init__(self, model: nn.Module, every: int = 5, n: int = 100):
        self.model, self.every, self.tokenizer, self.rows = model, every, PieceTokenizer(), []
        self.problems, self.start = number_stories(78, n, "val", STEPS), time.process_time()
        self.spent = 0.0
        self.note({"step": 0})

    def note(self, record: dict[str, float]) -> None:
        if record["step"] % self.every:
            return
        before = time.process_time()
        answers = ask_problems(self.model, self.tokenizer, self.problems)
        kept = {name: round(record[name], 3) for name in ("reward", "signal", "tokens") if name in record}
        self.rows.append({"step": record["step"], "right": right_share_of(self.problems, answers).value,
                          "steps": round(with_steps(answers), 3), **kept,
                          "entropy": round(entropy_of(self.model, self.tokenizer, self.problems, answers), 4),
                          "seconds": round(before - self.start - self.spent, 1)})
        self.spent += time.process_time() - before


def reinforced(seed: int, model: nn.Module | None = None, judge: Callable[[WorkedProblem, str], float] = is_right,
               steps: tuple[int, ...] = STEPS, test: bool = True, **changes: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A run of GRPO on stories, and its figures."""
    model = load_reasoner()[0] if model is None else model
    tokenizer, problems = PieceTokenizer(), number_stories(500 + seed, 2000, steps=steps)
    config = GRPOConfig(**{**GRPO, "seed": seed, "stop_tokens": (tokenizer.end,), **changes})
    torch.manual_seed(seed)
    curve = Curve(model)
    grpo(model, problem_ids(problems, tokenizer), reward_for(problems, tokenizer, judge), config, on_step=curve.note)
    return model, {"seconds": curve.rows[-1]["seconds"], "curve": curve.rows,
                   **({"after": judged(model, part="test")} if test else {})}


def paid_by_the_step(problem: WorkedProblem, response: str) -> float:
    """A reward with a hole: 1 for the right answer, and a half for each step, to encourage thinking."""
    return is_right(problem, response) + 0.5 * response.count("=")


def rejection(seed: int, seconds: float) -> tuple[nn.Module, dict[str, Any]]:
    """Sample, keep what is right, learn it as if somebody had written it; again, until the time is over."""
    model, tokenizer = load_reasoner()
    torch.manual_seed(seed)
    start, rounds, steps = time.process_time(), 0, 0
    while time.process_time() - start < seconds:
        problems = number_stories(600 + 100 * seed + rounds, 96, steps=STEPS)
        answers = ask_problems(model, tokenizer, problems, samples=8, max_new_tokens=GRPO["max_new_tokens"],
                               seed=1000 * seed + rounds)
        rounds, rows = rounds + 1, []
        for problem, texts in zip(problems, answers):
            ids = tokenizer.encode(problem.prompt)
            rows += [(torch.tensor(ids + tokenizer.encode(text)), len(ids))
                     for text in dict.fromkeys(texts) if is_right(problem, text)]
        random.Random(rounds).shuffle(rows)
        batches = [collate_instructions(rows[at : at + 64]) for at in range(0, len(rows), 64)]
        if not batches:
            continue
        config = TrainingConfig(len(batches), learning_rate=1e-3, final_fraction=1.0, weight_decay=0.0, progress=False,
                                device="cpu", precision="float32", eval_every=10**9)
        train(model, batches, response_loss, config)
        steps += len(batches)
    return model, {"rounds": rounds, "steps": steps, "seconds": round(time.process_time() - start, 1)}


def supervised(seed: int, seconds: float) -> tuple[nn.Module, dict[str, Any]]:
    """More worked examples, for so many seconds."""
    model, start, done = load_reasoner()[0], time.process_time(), 0
    torch.manual_seed(seed)
    config = TrainingConfig(10**6, learning_rate=1e-3, final_fraction=1.0, weight_decay=0.0, progress=False,
                            device="cpu", precision="float32", eval_every=10**9)

    def stop(record: dict[str, float]) -> None:
        nonlocal done
        done = int(record["step"])
        if time.process_time() - start > seconds:
            raise KeyboardInterrupt

    train(model, Examples(worked_examples, 50 + seed), response_loss, config, on_step=stop)
    return model, {"steps": done, "seconds": round(time.process_time() - start, 1)}


def called_examples(seed: int, n: int) -> list[tuple[str, str]]:
    """Products, half of them with calls of the calculator."""
    return [(problem.prompt, problem.with_calls() if number % 2 else problem.at_once())
            for number, problem in enumerate(boxes(seed, n))]


def calls_run(seed: int, steps: int = 20) -> dict[str, Any]:
    """Examples of products of one to three digits, half with calls; then GRPO on such, with the calculator. Before and
    after GRPO: one to six digits, with the calculator and without."""
    model, tokenizer = load_reasoner()
    torch.manual_seed(seed)
    config = TrainingConfig(CALL_STEPS, learning_rate=2e-3, warmup_steps=10, weight_decay=0.0, progress=False,
                            device="cpu", precision="float32", eval_every=10**9)
    train(model, Examples(called_examples, 60 + seed), response_loss, config)
    before = digits_right(model, tokenizer)
    problems = boxes(700 + seed, 1000)
    config = GRPOConfig(**{**GRPO, "max_steps": steps, "seed": seed, "stop_tokens": (tokenizer.end,)})
    torch.manual_seed(seed)
    grpo(model, problem_ids(problems, tokenizer), reward_for(problems, tokenizer), config, write=with_calculator)
    return {"before": before, "after": digits_right(model, tokenizer)}


def with_calculator(model: nn.Module, prompts: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    tokenizer = PieceTokenizer()
    return write_with_tool(model, prompts, tokenizer, Calculator(), (tokenizer.end,), GRPO["max_new_tokens"])


def digits_right(model: nn.Module, tokenizer: PieceTokenizer, n: int = 60) -> dict[str, Any]:
    """Right answers by the number of digits, with the tool and without, as [right, of]; and how many call it."""
    found: dict[str, Any] = {}
    for digits in (1, 2, 3, 4, 5, 6):
        problems = boxes(79, n, "test", (digits,))
        prompts = problem_ids(problems, tokenizer)
        torch.manual_seed(0)
        texts = [tokenizer.decode(ids[len(prompt) :].tolist())
                 for (ids, _), prompt in zip(with_calculator(model, prompts), prompts)]
        alone = ask_problems(model, tokenizer, problems, first=ANSWER)
        found[str(digits)] = {"tool": [sum(map(is_right, problems, texts)), n],
                              "called": [sum("<calc>" in text for text in texts), n],
                              "alone": [sum(is_right(problem, text[0]) for problem, text in zip(problems, alone)), n]}
    return found


class Study(KeptRuns):
    """The runs; each is written as soon as it is done, and read from disk if an earlier call made it."""

    def __init__(self, seconds: float):
        super().__init__(TABLE, ("base", *PARTS), seconds)

    def go(self, parts: tuple[str, ...]) -> None:
        if not self.table["base"]:
            self.wait()
            self.keep("base", judged(load_reasoner()[0], part="test"))
        for seed in SEEDS:
            for part in parts:
                for name, run in RUNS[part].items():
                    if (name, seed) not in {(row["name"], row["seed"]) for row in self.table[part]}:
                        self.wait()
                        self.keep(part, {"name": name, "seed": seed, **run(seed, self)}, ("curve",))

    def seconds_of_main(self) -> float:
        return self.table["main"][0]["seconds"]


def equal_run(how: Callable[[int, float], tuple[nn.Module, dict[str, Any]]]) -> Callable[[int, Study], dict[str, Any]]:
    def run(seed: int, study: Study) -> dict[str, Any]:
        model, figures = how(seed, study.seconds_of_main())
        return {**figures, "after": judged(model, part="test")}

    return run


RUNS: dict[str, dict[str, Callable[[int, Study], dict[str, Any]]]] = {
    "main": {"grpo": lambda seed, study: reinforced(seed)[1]},
    "hole": {"paid by the step": lambda seed, study: reinforced(seed, judge=paid_by_the_step, test=False)[1]},
    "equal": {"supervised": equal_run(supervised), "rejection": equal_run(rejection)},
    "tool": {"calculator": lambda seed, study: calls_run(seed)},
}


def main() -> None:
    parser = seconds_option(__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", choices=("base", "study"), default="study")
    parser.add_argument("--part", choices=PARTS, help="one part of the study; all if not given")
    parser.add_argument("--steps", type=int, default=BASE["max_steps"], help="of the base")
    asked = parser.parse_args()
    if asked.what == "base":
        make_base(asked.steps)
    else:
        tell_whether_complete(lambda: Study(asked.seconds).go((asked.part,) if asked.part else PARTS))


if __name__ == "__main__":
    main()
