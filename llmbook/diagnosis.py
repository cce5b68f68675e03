"""What is wrong with numbers and arguments, found out when it happens, so that an error names the likely cause."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from .devices import PRECISIONS, own_part
from .protocols import Cache

__all__ = ["check_cache", "check_counts", "check_experts", "check_gpt_sizes", "check_heads", "check_llama",
           "check_mixers", "check_sampling", "check_token_ids", "check_training", "explain_bad_logits",
           "explain_misfit", "explain_not_finite"]


def explain_not_finite(model: nn.Module, parts: Sequence[Sequence[Tensor]], counts: Sequence[int], loss: float,
                       norm: float, earlier: Sequence[dict[str, float]], learning_rate: float) -> str:
    """One line on a step whose loss or gradient norm is nan or infinite, before any weight was touched.

    Args:
        model: as it was before the step.
        parts, counts: the step's batches, and how many targets each counts.
        loss, norm: what was found.
        earlier: the records of the steps before, as in `llmbook.training.History`.
        learning_rate: the setting that a line may advise to lower.
    """
    found = f"step {len(earlier) + 1}: loss {loss:g}, gradient norm {norm:g}: "
    lower = f"lower the learning_rate ({learning_rate:g})"
    if weight := _first_not_finite(model):
        if not earlier:
            return found + f"the weights {weight} were so before the training began: load or build the model anew"
        return found + f"the weights {weight} are no longer finite after the last update: {lower}"
    for tensor in (tensor for part in parts for tensor in part):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return found + f"the batch holds {_kind(tensor)} in a tensor of {tuple(tensor.shape)}: clean the data"
    if not math.isfinite(loss) and 0 in counts:
        return found + "a batch has no target that counts (all are -100), where a loss function must give 0"
    if not earlier:
        return found + ("no update was made yet, so this is not the learning rate: look at this batch, at the loss "
                        f"function and at the model's sizes{_epsilon(model)}")
    lowest, last = min(record["loss"] for record in earlier), earlier[-1]["loss"]
    if last > 1.5 * max(lowest, 0.1):
        return found + f"the loss had risen from {lowest:.3g} to {last:.3g}: {lower}"
    return found + (f"the loss was {last:.3g} a step before, so look at this batch and the loss function first; if "
                    f"other batches do it too, {lower}")


def explain_bad_logits(model: nn.Module, logits: Tensor, tokens: int) -> str:
    """One line on logits (batch, vocab_size) after so many tokens from which no token can be chosen."""
    bad = logits[~logits.amax(dim=-1).isfinite()][0]
    kind = "nan" if bool(bad.isnan().any()) else "inf" if bool((bad == torch.inf).any()) else "all -inf"
    found = f"the model's logits after {tokens} tokens are {kind}: "
    if weight := _first_not_finite(model):
        return found + f"its weights {weight}, so load or train the model anew"
    dtype = str(logits.dtype).removeprefix("torch.")
    return found + (f"its weights are finite, so a number overflowed in {dtype}: load it with dtype=torch.float32, or "
                    "look at its configuration")


def _first_not_finite(model: nn.Module) -> str:
    """The name of a weight or buffer that holds nan or inf, and which; "" if none does."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        own = own_part(tensor.detach())
        if own.is_floating_point() and not bool(own.isfinite().all()):
            return f"{name} (they hold {_kind(own)})"
    return ""


def _kind(tensor: Tensor) -> str:
    return "nan" if bool(torch.isnan(tensor).any()) else "inf"


def _epsilon(model: nn.Module) -> str:
    config: Any = getattr(model, "config", None)
    epsilon = getattr(config, "norm_eps", None)
    return "" if epsilon is None else f" (its norm_eps is {epsilon:g})"


def check_training(config: Any) -> None:
    """Raise ValueError for a setting of a `llmbook.training.TrainingConfig` that is out of range."""
    least = {"max_steps": 1, "warmup_steps": 0, "accumulation_steps": 1, "eval_every": 1}
    for name, smallest in least.items():
        if not isinstance(number := getattr(config, name), int) or number < smallest:
            raise ValueError(f"{name} is {number!r}: it must be a whole number, at least {smallest}")
    if config.eval_batches is not None and config.eval_batches < 1:
        raise ValueError(f"eval_batches is {config.eval_batches}: it must be at least 1, or None for all")
    for name in ("weight_decay", "final_fraction"):
        if not 0 <= (number := getattr(config, name)) < math.inf:
            raise ValueError(f"{name} is {number}: it must be at least 0")
    if not 0 < config.learning_rate < math.inf:
        raise ValueError(f"learning_rate is {config.learning_rate}: it must be above 0")
    if len(config.betas) != 2 or not all(0 <= beta < 1 for beta in config.betas):
        raise ValueError(f"betas are {config.betas}: give two, each at least 0 and below 1")
    if config.max_norm is not None and not config.max_norm > 0:
        raise ValueError(f"max_norm is {config.max_norm}: it must be above 0, or None for no limit")
    if config.precision not in PRECISIONS:
        raise ValueError(f"precision is {config.precision!r}: choose one of {', '.join(PRECISIONS)}")


