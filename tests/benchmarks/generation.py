"""Several texts at once, and prompts of unequal length: `python -m tests.benchmarks.generation`.

A model of the storyteller's size continues 64 short prompts in one batch and one by one; then one prompt 64 times. The
shapes of GPT-2 124M continue a prompt of 1 token and one of 500, beside transformers' batch padded at the left. Random
weights, greedy, float32, no text ends early. Medians over rounds in which all take turns.
"""

import argparse
import importlib.util
import sys

import torch
from torch import Tensor

from llmbook.generation import generate
from llmbook.gpt import GPT, GPTConfig
from tests.benchmarks.rows import Row, alternate, compare, missed, missing, seconds, table
from tests.benchmarks.speed import ours, theirs

STORYTELLER = GPTConfig(vocab_size=2048, context_length=384, d_model=256, n_heads=8, n_layers=6, dropout=0.0)
BATCH, NEW_TOKENS = 64, 32
UNEQUAL = (1, 500)


def prompts_of(lengths: list[int], vocab_size: int) -> list[Tensor]:
    """Random ids, all different."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(1, vocab_size, (length,), generator=generator) for length in lengths]


def one_by_one(model: GPT, prompts: list[Tensor]) -> None:
    for prompt in prompts:
        generate(model, prompt[None], NEW_TOKENS, temperature=0)


def batch_rows(rounds: int) -> list[Row]:
    """64 short prompts, different and equal, in one batch beside one by one."""
    torch.manual_seed(0)
    model = GPT(STORYTELLER).eval()
    different = prompts_of([4 + number % 13 for number in range(BATCH)], STORYTELLER.vocab_size)
    equal, tokens = [different[5]] * BATCH, BATCH * NEW_TOKENS
    one_by_one(model, different[:2])
    speeds = alternate(
        rounds,
        different=lambda: tokens / seconds(lambda: generate(model, different, NEW_TOKENS, temperature=0)),
        equal=lambda: tokens / seconds(lambda: generate(model, equal, NEW_TOKENS, temperature=0)),
        alone=lambda: tokens / seconds(lambda: one_by_one(model, different)))
    size = f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f}M, float32"
    return [compare(f"generation {size}: {BATCH} prompts of 4 to 16 tokens, {NEW_TOKENS} new", speeds["different"],
                    speeds["alone"], "tokens/s", "one by one", floor=4.0),
            compare(f"generation {size}: one prompt {BATCH} times, {NEW_TOKENS} new", speeds["equal"], speeds["alone"],
                    "tokens/s", "one by one", floor=4.0)]


def unequal_row(rounds: int) -> Row:
    """Prompts of 1 and 500 tokens beside transformers' padded batch."""
    model, other = ours().eval(), theirs().eval()
    prompts = prompts_of(list(UNEQUAL), model.config.vocab_size)
    padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True, padding_side="left")
    mask = (torch.arange(max(UNEQUAL)) >= max(UNEQUAL) - torch.tensor(UNEQUAL)[:, None]).long()

    def generate_theirs() -> Tensor:
        with torch.inference_mode():
            return other.generate(padded, attention_mask=mask, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
                                  do_sample=False)

    for run in (generate_theirs, lambda: generate(model, prompts, NEW_TOKENS, temperature=0)):  # warm up
        assert len(run()[1]) == max(UNEQUAL) + NEW_TOKENS
    tokens = len(prompts) * NEW_TOKENS
    speeds = alternate(rounds, ours=lambda: tokens / seconds(lambda: generate(model, prompts, NEW_TOKENS,
                                                                              temperature=0)),
                       theirs=lambda: tokens / seconds(generate_theirs))
    return compare(f"generation GPT-2 124M, float32: prompts of {UNEQUAL[0]} and {UNEQUAL[1]} tokens, {NEW_TOKENS} new",
                   speeds["ours"], speeds["theirs"], "tokens/s", "transformers", floor=1.0,
                   note="reading the prompts included")


def rows(rounds: int) -> list[Row]:
    """The rows of the table."""
    found = batch_rows(rounds)
    if importlib.util.find_spec("transformers") is None:
        return [*found, missing("generation GPT-2 124M: prompts of 1 and 500 tokens", "pip install transformers", 1.0)]
    return [*found, unequal_row(rounds)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    found = rows(parser.parse_args().rounds)
    print(table(found))
    return int(bool(missed(found)))


if __name__ == "__main__":
    sys.exit(main())
