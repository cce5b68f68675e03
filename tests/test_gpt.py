"""llmbook.gpt: equal to GPT-2 as `transformers` computes it, and everything that chapter 4 says about it."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llmbook.attention import KeyValueCache
from llmbook.devices import best_device
from llmbook.gpt import (
    GPT,
    FeedForward,
    GPTConfig,
    TransformerBlock,
    check_token_ids,
    count_parameters,
    forward_flops_per_token,
    initialize_weights,
)
from tests.support.token_ids import WRONG_TOKEN_IDS

TINY = GPTConfig(vocab_size=50, context_length=24, d_model=24, n_heads=3, n_layers=3, dropout=0.0, qkv_bias=True)
SIZES = ("vocab_size", "context_length", "d_model", "n_heads", "n_layers")


def shaken(config: GPTConfig = TINY, seed: int = 0) -> GPT:
    """A model in evaluation mode in which no bias is 0 and no scale 1, so that every parameter counts."""
    torch.manual_seed(seed)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def random_ids(config: GPTConfig, batch: int, tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, config.vocab_size, (batch, tokens), generator=torch.Generator().manual_seed(seed))


# --- equal to the reference --------------------------------------------------------------------------------------

def in_transformers(model: GPT) -> nn.Module:
    """`transformers`' GPT-2 with the weights of ours."""
    transformers = pytest.importorskip("transformers")
    sizes = model.config
    config = transformers.GPT2Config(
        vocab_size=sizes.vocab_size, n_positions=sizes.context_length, n_embd=sizes.d_model, n_layer=sizes.n_layers,
        n_head=sizes.n_heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
    reference = transformers.GPT2LMHeadModel(config).eval()
    state = {"transformer.wte.weight": model.token_embedding.weight,
             "transformer.wpe.weight": model.position_embedding.weight,
             "transformer.ln_f.weight": model.final_norm.weight, "transformer.ln_f.bias": model.final_norm.bias}
    for i, block in enumerate(model.blocks):
        layers = {"ln_1": block.attention_norm, "ln_2": block.feed_forward_norm, "attn.c_attn": block.attention.qkv,
                  "attn.c_proj": block.attention.out, "mlp.c_fc": block.feed_forward.expand,
                  "mlp.c_proj": block.feed_forward.contract}
        for name, layer in layers.items():  # their matrices are stored (inputs, outputs)
            state[f"transformer.h.{i}.{name}.weight"] = layer.weight.T if layer.weight.dim() == 2 else layer.weight
            bias = torch.zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias
            state[f"transformer.h.{i}.{name}.bias"] = bias
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}  # tied
    assert reference.lm_head.weight.data_ptr() == reference.transformer.wte.weight.data_ptr()
    return reference


@pytest.mark.parametrize("config", [
    TINY,
    dataclasses.replace(TINY, qkv_bias=False),
    GPTConfig(vocab_size=101, context_length=64, d_model=64, n_heads=1, n_layers=1, qkv_bias=True),
    GPTConfig(vocab_size=33, context_length=40, d_model=48, n_heads=12, n_layers=6, qkv_bias=True),
], ids=["tiny", "no biases", "one head, one block", "many heads"])
def test_logits_equal_transformers(config):
    model = shaken(config)
    reference, ids = in_transformers(model), random_ids(config, 3, config.context_length)
    with torch.no_grad():
        assert torch.allclose(model(ids), reference(ids).logits, atol=1e-4, rtol=0)