def check_counts(max_new_tokens: int, stop_tokens: Collection[int]) -> None:
    """Raise ValueError unless these are a number of tokens, and ids that end a text."""
    if not isinstance(max_new_tokens, Integral) or max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens!r}: it must be a whole number, at least 0")
    if not (isinstance(stop_tokens, Collection) and all(isinstance(token, Integral) for token in stop_tokens)):
        raise ValueError(f"stop_tokens are {stop_tokens!r}: give a list of token ids")


def check_heads(d_model: int, n_heads: int, n_kv_heads: int, d_head: int | None, window: int | None) -> None:
    """Raise ValueError unless an attention layer can be built with these (see `llmbook.attention`)."""
    if n_heads < 1 or (d_head is None and d_model % n_heads):
        raise ValueError(f"d_model ({d_model}) must be divisible by n_heads ({n_heads})")
    if n_kv_heads < 1 or n_heads % n_kv_heads:
        raise ValueError(f"n_heads ({n_heads}) must be divisible by n_kv_heads ({n_kv_heads})")
    if window is not None and window < 1:
        raise ValueError(f"window is {window}: it must be at least 1, or None for no limit")


def check_gpt_sizes(config: Any) -> None:
    """Raise ValueError unless a model can be built with the sizes of a `llmbook.gpt.GPTConfig`."""
    for name in ("vocab_size", "context_length", "d_model", "n_heads", "n_layers"):
        if not isinstance(size := getattr(config, name), Integral) or size < 1:
            raise ValueError(f"{name} is {size!r}: it must be a whole number, at least 1")
    if config.d_model % config.n_heads:
        raise ValueError(f"d_model ({config.d_model}) must be divisible by n_heads ({config.n_heads})")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout is {config.dropout}: it must be at least 0 and below 1")


def check_token_ids(token_ids: Tensor, vocab_size: int, context_length: int, past: int = 0) -> None:
    """Raise ValueError unless `token_ids` fit the vocabulary and, after `past` tokens, the context.

    Args:
        token_ids: (batch, tokens), compared with `vocab_size` on the CPU only.
        vocab_size, context_length: the model's.
        past: tokens that a cache holds already.
    """
    if token_ids.dim() != 2 or token_ids.numel() == 0:
        raise ValueError(f"token_ids have shape {tuple(token_ids.shape)}: give (batch, tokens) with at least one token")
    if token_ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"token_ids are {token_ids.dtype}: give whole numbers, torch.int64")
    if (tokens := past + token_ids.shape[1]) > context_length:
        raise ValueError(f"{tokens} tokens exceed the context_length of {context_length}: shorten the text")
    if token_ids.device.type != "cpu" or torch.compiler.is_compiling():
        return  # on a GPU each call would wait for the answer, and a compiled pass has no "if"
    if not 0 <= int(token_ids.min()) <= int(token_ids.max()) < vocab_size:
        bad = int(token_ids[(token_ids < 0) | (token_ids >= vocab_size)][0])
        raise ValueError(f"token id {bad} is outside the vocabulary of {vocab_size}: "
                         "encode the text with the model's own tokenizer")


def check_llama(config: Any) -> None:
    """Raise ValueError for a size or setting of a `llmbook.llama.LlamaConfig` that cannot work."""
    sizes = ["vocab_size", "context_length", "d_model", "n_heads", "n_kv_heads", "n_layers", "d_hidden"]
    for name in [*sizes, *(name for name in ("d_head", "window") if getattr(config, name) is not None)]:
        size = getattr(config, name)
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
            raise ValueError(f"{name} is {size!r}: it must be a whole number, at least 1")
    if config.d_head is None and config.d_model % config.n_heads:
        raise ValueError(f"d_model ({config.d_model}) must be divisible by n_heads ({config.n_heads}), or give d_head")
    if config.n_heads % config.n_kv_heads:
        raise ValueError(f"n_heads ({config.n_heads}) must be divisible by n_kv_heads ({config.n_kv_heads})")
    d_head = config.d_model // config.n_heads if config.d_head is None else config.d_head
    if d_head % 2:
        raise ValueError(f"d_head is {d_head}: it must be even, for rotary pairs")
    for name, least in (("rope_base", 1), ("norm_eps", 0)):
        number = getattr(config, name)
        if not isinstance(number, Real) or not least < number < math.inf:
            raise ValueError(f"{name} is {number!r}: it must be a number above {least}")
    for name in ("window_layers", "no_rope_layers"):
        if unknown := set(getattr(config, name) or ()) - set(range(config.n_layers)):
            raise ValueError(f"{name} names block {min(unknown)}: there are 0 to {config.n_layers - 1}")


