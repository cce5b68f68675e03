"""Chapter 7's figures over several seeds: `python -m tests.benchmarks.instructions`.

Each seed splits the entries anew and trains the model anew on all training entries. Beside it stands the model as it
was, asked with one more sentence: to reply with the answer only. `--unmasked 1` trains once more without masking the
prompts, on the first seed. About five minutes a training on two cores. `--model gpt2` does the same with another model.
"""

import argparse
import copy
import math
import statistics
import sys

import pandas as pd
import torch
from torch import nn

from llmbook.corpora import data_folder
from llmbook.devices import best_device
from llmbook.instructions import (
    InstructionDataset,
    finetune_instructions,
    held_out_loss,
    read_instructions,
    respond_all,
    score_responses,
    split_instructions,
)
from llmbook.open_weights import Tokenizer, load_pretrained
from llmbook.text import read_text
from llmbook.training import next_token_loss

Figures = dict[str, float]


def show(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@torch.no_grad()
def perplexity_of_a_story(model: nn.Module, tokenizer: Tokenizer, tokens: int = 500) -> float:
    """Of the first tokens of the book's own story: what the model could do before, and should not lose."""
    ids = torch.tensor([tokenizer.encode(read_text(data_folder() / "twenty_in_hand.txt"))[: tokens + 1]])
    ids = ids.to(next(model.parameters()).device)
    return math.exp(next_token_loss(model.eval(), ids[:, :-1], ids[:, 1:]))


def figures(model: nn.Module, tokenizer: Tokenizer, test: pd.DataFrame, seconds: float = 0.0) -> Figures:
    dataset = InstructionDataset(test, tokenizer, model.config.context_length)
    scores = score_responses(test, respond_all(model, tokenizer, test, max_new_tokens=40))
    right = {kind: 100 * float(scores[scores["checked"] == kind]["right"].astype(float).mean())
             for kind in ("content", "format")}
    return {"loss": held_out_loss(model, dataset), "content %": right["content"], "format %": right["format"],
            "words": float(scores["words"].mean()),
            "story perplexity": perplexity_of_a_story(model, tokenizer), "seconds": seconds}


def one_seed(name: str, entries: pd.DataFrame, seed: int, epochs: int, rate: float, unmasked: bool,
             ) -> dict[str, Figures]:
    pretrained, tokenizer = load_pretrained(name)
    pretrained.to(best_device())
    train, _, test = split_instructions(entries, seed=seed)
    dataset = InstructionDataset(train, tokenizer, pretrained.config.context_length)
    brief = test.assign(instruction=test["instruction"] + " Reply with the answer only, nothing else.")
    results = {"before": figures(pretrained, tokenizer, test),
               "told to be brief": figures(pretrained, tokenizer, brief)}
    for way, mask_prompt in (("after", True), ("after, prompts not masked", False)):
        if not mask_prompt and not unmasked:
            continue
        torch.manual_seed(seed)
        model = copy.deepcopy(pretrained)
        model.token_embedding.requires_grad_(False)
        history = finetune_instructions(model, dataset, epochs=epochs, batch_size=16, learning_rate=rate,
                                        mask_prompt=mask_prompt, seed=seed, progress=False)
        results[way] = figures(model, tokenizer, test, history.steps[-1]["seconds"])
        show(f"seed {seed}, {way}: {pd.Series(results[way]).round(2).to_dict()}")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--unmasked", type=int, default=0, help="seeds for which to train without the prompt mask too")
    parser.add_argument("--rate", type=float, default=2e-4, help="highest learning rate")
    options = parser.parse_args()
    entries, seeds = read_instructions(data_folder() / "instructions.json"), []
    for seed in range(options.seeds):
        seeds.append(one_seed(options.model, entries, seed, options.epochs, options.rate,
                              seed < options.unmasked))
        show(f"\nseed {seed}\n{pd.DataFrame(seeds[-1]).T.round(2).to_string()}")
    means = {way: {name: statistics.mean(seed[way][name] for seed in seeds) for name in seeds[0][way]}
             for way in ("before", "told to be brief", "after")}
    show(f"\nmean of {len(seeds)} seeds\n{pd.DataFrame(means).T.round(2).to_string()}")
    before, after = means["before"], means["after"]
    show(f"\nresponse loss {100 * (after['loss'] / before['loss'] - 1):+.0f} %, right answers "
         f"{after['content %'] / before['content %']:.1f} times as many")


if __name__ == "__main__":
    main()