def test_logits_equal_transformers_through_both_caches():
    model = shaken()
    reference, ids = in_transformers(model), random_ids(TINY, 2, 20)
    cache, past = model.new_cache(2), None
    with torch.no_grad():
        for start, end in ((0, 6), (6, 7), (7, 8), (8, 15), (15, 20)):
            theirs = reference(ids[:, start:end], past_key_values=past, use_cache=True)
            past = theirs.past_key_values
            assert torch.allclose(model(ids[:, start:end], cache), theirs.logits, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_logits_equal_transformers_at_the_size_of_gpt2():
    torch.manual_seed(0)
    model = GPT(GPTConfig.preset("gpt2")).eval()
    reference, ids = in_transformers(model), random_ids(model.config, 2, 40)
    with torch.no_grad():
        expected, cache = reference(ids).logits, model.new_cache(2, max_tokens=40)
        assert torch.allclose(model(ids), expected, atol=1e-4, rtol=0)
        parts = [model(ids[:, :30], cache), model(ids[:, 30:31], cache), model(ids[:, 31:], cache)]
        assert torch.allclose(torch.cat(parts, dim=1), expected, atol=1e-4, rtol=0)


# --- sizes -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0, -3, 2.5, 8.0, "8", None])
def test_each_size_must_be_a_whole_number_of_at_least_1(name, value):
    with pytest.raises(ValueError, match=f"^{name} is {value!r}: it must be a whole number, at least 1$"):
        GPTConfig(**{name: value})


def test_heads_must_divide_the_features():
    with pytest.raises(ValueError, match=r"^d_model \(100\) must be divisible by n_heads \(12\)$"):
        GPTConfig(d_model=100)


@pytest.mark.parametrize("dropout", [-0.1, 1, 1.5, math.nan])
def test_dropout_must_be_a_share(dropout):
    with pytest.raises(ValueError, match=f"^dropout is {dropout}: it must be at least 0 and below 1$"):
        GPTConfig(dropout=dropout)


def test_defaults_and_frozen():
    config = GPTConfig()
    assert dataclasses.astuple(config) == (50257, 1024, 768, 12, 12, 0.1, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.d_model = 5


OPENAI = {"gpt2": (12, 768, 12, 124_439_808), "gpt2-medium": (24, 1024, 16, 354_823_168),
          "gpt2-large": (36, 1280, 20, 774_030_080), "gpt2-xl": (48, 1600, 25, 1_557_611_200)}


@pytest.mark.parametrize("name", OPENAI)
def test_presets_have_openai_s_sizes_and_parameters(name):
    config, (layers, features, heads, parameters) = GPTConfig.preset(name), OPENAI[name]
    assert (config.n_layers, config.d_model, config.n_heads) == (layers, features, heads)
    assert (config.vocab_size, config.context_length, config.qkv_bias) == (50257, 1024, True)
    with torch.device("meta"):
        model = GPT(config)
    assert count_parameters(model) == parameters
    assert all(p.is_meta for p in model.parameters())  # nothing was allocated


def test_preset_takes_changes_and_knows_its_names():
    changed = GPTConfig.preset("gpt2-medium", context_length=256, dropout=0.0)
    assert (changed.n_layers, changed.context_length, changed.dropout) == (24, 256, 0.0)
    with pytest.raises(ValueError, match="^no preset 'gpt3': choose one of gpt2, gpt2-medium, gpt2-large, gpt2-xl$"):
        GPTConfig.preset("gpt3")
    with pytest.raises(ValueError, match="must be divisible by n_heads"):
        GPTConfig.preset("gpt2", n_heads=7)
    with pytest.raises(TypeError, match="layers"):
        GPTConfig.preset("gpt2", layers=3)


def test_count_parameters():
    model = shaken()
    total = count_parameters(model)
    assert total == sum(p.numel() for p in model.state_dict().values())
    model.token_embedding.requires_grad_(False)
    assert count_parameters(model) == total
    assert count_parameters(model, trainable=True) == total - TINY.vocab_size * TINY.d_model
    shared = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    shared[1].weight = shared[0].weight
    assert count_parameters(shared) == 16


# --- the parts ---------------------------------------------------------------------------------------------------

def test_feed_forward_is_two_layers_with_the_tanh_gelu_between():
    torch.manual_seed(0)
    layer, x = FeedForward(8), 2 * torch.randn(2, 5, 8)
    wide = x @ layer.expand.weight.T + layer.expand.bias
    assert wide.shape == (2, 5, 32)
    bent = wide / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    assert torch.allclose(layer(x), bent @ layer.contract.weight.T + layer.contract.bias, atol=1e-6)


def test_a_block_adds_to_what_it_reads():
    """With silent steps a block hands its input on unchanged, and each step alone adds to it."""
    torch.manual_seed(0)
    block, x = TransformerBlock(TINY).eval(), torch.randn(2, 7, TINY.d_model)
    for layer in (block.attention.out, block.feed_forward.contract):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert torch.equal(block(x), x)
    nn.init.ones_(block.attention.out.bias)
    assert torch.allclose(block(x), x + 1)
    nn.init.constant_(block.feed_forward.contract.bias, 2.0)
    assert torch.allclose(block(x), x + 3)


def test_a_block_normalises_before_each_step():
    block, x = shaken().blocks[0], torch.randn(2, 7, TINY.d_model)
    middle = x + block.attention(block.attention_norm(x))
    assert torch.allclose(block(x), middle + block.feed_forward(block.feed_forward_norm(middle)), atol=1e-6)
    copy = block.attention_norm(x)
    expected = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(copy, expected * block.attention_norm.weight + block.attention_norm.bias, atol=1e-5)


def test_the_gradient_reaches_the_first_of_many_blocks():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=20, context_length=8, d_model=32, n_heads=2, n_layers=24, dropout=0.0))
    model(random_ids(model.config, 2, 8)).square().mean().backward()
    norms = [block.feed_forward.contract.weight.grad.norm().item() for block in model.blocks]
    assert 0.1 < norms[0] / norms[-1] < 10