def check_mixers(config: Any, known: Sequence[str]) -> None:
    """Raise ValueError for mixers of a `llmbook.sequence_mixers.HybridConfig` that cannot work."""
    if isinstance(config.mixers, str) or not config.mixers:
        raise ValueError(f"mixers is {config.mixers!r}: give a list with one of {', '.join(known)} for each block")
    for mixer in config.mixers:
        if mixer not in known:
            raise ValueError(f"no mixer {mixer!r}: choose from {', '.join(known)}")
    if "window" in config.mixers and config.window is None:
        raise ValueError("a block has a window and window is None: say how many tokens it sees, itself included")
    if isinstance(config.chunk, bool) or not isinstance(config.chunk, Integral) or config.chunk < 1:
        raise ValueError(f"chunk is {config.chunk!r}: it must be a whole number, at least 1")


def check_experts(config: Any) -> None:
    """Raise ValueError for a number of a `llmbook.experts.ExpertsConfig` that cannot work."""
    for name, least in (("n_experts", 1), ("experts_per_token", 1), ("d_expert", 1), ("d_shared", 0)):
        size = getattr(config, name)
        if isinstance(size, bool) or not isinstance(size, Integral) or size < least:
            raise ValueError(f"{name} is {size!r}: it must be a whole number, at least {least}")
    if config.experts_per_token > config.n_experts:
        raise ValueError(f"experts_per_token ({config.experts_per_token}) must not be more than n_experts "
                         f"({config.n_experts})")


def explain_misfit(kept: Tensor, lengths: Sequence[int], layer: int, keys: Tensor, values: Tensor) -> str:
    """One line on why a cache cannot take a layer's new keys and values.

    Args:
        kept: the cache's keys, (n_layers, batch, n_heads, max_tokens, d_head).
        lengths: how many places each layer has filled.
        keys, values: (batch, n_heads, tokens, d_head), meant for this `layer`.
    """
    n_layers, batch_size, n_heads, max_tokens, d_head = kept.shape
    batch, heads, tokens, features = keys.shape
    if not 0 <= layer < n_layers:
        return (f"layer {layer} does not exist in a cache made for {n_layers} layers, counted from 0: make it with "
                "the model's n_layers")
    if layer == 0 and len(set(lengths)) > 1:
        return (f"the last pass did not fill all {n_layers} layers of this cache: rewind(cache.length) forgets it, or "
                "make one with the model's n_layers")
    if batch != batch_size:
        return f"a batch of {batch} does not fit a cache made for {batch_size}: make one for each batch size"
    if (heads, features) != (n_heads, d_head) or values.shape != keys.shape:
        return (f"keys {tuple(keys.shape)} and values {tuple(values.shape)} do not fit a cache made for {n_heads} "
                f"heads of {d_head} features")
    if (end := lengths[layer] + tokens) > max_tokens:
        return f"{end} tokens do not fit a cache of {max_tokens}: make it with more max_tokens"
    kind, found = (kept.dtype, kept.device), (keys.dtype, keys.device)
    if found != kind:
        return "keys of {} on {} do not fit a cache of {} on {}: make it with the model's dtype and device".format(
            *found, *kind)
    return ("a cache is for inference: run the model under torch.no_grad() or torch.inference_mode(), or train without "
            "a cache")


def check_sampling(sampling: Any) -> None:
    """Raise ValueError unless a `llmbook.generation.Sampling` can say how a token is chosen."""
    temperature, top_p, penalty = sampling.temperature, sampling.top_p, sampling.repetition_penalty
    if not (temperature == 0 or 1e-6 <= temperature < math.inf):
        raise ValueError(f"temperature is {temperature}: it must be 0 (always the likeliest token) or a number from "
                         "0.000001 on")
    for name, number in (("top_k", sampling.top_k), ("vocab_size", sampling.vocab_size)):
        if number is not None and (not isinstance(number, Integral) or number < 1):
            raise ValueError(f"{name} is {number!r}: it must be a whole number, at least 1, or None to keep every "
                             "token")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}: it must be above 0 and at most 1, or None to keep every token")
    if not 0 < penalty < math.inf:
        raise ValueError(f"repetition_penalty is {penalty}: it must be above 0; 1 is none, 1.2 is usual")


def check_cache(cache: Cache, tokens: int, equal: bool, needed: int) -> None:
    """Raise ValueError unless a cache that was handed in fits the prompts: rows would be taken for others.

    Args:
        tokens, equal: the length of the prompts, and whether all have it.
        needed: places for the prompts and the new tokens.
    """
    if not equal or getattr(cache, "padding", None) is not None:
        raise ValueError("a cache can be handed in only for prompts of equal length, without padding: generate each "
                         "text with a cache of its own")
    if cache.length >= tokens:
        raise ValueError(f"the cache holds {cache.length} tokens and the prompt has {tokens}: first "
                         f"cache.rewind({tokens - 1}), so that its last token is read")
    room = getattr(cache, "max_tokens", needed)
    if room < needed:
        raise ValueError(f"the cache has room for {room} tokens and {needed} are needed: make it larger, or ask for "
                         "fewer new tokens")
