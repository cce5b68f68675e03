"""llmbook.llama, and the attention it needs: rotary positions, the gated feed-forward part, shared heads, the model."""

import dataclasses
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmbook.attention import KeyValueCache, MultiHeadAttention
from llmbook.generation import generate, stream
from llmbook.gpt import count_parameters
from llmbook.llama import (
    GatedFeedForward,
    Llama,
    LlamaBlock,
    LlamaConfig,
    rotary_frequencies,
    rotary_table,
    rotate,
    rotation_at,
)
from llmbook.training import TrainingConfig, load_model, next_token_loss, save_model, train
from tests.support.token_ids import WRONG_TOKEN_IDS

TINY = LlamaConfig(vocab_size=50, context_length=24, d_model=24, n_heads=6, n_kv_heads=2, n_layers=3, d_hidden=40,
                   rope_base=100.0)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
SIZES = ("vocab_size", "context_length", "d_model", "n_heads", "n_kv_heads", "n_layers", "d_hidden")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def shaken(config: LlamaConfig = TINY) -> Llama:
    """A model in evaluation mode in which no bias is 0 and no scale 1, so that every parameter counts."""
    torch.manual_seed(0)
    model = Llama(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def random_ids(batch: int, tokens: int, config: LlamaConfig = TINY) -> torch.Tensor:
    return torch.randint(0, config.vocab_size, (batch, tokens), generator=torch.Generator().manual_seed(1))


# --- rotary positions --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("scaling", [None, {"rope_type": "default"}, {}])
def test_frequencies_by_the_formula(scaling):
    found = rotary_frequencies(6, 1000.0, scaling)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([1.0, 1000 ** (-2 / 6), 1000 ** (-4 / 6)]))
    assert rotary_frequencies(64)[1].item() == pytest.approx(10000 ** (-1 / 32))


def test_linear_scaling_slows_every_pair():
    torch.testing.assert_close(rotary_frequencies(8, 500.0, {"rope_type": "linear", "factor": 4.0}),
                               rotary_frequencies(8, 500.0) / 4)


def test_factors_slow_each_pair_by_its_own():
    found = rotary_frequencies(8, 500.0, {"rope_type": "factors", "factors": [1.0, 2.0, 4.0, 8.0]})
    torch.testing.assert_close(found, rotary_frequencies(8, 500.0) / torch.tensor([1.0, 2.0, 4.0, 8.0]))


@pytest.mark.parametrize("d_head, base, changes", [
    (128, 500000.0, {}),  # Llama 3.1
    (64, 500000.0, {"factor": 32.0}),  # Llama 3.2
    (32, 10000.0, {"original_max_position_embeddings": 64, "low_freq_factor": 2.0, "high_freq_factor": 3.0}),
    (16, 100.0, {"original_max_position_embeddings": 16, "factor": 2.5}),
])
def test_llama3_scaling_equals_transformers(d_head, base, changes):
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    scaling = {**LLAMA3, **changes}
    config = pytest.importorskip("transformers").LlamaConfig(
        hidden_size=4 * d_head, num_attention_heads=4, rope_parameters={**scaling, "rope_theta": base})
    expected, attention_scale = rope.ROPE_INIT_FUNCTIONS["llama3"](config, device="cpu")
    assert attention_scale == 1.0
    found, plain = rotary_frequencies(d_head, base, scaling), rotary_frequencies(d_head, base)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert (found <= plain * 1.00001).all() and found[-1] < 0.9 * plain[-1]


def test_another_kind_of_scaling_is_named():
    with pytest.raises(ValueError, match="^rotary scaling 'yarn' is not supported: default, linear, factors, llama3"):
        rotary_frequencies(8, scaling={"rope_type": "yarn", "factor": 2.0})


def test_position_0_stays_as_it_is():
    x = torch.randn(2, 3, 1, 8)
    torch.testing.assert_close(rotate(x, *rotary_table(torch.arange(1), rotary_frequencies(8))), x)


