"""The compiled pass for one token: the same text, one compilation, and a cache whose shapes stay."""

import gc
import shutil

import pytest
import torch
from torch import Tensor, nn

from llmbook.compiled import FEWEST_PLACES, StaticCache, compile_decoding
from llmbook.formats.quantized import quantize
from llmbook.gemma import Gemma, GemmaConfig
from llmbook.generation import generate, stream
from llmbook.gpt import GPT, GPTConfig
from llmbook.llama import Llama, LlamaConfig

LLAMA = {"vocab_size": 23, "context_length": 40, "d_model": 16, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2,
         "d_hidden": 24}
MODELS = {
    "gpt": lambda: GPT(GPTConfig(23, 40, 16, 2, 2)),
    "llama": lambda: Llama(LlamaConfig(**LLAMA)),
    "one key for four heads": lambda: Llama(LlamaConfig(**LLAMA | {"n_kv_heads": 1, "tie_embeddings": False})),
    "window": lambda: Llama(LlamaConfig(**LLAMA, window=5, window_layers=[1], qk_norm=True, no_rope_layers=[1])),
    "gemma": lambda: Gemma(GemmaConfig(23, 40, 16, 4, 2, 2, 24, d_head=4, window=5, global_layers=[1])),
}
UNEQUAL = [torch.tensor([1]), torch.tensor([3, 1, 4, 1, 5, 9, 2, 6]), torch.tensor([2, 7])]


def drawn(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)  # far from uniform, so that mistakes show
    return model.eval()


