"""Training and generation speed and memory beside transformers and a plain loop: `python -m tests.benchmarks.speed`.

GPT-2 124M shapes with random weights, as in nanoGPT's benchmark: batch 4 x 256, no dropout, AdamW (PyTorch's fused
kernel, but for the plain loop: nanoGPT takes it on a GPU only), gradients clipped. Ours is timed through
`llmbook.training.train` and `llmbook.generation.generate`, theirs through the loop and the `generate` that its users
write; the plain loop is `tests.benchmarks.plain_gpt`. They take turns within each round, so that a noisy machine slows
all; figures are medians over rounds, tokens a second.

bfloat16 training is measured where the hardware multiplies bfloat16 natively (--all measures it anyway:
emulated, it can take minutes a step).
"""

import argparse
import importlib.util
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path

import torch

from llmbook.devices import has_native_bfloat16
from llmbook.generation import generate, stream
from llmbook.gpt import GPT, GPTConfig
from llmbook.training import TrainingConfig, next_token_loss, train
from tests.benchmarks.plain_gpt import PlainGPT, PlainTraining, padded
from tests.benchmarks.rows import Row, alternate, compare, missed, missing, seconds, table

BATCH, TOKENS, NEW_TOKENS = 4, 256, 60
SIZES = GPTConfig.preset("gpt2", dropout=0.0)
TRAINING_FLOORS = {("float32", "transformers"): 1.5, ("float32", "nanoGPT-style"): 1.1,
                   ("bfloat16", "transformers"): 1.5}
GENERATION_FLOORS = {"float32": 1.35, "bfloat16": 1.15}


def ours() -> GPT:
    torch.manual_seed(0)
    return GPT(SIZES)


def theirs():
    from transformers import GPT2Config, GPT2LMHeadModel, logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=SIZES.vocab_size, n_positions=SIZES.context_length, n_embd=SIZES.d_model,
                        n_head=SIZES.n_heads, n_layer=SIZES.n_layers, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                        bos_token_id=None, eos_token_id=None)
    model = GPT2LMHeadModel(config)
    model.generation_config.pad_token_id = 0
    return model


def plain() -> PlainGPT:
    torch.manual_seed(0)
    return PlainGPT(padded(SIZES.vocab_size), SIZES.context_length, SIZES.d_model, SIZES.n_heads, SIZES.n_layers)


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    ids = torch.randint(SIZES.vocab_size, (count, BATCH, TOKENS + 1), generator=torch.Generator().manual_seed(1))
    return [(row[:, :-1].contiguous(), row[:, 1:].contiguous()) for row in ids]


def train_ours(model: GPT, steps: int, precision: str) -> list[float]:
    """Seconds of each step but the first, which also makes the optimiser's state."""
    config = TrainingConfig(steps + 1, learning_rate=1e-4, precision=precision, device="cpu", progress=False)
    times = [record["seconds"] for record in train(model, batches(steps + 1), next_token_loss, config).steps]
    return [after - before for before, after in zip(times, times[1:])]


def loop(model, precision: str, loss_of: Callable | None = None) -> Callable[[int], list[float]]:
    """A function that trains a model for so many steps in the plain loop; returns the seconds of each."""
    training = PlainTraining(model, bfloat16=precision == "bfloat16", loss_of=loss_of,
                             fused=None if isinstance(model, PlainGPT) else True)
    endless = cycle(batches(3))
    training.step([next(endless)])  # makes the optimiser's state
    return lambda steps: [seconds(lambda: float(training.step([next(endless)]))) for _ in range(steps)]


def loss_of_theirs(model, inputs, targets):
    # transformers shifts labels itself; shift_labels are targets that are shifted already
    return model(input_ids=inputs, labels=targets, shift_labels=targets, use_cache=False).loss


def generate_ours(model: GPT, prompt: torch.Tensor, count: int) -> float:
    start = time.perf_counter()
    assert generate(model, prompt, count, temperature=0).shape[1] == prompt.shape[1] + count
    return time.perf_counter() - start


def generate_theirs(model, prompt: torch.Tensor, count: int) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count,
                             min_new_tokens=count, do_sample=False)
    assert out.shape[1] == prompt.shape[1] + count
    return time.perf_counter() - start


def context_speed(model: GPT, context: int, count: int) -> float:
    """Tokens a second after a prompt of `context` tokens, the reading of the prompt not counted."""
    prompt = torch.randint(SIZES.vocab_size, (1, context), generator=torch.Generator().manual_seed(2))
    new_tokens = stream(model, prompt, count + 1, temperature=0)
    next(new_tokens)
    start = time.perf_counter()
    for _ in new_tokens:
        pass
    return count / (time.perf_counter() - start)


