"""Which tensors of other people's files are which of ours, and how they become those of a model."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..gpt import GPTConfig
from ..llama import LlamaConfig
from .weight_files import Checkpoint

_BLOCK = "blocks.{}."
_GPT2_NAMES = {  # our name: the name in a Hugging Face GPT-2
    "token_embedding.weight": "wte.weight",
    "position_embedding.weight": "wpe.weight",
    _BLOCK + "attention_norm.weight": "h.{}.ln_1.weight",
    _BLOCK + "attention_norm.bias": "h.{}.ln_1.bias",
    _BLOCK + "attention.qkv.weight": "h.{}.attn.c_attn.weight",
    _BLOCK + "attention.qkv.bias": "h.{}.attn.c_attn.bias",
    _BLOCK + "attention.out.weight": "h.{}.attn.c_proj.weight",
    _BLOCK + "attention.out.bias": "h.{}.attn.c_proj.bias",
    _BLOCK + "feed_forward_norm.weight": "h.{}.ln_2.weight",
    _BLOCK + "feed_forward_norm.bias": "h.{}.ln_2.bias",
    _BLOCK + "feed_forward.expand.weight": "h.{}.mlp.c_fc.weight",
    _BLOCK + "feed_forward.expand.bias": "h.{}.mlp.c_fc.bias",
    _BLOCK + "feed_forward.contract.weight": "h.{}.mlp.c_proj.weight",
    _BLOCK + "feed_forward.contract.bias": "h.{}.mlp.c_proj.bias",
    "final_norm.weight": "ln_f.weight",
    "final_norm.bias": "ln_f.bias",
}
_LLAMA_NAMES = {  # our name: the name, or the names of the parts, in a Hugging Face Llama
    "token_embedding.weight": "model.embed_tokens.weight",
    _BLOCK + "attention_norm.weight": "model.layers.{}.input_layernorm.weight",
    _BLOCK + "attention.qkv.weight": tuple(
        f"model.layers.{{}}.self_attn.{x}_proj.weight" for x in "qkv"),
    _BLOCK + "attention.qkv.bias": tuple(
        f"model.layers.{{}}.self_attn.{x}_proj.bias" for x in "qkv"),
    _BLOCK + "attention.out.weight": "model.layers.{}.self_attn.o_proj.weight",
    _BLOCK + "attention.out.bias": "model.layers.{}.self_attn.o_proj.bias",
    _BLOCK + "feed_forward_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    _BLOCK + "feed_forward.expand.weight": ("model.layers.{}.mlp.gate_proj.weight",
                                            "model.layers.{}.mlp.up_proj.weight"),
    _BLOCK + "feed_forward.contract.weight": "model.layers.{}.mlp.down_proj.weight",
    "final_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def _gguf_names(names: Mapping[str, str | tuple[str, ...]], parts: Mapping[str, str]) -> dict:
    """A Hugging Face table with the names that GGUF files use for the same tensors."""
    def rename(name: str) -> str:
        layer = "blk.{}." if "{}" in name else ""
        stem, kind = name.rsplit(".", 1)
        return layer + parts[stem.rsplit("{}.", 1)[-1]] + "." + kind

    return {ours: tuple(map(rename, theirs)) if isinstance(theirs, tuple) else rename(theirs)
            for ours, theirs in names.items()}


_GPT2_GGUF = _gguf_names(_GPT2_NAMES, {
    "wte": "token_embd", "wpe": "position_embd", "ln_1": "attn_norm", "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output", "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down", "ln_f": "output_norm"})
_LLAMA_GGUF = _gguf_names(_LLAMA_NAMES, {
    "model.embed_tokens": "token_embd", "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "model.norm": "output_norm", "lm_head": "output"})
# Tensors that older files hold beside the weights: attention masks and rotary frequencies.
_NO_WEIGHTS = re.compile(r"(?:^|\.)attn\.(bias|masked_bias)$|rotary_emb\.inv_freq$"
                         r"|^rope_freqs\.weight$")


@dataclass(frozen=True)
class _Family:
    """How a checkpoint's tensors become those of a model.

    names: our name to theirs, or to the names of the parts that we keep as one.
    transposed: our matrices that lie the other way round there.
    turned: our query and key rows whose rotary pairs stand side by side there.
    tied: the name that the output layer has, if it is stored though it is the embedding.
    """

    names: Mapping[str, str | tuple[str, ...]]
    transposed: bool = False
    turned: bool = False
    tied: str = "lm_head.weight"


_GPT2 = _Family(_GPT2_NAMES, transposed=True)
_LLAMA = _Family(_LLAMA_NAMES)
_GPT2_IN_GGUF = _Family(_GPT2_GGUF, tied="output.weight")
_LLAMA_IN_GGUF = _Family(_LLAMA_GGUF, turned=True, tied="output.weight")
_QWEN2_IN_GGUF = _Family(_LLAMA_GGUF, tied="output.weight")


def _sources(name: str, family: _Family) -> tuple[str, ...]:
    """The checkpoint's tensors, top to bottom, that make up our tensor `name`."""
    number = re.search(r"\.(\d+)\.", name)
    layer = number.group(1) if number else ""
    theirs = family.names[name.replace(f".{layer}.", ".{}.") if number else name]
    return tuple(part.format(layer) for part in ([theirs] if isinstance(theirs, str) else theirs))


