"""Training and generation speed and memory beside transformers, in one run: `python -m tests.benchmarks.speed`.

GPT-2 124M shapes with random weights, as in nanoGPT's benchmark: batch 4 x 256, no dropout, AdamW (PyTorch's
fused kernel for both), gradients clipped. Ours is timed through `llmbook.training.train` and
`llmbook.generation.generate`, theirs through the loop and the `generate` that its users write. The two take
turns within each round, so that a noisy machine slows both; figures are medians over rounds, tokens a second.

bfloat16 training is measured where the hardware multiplies bfloat16 natively (--all measures it anyway:
emulated, it can take minutes a step).
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_

from llmbook.devices import autocast, has_native_bfloat16
from llmbook.generation import generate, stream
from llmbook.gpt import GPT, GPTConfig
from llmbook.training import TrainingConfig, next_token_loss, train

BATCH, TOKENS = 4, 256
SIZES = GPTConfig.preset("gpt2", dropout=0.0)


def ours() -> GPT:
    torch.manual_seed(0)
    return GPT(SIZES)


def theirs():
    from transformers import GPT2Config, GPT2LMHeadModel, logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    config = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None)
    model = GPT2LMHeadModel(config)
    model.generation_config.pad_token_id = 0
    return model


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    ids = torch.randint(SIZES.vocab_size, (count, BATCH, TOKENS + 1), generator=torch.Generator().manual_seed(1))
    return [(row[:, :-1].contiguous(), row[:, 1:].contiguous()) for row in ids]


def train_ours(model: GPT, steps: int, precision: str) -> list[float]:
    """Seconds of each step but the first, which also makes the optimiser's state."""
    config = TrainingConfig(steps + 1, learning_rate=1e-4, precision=precision, device="cpu", progress=False)
    seconds = train(model, batches(steps + 1), next_token_loss, config).to_frame()["seconds"]
    return seconds.diff().dropna().tolist()


def train_theirs(model, steps: int, precision: str) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    times = []
    model.train()
    for inputs, targets in batches(steps + 1):
        start = time.perf_counter()
        with autocast("cpu", precision):
            # transformers shifts labels itself; shift_labels are targets that are shifted already
            loss = model(input_ids=inputs, labels=targets, shift_labels=targets).loss
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        float(loss.detach())
        times.append(time.perf_counter() - start)
    return times[1:]


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


def report(what: str, mine: list[float], other: list[float], tokens: int, floor: float) -> bool:
    """One line of the table, from seconds for `tokens` tokens each; whether the floor holds."""
    mine_rate, other_rate = tokens / statistics.median(mine), tokens / statistics.median(other)
    ratio = statistics.median(o / m for m, o in zip(mine, other))
    print(f"{what:34} {mine_rate:9.1f} {other_rate:13.1f} {ratio:8.2f}   >= {floor:.2f} "
          f"{'' if ratio >= floor else '  BELOW'}", flush=True)
    return ratio >= floor


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
    model = ours() if which == "ours" else theirs()
    before = peak()
    (train_ours if which == "ours" else train_theirs)(model, 1, "float32")
    print(round((peak() - before) / 2**20))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=60, help="tokens to generate a round")
    parser.add_argument("--all", action="store_true", help="bfloat16 training also where it is emulated")
    parser.add_argument("--memory", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        peak_memory(options.memory)
        return 0
    native = has_native_bfloat16("cpu")
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"bfloat16 {'native' if native else 'emulated'} on this CPU\n")
    print(f"{'tokens a second':34} {'llmbook':>9} {'transformers':>13} {'ratio':>8}   floor")
    held, mine, other = True, ours(), theirs()
    for precision, floor in (("float32", 1.05), ("bfloat16", 1.50)):
        if precision == "bfloat16" and not (native or options.all):
            print(f"{'train, bfloat16 autocast':34} not measured: emulated on this CPU (--all does it anyway)")
            continue
        times = [(train_ours(mine, 2, precision), train_theirs(other, 2, precision)) for _ in range(options.rounds)]
        held &= report(f"train, {precision}", sum((a for a, _ in times), []), sum((b for _, b in times), []),
                       BATCH * TOKENS, floor)
    prompt = torch.randint(SIZES.vocab_size, (1, 8), generator=torch.Generator().manual_seed(3))
    for dtype, floor in ((torch.float32, 1.0), (torch.bfloat16, 1.15)):
        mine, other = mine.to(dtype).eval(), other.to(dtype).eval()
        generate_ours(mine, prompt, 4), generate_theirs(other, prompt, 4)  # warm up
        times = [(generate_ours(mine, prompt, options.tokens), generate_theirs(other, prompt, options.tokens))
                 for _ in range(options.rounds)]
        held &= report(f"generate, batch 1, {str(dtype)[6:]}", [a for a, _ in times], [b for _, b in times],
                       options.tokens, floor)
        if dtype == torch.float32:
            speeds = [(context_speed(mine, 100, 20), context_speed(mine, 1000, 20)) for _ in range(options.rounds)]
    short, long = (statistics.median(values) for values in zip(*speeds))
    ratio = statistics.median(b / a for a, b in speeds)
    held &= ratio >= 0.8
    print(f"\ngenerate, float32, after 100 tokens: {short:.1f} a second; after 1,000: {long:.1f}; "
          f"ratio {ratio:.2f}   >= 0.80 {'' if ratio >= 0.8 else '  BELOW'}")
    memory = {which: subprocess.run([sys.executable, "-m", "tests.benchmarks.speed", "--memory", which],
                                    capture_output=True, text=True, check=True).stdout.split()[-1]
              for which in ("ours", "theirs")}
    print(f"peak memory that float32 training steps add: llmbook {memory['ours']} MiB, "
          f"transformers {memory['theirs']} MiB")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
