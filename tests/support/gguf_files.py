"""GGUF files as llama.cpp's converter writes them, from tiny models of `transformers`."""

import json
import re
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import nn

from tests.support.tokenizer_files import SPECIAL, trained_tokenizer

IN_GGUF = {"vocab_size": 410}

NAMES = {  # in transformers: in a GGUF
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
}
# Gemma 3 has four norms in a block, and the second has another name there.
GEMMA_NAMES = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
               "post_feedforward_layernorm": "post_ffw_norm"}
ARCHITECTURES = {"gemma3_text": "gemma3"}  # where a GGUF calls it otherwise


def name_in_gguf(name: str, architecture: str) -> str:
    stem, kind = name.rsplit(".", 1)
    names = NAMES | (GEMMA_NAMES if architecture == "gemma3" else {})
    if layer := re.match(r"(?:model\.layers|transformer\.h)\.(\d+)\.", stem):
        return f"blk.{layer[1]}.{names[stem[layer.end():]]}.{kind}"
    return f"{names[stem]}.{kind}"


def permuted(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """As llama.cpp's converter lays out a Llama's queries and keys: the two of a pair next to each other."""
    return rows.reshape(n_heads, 2, len(rows) // n_heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(path: Path, model: nn.Module, kind: str = "F32", pre: str = "gpt-2", tensors: dict | None = None,
               **settings) -> nn.Module:
    """Write a model as llama.cpp's converter does; its matrices become what the file holds, quantised and back."""
    config, family = model.config, ARCHITECTURES.get(model.config.model_type, model.config.model_type)
    writer = gguf.GGUFWriter(path, family)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if family == "gpt2":
        writer.add_feed_forward_length(4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        rope = config.rope_parameters
        if family == "gemma3":
            writer.add_sliding_window(config.sliding_window)
            writer.add_float32("gemma3.rope.freq_base_swa", rope["sliding_attention"]["rope_theta"])
            rope = rope["full_attention"]
        writer.add_rope_freq_base(rope["rope_theta"])
        if getattr(config, "head_dim", None):
            writer.add_key_length(config.head_dim)
            writer.add_value_length(config.head_dim)
            writer.add_rope_dimension_count(config.head_dim)
    for name, value in settings.items():
        key = f"{family}.{name.replace('__', '.')}"
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
        add[type(value)](key, value)
    add_tokenizer(writer, pre)
    state = {name: tensor for name, tensor in model.named_parameters()}
    for name, tensor in state.items():
        turned = family == "gpt2" and tensor.dim() == 2 and ".h." in name
        rows = (tensor.T if turned else tensor).detach().numpy().copy()
        wanted = kind if rows.ndim == 2 else "F32"
        packed, form = rows, None
        if wanted != "F32":
            form = gguf.GGMLQuantizationType[wanted]
            packed = gguf.quantize(rows, form)
            unpacked = torch.from_numpy(gguf.dequantize(packed, form).astype(np.float32))
            tensor.data.copy_(unpacked.T if turned else unpacked)
        if family in ("llama", "smollm3") and re.search(r"[qk]_proj", name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            packed = permuted(packed, heads)
        if family == "gemma3" and name.endswith("norm.weight"):
            packed = packed + 1  # the file holds the scale, the model its difference from 1
        writer.add_tensor(name_in_gguf(name, family), packed, raw_dtype=form)
    for name, tensor in (tensors or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def add_tokenizer(writer: "gguf.GGUFWriter", style: str) -> None:
    data = json.loads(trained_tokenizer(style).to_str())
    vocabulary = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(style)
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in vocabulary])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]])
