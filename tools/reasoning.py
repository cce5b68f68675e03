"""Make data/reasoner, and llmbook/book/reasoning.json: chapter 9's runs over three seeds, with more than its cells do.

    python tools/reasoning.py base               # the small model that the chapter begins with, a few minutes
    python tools/reasoning.py                    # the study, about half an hour on one core
    python tools/reasoning.py --seconds 100      # begin no run after so many; the same command goes on
    python tools/reasoning.py --part main        # one part: main, hole, equal, tool, distill, countdown
    python tools/reasoning.py real               # SmolLM2 with an adapter, on checkable instructions

All runs but those of real and of the students of distill begin with data/reasoner. main: GRPO as in the chapter. hole:
the same with a reward that also pays for each step. equal: supervised training on worked examples, and rejection
sampling, each for as many seconds of the processor as the first run of main took. tool: products, with the calculator
and without, first from examples and then by reward. distill: smaller models from random weights, taught by what a model
of main wrote (all of it, or what the checker found right), or by solutions of the generator. countdown: a few
answers, then either a reward for any calculation that is right, or the same answers for as long.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from llmbook.answer_checks import check_answer, check_kind
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
from llmbook.book.story_tasks import paired_p_value
from llmbook.book.studies import KeptRuns, seconds_option, tell_whether_complete
from llmbook.files import data_folder
from llmbook.gpt import GPT, GPTConfig
from llmbook.group_samples import GRPOConfig
from llmbook.instructions import (
    collate_instructions,
    encode_instruction,
    read_instructions,
    respond_all,
    response_loss,
    score_responses,
    special_ids,
    split_instructions,
    style_for,
)
from llmbook.lora import add_lora
from llmbook.open_weights import load_pretrained
from llmbook.problems import (
    ANSWER,
    THINK,
    PieceTokenizer,
    WorkedProblem,
    boxes,
    countdown,
    final_answer,
    is_right,
    number_stories,
)
from llmbook.protocols import Tokenizer
from llmbook.reasoning import Calculator, grpo, write_with_tool
from llmbook.training import TrainingConfig, save_model, train

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "llmbook" / "book" / STUDY_FILE
REASONER = ROOT / "data" / "reasoner"
SEEDS = (0, 1, 2)
PARTS = ("main", "hole", "equal", "tool", "distill", "countdown")
ALWAYS = ("base", *PARTS)  # what a whole study holds; real is not of it
SIZES = {"context_length": 80, "d_model": 64, "n_heads": 4, "n_layers": 3, "dropout": 0.0}
STUDENT = {**SIZES, "d_model": 48, "n_layers": 2}
TEACHERS = ("verified", "unverified", "author", "answers")
LESSONS, STUDENT_STEPS = 2000, 1200  # of a teacher, and of training on them
FEW, LARGEST, WARM_STEPS = 300, 9, 300  # countdowns with an answer, their largest number, steps of training on them
COUNTDOWN = {"max_steps": 150, "max_new_tokens": 12}
STEPS, LONGEST = (2, 3, 4), (5, 6)  # of the problems that are trained on, and of those that are kept out
ENOUGH = 0.42  # of validation answers right: the base stops there
BASE = {"max_steps": 2000, "learning_rate": 4e-3, "warmup_steps": 30, "final_fraction": 0.3, "weight_decay": 0.01}
CALL_STEPS = 400  # of batches of examples, before the calculator is taught by reward
IN_STEPS, BOXES, CALLS = 0.45, 0.1, 0.3  # shares: of stories with steps, of box problems, of these with calls
GRPO = {"max_steps": 30, "prompts_per_step": 24, "group_size": 16, "max_new_tokens": 40, "learning_rate": 1e-3,
        "device": "cpu", "progress": False}
REAL = {"max_steps": 60, "prompts_per_step": 8, "group_size": 8, "max_new_tokens": 24, "learning_rate": 5e-4,
        "warmup_steps": 2}
SHORT = 64  # tokens of a prompt that SmolLM2 trains on, so that a step takes less than a minute


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


def new_model(seed: int, sizes: Mapping[str, Any] = SIZES) -> GPT:
    torch.manual_seed(seed)
    return GPT(GPTConfig(vocab_size=PieceTokenizer().n_vocab, **sizes))


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


def train_for(model: nn.Module, examples: Iterable[Any], seconds: float,
              on_step: Callable[[dict[str, float]], None] = lambda record: None) -> nn.Module:
    """Train on examples for so many seconds of the processor."""
    start = time.process_time()
    config = TrainingConfig(10**6, learning_rate=1e-3, final_fraction=1.0, weight_decay=0.0, progress=False,
                            device="cpu", precision="float32", eval_every=10**9)

    def stop(record: dict[str, float]) -> None:
        on_step(record)
        if time.process_time() - start > seconds:
            raise KeyboardInterrupt

    train(model, examples, response_loss, config, on_step=stop)
    return model


def supervised(seed: int, seconds: float) -> tuple[nn.Module, dict[str, Any]]:
    """More worked examples, for so many seconds."""
    model, start, done = load_reasoner()[0], time.process_time(), []
    torch.manual_seed(seed)
    train_for(model, Examples(worked_examples, 50 + seed), seconds, done.append)
    return model, {"steps": len(done), "seconds": round(time.process_time() - start, 1)}


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


# --- distillation ----------------------------------------------------------------------------------------------------

@cache
def lessons(seed: int, n: int = LESSONS) -> dict[str, list[tuple[str, str]]]:
    """By teacher, n pairs of a prompt and its response, from the model of `main` and from the generator.

    verified: what the model wrote, where its answer is right. unverified: the first n that it wrote. author: the
    problems of verified, solved in steps by their generator. answers: the same ones without steps.

    Raises RuntimeError if the model solves fewer than n of 2 n.
    """
    model, tokenizer = reinforced(seed, test=False)[0], PieceTokenizer()
    problems = number_stories(800 + seed, 2 * n, steps=STEPS)
    answers = ask_problems(model, tokenizer, problems, max_new_tokens=GRPO["max_new_tokens"], seed=seed)
    told = [(problem, texts[0]) for problem, texts in zip(problems, answers)]
    right = [(problem, text) for problem, text in told if is_right(problem, text)][:n]
    if len(right) < n:
        raise RuntimeError(f"the teacher solved {len(right)} of {2 * n} problems: train it longer, or ask for fewer "
                           f"than {n} lessons")
    return {"verified": [(problem.prompt, text) for problem, text in right],
            "unverified": [(problem.prompt, text) for problem, text in told[:n]],
            "author": [(problem.prompt, problem.worked()) for problem, _ in right],
            "answers": [(problem.prompt, problem.at_once()) for problem, _ in right]}


def student_run(teacher: str, seed: int, _: object = None) -> dict[str, Any]:
    """A small model from random weights that learns one set of lessons, the same number of steps for each."""
    rows = lessons(seed)[teacher]
    model, start = new_model(seed, STUDENT), time.process_time()
    config = TrainingConfig(**{**BASE, "max_steps": STUDENT_STEPS}, progress=False, device="cpu", precision="float32",
                            eval_every=10**9)
    train(model, Examples(lambda number, n: random.Random(number).choices(rows, k=n), seed), response_loss, config)
    tokens = sum(len(PieceTokenizer().encode(text)) for _, text in rows) / len(rows)
    return {"parameters": sum(p.numel() for p in model.parameters()), "tokens": round(tokens, 1),
            "seconds": round(time.process_time() - start, 1), "after": judged(model, part="test")}


# --- countdown -------------------------------------------------------------------------------------------------------

def few_examples(seed: int, n: int) -> list[tuple[str, str]]:
    """Countdowns with an answer, of the few that have one."""
    return [(problem.prompt, problem.at_once())
            for problem in random.Random(seed).choices(countdown(900, FEW, largest=LARGEST), k=n)]


def countdowns_right(model: nn.Module, n: int = 300, part: str = "test") -> dict[str, Any]:
    """Held-out targets: right answers as sampled and of the likeliest tokens, as [right, of]; and how many of the right
    ones, as sampled, are another calculation than the one that is known."""
    tokenizer, problems = PieceTokenizer(), countdown(79, n, part, largest=LARGEST)
    model.eval()
    sampled, likeliest = (ask_problems(model, tokenizer, problems, temperature=temperature,
                                       max_new_tokens=COUNTDOWN["max_new_tokens"]) for temperature in (1.0, 0.0))
    model.train()
    right = [final_answer(text) != problem.answer for problem, (text,) in zip(problems, sampled)
             if is_right(problem, text)]
    return {"right": [len(right), n], "likeliest": [right_share_of(problems, likeliest).right, n],
            "other": [sum(right), len(right)]}


def countdown_run(seed: int, _: object = None) -> dict[str, Any]:
    """A warm start from random weights on few answers; then GRPO, or the same answers for as long."""
    model, tokenizer, examples = new_model(seed), PieceTokenizer(), Examples(few_examples, 90 + seed)
    config = TrainingConfig(**{**BASE, "max_steps": WARM_STEPS}, progress=False, device="cpu", precision="float32",
                            eval_every=10**9)
    train(model, examples, response_loss, config)
    found, longer = {"before": countdowns_right(model)}, copy.deepcopy(model)
    problems, start = countdown(950 + seed, 4000, largest=LARGEST), time.process_time()
    torch.manual_seed(seed)
    config = GRPOConfig(**{**GRPO, **COUNTDOWN, "seed": seed, "stop_tokens": (tokenizer.end,)})
    records = grpo(model, problem_ids(problems, tokenizer), reward_for(problems, tokenizer), config).steps
    seconds = time.process_time() - start
    found["after"] = countdowns_right(model)
    found["longer"] = countdowns_right(train_for(longer, examples, seconds))
    curve = [{"step": record["step"], "reward": round(record["reward"], 3), "signal": round(record["signal"], 3)}
             for record in records[9::10]]
    return {"seconds": round(seconds, 1), **found, "curve": curve}


# --- a real model ----------------------------------------------------------------------------------------------------

def checkable() -> pd.DataFrame:
    """The book's instructions whose answers a program can check."""
    entries = read_instructions(data_folder() / "instructions.json")
    return entries[entries["check"].map(check_kind).notna()].reset_index(drop=True)