class Compilations:
    """A backend that compiles nothing and counts."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


def same(one: Tensor | list[Tensor], other: Tensor | list[Tensor]) -> bool:
    return all(map(torch.equal, one, other))


@pytest.mark.parametrize("name", MODELS)
def test_writes_what_the_model_writes(name):
    model = drawn(MODELS[name]())
    fast = compile_decoding(model, "eager")
    for prompts in (torch.tensor([[3, 1, 4]]), UNEQUAL):  # within the context of 40 and beyond
        expected = generate(model, prompts, 45, temperature=0, stop_tokens=[11])
        assert same(generate(fast, prompts, 45, temperature=0, stop_tokens=[11]), expected)


def test_one_compilation_for_each_batch_size_rounded_up():
    model, backend, counts = drawn(GPT(GPTConfig(23, 40, 16, 2, 1))), Compilations(), []
    fast = compile_decoding(model, backend)
    sixteen = torch.randint(23, (16, 5), generator=torch.Generator().manual_seed(1))
    for prompts in [torch.tensor([[3, 1, 4]]), UNEQUAL, sixteen[:4], sixteen, sixteen[:9]] * 2:
        expected = generate(model, prompts, 8, temperature=0)
        assert same(generate(fast, prompts, 8, temperature=0), expected)
        counts.append(backend.count)
    assert counts == [1, 2, 2, *[3] * 7]


def test_a_long_text_and_all_cache_sizes_need_one_compilation():
    model, backend = drawn(GPT(GPTConfig(23, 1100, 16, 2, 2))), Compilations()
    fast = compile_decoding(model, backend)
    prompt = torch.tensor([[3, 1, 4]])
    for tokens in (600, 20):  # the cache grows from 256 places to 1024
        assert same(generate(fast, prompt, tokens, temperature=0), generate(model, prompt, tokens, temperature=0))
    assert backend.count == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager"])
def test_another_backend_that_needs_no_compiler(backend):
    model = drawn(MODELS["window"]())
    fast = compile_decoding(model, backend)
    for prompts in (torch.tensor([[3, 1, 4]]), UNEQUAL):
        expected = generate(model, prompts, 12, temperature=0)
        assert same(generate(fast, prompts, 12, temperature=0), expected)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("name", ["gpt", "window"])
def test_inductor_writes_the_same(name):
    model = drawn(MODELS[name]())
    fast = compile_decoding(model)
    for prompts in (torch.tensor([[3, 1, 4]]), UNEQUAL):
        expected = generate(model, prompts, 50, temperature=0)
        assert same(generate(fast, prompts, 50, temperature=0), expected)


def test_rows_that_end_change_no_shape():
    model, backend = drawn(MODELS["llama"]()), Compilations()
    fast = compile_decoding(model, backend)
    prompts = [torch.tensor([token]) for token in range(16)]
    for stops in ([], range(0, 23, 3)):
        expected = generate(model, prompts, 30, temperature=0, stop_tokens=stops)
        assert len({len(row) for row in expected}) > 1 or not stops
        assert same(generate(fast, prompts, 30, temperature=0, stop_tokens=stops), expected)
    assert backend.count == 1


def test_a_prompt_sampled_several_times_is_read_once_and_copied():
    model = drawn(MODELS["gpt"]())
    fast, prompts = compile_decoding(model, "eager"), torch.tensor([[3, 1, 4]]).expand(5, -1)
    assert same(generate(fast, prompts, 12, seed=1), generate(model, prompts, 12, seed=1))


def test_a_conversation_goes_back_and_on():
    model = drawn(MODELS["window"]())
    fast = compile_decoding(model, "eager")
    caches = [each.new_cache(1) for each in (model, fast)]
    for prompt in ([[3, 1, 4]], [[3, 1, 4, 1, 5, 9, 2, 6]], [[3, 1, 7, 7]]):
        ids, written = torch.tensor(prompt), []
        for each, cache in zip((model, fast), caches, strict=True):
            cache.rewind(min(cache.length, 2))
            written.append(generate(each, ids, 9, temperature=0, cache=cache))
            assert cache.length == ids.shape[1] + 8
        assert torch.equal(*written)
        torch.testing.assert_close(caches[1].keys[:, :, :, :9], caches[0].keys[:, :, :, :9])


def test_the_weights_are_shared_and_the_model_is_not_touched():
    model = drawn(MODELS["llama"]()).train()
    modules = list(model.modules())
    fast = compile_decoding(model, "eager")
    assert list(model.modules()) == modules and all(module.training for module in modules)
    assert {id(each) for each in fast.parameters()} == {id(each) for each in model.parameters()}
    fast.train()
    assert not any(module.training for module in fast.modules())
    prompt = torch.tensor([[3, 1, 4]])
    for _ in range(2):
        assert same(generate(fast, prompt, 9, temperature=0), generate(model, prompt, 9, temperature=0))
        drawn(model)
        nn.init.normal_(model.blocks[1].attention.qkv.weight)  # trained on: seen at once


def test_layers_that_were_exchanged_are_seen():
    model, prompt = drawn(Llama(LlamaConfig(**LLAMA | {"d_model": 32, "d_hidden": 64}))), torch.tensor([[3, 1, 4]])
    fast = compile_decoding(model, "eager")
    before = generate(fast, prompt, 20, temperature=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    quantize(model)
    after = generate(fast, prompt, 20, temperature=0)
    assert torch.equal(after, generate(model, prompt, 20, temperature=0)) and not torch.equal(after, before)


def overwriting(graph, inputs):
    """A backend that gives its results in the same memory each time, as CUDA graphs do."""
    results = []

    def run(*arguments):
        new = graph(*arguments)
        results.extend([torch.empty_like(each) for each in new] if not results else [])
        for kept, each in zip(results, new, strict=True):
            kept.copy_(each)
        return results

    return run


def test_outputs_that_are_kept_stay():
    model = drawn(MODELS["gpt"]())
    fast = compile_decoding(model, overwriting)
    cache, token = fast.new_cache(1), torch.tensor([[3]])
    with torch.no_grad():
        fast.hidden_states(token, cache)
        found = [fast.lm_head(each) for each in [fast.hidden_states(token, cache) for _ in range(3)]]
        expected = model(torch.tensor([[3] * 4]))[:, 1:].split(1, dim=1)
    torch.testing.assert_close(found, list(expected))


def test_memory_is_used_again_when_its_cache_is_gone():
    fast = compile_decoding(drawn(MODELS["gpt"]()), "eager")
    first, second = fast.new_cache(3), fast.new_cache(3)
    place = first.keys.data_ptr()
    assert place != second.keys.data_ptr()
    del first
    gc.collect()
    third = fast.new_cache(4, padding=torch.tensor([0, 1, 2, 3]))
    assert third.keys.data_ptr() == place and third.length == 0


def test_what_does_not_fit_is_refused():
    fast = compile_decoding(drawn(MODELS["gpt"]()), "eager")
    cache = fast.new_cache(1, 4)
    assert isinstance(cache, StaticCache) and cache.max_tokens == 4 < FEWEST_PLACES
    with torch.no_grad():
        fast(torch.tensor([[1, 2, 3]]), cache)
        with pytest.raises(ValueError, match="a batch of 2 does not fit a cache made for 1"):
            fast(torch.tensor([[1], [2]]), cache)
        with pytest.raises(ValueError, match="token id 23 is outside the vocabulary of 23"):
            fast(torch.tensor([[23]]), cache)
        fast(torch.tensor([[4]]), cache)
        for tokens in (1, 2):
            with pytest.raises(ValueError, match=f"{4 + tokens} tokens do not fit a cache of 4: make it with more"):
                fast(torch.ones(1, tokens, dtype=torch.long), cache)
    assert cache.length == 4
    with pytest.raises(ValueError, match=r"padding has shape \(1,\): give one number for each of the 2 rows"):
        fast.new_cache(2, padding=torch.tensor([1]))


def test_a_model_of_another_kind_is_refused():
    model = drawn(MODELS["gpt"]())
    model.blocks[1].attention = nn.Identity()
    with pytest.raises(TypeError, match="1 of the model's 2 blocks attend by MultiHeadAttention"):
        compile_decoding(model)
    model = drawn(MODELS["gpt"]())
    model.new_cache = lambda *_: {}
    with pytest.raises(TypeError, match="keeps its past in a dict: .* use the model as it is"):
        compile_decoding(model).new_cache(1)


def test_stream_and_training_mode():
    model = drawn(GPT(GPTConfig(23, 40, 16, 2, 2, dropout=0.5)))
    expected = generate(model, torch.tensor([[3, 1, 4]]), 9, temperature=0)[0, 3:].tolist()
    model.train()
    fast = compile_decoding(model, "eager")
    assert [int(token) for token in stream(fast, torch.tensor([[3, 1, 4]]), 9, temperature=0)] == expected


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RuntimeError, match="compile_decoding needs a C.. compiler, .* or use the model as it is"):
        compile_decoding(drawn(MODELS["gpt"]()))