def test_a_pair_turns_by_its_angle():
    frequencies = torch.tensor([0.5, 0.1])
    x = torch.tensor([[1.0, 0.0, 0.0, 2.0]])  # pairs (1, 0) and (0, 2): feature i with i + 2
    found = rotate(x, *rotary_table(torch.tensor([3]), frequencies))
    expected = [math.cos(1.5), -2 * math.sin(0.3), math.sin(1.5), 2 * math.cos(0.3)]
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_turning_keeps_lengths_of_pairs():
    x = torch.randn(2, 3, 40, 16)
    turned = rotate(x, *rotary_table(torch.arange(7, 47), rotary_frequencies(16, 100.0)))
    assert not torch.allclose(turned, x, atol=0.1)
    torch.testing.assert_close(turned.unflatten(-1, (2, 8)).norm(dim=-2), x.unflatten(-1, (2, 8)).norm(dim=-2))


@pytest.mark.parametrize("distance", [0, 1, 2, 7, 30])
def test_only_the_distance_counts(distance):
    query, key, frequencies = torch.randn(1, 16), torch.randn(1, 16), rotary_frequencies(16, 50.0)

    def score(place):
        turned = rotate(query, *rotary_table(torch.tensor([place + distance]), frequencies))
        return (turned * rotate(key, *rotary_table(torch.tensor([place]), frequencies))).sum()

    scores = torch.stack([score(place) for place in (0, 1, 5, 60, 200)])
    assert (scores - scores[0]).abs().max() < 1e-4 * query.norm() * key.norm()
    if distance:
        assert abs(scores[0] - query[0] @ key[0]) > 1e-3


def test_a_table_continues_where_another_ends():
    frequencies = rotary_frequencies(8)
    whole = rotary_table(torch.arange(12), frequencies)
    assert whole[0].shape == whole[1].shape == (12, 8)
    parts = (rotary_table(places, frequencies) for places in torch.arange(12).split([5, 7]))
    for table, first, second in zip(whole, *parts):
        torch.testing.assert_close(torch.cat([first, second]), table)


# --- the gated feed-forward part ---------------------------------------------------------------------------------

def test_gated_feed_forward_by_the_formula():
    layer, x = GatedFeedForward(8, 20), torch.randn(2, 5, 8)
    gate, up = layer.expand.weight[:20], layer.expand.weight[20:]
    opened = x @ gate.T / (1 + torch.exp(-(x @ gate.T)))
    torch.testing.assert_close(layer(x), (opened * (x @ up.T)) @ layer.contract.weight.T)
    assert [name for name, _ in layer.named_parameters()] == ["expand.weight", "contract.weight"]  # no biases


# --- attention that grew -----------------------------------------------------------------------------------------