def answered_right(model: nn.Module, tokenizer: Tokenizer, entries: pd.DataFrame) -> list[bool]:
    """Whether each greedy answer passes its check."""
    answers = respond_all(model, tokenizer, entries, max_new_tokens=REAL["max_new_tokens"], progress=False)
    return score_responses(entries, answers)["right"].tolist()


def real_run(seed: int, model: nn.Module, tokenizer: Tokenizer, entries: pd.DataFrame,
             **changes: Any) -> dict[str, Any]:
    """`grpo` with a LoRA adapter on short instructions, paid by `check_answer`; before and after on others."""
    start, style = time.process_time(), style_for(tokenizer)
    training, _, test = split_instructions(entries, seed=seed)
    rows = [(row, torch.tensor(encode_instruction(row["instruction"], row["input"], tokenizer, style)))
            for row in training.to_dict("records")]
    rows = [(row, ids) for row, ids in rows if len(ids) <= SHORT]
    stops = special_ids(tokenizer)

    def reward(places: Sequence[int], responses: Sequence[Tensor]) -> list[float]:
        texts = [tokenizer.decode([token for token in ids.tolist() if token not in stops]) for ids in responses]
        return [float(check_answer(text.strip(), rows[place][0]["check"], rows[place][0]["output"]))
                for place, text in zip(places, texts)]

    before = answered_right(model, tokenizer, test)
    torch.manual_seed(seed)
    add_lora(model, rank=8)
    config = GRPOConfig(**{**GRPO, **REAL, "seed": seed, "stop_tokens": tuple(sorted(stops)), **changes})
    records = grpo(model, [ids for _, ids in rows], reward, config,
                   on_step=lambda record: print(record, flush=True)).steps
    after = answered_right(model, tokenizer, test)
    return {"prompts": len(rows), "steps": len(records), "samples": config.prompts_per_step * config.group_size,
            "signal": round(sum(record["signal"] for record in records) / len(records), 3),
            "before": [sum(before), len(test)], "after": [sum(after), len(test)],
            "p": round(paired_p_value(before, after), 3), "seconds": round(time.process_time() - start)}


class Study(KeptRuns):
    """The runs; each is written as soon as it is done, and read from disk if an earlier call made it."""

    def __init__(self, seconds: float):
        super().__init__(TABLE, ALWAYS, seconds)

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
    "countdown": {"grpo": countdown_run},
    "distill": {teacher: partial(student_run, teacher) for teacher in TEACHERS},
}


def main() -> None:
    parser = seconds_option(__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", choices=("base", "study", "real"), default="study")
    parser.add_argument("--part", choices=PARTS, help="one part of the study; all if not given")
    parser.add_argument("--steps", type=int, default=BASE["max_steps"], help="of the base")
    asked = parser.parse_args()
    if asked.what == "base":
        make_base(asked.steps)
    elif asked.what == "real":
        kept = KeptRuns(TABLE, (*ALWAYS, "real"))
        kept.table["real"] = []  # one run, the newest
        loaded = load_pretrained("smollm2-135m-instruct", device="cpu", dtype=torch.float32)
        kept.keep("real", {"name": "adapter", "seed": 0, **real_run(0, *loaded, checkable())})
    else:
        tell_whether_complete(lambda: Study(asked.seconds).go((asked.part,) if asked.part else PARTS))


if __name__ == "__main__":
    main()
