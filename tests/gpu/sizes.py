"""The models that are measured, in full and in the tiny size of a trial run, all with random weights."""

from collections.abc import Callable
from typing import Any

import torch

from llmbook.gpt import GPT, GPTConfig
from llmbook.llama import Llama, LlamaConfig
from tests.benchmarks.plain_gpt import PlainGPT, padded


def build(device: torch.device, make: Callable[[], Any]) -> Any:
    """A model whose weights are drawn on the device: on a CPU that takes seconds."""
    torch.manual_seed(0)
    with torch.device(device):
        return make()


def gpt2_config(tiny: bool, **changes) -> GPTConfig:
    """GPT-2 124M, without dropout."""
    if tiny:
        return GPTConfig(**{"vocab_size": 97, "context_length": 64, "d_model": 32, "n_heads": 2, "n_layers": 2,
                            "dropout": 0.0, "qkv_bias": True, **changes})
    return GPTConfig.preset("gpt2", dropout=0.0, **changes)


def gpt2(tiny: bool, device: torch.device, **changes) -> GPT:
    return build(device, lambda: GPT(gpt2_config(tiny, **changes)))


def plain_gpt2(tiny: bool, device: torch.device) -> PlainGPT:
    config = gpt2_config(tiny)
    return build(device, lambda: PlainGPT(padded(config.vocab_size), config.context_length, config.d_model,
                                          config.n_heads, config.n_layers))


def their_gpt2(config: GPTConfig, device: torch.device):
    """transformers' model of the same sizes."""
    from transformers import GPT2Config, GPT2LMHeadModel, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sizes = GPT2Config(vocab_size=config.vocab_size, n_positions=config.context_length, n_embd=config.d_model,
                       n_head=config.n_heads, n_layer=config.n_layers, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                       bos_token_id=None, eos_token_id=None, attn_implementation="sdpa")
    model = build(device, lambda: GPT2LMHeadModel(sizes))
    model.generation_config.pad_token_id = 0
    return model


def smol_config(tiny: bool) -> LlamaConfig:
    """SmolLM2-135M's sizes."""
    if tiny:
        return LlamaConfig(vocab_size=97, context_length=64, d_model=32, n_heads=4, n_kv_heads=2, n_layers=2,
                           d_hidden=64)
    return LlamaConfig()


def smol(tiny: bool, device: torch.device) -> Llama:
    return build(device, lambda: Llama(smol_config(tiny)))


def their_smol(tiny: bool, device: torch.device):
    from transformers import LlamaConfig as TheirConfig
    from transformers import LlamaForCausalLM, logging

    logging.set_verbosity_error()
    ours = smol_config(tiny)
    sizes = TheirConfig(vocab_size=ours.vocab_size, hidden_size=ours.d_model, intermediate_size=ours.d_hidden,
                        num_hidden_layers=ours.n_layers, num_attention_heads=ours.n_heads,
                        num_key_value_heads=ours.n_kv_heads, max_position_embeddings=ours.context_length,
                        rope_theta=ours.rope_base, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
                        attn_implementation="sdpa")
    model = build(device, lambda: LlamaForCausalLM(sizes))
    model.generation_config.pad_token_id = 0
    return model


def small_gpt(device: torch.device) -> GPT:
    """A model for checks: compiled within seconds."""
    return build(device, lambda: GPT(GPTConfig(1003, 128, 128, 4, 2, 0.0, qkv_bias=True)))


def small_llama(device: torch.device) -> Llama:
    return build(device, lambda: Llama(LlamaConfig(vocab_size=1003, context_length=128, d_model=128, n_heads=4,
                                                   n_kv_heads=2, n_layers=2, d_hidden=256)))


def storyteller_config(tiny: bool) -> GPTConfig:
    """The sizes of the book's own storyteller."""
    if tiny:
        return gpt2_config(True)
    return GPTConfig(vocab_size=2048, context_length=512, d_model=256, n_heads=4, n_layers=6, dropout=0.0)


def token_batches(vocab_size: int, count: int, rows: int, tokens: int,
                  seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of ids and of the ids one later, on the CPU, each (rows, tokens)."""
    ids = torch.randint(vocab_size, (count, rows, tokens + 1), generator=torch.Generator().manual_seed(seed))
    return [(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()) for batch in ids]


def prompts_of(vocab_size: int, lengths: list[int], seed: int = 3) -> list[torch.Tensor]:
    """Random prompts of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vocab_size, (length,), generator=generator) for length in lengths]


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of a model's weights, a shared one once."""
    return sum(p.numel() * p.element_size() for p in model.parameters())