def repeated(layer: MultiHeadAttention) -> MultiHeadAttention:
    """Plain attention with each key and value head of a grouped layer as often as query heads share it."""
    heads, shared, d_head = layer.n_heads, layer.n_kv_heads, layer.d_head
    bias = layer.qkv.bias is not None
    plain = MultiHeadAttention(layer.d_model, heads, bias=bias, d_head=d_head)
    with torch.no_grad():
        for mine, theirs in zip(layer.qkv.parameters(), plain.qkv.parameters(), strict=True):
            query, key, value = mine.unflatten(0, (-1, d_head)).split([heads, shared, shared])
            rows = [query, *(part.repeat_interleave(heads // shared, dim=0) for part in (key, value))]
            theirs.copy_(torch.cat(rows).flatten(0, 1))
        plain.out.load_state_dict(layer.out.state_dict())
    return plain


@pytest.mark.parametrize("n_heads, n_kv_heads, d_head", [(6, 2, None), (6, 1, None), (4, 4, 10), (4, 2, 3)])
@torch.no_grad()
def test_grouped_heads_equal_plain_ones_with_repeated_rows(n_heads, n_kv_heads, d_head):
    layer = MultiHeadAttention(24, n_heads, bias=True, n_kv_heads=n_kv_heads, d_head=d_head)
    nn.init.normal_(layer.qkv.bias)
    size = d_head or 24 // n_heads
    assert layer.qkv.weight.shape == ((n_heads + 2 * n_kv_heads) * size, 24)
    assert layer.out.weight.shape == (24, n_heads * size)
    x, plain = torch.randn(3, 11, 24), repeated(layer)
    expected = plain(x)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)
    cache = KeyValueCache(1, 3, n_kv_heads, 11, size)
    parts = [layer(part, cache) for part in x.split([4, 1, 5, 1], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_queries_and_keys_are_turned_before_the_cache():
    layer, x, seen = MultiHeadAttention(24, 6, n_kv_heads=2), torch.randn(2, 5, 24), []

    def triple(features):
        seen.append(features.shape)
        return 3 * features

    cache, plain = KeyValueCache(1, 2, 2, 5, 4), KeyValueCache(1, 2, 2, 5, 4)
    found = layer(x, cache, rotate=triple)
    layer(x, plain)
    assert seen == [(2, 6, 5, 4), (2, 2, 5, 4)]  # six heads of queries and two of keys; not values
    torch.testing.assert_close(cache.keys, 3 * plain.keys)
    torch.testing.assert_close(cache.values, plain.values)
    query, key, value = layer.qkv(x).unflatten(2, (-1, 4)).transpose(1, 2).split([6, 2, 2], dim=1)
    key, value = key.repeat_interleave(3, dim=1), value.repeat_interleave(3, dim=1)
    expected = F.scaled_dot_product_attention(3 * query, 3 * key, value, is_causal=True).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found, layer.out(expected))


@pytest.mark.parametrize("out_bias, expected", [(None, True), (False, False), (True, True)])
def test_the_output_s_bias_follows_or_has_its_own_switch(out_bias, expected):
    layer = MultiHeadAttention(24, 6, bias=True, out_bias=out_bias)
    assert layer.qkv.bias is not None and (layer.out.bias is not None) == expected


@pytest.mark.parametrize("n_kv_heads", [4, 5, 12, 0, -1])
def test_shared_heads_that_do_not_divide_are_named(n_kv_heads):
    with pytest.raises(ValueError, match=rf"^n_heads \(6\) must be divisible by n_kv_heads \({n_kv_heads}\)$"):
        MultiHeadAttention(24, 6, n_kv_heads=n_kv_heads)
    with pytest.raises(ValueError, match=r"^d_model \(25\) must be divisible by n_heads \(6\)$"):
        MultiHeadAttention(25, 6)


# --- sizes -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0, -3, 2.5, 8.0, "8", None])
def test_each_size_must_be_a_whole_number_of_at_least_1(name, value):
    with pytest.raises(ValueError, match=f"^{name} is {value!r}: it must be a whole number, at least 1$"):
        LlamaConfig(**{name: value})


@pytest.mark.parametrize("changes, message", [
    ({"d_model": 100}, "d_model (100) must be divisible by n_heads (9), or give d_head"),
    ({"n_kv_heads": 2}, "n_heads (9) must be divisible by n_kv_heads (2)"),
    ({"n_kv_heads": 18}, "n_heads (9) must be divisible by n_kv_heads (18)"),
    ({"d_model": 63}, "d_head is 7: "),
    ({"d_head": 5}, "d_head is 5: "),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rotary scaling 'dynamic' is not supported"),
])
def test_sizes_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        LlamaConfig(**changes)


@pytest.mark.parametrize("d_head", [0, -4, 4.0])
def test_features_of_a_head_must_be_a_whole_number(d_head):
    with pytest.raises(ValueError, match=f"^d_head is {d_head}: "):
        LlamaConfig(d_head=d_head)


def test_defaults_are_smollm2_and_frozen():
    config = LlamaConfig()
    assert dataclasses.astuple(config) == (
        49152, 8192, 576, 9, 3, 30, 1536, 64, 100000.0, None, 1e-5, False, False, True,
        False, None, None, ())
    with torch.device("meta"):
        assert count_parameters(Llama(config)) == 134_515_008  # as the model's authors count
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.d_model = 5


@pytest.mark.parametrize("changes, message", [
    ({"n_layers": True}, "n_layers is True: it must be a whole number"),
    ({"window": 0}, "window is 0: it must be a whole number, at least 1"),
    ({"window_layers": [0, 3]}, "window_layers names block 3: there are 0 to 2"),
    ({"no_rope_layers": [-1]}, "no_rope_layers names block -1: there are 0 to 2"),
    ({"rope_base": "10000"}, "rope_base is '10000': it must be a number above 1"),
    ({"norm_eps": -1e-5}, "norm_eps is -1e-05: it must be a number above 0"),
    ({"rope_scaling": {"rope_type": "linear"}}, "scaling 'linear' has factor = None: give a number"),
    ({"rope_scaling": {"rope_type": "linear", "factor": "4"}}, "has factor = '4': give a number above 0"),
    ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "_freq_factor = 1.0: they must differ"),
])
def test_settings_that_cannot_work_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


# --- the model ---------------------------------------------------------------------------------------------------

# a block on its own used to run silently without positions
def test_a_block_on_its_own_has_positions():
    model, x = shaken(), torch.randn(2, 7, 24)
    block = model.blocks[1]
    rotation = rotation_at(torch.arange(7), rotary_frequencies(4, 100.0))
    torch.testing.assert_close(block(x), block(x, rotation=rotation))
    assert not torch.allclose(block(x), block(x, rotation=lambda features: features), atol=1e-3)
    with torch.no_grad():
        cache = KeyValueCache(1, 2, 2, 7, 4)
        pieces = torch.cat([block(piece, cache) for piece in x.split([4, 1, 2], dim=1)], dim=1)
    torch.testing.assert_close(pieces, block(x))


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"window": 3}, {"qk_norm": True, "no_rope_layers": [1]}])
def test_padding_at_the_left_changes_nothing(changes):
    model = shaken(dataclasses.replace(TINY, **changes))
    texts = [random_ids(1, 9)[0], random_ids(1, 9)[0][:4]]
    padded = torch.stack([texts[0], F.pad(texts[1], (5, 0))])
    cache = model.new_cache(2, padding=torch.tensor([0, 5]))
    together = torch.cat([model(piece, cache) for piece in padded.split([6, 1, 2], dim=1)], dim=1)
    for row, text in enumerate(texts):
        torch.testing.assert_close(together[row, -len(text):], model(text[None])[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_blocks_run_from_any_one_on():
    model, ids = shaken(), random_ids(2, 9)
    x = model.blocks[0](model.token_embedding(ids))
    torch.testing.assert_close(model.final_norm(model.run_blocks(x, first=1)), model.hidden_states(ids))


@torch.no_grad()
def test_layers_without_positions_do_not_turn():
    config = dataclasses.replace(TINY, no_rope_layers=[0, 2], n_layers=3)
    seen = []
    model = shaken(config)
    for block in model.blocks:
        block.attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[3] is not None))
    model(random_ids(1, 5))
    assert seen == [False, True, False]


