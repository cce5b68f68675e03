"""Sections decode, batch and load: text generated one row at a time and many, and a model read from the disk."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from llmbook.compiled import compile_decoding
from llmbook.generation import generate
from llmbook.gpt import GPT
from llmbook.training import load_model, save_model
from tests.gpu import sizes
from tests.gpu.bench import Bench
from tests.gpu.report import OURS, THEIRS, Row


def ours(bench: Bench, model, prompts, new: int, compiled: bool = False) -> Callable[[], float]:
    """What measures tokens per second, warmed up."""
    if compiled:
        model = compile_decoding(model)
    rows = len(prompts)

    def run() -> None:
        result = generate(model, prompts, new, temperature=0)
        assert len(result) == rows and all(len(row) == len(prompt) + new for row, prompt in zip(result, prompts))

    run()
    return lambda: rows * new / bench.seconds(run)


def theirs(bench: Bench, model, prompts, new: int, **settings) -> Callable[[], float]:
    """The same with transformers' `generate`; prompts of unequal lengths are padded at the left."""
    rows, longest = len(prompts), max(map(len, prompts))
    ids = torch.zeros(rows, longest, dtype=torch.long)
    seen = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :], seen[row, longest - len(prompt) :] = prompt, 1
    ids, seen = ids.to(bench.device), seen.to(bench.device)

    def run() -> None:
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=seen, max_new_tokens=new, min_new_tokens=new, do_sample=False,
                                 **settings)
        assert out.shape == (rows, longest + new)

    run()
    return lambda: rows * new / bench.seconds(run)


def decoding(bench: Bench) -> None:
    """GPT-2 124M and a Llama of SmolLM2-135M's sizes, weights in bfloat16, batches of 1 and 64.

    Batch 1 is measured first, and last what takes long to compile, such as transformers with its static cache.
    """
    prompt, new = (4, 6) if bench.tiny else (16, 64)
    many = 3 if bench.tiny else 64
    kinds = {"GPT-2 124M": (lambda: sizes.gpt2(bench.tiny, bench.device),
                            lambda: sizes.their_gpt2(sizes.gpt2_config(bench.tiny), bench.device)),
             "Llama of 135M": (lambda: sizes.smol(bench.tiny, bench.device),
                               lambda: sizes.their_smol(bench.tiny, bench.device))}
    models = {}

    def model_of(name: str, whose: str) -> torch.nn.Module:
        if (name, whose) not in models:
            models[name, whose] = kinds[name][whose == THEIRS]().to(torch.bfloat16).eval()
        return models[name, whose]

    def measure(name: str, rows: int, compiled: bool, *whose: str) -> None:
        model = model_of(name, OURS)
        ids = torch.stack(sizes.prompts_of(model.config.vocab_size, [prompt] * rows)).to(bench.device)
        settings = {"cache_implementation": "static"} if compiled else {}
        makers = {OURS: lambda: ours(bench, model, ids, new, compiled),
                  THEIRS: lambda: theirs(bench, model_of(name, THEIRS), list(ids), new, **settings)}
        work = f"decoding, {name}, batch {rows}, {'compiled' if compiled else 'not compiled'}"
        medians = bench.turns(work, "tokens/s", {person: makers[person] for person in whose},
                              least=10 if compiled and bench.cuda else 2,
                              note="transformers with its static cache" if compiled else "")
        if "copy_gb_s" in bench.about and medians:
            share = 100 * sizes.weight_bytes(model) / bench.about["copy_gb_s"] / 1e9 / rows
            values = {person: share * rate for person, rate in medians.items()}
            bench.send(Row(bench.section, work, "% of the bandwidth", values))

    for name in kinds:
        measure(name, 1, False, OURS, THEIRS)
        measure(name, 1, True, OURS)
    for name in kinds:
        measure(name, many, False, OURS, THEIRS)
    for rows, *whose in ((many, OURS), (1, THEIRS), (many, THEIRS)):
        for name in kinds:
            measure(name, rows, True, *whose)


def batching(bench: Bench) -> None:
    """Many short prompts at once, and prompts of very unequal lengths."""
    story = sizes.storyteller_config(bench.tiny)
    rows, new = (4, 4) if bench.tiny else (64, 64)
    lengths = [2 + index * 7 % 13 for index in range(rows)]
    model = sizes.build(bench.device, lambda: GPT(story)).to(torch.bfloat16).eval()
    prompts = [prompt.to(bench.device) for prompt in sizes.prompts_of(story.vocab_size, lengths)]
    few, fewer = prompts[:3], 6 if bench.tiny else 32

    def other(config) -> torch.nn.Module:
        return sizes.their_gpt2(config, bench.device).to(torch.bfloat16).eval()

    def one_by_one(single: Callable[..., Callable[[], float]], model) -> Callable[[], float]:
        runs = [single(bench, model, [prompt], fewer) for prompt in few]
        return lambda: len(runs) / sum(1 / run() for run in runs)

    bench.turns(f"{rows} short prompts of unequal length at once, the storyteller's size", "tokens/s",
                {OURS: lambda: ours(bench, model, prompts, new),
                 THEIRS: lambda: theirs(bench, other(story), prompts, new)})
    large = sizes.gpt2(bench.tiny, bench.device).to(torch.bfloat16).eval()
    ends = [1, 20] if bench.tiny else [1, 500]
    uneven = [prompt.to(bench.device) for prompt in sizes.prompts_of(large.config.vocab_size, ends)]
    bench.turns(f"prompts of {ends[0]} and {ends[1]} tokens, {fewer} new, GPT-2 124M", "tokens/s",
                {OURS: lambda: ours(bench, large, uneven, fewer),
                 THEIRS: lambda: theirs(bench, other(large.config), uneven, fewer)})
    bench.turns(f"short prompts one by one ({len(few)} of them), the storyteller's size", "tokens/s",
                {OURS: lambda: one_by_one(ours, model), THEIRS: lambda: one_by_one(theirs, other(story))}, rounds=1)


def loading(bench: Bench) -> None:
    """From a folder on the disk to weights in bfloat16 on the device."""
    with tempfile.TemporaryDirectory() as folder:
        mine, other = Path(folder) / "ours", Path(folder) / "theirs"
        save_model(sizes.gpt2(bench.tiny, bench.device).to(torch.bfloat16), mine)

        def load_ours() -> torch.nn.Module:
            model = load_model(mine, bench.device)
            assert next(model.parameters()).dtype == torch.bfloat16
            return model

        def their() -> Callable[[], float]:
            from transformers import GPT2LMHeadModel

            saved = sizes.their_gpt2(sizes.gpt2_config(bench.tiny), bench.device).to(torch.bfloat16)
            saved.save_pretrained(other)

            def load() -> torch.nn.Module:
                return GPT2LMHeadModel.from_pretrained(other, dtype=torch.bfloat16).to(bench.device)

            load()
            return lambda: bench.seconds(load)

        def own() -> Callable[[], float]:
            load_ours()
            return lambda: bench.seconds(load_ours)

        bench.turns("loading GPT-2 124M saved in bfloat16", "s", {OURS: own, THEIRS: their},
                    note="llmbook compares the file's hash")
