"""Chapter 7's figures over several seeds: `python -m tests.benchmarks.instructions`.

Each seed splits the entries anew and trains the model anew on all training entries. Beside it stands the model as it
was, asked with one more sentence: to reply with the answer only. "0.7 of the way" is the trained model with weights
between the old and the new ones. `--style alpaca` writes the prompts in the other format. `--unmasked 1` trains once
more without masking the prompts, on the first seed. About eight minutes a seed on two cores. `--model gpt2` does the
same with another model.
"""

import argparse
import copy
import math
import statistics
import sys

import pandas as pd
import torch
from torch import nn

from llmbook.book.corpora import data_folder
from llmbook.devices import best_device
from llmbook.formats.tokenizers import Tokenizer
from llmbook.instructions import (
    InstructionDataset,
    finetune_instructions,
    held_out_loss,
    read_instructions,
    respond_all,
    score_responses,
    split_instructions,
)
from llmbook.open_weights import load_pretrained
from llmbook.text import read_text
from llmbook.training import next_token_loss

Figures = dict[str, float]
PART = 0.7


def show(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@torch.no_grad()
def perplexity_of_a_story(model: nn.Module, tokenizer: Tokenizer, tokens: int = 500) -> float:
    """Of the first tokens of the book's own story: what the model could do before, and should not lose."""
    ids = torch.tensor([tokenizer.encode(read_text(data_folder() / "twenty_in_hand.txt"))[: tokens + 1]])
    ids = ids.to(next(model.parameters()).device)
    return math.exp(next_token_loss(model.eval(), ids[:, :-1], ids[:, 1:]))


@torch.no_grad()
def go_part_of_the_way(model: nn.Module, before: nn.Module, part: float) -> None:
    """Put weights into a trained model that lie between those before and those after (Wortsman et al., 2022)."""
    old = dict(before.named_parameters())
    for name, weight in model.named_parameters():
        weight.copy_(old[name] + part * (weight - old[name]))


def figures(model: nn.Module, tokenizer: Tokenizer, test: pd.DataFrame, style: str | None = None,
            seconds: float = 0.0) -> Figures:
    dataset = InstructionDataset(test, tokenizer, model.config.context_length, style)
    scores = score_responses(test, respond_all(model, tokenizer, test, max_new_tokens=40, style=style))
    right = {kind: 100 * float(scores[scores["checked"] == kind]["right"].astype(float).mean())
             for kind in ("content", "format")}
    return {"loss": held_out_loss(model, dataset), "content %": right["content"], "format %": right["format"],
            "words": float(scores["words"].mean()),
            "story perplexity": perplexity_of_a_story(model, tokenizer), "seconds": seconds}


def one_seed(options: argparse.Namespace, entries: pd.DataFrame, seed: int, unmasked: bool) -> dict[str, Figures]:
    pretrained, tokenizer = load_pretrained(options.model, dtype=torch.float32, device=best_device())
    train, _, test = split_instructions(entries, seed=seed)
    dataset = InstructionDataset(train, tokenizer, pretrained.config.context_length, options.style)
    brief = test.assign(instruction=test["instruction"] + " Reply with the answer only, nothing else.")
    results = {"before": figures(pretrained, tokenizer, test, options.style),
               "told to be brief": figures(pretrained, tokenizer, brief, options.style)}
    for way, mask_prompt in (("after", True), ("after, prompts not masked", False)):
        if not mask_prompt and not unmasked:
            continue
        torch.manual_seed(seed)
        model = copy.deepcopy(pretrained)
        model.token_embedding.requires_grad_(False)
        history = finetune_instructions(model, dataset, epochs=options.epochs, batch_size=16,
                                        learning_rate=options.rate, mask_prompt=mask_prompt, seed=seed,
                                        progress=False)
        seconds = history.steps[-1]["seconds"]
        results[way] = figures(model, tokenizer, test, options.style, seconds)
        go_part_of_the_way(model, pretrained, PART)
        results[f"{way}, {PART} of the way"] = figures(model, tokenizer, test, options.style, seconds)
        show(f"seed {seed}, {way}, whole and in part:\n{pd.DataFrame(results).T.tail(2).round(2).to_string()}")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--unmasked", type=int, default=0, help="seeds for which to train without the prompt mask too")
    parser.add_argument("--rate", type=float, default=2e-4, help="highest learning rate")
    parser.add_argument("--style", choices=("chatml", "alpaca", "plain"), help="the tokenizer's own if not given")
    options = parser.parse_args()
    entries, seeds = read_instructions(data_folder() / "instructions.json"), []
    for seed in range(options.seeds):
        seeds.append(one_seed(options, entries, seed, seed < options.unmasked))
        show(f"\nseed {seed}\n{pd.DataFrame(seeds[-1]).T.round(2).to_string()}")
    means = {way: {name: statistics.mean(seed[way][name] for seed in seeds) for name in seeds[0][way]}
             for way in ("before", "told to be brief", "after", f"after, {PART} of the way")}
    show(f"\nmean of {len(seeds)} seeds\n{pd.DataFrame(means).T.round(2).to_string()}")
    before = means["before"]
    for way in ("after", f"after, {PART} of the way"):
        show(f"{way}: response loss {100 * (means[way]['loss'] / before['loss'] - 1):+.1f} %, right answers "
             f"{means[way]['content %'] / before['content %']:.1f} times as many")


if __name__ == "__main__":
    main()
