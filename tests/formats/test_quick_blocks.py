"""llmbook.formats.quick_blocks: the short way of one new token through a quantised block."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmbook.attention import KeyValueCache
from llmbook.formats.quantized import quantize
from llmbook.formats.quick_blocks import OneToken, QuickLlamaBlock
from llmbook.generation import generate
from llmbook.llama import Llama, LlamaBlock, LlamaConfig
from llmbook.open_weights import load_pretrained

SIZES = {"vocab_size": 50, "context_length": 32, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "n_layers": 3,
         "d_hidden": 96}
KINDS = {"SmolLM2": {}, "Qwen2": {"qkv_bias": True, "out_bias": True}, "Qwen3": {"qk_norm": True, "d_head": 32},
         "Mistral": {"window": 3}, "windows in places": {"window": 3, "window_layers": [1]},
         "SmolLM3": {"no_rope_layers": [0, 2]}, "wide heads": {"d_head": 192}, "one group": {"n_kv_heads": 1},
         "no groups": {"n_kv_heads": 4}, "large epsilon": {"norm_eps": 0.5}}


def quick_model(bits: int = 4, **changes) -> Llama:
    torch.manual_seed(0)
    model = Llama(LlamaConfig(**{**SIZES, **changes})).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "bias")):  # ones and zeros would hide a forgotten one
            nn.init.uniform_(parameter, 0.5, 1.5)
    return quantize(model, bits)


def plain(model: Llama) -> Llama:
    """The same model with blocks that go one way only."""
    twin = copy.deepcopy(model)
    for block in twin.blocks:
        block.__class__ = LlamaBlock
    return twin


def token_by_token(model: Llama, ids: torch.Tensor, cache: KeyValueCache) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model(ids[:, place : place + 1], cache) for place in range(ids.shape[1])], dim=1)


def pass_of(model: Llama, ids: torch.Tensor, cache: KeyValueCache | None):
    return model.blocks[0].rotation(model.token_embedding(ids), cache)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_one_token_goes_the_short_way_to_the_same_numbers(changes, bits):
    model = quick_model(bits, **changes)
    ids = torch.randint(50, (1, 9))
    quick_cache, cache = model.new_cache(1, 9), model.new_cache(1, 9)
    with torch.no_grad():
        assert type(pass_of(model, ids[:, :1], quick_cache)) is OneToken
    quick, expected = token_by_token(model, ids, quick_cache), token_by_token(plain(model), ids, cache)
    assert (quick - expected).abs().max() < 0.02 * expected.abs().max()  # what goes between products is bfloat16
    assert quick_cache.length == cache.length == 9
    for ours, theirs in ((quick_cache.keys, cache.keys), (quick_cache.values, cache.values)):
        assert (ours - theirs).abs().max() < 0.03 * theirs.abs().max()


def test_the_short_way_is_exact_but_for_what_products_round(monkeypatch):
    """With products in float32 nothing is left that could differ."""
    model = quick_model()
    weights = {}
    with torch.no_grad():
        for block in model.blocks:
            for layer in (block.attention.qkv, block.attention.out, block.feed_forward.expand,
                          block.feed_forward.contract):
                weights[layer] = torch.randn(layer.weight.shape[0], layer.weight.shape[1] * 2) / 8

    class Float32Token(OneToken):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.longer_rows, self.context = self.longer_rows.float(), self.context.float()
            self.rows, self.context_heads = self.longer_rows[:, :64], self.context.view(self.query.shape)

    monkeypatch.setattr("llmbook.formats.quick_blocks.OneToken", Float32Token)
    for block in model.blocks:
        layers = (block.attention.qkv, block.attention.out, block.feed_forward.expand, block.feed_forward.contract)
        for layer in layers:
            layer.forward = lambda x, weight=weights[layer]: F.linear(x, weight)
        block._products = tuple(layer.forward for layer in layers)
    ids = torch.randint(50, (1, 9))
    quick = token_by_token(model, ids, model.new_cache(1))
    for block in model.blocks:
        block.__class__ = LlamaBlock
    torch.testing.assert_close(quick, token_by_token(model, ids, model.new_cache(1)), atol=2e-5, rtol=2e-5)


def test_the_short_way_continues_a_prompt_and_is_continued_by_one():
    model = quick_model()
    ids = torch.randint(50, (1, 12))
    with torch.inference_mode():
        whole = model(ids)
        cache = model.new_cache(1)
        parts = [model(ids[:, :5], cache), model(ids[:, 5:6], cache), model(ids[:, 6:7], cache),
                 model(ids[:, 7:], cache)]
    assert (torch.cat(parts, dim=1) - whole).abs().max() < 0.02 * whole.abs().max()


class OtherCache(KeyValueCache):
    """Someone's own, that may store keys otherwise."""


@pytest.mark.parametrize("case", ["two tokens", "two texts", "padding", "another cache", "no cache", "gradients",
                                  "bfloat16", "cache full", "other heads"])