def test_every_parameter_gets_a_gradient():
    model = shaken()
    model(random_ids(TINY, 2, TINY.context_length)).square().mean().backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in model.parameters())


# --- the first weights -------------------------------------------------------------------------------------------

def test_first_weights():
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=400, context_length=100, d_model=96, n_heads=4, n_layers=8, qkv_bias=True)
    for name, parameter in GPT(config).named_parameters():
        if "norm" in name:
            assert (parameter == float(name.endswith("weight"))).all(), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            writer = "attention.out" in name or "contract" in name
            expected = 0.02 / math.sqrt(2 * 8) if writer else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.03), name
            assert abs(parameter.mean().item()) < 0.1 * expected, name


def test_the_stream_grows_slowly_over_the_depth():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=50, context_length=32, d_model=256, n_heads=4, n_layers=24, dropout=0.0))
    with torch.no_grad():
        x = model.token_embedding(random_ids(model.config, 1, 32)) + model.position_embedding.weight
        start = x.std()
        for block in model.blocks:
            x = block(x)
    assert x.std() < 5 * start  # about 3.3 times; 24 times where all matrices start equal


def test_an_untrained_model_holds_all_tokens_about_equally_likely():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=2000, context_length=16, d_model=768, n_heads=12, n_layers=2)).eval()
    with torch.no_grad():
        assert model(random_ids(model.config, 2, 16)).softmax(-1).max() < 0.01


def test_weights_can_be_drawn_again_and_a_seed_repeats_them():
    torch.manual_seed(3)
    first = GPT(TINY)
    torch.manual_seed(3)
    second = GPT(TINY)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    before = first.token_embedding.weight.clone()
    initialize_weights(first, TINY.n_layers)
    assert not torch.equal(first.token_embedding.weight, before)


# --- weight tying ------------------------------------------------------------------------------------------------

def test_the_output_is_the_token_embedding():
    model = shaken()
    hidden = torch.randn(2, 3, TINY.d_model)
    assert torch.allclose(model.lm_head(hidden), hidden @ model.token_embedding.weight.T, atol=1e-5)
    assert model.lm_head(hidden[:, -1]).shape == (2, TINY.vocab_size)
    of_table = [name for name, value in model.state_dict().items() if value.shape == model.token_embedding.weight.shape]
    assert of_table == ["token_embedding.weight"]  # one table, no head of its own
    assert len(model.state_dict()) == 2 + 2 + 12 * TINY.n_layers


def test_the_embedding_s_gradient_is_the_sum_of_both_uses():
    model, ids = shaken(), torch.tensor([[4, 9, 9, 30]])
    table = model.token_embedding.weight

    def gradient(hidden, rows):
        return torch.autograd.grad((hidden @ rows.T).log_softmax(-1)[0, -1, 7], table)[0]

    as_input = gradient(model.hidden_states(ids), table.detach())
    as_output = gradient(model.hidden_states(ids).detach(), table)
    assert as_input.norm(dim=1).nonzero().flatten().tolist() == [4, 9, 30]
    assert (as_output.norm(dim=1) > 0).all()
    both, = torch.autograd.grad(model(ids).log_softmax(-1)[0, -1, 7], table)
    assert torch.allclose(both, as_input + as_output, atol=1e-5)


# --- the model as a function of its ids --------------------------------------------------------------------------

def test_shapes_and_the_two_halves_of_forward():
    model, ids = shaken(), random_ids(TINY, 3, 11)
    with torch.no_grad():
        hidden = model.hidden_states(ids)
        assert hidden.shape == (3, 11, TINY.d_model) and model(ids).shape == (3, 11, TINY.vocab_size)
        assert torch.equal(model(ids), model.lm_head(hidden))
        undone = (hidden - model.final_norm.bias) / model.final_norm.weight  # they come after the final norm
        assert undone.mean(-1).abs().max() < 1e-5
        assert (undone.var(-1, correction=0) - 1).abs().max() < 1e-2