@torch.no_grad()
@pytest.mark.parametrize("layers, reach", [(None, 2 + 2 + 2), ([0, 2], 8)])
def test_a_window_hides_what_is_further_away(layers, reach):
    model, ids = shaken(dataclasses.replace(TINY, window=3, window_layers=layers)), random_ids(1, 9)
    changed = ids.clone()
    changed[0, 0] = (ids[0, 0] + 1) % 50
    unequal = (model(ids) - model(changed)).abs().amax(-1)[0] > 1e-7
    assert unequal.tolist() == [place <= reach for place in range(9)]  # two tokens back for each layer with a window



def test_a_block_normalises_before_each_step_and_adds():
    block, x = shaken().blocks[0], torch.randn(2, 7, 24)
    table = rotary_table(torch.arange(7), rotary_frequencies(4, 100.0))

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + TINY.norm_eps).sqrt() * weight

    middle = x + block.attention(norm(x, block.attention_norm.weight), rotate=lambda y: rotate(y, *table))
    expected = middle + block.feed_forward(norm(middle, block.feed_forward_norm.weight))
    torch.testing.assert_close(block(x, rotation=lambda y: rotate(y, *table)), expected, atol=1e-5, rtol=0)
    assert LlamaBlock(dataclasses.replace(TINY, norm_eps=0.5)).attention_norm.eps == 0.5