def peak() -> int:
    """The most memory this process has held so far, in bytes."""
    try:  # Linux: getrusage would count the parent's memory before exec as well
        status = Path("/proc/self/status").read_text()
    except OSError:  # macOS: getrusage counts bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def peak_memory(which: str) -> None:
    """In a process of its own: print how many MiB one float32 training step adds to the model's process."""
    if which == "ours":
        model = ours()
        before = peak()
        train_ours(model, 1, "float32")
    else:
        model = plain() if which == "plain" else theirs()
        before = peak()
        loop(model, "float32", None if which == "plain" else loss_of_theirs)(1)
    print(round((peak() - before) / 2**20))


def memory_rows(peers: Sequence[str]) -> list[Row]:
    def measure(which: str) -> float:
        command = [sys.executable, "-m", "tests.benchmarks.speed", "--memory", which]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])

    mine = measure("ours")
    names = {"transformers": "theirs", "nanoGPT-style": "plain"}
    return [compare("memory that float32 training adds", [mine], [measure(names[peer])], "MiB", peer)
            for peer in peers]


def training_rows(precision: str, rounds: int, peers: dict[str, Callable]) -> list[Row]:
    """Training beside each of the peers, which are functions that make what `alternate` calls."""
    model, ready = ours(), {name: make(precision) for name, make in peers.items()}
    times = alternate(rounds, ours=lambda: statistics.median(train_ours(model, 2, precision)),
                      **{name: lambda run=run: statistics.median(run(2)) for name, run in ready.items()})
    rates = {name: [BATCH * TOKENS / taken for taken in values] for name, values in times.items()}
    return [compare(f"training GPT-2 124M, {BATCH} x {TOKENS}, {precision}", rates["ours"], rates[name], "tokens/s",
                    name, TRAINING_FLOORS.get((precision, name))) for name in ready]


def generation_rows(rounds: int, tokens: int) -> list[Row]:
    rows, mine, other = [], ours(), theirs()
    prompt = torch.randint(SIZES.vocab_size, (1, 8), generator=torch.Generator().manual_seed(3))
    for precision, floor in GENERATION_FLOORS.items():
        dtype = getattr(torch, precision)
        mine, other = mine.to(dtype).eval(), other.to(dtype).eval()
        generate_ours(mine, prompt, 4)  # warm up
        generate_theirs(other, prompt, 4)
        taken = alternate(rounds, ours=partial(generate_ours, mine, prompt, tokens),
                          theirs=partial(generate_theirs, other, prompt, tokens))
        rates = {name: [tokens / value for value in values] for name, values in taken.items()}
        rows.append(compare(f"generation GPT-2 124M, batch 1, {precision}", rates["ours"], rates["theirs"], "tokens/s",
                            "transformers", floor))
        if precision == "float32":
            far = min(1000, SIZES.context_length - 22)
            speeds = alternate(rounds, short=partial(context_speed, mine, far // 10, 20),
                               long=partial(context_speed, mine, far, 20))
            rows.append(compare(f"the same after {far:,} tokens, beside after {far // 10}", speeds["long"],
                                speeds["short"], "tokens/s", f"after {far // 10}", 0.8))
    return rows


def rows(rounds: int, tokens: int = 0, everything: bool = False) -> list[Row]:
    """The rows of the table. `everything`: bfloat16 training also where it is emulated."""
    tokens = tokens or NEW_TOKENS
    have_theirs = importlib.util.find_spec("transformers") is not None
    peers = {"transformers": lambda precision: loop(theirs(), precision, loss_of_theirs)} if have_theirs else {}
    peers["nanoGPT-style"] = lambda precision: loop(plain(), precision)
    found = training_rows("float32", rounds, peers)
    if has_native_bfloat16("cpu") or everything:
        found += training_rows("bfloat16", rounds, peers)
    else:
        found.append(missing("training GPT-2 124M, bfloat16", "emulated on this CPU (--all of speed measures it)"))
    if have_theirs:
        found += generation_rows(rounds, tokens)
    else:
        found.append(missing("training and generation beside transformers", "pip install transformers", 1.0))
    return found + memory_rows(list(peers))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=NEW_TOKENS, help="tokens to generate a round")
    parser.add_argument("--all", action="store_true", help="bfloat16 training also where it is emulated")
    parser.add_argument("--memory", choices=["ours", "theirs", "plain"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        peak_memory(options.memory)
        return 0
    native = has_native_bfloat16("cpu")
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"bfloat16 {'native' if native else 'emulated'} on this CPU\n")
    found = rows(options.rounds, options.tokens, options.all)
    print(table(found))
    return int(bool(missed(found)))


if __name__ == "__main__":
    sys.exit(main())