@pytest.mark.parametrize("place", [1, 10, 23])
def test_a_future_token_changes_no_earlier_logit(place):
    model, ids = shaken(), random_ids(TINY, 2, 24)
    changed = ids.clone()
    changed[:, place] = (changed[:, place] + 1) % TINY.vocab_size
    with torch.no_grad():
        moved = (model(changed) - model(ids)).abs().amax(dim=(0, 2))
    assert moved[:place].max() < 1e-6 and (moved[place:] > 1e-4).all()


def test_positions_matter_and_texts_of_a_batch_do_not_mix():
    model = shaken()
    ids = torch.tensor([[5, 5, 5, 5], [1, 2, 3, 4]])
    with torch.no_grad():
        logits = model(ids)
        assert (logits[0, 0] - logits[0, 3]).abs().max() > 1e-3
        assert torch.allclose(logits[1:], model(ids[1:]), atol=1e-5)


@pytest.mark.parametrize("chunks", [(24,), (1,) * 24, (7, 1, 10, 6), (1, 23), (23, 1), (2, 3, 5, 7, 4, 3)])
def test_the_cache_gives_the_same_logits_in_chunks(chunks):
    model, ids = shaken(), random_ids(TINY, 2, 24)
    cache = model.new_cache(2)
    with torch.no_grad():
        parts = [model(part, cache) for part in ids.split(list(chunks), dim=1)]
        assert cache.length == 24
        assert torch.allclose(torch.cat(parts, dim=1), model(ids), atol=1e-5)


def test_new_cache_has_the_model_s_sizes_and_format():
    model = shaken()
    cache = model.new_cache(5)
    assert isinstance(cache, KeyValueCache) and cache.length == 0 and cache.max_tokens == TINY.context_length
    assert cache.keys.shape == cache.values.shape == (3, 5, 3, 24, 8)
    assert cache.keys.dtype == torch.float32
    assert model.new_cache(1, max_tokens=9).max_tokens == 9
    assert model.bfloat16().new_cache(1).values.dtype == torch.bfloat16
    with torch.device("meta"):
        assert GPT(TINY).new_cache(1).keys.is_meta