def test_parameters_tied_and_untied():
    heads = (6 + 2 * 2) * 4 * 24 + 24 * 24
    expected = 50 * 24 + 3 * (heads + 3 * 24 * 40 + 2 * 24) + 24
    assert count_parameters(Llama(TINY)) == expected
    untied = shaken(dataclasses.replace(TINY, tie_embeddings=False))
    assert count_parameters(untied) == expected + 50 * 24
    hidden = torch.randn(2, 3, 24)
    torch.testing.assert_close(untied.lm_head(hidden), hidden @ untied.output.weight.T)
    tied = shaken()
    torch.testing.assert_close(tied.lm_head(hidden), hidden @ tied.token_embedding.weight.T)
    biased = Llama(dataclasses.replace(TINY, qkv_bias=True, out_bias=True))
    assert count_parameters(biased) == expected + 3 * ((6 + 2 * 2) * 4 + 24)


def test_first_weights_are_those_of_gpt():
    model = Llama(dataclasses.replace(TINY, d_model=96, n_layers=8, d_hidden=200, qkv_bias=True))
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            assert (parameter == float(name.endswith("weight"))).all(), name
        else:
            expected = 0.02 / 4 if "attention.out" in name or "contract" in name else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name


def test_every_parameter_gets_a_gradient():
    model = shaken(dataclasses.replace(TINY, qkv_bias=True, out_bias=True, tie_embeddings=False))
    model(random_ids(2, 24)).square().mean().backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in model.parameters())


SCALED = dataclasses.replace(TINY, rope_scaling={**LLAMA3, "original_max_position_embeddings": 12}, d_head=8,
                             tie_embeddings=False, qkv_bias=True)


@pytest.mark.parametrize("config", [TINY, SCALED], ids=["tied", "scaled"])
@pytest.mark.parametrize("chunks", [(24,), (1,) * 24, (7, 1, 10, 6), (1, 23), (23, 1)])
@torch.no_grad()
def test_the_cache_gives_the_same_logits_in_chunks(config, chunks):
    model, ids = shaken(config), random_ids(2, 24)
    cache = model.new_cache(2)
    parts = [model(part, cache) for part in ids.split(list(chunks), dim=1)]
    assert cache.length == 24
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), atol=1e-4, rtol=0)


def test_new_cache_keeps_the_shared_heads_only():
    cache = Llama(SCALED).new_cache(5)
    assert cache.keys.shape == cache.values.shape == (3, 5, 2, 24, 8) and cache.max_tokens == 24
    assert cache.keys.dtype == torch.float32 and cache.length == 0
    assert Llama(TINY).new_cache(1, max_tokens=9).keys.shape == (3, 1, 2, 9, 4)
    assert Llama(TINY).bfloat16().new_cache(1).values.dtype == torch.bfloat16


@pytest.mark.parametrize("place", [1, 10, 23])
@torch.no_grad()
def test_a_future_token_changes_no_earlier_logit(place):
    model, ids = shaken(), random_ids(2, 24)
    changed = ids.clone()
    changed[:, place] = (changed[:, place] + 1) % TINY.vocab_size
    moved = (model(changed) - model(ids)).abs().amax(dim=(0, 2))
    assert moved[:place].max() < 1e-5 and (moved[place:] > 1e-4).all()


@torch.no_grad()
def test_positions_matter_and_texts_of_a_batch_do_not_mix():
    model = shaken()
    logits = model(ids := torch.tensor([[5, 7, 9, 2], [7, 5, 9, 2]]))
    assert (logits[0, 3] - logits[1, 3]).abs().max() > 1e-3  # the same tokens in another order
    torch.testing.assert_close(logits[1:], model(ids[1:]), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_bfloat16_model_is_close_to_float32_and_runs_with_its_cache():
    model, ids = shaken(), random_ids(2, 24)
    expected = model(ids)
    model.bfloat16()
    cache = model.new_cache(2)
    parts = torch.cat([model(ids[:, :20], cache), model(ids[:, 20:21], cache), model(ids[:, 21:], cache)], dim=1)
    for found in (model(ids), parts):
        assert found.dtype == torch.bfloat16
        assert (found.float() - expected).abs().max() < 0.1 * expected.abs().max()
    assert generate(model, ids[:, :4], 5, temperature=0).shape == (2, 9)


@torch.no_grad()
def test_angles_of_a_bfloat16_model_are_computed_in_float32():
    """At position 1,000, bfloat16 positions are 4 apart: neighbours would turn alike."""
    config = dataclasses.replace(TINY, context_length=1100, n_layers=1)
    model, seen = Llama(config).bfloat16(), {}
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.update(rotation=inputs[3]))
    model(torch.zeros(1, 1002, dtype=torch.long))
    x = torch.tensor([1.0, 0, 0, 0]).expand(1, 1, 1002, 4).bfloat16()
    turned = seen["rotation"](x)[0, 0, -3:].float()
    angles = torch.tensor([999.0, 1000.0, 1001.0])
    torch.testing.assert_close(turned[:, 0], angles.cos(), atol=0.01, rtol=0)
    torch.testing.assert_close(turned[:, 2], angles.sin(), atol=0.01, rtol=0)


