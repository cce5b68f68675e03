"""SmolLM2-135M from its GGUF file, beside transformers: `python -m tests.benchmarks.open_weights`.

Loading: a new process for each measurement, from the call that loads the file to the first new token of a short prompt,
importing left out. Generation: batch 1, greedy, the two take turns within each round; medians, tokens a second. Peak
memory: the largest resident set of a new process that loads the model, less what it had before, beside the weights.
int8: this book's `quantize_int8` on float32 activations, also with its projections compiled (--compile).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from llmbook.assets import fetch
from llmbook.generation import generate
from llmbook.open_weights import load_pretrained, quantize_int8

NAME, PROMPT = "smollm2-135m-instruct", "The history of the steam engine begins"


def load_ours(dtype: torch.dtype):
    return load_pretrained(NAME, dtype=dtype)


def load_theirs(dtype: torch.dtype):
    from unittest.mock import patch

    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = fetch(NAME)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # it wants the package accelerate to be there, and does not use it
    with patch("transformers.modeling_utils.is_accelerate_available", lambda *_, **__: True):
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    return model.eval(), tokenizer


def generate_ours(model, ids: torch.Tensor, count: int) -> torch.Tensor:
    return generate(model, ids, count, temperature=0)


def generate_theirs(model, ids: torch.Tensor, count: int) -> torch.Tensor:
    with torch.inference_mode():
        return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count,
                              do_sample=False, pad_token_id=2)


def peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def measure_load(who: str, dtype: torch.dtype) -> None:
    """Run in a process of its own: prints seconds to the first token and memory as JSON."""
    if who == "theirs":
        import transformers  # noqa: F401  (importing is left out of the time)
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401
    fetch(NAME)
    before, start = peak_mib(), time.perf_counter()
    model, tokenizer = (load_ours if who == "ours" else load_theirs)(dtype)
    loaded, memory = time.perf_counter() - start, peak_mib() - before
    ids = torch.tensor([tokenizer.encode(PROMPT)])
    (generate_ours if who == "ours" else generate_theirs)(model, ids, 1)
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) / (1 << 20)
    sys.stdout.write(json.dumps({"load": loaded, "first": time.perf_counter() - start, "peak": memory,
                                 "weights": weights}) + "\n")


def in_new_process(who: str, dtype: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.open_weights", "--measure", who, "--dtype", dtype]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def speed(generate_with, model, ids: torch.Tensor, count: int) -> float:
    generate_with(model, ids, 3)
    start = time.perf_counter()
    generate_with(model, ids, count)
    return count / (time.perf_counter() - start)


def show(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile on the int8 model")
    parser.add_argument("--measure", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure_load(options.measure, getattr(torch, options.dtype))

    show(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
    loads = {who: [in_new_process(who, "float32") for _ in range(options.rounds)] for who in ("ours", "theirs")}
    middle = {who: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for who, runs in loads.items()}
    ours, theirs = middle["ours"], middle["theirs"]
    show(f"file to first token: {ours['first']:.1f} s, transformers {theirs['first']:.1f} s   (floor: 3 s)")
    for dtype in ("float32", "bfloat16"):
        run = ours if dtype == "float32" else in_new_process("ours", dtype)
        show(f"peak memory while loading, {dtype}: {run['peak']:.0f} MiB for {run['weights']:.0f} MiB of weights, "
             f"ratio {run['peak'] / run['weights']:.2f}   (floor: 1.30)")

    show("\ntokens a second      llmbook  transformers  ratio")
    for dtype in (torch.float32, torch.bfloat16):
        (mine, tokenizer), (other, _) = load_ours(dtype), load_theirs(dtype)
        ids, pairs = torch.tensor([tokenizer.encode(PROMPT)]), []
        count = options.tokens if dtype == torch.float32 else max(8, options.tokens // 2)
        for _ in range(options.rounds):
            pairs.append((speed(generate_ours, mine, ids, count), speed(generate_theirs, other, ids, count)))
        a, b = (statistics.median(values) for values in zip(*pairs, strict=True))
        floor = "   (floor: 1.50)" if dtype == torch.bfloat16 else ""
        show(f"{str(dtype)[6:]:20} {a:7.1f} {b:13.1f}  {statistics.median(x / y for x, y in pairs):5.2f}{floor}")
        if dtype == torch.float32:
            plain = a
            del other
            quantize_int8(mine)
            eight = statistics.median(speed(generate_ours, mine, ids, count) for _ in range(options.rounds))
            show(f"{'int8, this book':20} {eight:7.1f} {'':13}  {eight / plain:5.2f} times our float32")
            if options.compile:
                mine.hidden_states = torch.compile(mine.hidden_states, dynamic=True)
                fast = statistics.median(speed(generate_ours, mine, ids, count) for _ in range(options.rounds))
                show(f"{'int8, compiled':20} {fast:7.1f} {'':13}  {fast / plain:5.2f} times our float32")


if __name__ == "__main__":
    main()
