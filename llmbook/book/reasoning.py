"""For the chapter on reasoning: the small model that it begins with, asking it, rewards, and the stored study."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from ..devices import evaluation_mode
from ..files import data_folder
from ..generation import generate
from ..group_samples import Reward
from ..model_files import load_model
from ..problems import THINK, PieceTokenizer, WorkedProblem, is_right
from ..reasoning import token_logprobs
from .figures import BLUE, GREEN, GREY, ORANGE, PURPLE
from .storytelling import Share

__all__ = ["COLOURS", "STUDY_FILE", "ask_problems", "draw_study_curves", "entropy_of", "load_reasoner", "problem_ids",
           "reasoning_study", "reward_for", "right_share_of", "study_shares", "with_steps"]

STUDY_FILE = "reasoning.json"  # tools/reasoning.py writes it
COLOURS = {"in steps": BLUE, "at once": ORANGE, "reinforcement": BLUE, "supervised": ORANGE, "rejection": GREEN,
           "cold start": GREY, "tool": PURPLE}


def load_reasoner() -> tuple[nn.Module, PieceTokenizer]:
    """The model that knows how answers look, and its tokenizer. It comes with the book (`data/reasoner`)."""
    return load_model(data_folder() / "reasoner", "cpu", torch.float32), PieceTokenizer()


def problem_ids(problems: Sequence[WorkedProblem], tokenizer: PieceTokenizer, first: str = "") -> list[Tensor]:
    """Each problem's prompt, and how its answer begins if that is given, as ids (tokens,)."""
    return [torch.tensor(tokenizer.encode(problem.prompt + first)) for problem in problems]


def ask_problems(model: nn.Module, tokenizer: PieceTokenizer, problems: Sequence[WorkedProblem], samples: int = 1,
                 first: str = "", temperature: float = 1.0, max_new_tokens: int = 48,
                 seed: int = 0) -> list[list[str]]:
    """So many responses to each problem, as texts that begin with `first`. A seed gives the same ones again."""
    prompts = problem_ids(problems, tokenizer, first)
    texts = generate(model, [prompt for prompt in prompts for _ in range(samples)], max_new_tokens, temperature,
                     stop_tokens=[tokenizer.end], seed=seed)
    responses = [first + tokenizer.decode(ids[len(prompts[number // samples]) :].tolist())
                 for number, ids in enumerate(texts)]
    return [responses[start : start + samples] for start in range(0, len(responses), samples)]


def right_share_of(problems: Sequence[WorkedProblem], responses: Sequence[Sequence[str]]) -> Share:
    """How many of all responses end with the right answer."""
    right = [is_right(problem, text) for problem, texts in zip(problems, responses) for text in texts]
    return Share(sum(right), len(right))


def with_steps(responses: Sequence[Sequence[str]]) -> float:
    """The share of the responses that begin with steps."""
    texts = [text for some in responses for text in some]
    return sum(text.startswith(THINK) for text in texts) / len(texts)


def reward_for(problems: Sequence[WorkedProblem], tokenizer: PieceTokenizer,
               judge: Callable[[WorkedProblem, str], float] = is_right) -> Reward:
    """A reward for `llmbook.reasoning.grpo`, by what `judge` says of a problem and the text of a response."""
    def reward(places: Sequence[int], responses: Sequence[Tensor]) -> list[float]:
        return [float(judge(problems[place], tokenizer.decode(ids.tolist()))) for place, ids in zip(places, responses)]

    return reward


@torch.no_grad()
def entropy_of(model: nn.Module, tokenizer: PieceTokenizer, problems: Sequence[WorkedProblem],
               responses: Sequence[Sequence[str]]) -> float:
    """Nats per token that the model was unsure, by what it sampled: the mean of -log p(token)."""
    rows = [(tokenizer.encode(problem.prompt), tokenizer.encode(text))
            for problem, texts in zip(problems, responses) for text in texts]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows) - 1
    inputs = torch.zeros(len(rows), longest, dtype=torch.long)
    targets = torch.full((len(rows), longest), -100)
    for row, (prompt, answer) in enumerate(rows):
        ids = torch.tensor(prompt + answer)
        inputs[row, : len(ids) - 1] = ids[:-1]
        targets[row, len(prompt) - 1 : len(ids) - 1] = torch.tensor(answer)
    with evaluation_mode(model):
        return -float(token_logprobs(model, inputs, targets).sum() / (targets != -100).sum())


# --- the stored study ----------------------------------------------------------------------------------------------

def reasoning_study() -> dict[str, list[dict[str, Any]]]:
    """The runs of tools/reasoning.py, part -> rows. Raises FileNotFoundError if it has not been run."""
    table = resources.files(__package__).joinpath(STUDY_FILE)
    if not table.is_file():
        raise FileNotFoundError(f"{table} is missing: make it with `python tools/reasoning.py`, an hour of one core")
    return json.loads(table.read_text(encoding="utf-8"))


def study_shares(rows: Sequence[Mapping[str, Any]], name: str) -> Share:
    """The cases of several runs together: `name` is a column of [right, of]."""
    return Share(sum(row[name][0] for row in rows), sum(row[name][1] for row in rows))


def draw_study_curves(ax: Axes, rows: Sequence[Mapping[str, Any]], column: str, colour: str, label: str) -> None:
    """One thin line for each run's `curve`, a list of records, and their mean, against the step."""
    curves = [[record[column] for record in row["curve"]] for row in rows]
    steps = [record["step"] for record in rows[0]["curve"]]
    for curve in curves:
        ax.plot(steps[: len(curve)], curve, color=colour, alpha=0.35, linewidth=1)
    mean = [sum(values) / len(values) for values in zip(*curves)]
    ax.plot(steps[: len(mean)], mean, color=colour, linewidth=2, label=label)