@pytest.mark.parametrize("ids, message", WRONG_TOKEN_IDS)
def test_wrong_token_ids(ids, message):
    with pytest.raises(ValueError, match=message):
        shaken()(ids)
    with pytest.raises(ValueError, match=message):
        generate(shaken(), ids, 3)


@torch.no_grad()
def test_a_cache_that_is_nearly_full():
    model = shaken()
    cache = model.new_cache(1)
    model(random_ids(1, 22), cache)
    with pytest.raises(ValueError, match="25 tokens exceed the context_length of 24"):
        model(random_ids(1, 3), cache)
    assert cache.length == 22  # nothing was added
    assert model(random_ids(1, 2), cache).shape == (1, 2, 50)


# --- the rest of the book works on it ----------------------------------------------------------------------------

@pytest.mark.parametrize("config", [TINY, SCALED], ids=["tied", "scaled"])
@torch.no_grad()
def test_greedy_generation_equals_reading_everything_again(config):
    model, prompt = shaken(config), random_ids(2, 3)
    expected = prompt
    for _ in range(18):
        expected = torch.cat([expected, model(expected)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(generate(model, prompt, 18, temperature=0), expected)
    streamed = torch.stack(list(stream(model, prompt, 18, temperature=0)), dim=1)
    assert torch.equal(streamed, expected[:, 3:])
    assert generate(model, prompt, 40, seed=1).shape == (2, 43)  # past the context


def test_training_lowers_the_loss():
    model = Llama(TINY)
    ids = torch.arange(13).remainder(6).expand(4, -1)
    loader = [(ids[:, :-1], ids[:, 1:])]
    history = train(model, loader, next_token_loss, TrainingConfig(
        20, learning_rate=3e-2, precision="float32", device="cpu", progress=False))
    losses = [step["loss"] for step in history.steps]
    assert len(losses) == 20 and losses[0] == pytest.approx(math.log(50), rel=0.05) and losses[-1] < 1.0


@pytest.mark.parametrize("config", [
    TINY, SCALED, dataclasses.replace(TINY, rope_scaling={"rope_type": "factors", "factors": [1.0, 3.0]})],
    ids=["tied", "scaled", "factors"])
@torch.no_grad()
def test_a_saved_model_comes_back(config, tmp_path):
    model, ids = shaken(config), random_ids(2, 24)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert isinstance(again, Llama) and again.config == config and not again.training
    assert torch.equal(again(ids), model(ids))
    assert count_parameters(again) == count_parameters(model)


def test_a_saved_model_with_an_impossible_size_is_refused(tmp_path):
    save_model(Llama(TINY), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"n_kv_heads": 2', '"n_kv_heads": 4'))
    with pytest.raises(ValueError, match=r"n_heads \(6\) must be divisible by n_kv_heads \(4\)"):
        load_model(tmp_path)


def test_a_rotation_sees_the_whole_past():
    """Angles go on after the cache's tokens: the second of two tokens is turned by 1, alone or not."""
    model, seen = shaken(dataclasses.replace(TINY, n_layers=1)), []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[3]))
    cache = model.new_cache(1)
    with torch.no_grad():
        model(torch.tensor([[4]]), cache)
        model(torch.tensor([[7]]), cache)
    x = torch.ones(1, 1, 1, 4)
    torch.testing.assert_close(seen[0](x), x)
    torch.testing.assert_close(seen[1](x), rotate(x, *rotary_table(torch.tensor([1]), rotary_frequencies(4, 100.0))))