def test_all_else_goes_the_long_way(case):
    model = quick_model().bfloat16() if case == "bfloat16" else quick_model()
    rows = 2 if case == "two texts" else 1
    cache = model.new_cache(rows, 4, torch.tensor([1]) if case == "padding" else None)
    if case == "another cache":
        cache = OtherCache(3, 1, 2, 4, 16)
    if case == "other heads":
        cache = KeyValueCache(3, 1, 4, 4, 16)
    ids = torch.randint(50, (rows, 2 if case == "two tokens" else 1))
    with torch.set_grad_enabled(case == "gradients"):
        if case == "cache full":
            model(torch.randint(50, (1, 4)), cache)
        assert type(pass_of(model, ids, None if case == "no cache" else cache)) is not OneToken
    if case in ("cache full", "other heads"):
        with torch.inference_mode(), pytest.raises(ValueError, match="cache"):
            model(ids, cache)


def test_a_pass_made_for_another_cache_is_not_taken():
    model = quick_model()
    with torch.inference_mode():
        first, second = model.new_cache(1), model.new_cache(1)
        model(torch.tensor([[3, 4]]), second)
        x = model.token_embedding(torch.tensor([[7]]))
        token = model.blocks[0].rotation(x, first)
        model.blocks[0](x, second, 0, token)
    assert second._lengths[0] == 3 and first._lengths[0] == 0


def test_a_cache_for_fewer_layers_is_refused_as_before():
    model = quick_model()
    with torch.inference_mode(), pytest.raises(ValueError, match="layer 2 does not exist in a cache made for 2 layers"):
        model(torch.tensor([[3]]), KeyValueCache(2, 1, 2, 8, 16))


def test_a_pass_that_was_interrupted_can_be_repeated():
    model, ids = quick_model(), torch.randint(50, (1, 6))
    expected = token_by_token(model, ids, model.new_cache(1))
    cache = model.new_cache(1)
    token_by_token(model, ids[:, :4], cache)
    hook = model.blocks[1].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        token_by_token(model, ids[:, 4:5], cache)
    hook.remove()
    assert cache.length == 4
    assert torch.equal(token_by_token(model, ids[:, 4:], cache), expected[:, 4:])


def test_hooks_on_blocks_see_what_each_returned_and_may_change_it():
    model, ids = quick_model(), torch.randint(50, (1, 3))
    seen = []
    hooks = [block.register_forward_hook(lambda _, inputs, output: seen.append(output)) for block in model.blocks]
    logits = token_by_token(model, ids, model.new_cache(1))
    assert len(seen) == 9 and not any(torch.equal(a, b) for a, b in zip(seen, seen[1:], strict=False))
    for hook in hooks:
        hook.remove()
    assert torch.equal(token_by_token(model, ids, model.new_cache(1)), logits)
    model.blocks[0].register_forward_hook(lambda _, inputs, output: torch.zeros_like(output))
    changed = token_by_token(model, ids, model.new_cache(1))
    assert torch.equal(changed[:, 0], changed[:, 1]) and torch.equal(changed[:, 1], changed[:, 2])


@pytest.mark.parametrize("assign", [False, True])
def test_a_copy_has_weights_of_its_own_and_a_changed_norm_counts(assign):
    model, ids = quick_model(), torch.randint(50, (1, 3))
    before = token_by_token(model, ids, model.new_cache(1))
    twin = copy.deepcopy(model)
    twin.load_state_dict({name: tensor * 2 if name.endswith("attention_norm.weight") else tensor
                          for name, tensor in twin.state_dict().items()}, assign=assign)
    assert torch.equal(token_by_token(model, ids, model.new_cache(1)), before)
    changed, expected = (token_by_token(one, ids, one.new_cache(1)) for one in (twin, plain(twin)))
    assert (changed - expected).abs().max() < 0.02 * expected.abs().max()
    assert (changed - before).abs().max() > 0.05 * expected.abs().max()


def test_quick_blocks_have_the_parts_and_names_of_plain_ones():
    model = quick_model()
    assert all(type(block) is QuickLlamaBlock for block in model.blocks)
    assert set(model.state_dict()) == set(plain(model).state_dict())
    assert not any(block.training for block in model.blocks)
    x = torch.randn(2, 5, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model.run_blocks(x, first=1), plain(model).run_blocks(x, first=1))
        torch.testing.assert_close(model.blocks[2].attend(x), plain(model).blocks[2].attend(x))


@pytest.mark.slow
def test_smollm2_writes_the_same_texts_either_way():
    model, tokenizer = load_pretrained("smollm2-135m-instruct", dtype=torch.float32)
    quantize(model, 4)
    twin = plain(model)
    for prompt in ("The history of the steam engine begins", "def fibonacci(n):", "Dear Mrs Ellis, thank you for"):
        ids = torch.tensor([tokenizer.encode(prompt)])
        assert torch.equal(generate(model, ids, 24, temperature=0), generate(twin, ids, 24, temperature=0)), prompt
