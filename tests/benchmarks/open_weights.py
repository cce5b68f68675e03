"""SmolLM2-135M from its GGUF file, beside transformers and llama.cpp: `python -m tests.benchmarks.open_weights`.

Loading: a new process for each measurement, from the call that loads the file to the first new token of a short prompt,
importing left out. Generation: batch 1, greedy, the two take turns within each round; medians, tokens a second. Peak
memory: the largest resident set of a new process that loads the model, less what it had before, beside the weights.
int8 and 4 bits: this book's `quantize`, activations in float32, beside transformers in bfloat16.

`--four-bits` measures only what is in `make bench` with 4 bits: this book's `quantize` beside llama.cpp (the package
xllamacpp), which computes with the numbers of the same file, as many threads each. A token's time is that of those
after the first, and a prompt's that until the first token is known, by each program's own clock.
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
from llmbook.devices import has_native_bfloat16
from llmbook.formats.quantized import quantize
from llmbook.generation import generate, stream
from llmbook.open_weights import load_pretrained
from tests.benchmarks import llama_cpp
from tests.benchmarks.rows import Row, alone, alternate, compare, missing, seconds, table

NAME, PROMPT = "smollm2-135m-instruct", "The history of the steam engine begins"
TOKENS, LONG = 40, 500  # new ones, and those of the long prompt


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


def token_rate(model, ids: torch.Tensor, count: int) -> float:
    """Tokens a second of those after the first."""
    tokens = stream(model, ids, count, temperature=0)
    next(tokens)
    return (count - 1) / seconds(lambda: list(tokens))


def four_bit_rows(rounds: int) -> list[Row]:
    """4 bits beside llama.cpp: new tokens, and reading a prompt."""
    model, tokenizer = load_ours(torch.float32)
    quantize(model, 4)
    ids = torch.tensor([tokenizer.encode(PROMPT)])
    text = (PROMPT + " with a question. ") * LONG
    long = torch.tensor([tokenizer.encode(text)[:LONG]])
    works = f"SmolLM2-135M, 4 bits, {TOKENS} tokens one by one", f"SmolLM2-135M, 4 bits, a prompt of {LONG} tokens"

    def decode() -> float:
        return token_rate(model, ids, TOKENS)

    def read() -> float:
        return LONG / seconds(lambda: list(stream(model, long, 1, temperature=0)))

    decode(), read()
    if not llama_cpp.is_here():
        ours = alternate(rounds, decode=decode, read=read)
        return [missing(works[0], llama_cpp.MISSING, floor=0.75),
                *(alone(work, ours[name], "tokens/s") for work, name in zip(works, ours, strict=True))]
    with llama_cpp.LlamaCpp(fetch(NAME), torch.get_num_threads()) as peer:

        def decode_there() -> float:
            return 1 / peer.run(ids[0].tolist(), TOKENS)["token_seconds"]

        def read_there() -> float:
            return LONG / peer.run(long[0].tolist(), 1)["prompt_seconds"]

        decode_there()
        tokens = alternate(rounds, ours=decode, theirs=decode_there)
        prompts = alternate(rounds, ours=read, theirs=read_there)
    return [compare(works[0], tokens["ours"], tokens["theirs"], "tokens/s", "llama.cpp", floor=0.75),
            compare(works[1], prompts["ours"], prompts["theirs"], "tokens/s", "llama.cpp")]


def transformers_rows(rounds: int) -> list[Row]:
    """The formats without quantisation beside transformers."""
    found = []
    for name in ("float32", "bfloat16"):
        work = f"SmolLM2-135M, {name}, {TOKENS} tokens one by one"
        if name == "bfloat16" and not has_native_bfloat16("cpu"):
            continue  # emulated, a hundred times slower
        try:
            theirs = load_theirs(getattr(torch, name))[0]
        except ImportError:
            found.append(missing(work, "not measured: pip install transformers", floor=1.0))
            continue
        model, tokenizer = load_ours(getattr(torch, name))
        ids = torch.tensor([tokenizer.encode(PROMPT)])
        rates = alternate(rounds, ours=lambda: speed(generate_ours, model, ids, TOKENS),  # noqa: B023 (called at once)
                          theirs=lambda: speed(generate_theirs, theirs, ids, TOKENS))  # noqa: B023
        found.append(compare(work, rates["ours"], rates["theirs"], "tokens/s", "transformers", floor=1.0))
    return found


def rows(rounds: int) -> list[Row]:
    """What `make bench` shows of this module."""
    return four_bit_rows(rounds) + transformers_rows(rounds)


def show(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--four-bits", action="store_true", help="only 4 bits beside llama.cpp")
    parser.add_argument("--measure", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure_load(options.measure, getattr(torch, options.dtype))
    if options.four_bits:
        return show(table(four_bit_rows(options.rounds)))

    show(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
    loads = {who: [in_new_process(who, "float32") for _ in range(options.rounds)] for who in ("ours", "theirs")}
    middle = {who: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for who, runs in loads.items()}
    ours, theirs = middle["ours"], middle["theirs"]
    show(f"file to first token: {ours['first']:.1f} s, transformers {theirs['first']:.1f} s   (floor: 3 s)")
    for dtype in ("float32", "bfloat16"):
        run = ours if dtype == "float32" else in_new_process("ours", dtype)
        show(f"peak memory while loading, {dtype}: {run['peak']:.0f} MiB for {run['weights']:.0f} MiB of weights, "
             f"ratio {run['peak'] / run['weights']:.2f}   (floor: 1.30)")

    show("\ntokens a second              llmbook  transformers  ratio")
    models = {"float32": load_ours(torch.float32), "bfloat16": load_ours(torch.bfloat16)}
    tokenizer = models["float32"][1]
    models = {name: model for name, (model, _) in models.items()}
    for bits, name in ((8, "int8"), (4, "4 bits")):
        models[name] = quantize(load_ours(torch.float32)[0], bits)
    theirs = {name: load_theirs(getattr(torch, name))[0] for name in ("float32", "bfloat16")}
    ids, rates = torch.tensor([tokenizer.encode(PROMPT)]), {}
    for _ in range(options.rounds):
        for name, model in models.items():
            rates.setdefault(name, []).append(speed(generate_ours, model, ids, options.tokens))
        for name, model in theirs.items():
            rates.setdefault("their " + name, []).append(speed(generate_theirs, model, ids, options.tokens))
    for name in models:
        other = "their " + (name if name in theirs else "bfloat16")
        ratio = statistics.median(a / b for a, b in zip(rates[name], rates[other], strict=True))
        note = "" if name != "bfloat16" else "   (floor: 1.50, on a processor with bfloat16)"
        show(f"{name:9} beside {other[6:]:10} {statistics.median(rates[name]):8.1f} "
             f"{statistics.median(rates[other]):13.1f}  {ratio:5.2f}{note}")


if __name__ == "__main__":
    main()