def test_the_cache_under_autocast():
    model, ids = shaken(), random_ids(TINY, 2, 12)
    with torch.no_grad():
        expected = model(ids)
        with torch.autocast("cpu", torch.bfloat16):
            cache = model.new_cache(2)
            assert cache.keys.dtype == torch.bfloat16
            parts = [model(ids[:, :5], cache), model(ids[:, 5:6], cache), model(ids[:, 6:], cache)]
    assert (torch.cat(parts, dim=1) - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_bfloat16_model_is_close_to_float32():
    model, ids = shaken(), random_ids(TINY, 2, 24)
    with torch.no_grad():
        expected = model(ids)
        model.bfloat16()
        logits, cache = model(ids), model.new_cache(2)
        parts = [model(ids[:, :20], cache), model(ids[:, 20:], cache)]
    assert logits.dtype == torch.bfloat16
    for found in (logits, torch.cat(parts, dim=1)):
        assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


@torch.no_grad()
def test_padded_rows_equal_each_alone():
    """Texts of 3, 11 and 20 tokens in one pass, and then on, token by token."""
    model, lengths = shaken(), [3, 11, 20]
    texts = [random_ids(TINY, 1, length + 4)[0] for length in lengths]
    padding = torch.tensor([20 - length for length in lengths])
    cache = model.new_cache(3, padding=padding)
    first = torch.stack([torch.cat([torch.zeros(20 - length, dtype=torch.long), text[:length]])
                         for text, length in zip(texts, lengths)])
    found = [model(first, cache)[:, -1:]]
    for step in range(4):
        column = torch.stack([text[length + step] for text, length in zip(texts, lengths)])
        found.append(model(column[:, None], cache))
    for row, (text, length) in enumerate(zip(texts, lengths)):
        alone = model(text[None])[0, length - 1 :]
        assert torch.allclose(torch.cat(found, dim=1)[row], alone, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("first", [0, 1, 3])
def test_blocks_can_be_run_from_any_of_them_on(first):
    model, ids = shaken(), random_ids(TINY, 2, 7)
    entering = {}
    if first < len(model.blocks):
        model.blocks[first].register_forward_hook(lambda _, inputs, output: entering.update(x=inputs[0]))
    expected = model.hidden_states(ids)
    x = entering.get("x", model.run_blocks(model.token_embedding(ids) + model.position_embedding.weight[:7]))
    assert torch.allclose(model.final_norm(model.run_blocks(x, first)), expected, atol=1e-6)


# --- dropout -----------------------------------------------------------------------------------------------------

def test_dropout_only_in_training():
    model, ids = shaken(dataclasses.replace(TINY, dropout=0.3)), random_ids(TINY, 2, 20)
    without = shaken(TINY)
    with torch.no_grad():
        assert torch.equal(model(ids), model(ids))
        assert torch.allclose(model(ids), without(ids), atol=1e-6)
        model.train()
        assert not torch.equal(model(ids), model(ids))
        assert torch.equal(without.train()(ids), without(ids))


def test_dropout_stands_after_embedding_attention_and_feed_forward():
    model = shaken(dataclasses.replace(TINY, dropout=0.4)).train()
    dropped = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(
                lambda _, inputs, output, name=name: dropped.update({name: (output == 0).float().mean().item()}))
    with torch.no_grad():
        model(random_ids(TINY, 8, 24))
    steps = [f"blocks.{i}.{part}" for i in range(3) for part in ("dropout", "feed_forward.dropout")]
    assert set(dropped) == {"dropout", *steps}
    assert all(share == pytest.approx(0.4, abs=0.05) for share in dropped.values())
    assert all(block.attention.dropout == 0.4 for block in model.blocks)


# --- what the model refuses --------------------------------------------------------------------------------------

@pytest.mark.parametrize("ids, message", WRONG_TOKEN_IDS)
def test_wrong_token_ids(ids, message):
    with pytest.raises(ValueError, match=message):
        shaken()(ids)


def test_the_edges_of_vocabulary_and_context_are_fine():
    check_token_ids(torch.tensor([[0, 49]]), vocab_size=50, context_length=2)
    assert shaken()(torch.full((1, 24), 49)).shape == (1, 24, 50)


@torch.no_grad()
def test_a_cache_that_is_nearly_full():
    model = shaken()
    cache = model.new_cache(1)
    model(random_ids(TINY, 1, 22), cache)
    with pytest.raises(ValueError, match="25 tokens exceed the context_length of 24"):
        model(random_ids(TINY, 1, 3), cache)
    assert cache.length == 22  # nothing was added
    assert model(random_ids(TINY, 1, 2), cache).shape == (1, 2, 50)


# --- FLOPs -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("config, tokens", [(TINY, 24), (TINY, 1), (GPTConfig(97, 40, 36, 4, 5, 0.0), 31)])
def test_flops_equal_pytorch_s_count(config, tokens):
    model = GPT(config)
    with FlopCounterMode(display=False) as forward, sdpa_kernel(SDPBackend.MATH):
        logits = model(random_ids(config, 1, tokens))
    with FlopCounterMode(display=False) as backward, sdpa_kernel(SDPBackend.MATH):
        logits.sum().backward()
    expected = tokens * forward_flops_per_token(config, tokens)
    assert forward.get_total_flops() == expected
    assert backward.get_total_flops() == 2 * expected


def test_flops_of_gpt2():
    assert forward_flops_per_token(GPTConfig.preset("gpt2"), 1024) == 2 * (12 * 12 * 768**2 + 50257 * 768) + 37_748_736


@pytest.mark.parametrize("tokens", [0, -1, 25])
def test_flops_of_an_impossible_context(tokens):
    message = rf"^tokens is {tokens}: it must be at least 1 and at most the context_length \(24\)$"
    with pytest.raises(ValueError, match=message):
        forward_flops_per_token(TINY, tokens)


# --- other devices -----------------------------------------------------------------------------------------------

@pytest.mark.skipif(best_device().type == "cpu", reason="needs a GPU")
def test_a_gpu_computes_the_same():
    model, ids, device = shaken(), random_ids(TINY, 2, 20), best_device()
    with torch.no_grad():
        expected = model(ids)
        model.to(device)
        cache = model.new_cache(2)
        assert torch.allclose(model(ids.to(device)).cpu(), expected, atol=1e-3)
        parts = [model(ids[:, :9].to(device), cache), model(ids[:, 9:].to(device), cache)]
        assert torch.allclose(torch.cat(parts, dim=1).cpu(), expected, atol=1e-3)
