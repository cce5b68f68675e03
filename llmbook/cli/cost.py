"""What a run would cost: memory, computation and time, told before it begins."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..families import Family
from .settings import Settings
from .terminal import say

__all__ = ["activation_bytes", "computing_parameters", "dry_run"]


def _shares(model: Any) -> dict[Any, float]:
    """Of each part of an expert, for which share of the tokens it computes; all other parts do for all."""
    from ..experts import MixtureOfExperts

    return {part: layer.per_token / len(layer.experts) for layer in model.modules()
            if isinstance(layer, MixtureOfExperts) for expert in layer.experts for part in expert.modules()}


def computing_parameters(model: Any) -> int:
    """How many parameters compute for a token: all but those of experts that are not chosen."""
    shares = _shares(model)
    idle = sum((1 - share) * weight.numel() for part, share in shares.items()
               for weight in part.parameters(recurse=False))
    return sum(weight.numel() for weight in model.parameters()) - round(idle)


def activation_bytes(model: Any, tokens: int, vocab_size: int, half: bool, device: str = "cpu") -> int:
    """An estimate of what a step keeps for its backward pass: the inputs and outputs of every linear layer, and the
    logits three times in float32 (as they are, as log-probabilities, and their gradient), of all tokens or of as many
    as `llmbook.head_loss` takes at once."""
    from torch import nn

    from ..head_loss import most_logits

    shares = _shares(model)
    kept = round(sum(shares.get(layer, 1) * (layer.in_features + layer.out_features) for layer in model.modules()
                     if isinstance(layer, nn.Linear)))
    return tokens * kept * (2 if half else 4) + 3 * 4 * most_logits(model, tokens, vocab_size, device)


def _device_memory(device: Any) -> int | None:
    """Bytes of memory, all together, where a model would train; None if that is not known."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def _step_seconds(family: Family, model_config: Any, config: Any, batch_size: int, flops: float,
                  fits: bool) -> tuple[float, str]:
    """Seconds of a step of `flops`, and how they are known. Takes at most about 20 s."""
    import torch

    from ..devices import autocast, best_device
    from ..training import next_token_loss, train

    device, seconds = torch.device(config.device or best_device()), []
    square = torch.rand(1024, 1024, device=device)
    with autocast(device, config.precision):
        for _ in range(4):
            start = time.perf_counter()
            float((square @ square)[0, 0])  # waits for a GPU
            seconds.append(time.perf_counter() - start)
    guess = flops / (0.4 * 2 * 1024**3 / min(seconds))  # a model gets some 40 % of a large product's speed
    parts = config.accumulation_steps
    if guess / parts > 4 or not fits:
        return guess, "estimated from the speed of a matrix product"
    model = family.build(model_config)
    ids = torch.randint(model_config.vocab_size, (batch_size, model_config.context_length + 1))
    once = replace(config, max_steps=1, accumulation_steps=1, progress=False)
    first = train(model, [(ids[:, :-1], ids[:, 1:])], next_token_loss, once).steps[0]["seconds"]
    if (more := min(20, int(8 / first))) < 2:
        return first * parts, f"measured: one step on {device}"
    steps = train(model, [(ids[:, :-1], ids[:, 1:])], next_token_loss, replace(once, max_steps=more)).steps
    times = [after["seconds"] - before["seconds"] for before, after in zip(steps, steps[1:])]
    return statistics.median(times) * parts, f"measured: {len(times)} steps on {device}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"


def dry_run(settings: Settings, config: Any, batch_size: int) -> int:
    """Print what a run would take. Nothing is written."""
    import torch

    from ..devices import best_device, has_native_bfloat16, without_weights
    from .data import Data

    data, family = Data(settings), settings.family
    tokens = Path(settings.need("", "out")) / "tokens"
    tokenizer = data.tokenizer(tokens)
    model_config, (data_tokens, about) = settings.model_config(tokenizer.n_vocab), data.count(tokenizer)
    device, context = torch.device(config.device or best_device()), model_config.context_length
    with without_weights():
        model = family.build(model_config)
    row, count = data.row_tokens(tokenizer, context), sum(p.numel() for p in model.parameters())
    computing = computing_parameters(model)
    step_tokens = batch_size * row * config.accumulation_steps
    rows = f"documents of about {row} tokens" if data.documents else f"windows of {context}"
    half = config.precision == "bfloat16" or config.precision == "auto" and has_native_bfloat16(device)
    kept = activation_bytes(model, batch_size * context, model_config.vocab_size, half, device.type)
    needed, there, flops = 16 * count + kept, _device_memory(device), 6 * computing * step_tokens
    fits = there is None or needed < 0.9 * there
    seconds, how = _step_seconds(family, model_config, config, batch_size, flops, fits)
    room = "" if there is None else f"of {there / 1e6:,.0f} here" + (
        "" if fits else ": TOO LITTLE. Lower batch_size and raise accumulation_steps, or take a smaller model")
    for what, number, remark in (
            ("parameters", f"{count:,}", f"{computing:,} compute for a token" if computing < count else ""),
            ("memory, MB", f"{needed / 1e6:,.0f}", room),
            ("  weights", f"{4 * count / 1e6:,.0f}", "4 bytes a parameter"),
            ("  gradients", f"{4 * count / 1e6:,.0f}", "4 bytes a parameter"),
            ("  AdamW", f"{8 * count / 1e6:,.0f}", "8 bytes a parameter"),
            ("  activations", f"{kept / 1e6:,.0f}", "an estimate"),
            ("FLOPs a step", f"{flops:.2e}", "6 x parameters x tokens, as in chapter 1" if computing == count else
             "6 x parameters that compute x tokens"),
            ("FLOPs in total", f"{flops * config.max_steps:.2e}", f"{config.max_steps:,} steps"),
            ("vocabulary", f"{tokenizer.n_vocab:,}", data.tokenizer_origin(tokens)),
            ("tokens a step", f"{step_tokens:,}", f"{config.accumulation_steps} x {batch_size} {rows}"),
            ("tokens in total", f"{step_tokens * config.max_steps:,}", ""),
            ("passes over the data", f"{step_tokens * config.max_steps / max(1, data_tokens):,.2f}",
             f"of {data_tokens:,} tokens{about}"),
            ("tokens a second", f"{step_tokens / seconds:,.0f}", how),
            ("expected time", _duration(seconds * config.max_steps), "without evaluations and checkpoints")):
        say(f"{what:22}{number:>18}  {remark}".rstrip())
    return 0