def _part_rows(name: str, rows: int, config: GPTConfig | LlamaConfig, parts: int) -> list[int]:
    """Rows of each part of our tensor: query, key and value may differ."""
    if parts == 3:
        keys = config.n_kv_heads * config.d_head
        return [config.n_heads * config.d_head, keys, keys]
    return [rows // parts] * parts


def _load_state(model: nn.Module, checkpoint: Checkpoint, family: _Family,
                dtype: torch.dtype) -> None:
    """Fill a model on the meta device. Every tensor of the checkpoint is used, exactly once.

    Raises ValueError that names missing and unknown tensors and wrong shapes; then nothing is read.
    """
    plan, problems = {}, []
    left = {name: shape for name, shape in checkpoint.shapes.items()
            if not _NO_WEIGHTS.search(name)}
    prefix = "transformer." if "transformer.wte.weight" in left else ""
    for name, tensor in model.state_dict().items():
        sources = [prefix + source for source in _sources(name, family)]
        rows = _part_rows(name, len(tensor), model.config, len(sources))
        plan[name] = list(zip(sources, rows))
        flip = family.transposed and _is_turned_round(name)
        for source, count in plan[name]:
            shape = (count, *tensor.shape[1:])
            found = left.pop(source, None)
            if found is None:
                problems.append(f"missing {source}")
            elif found != (shape[::-1] if flip else shape):
                problems.append(f"{source} has shape {found} instead of "
                                f"{shape[::-1] if flip else shape}")
    tied = left.pop(family.tied, None)
    problems += [f"unknown {name}" for name in left]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{checkpoint.path} does not fit its configuration: "
                         f"{'; '.join(problems[:5])}{more}")
    state = {name: _read(name, tensor.shape, plan[name], model.config, checkpoint, family, dtype)
             for name, tensor in model.state_dict().items()}
    if tied is not None:
        _check_tied(state["token_embedding.weight"], family.tied, checkpoint)
    model.load_state_dict(state, assign=True)


def _is_turned_round(name: str) -> bool:
    """Whether GPT-2 on Hugging Face stores our tensor as (in, out) instead of (out, in)."""
    return name.endswith("weight") and bool(re.search(r"attention\.|feed_forward\.", name))


def _read(name: str, shape: torch.Size, plan: Sequence[tuple[str, int]],
          config: GPTConfig | LlamaConfig, checkpoint: Checkpoint, family: _Family,
          dtype: torch.dtype) -> Tensor:
    """One of our tensors, (rows, ...), put together from its parts."""
    result, start = torch.empty(shape, dtype=dtype), 0
    for place, (source, rows) in enumerate(plan):
        part = result[start : start + rows]
        flip = family.transposed and _is_turned_round(name)
        checkpoint.copy(source, part.T if flip else part)
        if family.turned and len(plan) == 3 and place < 2:  # query and key rows
            pairs = part.view(-1, config.d_head // 2, 2, *shape[1:])  # (heads, pairs, 2, ...)
            part.copy_(pairs.transpose(1, 2).reshape(part.shape))
        start += rows
    return result


def _check_tied(embedding: Tensor, name: str, checkpoint: Checkpoint) -> None:
    output = torch.empty_like(embedding)
    if checkpoint.shapes[name] != tuple(embedding.shape) or (
            checkpoint.copy(name, output) or not torch.equal(output, embedding)):
        raise ValueError(f"{checkpoint.path}: {name} differs from the token embedding, but the "
                         "configuration says that they are one tensor")
