"""llmbook.sequence_mixers: every layer one by one, at once and in chunks; with a cache as without; saved and loaded."""

import warnings

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.attention import MultiHeadAttention
from llmbook.families import family_of
from llmbook.generation import generate
from llmbook.llama import Llama, LlamaConfig
from llmbook.open_weights import Chat
from llmbook.sequence_mixers import (
    MIXERS,
    DeltaNet,
    HybridConfig,
    HybridLlama,
    LinearAttention,
    delta_rule,
    linear_attention,
)
from llmbook.state_cache import StateCache
from llmbook.text import load_tokenizer
from llmbook.training import TrainingConfig, load_model, next_token_loss, save_model, train
from tests.support.token_ids import WRONG_TOKEN_IDS

SIZES = {"vocab_size": 50, "context_length": 64, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2,
         "d_hidden": 48, "window": 5, "chunk": 8}
KINDS = [*((mixer,) for mixer in MIXERS), ("gated delta", "attention"), ("window", "linear")]


def shaken(*mixers: str, **changes) -> HybridLlama:
    """A model whose every weight counts."""
    torch.manual_seed(0)
    model = HybridLlama(HybridConfig(**{**SIZES, "mixers": mixers, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def some_ids(batch: int, tokens: int, seed: int = 0) -> Tensor:
    return torch.randint(50, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def parts(tokens: int, d: int = 8, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """query, key (of length 1), value, write, log_decay."""
    draw = torch.Generator().manual_seed(tokens)
    query, key, value = torch.randn(3, 2, 3, tokens, d, generator=draw, dtype=dtype)
    write, decay = torch.rand(2, 2, 3, tokens, generator=draw, dtype=dtype)
    return [query, F.normalize(key, dim=3), value, write, -decay]


def by_steps(query, key, value, write, log_decay, state=None) -> tuple[Tensor, Tensor]:
    """The delta rule from its definition: first fade, then replace what the key held, then read."""
    batch, heads, tokens, d_key = key.shape
    state = torch.zeros(batch, heads, d_key, value.shape[3]) if state is None else state.clone()
    found = torch.empty_like(value)
    for b in range(batch):
        for h in range(heads):
            memory = state[b, h]
            for t in range(tokens):
                k, v = key[b, h, t], value[b, h, t]
                memory = log_decay[b, h, t].exp() * memory
                memory = memory + write[b, h, t] * torch.outer(k, v - k @ memory)
                found[b, h, t] = query[b, h, t] @ memory
            state[b, h] = memory
    return found, state


# --- the two rules -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("chunk", [1, 4, 7, 64])
@pytest.mark.parametrize("tokens", [1, 21])
def test_linear_attention_is_the_same_at_once_one_by_one_and_in_chunks(tokens, chunk):
    query, key, value, *_ = parts(tokens)
    at_once = (query @ key.mT).tril() @ value
    state, rows = torch.zeros(2, 3, 8, 8), []
    for t in range(tokens):
        state = state + key[:, :, t, :, None] * value[:, :, t, None]
        rows.append((query[:, :, t, :, None] * state).sum(2))
    found, last = linear_attention(query, key, value, chunk=chunk)
    for expected in (at_once, torch.stack(rows, 2)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(last, state, rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 4, 7, 64])
@pytest.mark.parametrize("tokens", [1, 21])
def test_the_delta_rule_is_the_same_one_by_one_and_in_chunks(tokens, chunk):
    values = parts(tokens)
    expected, state = by_steps(*values)
    found, last = delta_rule(*values, chunk=chunk)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(last, state, rtol=0, atol=1e-5)
    plain, _ = by_steps(*values[:4], torch.zeros(2, 3, tokens))
    torch.testing.assert_close(delta_rule(*values[:4], chunk=chunk)[0], plain, rtol=0, atol=1e-5)


def test_a_text_may_be_read_in_pieces():
    values = parts(21)
    whole, last = delta_rule(*values, chunk=8)
    first, state = delta_rule(*(part[:, :, :10] for part in values), chunk=8)
    rest, end = delta_rule(*(part[:, :, 10:] for part in values), state, chunk=8)
    torch.testing.assert_close(torch.cat([first, rest], 2), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(end, last, rtol=0, atol=1e-5)
    query, key, value, *_ = values
    whole, _ = linear_attention(query, key, value)
    _, state = linear_attention(*(part[:, :, :10] for part in (query, key, value)))
    rest, _ = linear_attention(*(part[:, :, 10:] for part in (query, key, value)), state)
    torch.testing.assert_close(rest, whole[:, :, 10:], rtol=0, atol=1e-5)


def test_gradients_are_those_of_finite_differences():
    values = [part[:1, :2, :7, ...].requires_grad_() for part in parts(7, 3, torch.float64)]
    state = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *given: delta_rule(*given, chunk=3), (*values, state))
    assert torch.autograd.gradcheck(lambda q, k, v, s: linear_attention(q, k, v, s, 3), (*values[:3], state))


def test_a_strong_decay_over_a_long_chunk_stays_finite():
    query, key, value, write, _ = parts(64)
    decay = torch.full((2, 3, 64), -20.0, requires_grad=True)
    found, _ = delta_rule(query, key, value, write, decay, chunk=64)
    gradient, = torch.autograd.grad(found.sum(), decay)
    assert found.isfinite().all() and gradient.isfinite().all()


def test_a_key_that_comes_again_gets_its_new_value():
    key = torch.eye(4)[[0, 1, 0]].view(1, 1, 3, 4)
    value = torch.eye(4)[[1, 2, 3]].view(1, 1, 3, 4)
    found, _ = delta_rule(key, key, value, torch.ones(1, 1, 3))
    torch.testing.assert_close(found, value)
    added, _ = linear_attention(key, key, value)
    assert added[0, 0, 2].tolist() == [0, 1, 0, 1]  # both


# --- layers and models -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("layer", [LinearAttention(16, 2, 8), DeltaNet(16, 2, 8), DeltaNet(16, 2, 8, gated=True)])
def test_a_layer_sees_nothing_after_a_token(layer):
    x = torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, 7:] += 1
    with torch.no_grad():
        first, second = layer(x), layer(other)
    torch.testing.assert_close(first[:, :7], second[:, :7])
    assert not torch.allclose(first[:, 7:], second[:, 7:])


def one_by_one(layer: LinearAttention | DeltaNet, x: Tensor) -> Tensor:
    """What a layer makes of one text (tokens, d_model), from its weights and the papers' definitions, a token and a
    head at a time."""
    heads, past, rows = layer.n_heads, [torch.zeros(layer.qkv.out_features)] * 3, []
    d_head = layer.out.in_features // heads
    states = [(torch.zeros(d_head, d_head), torch.zeros(d_head))] * heads
    for token in x:
        past = [*past[-3:], layer.qkv.weight @ token]
        mixed = F.silu((layer.convolution.weight[:, 0].T * torch.stack(past)).sum(0)).view(3, heads, -1)
        found = []
        for head, (q, k, v) in enumerate(zip(*mixed)):
            state, weights = states[head]
            if isinstance(layer, LinearAttention):
                q, k = F.elu(q) + 1, F.elu(k) + 1
                state, weights = state + torch.outer(k, v), weights + k
                read = (q @ state) / (q @ weights)
            else:
                q, k = q / q.norm(), k / k.norm()
                if layer.decay is not None:
                    rate = layer.log_rate[head].exp() * F.softplus(layer.decay.weight[head] @ token)
                    state = state * (-rate).exp()
                state = state + (layer.write.weight[head] @ token).sigmoid() * torch.outer(k, v - k @ state)
                read = q @ state
            states[head] = state, weights
            found.append(layer.out_norm.weight * read / (read.square().mean() + 1e-5).sqrt())
        rows.append(layer.out.weight @ torch.cat(found))
    return torch.stack(rows)


@pytest.mark.parametrize("layer", [LinearAttention(16, 2, 8, 4), DeltaNet(16, 2, 8, 4),
                                   DeltaNet(16, 2, 8, 4, gated=True)])
@torch.no_grad()
def test_a_layer_is_what_its_definition_says(layer):
    torch.manual_seed(0)
    for weight in layer.parameters():
        weight += 0.3 * torch.randn_like(weight)
    x = torch.randn(2, 11, 16)
    for row, found in zip(x, layer(x), strict=True):
        torch.testing.assert_close(found, one_by_one(layer, row), rtol=1e-4, atol=1e-4)


def test_the_first_weights_of_a_mixer_are_those_of_attention():
    torch.manual_seed(0)
    model = HybridLlama(HybridConfig(**{**SIZES, "d_model": 128, "n_layers": 8, "mixers": ("gated delta", "linear")}))
    for block in model.blocks[:2]:
        assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert block.attention.out.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)


def test_linear_attention_is_a_mean_of_values():
    """Weights above 0 that add up to 1: features that are the same in all values stay."""
    layer = LinearAttention(8, 1, 4)
    query, key, _ = torch.randn(3, 1, 1, 9, 4, generator=torch.Generator().manual_seed(0))
    found, _ = layer.mix(query, key, torch.full((1, 1, 9, 4), 2.5), torch.empty(1), None, None)
    torch.testing.assert_close(found, torch.full((1, 1, 9, 4), 2.5))


def test_without_a_decay_nothing_fades_and_at_first_heads_forget_at_different_speeds():
    rates = DeltaNet(32, 4, 8, gated=True).log_rate.exp()
    torch.testing.assert_close(rates, torch.tensor([8.0, 32.0, 128.0, 512.0]).reciprocal())
    assert not hasattr(DeltaNet(32, 4, 8), "log_rate")


@pytest.mark.parametrize("mixers", KINDS, ids=" ".join)
def test_with_a_cache_as_without(mixers):
    model, ids = shaken(*mixers), some_ids(2, 33)
    with torch.no_grad():
        whole, cache = model(ids), model.new_cache(2)
        pieces = [model(part, cache) for part in ids.split([9, 1, 1, 22], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-4, atol=1e-4)
    assert cache.length == 33


@pytest.mark.parametrize("mixers", KINDS, ids=" ".join)
def test_generation_with_a_cache_is_generation_without(mixers):
    """Prompts of unequal length, so with padding, beside each one alone and without any cache."""
    model = shaken(*mixers)
    prompts = [some_ids(1, tokens, seed)[0] for seed, tokens in enumerate((9, 2, 14))]
    together = generate(model, prompts, 10, temperature=0)
    for prompt, row in zip(prompts, together, strict=True):
        ids = prompt[None]
        for _ in range(10):
            with torch.no_grad():
                ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], 1)
        assert torch.equal(row, ids[0])


@pytest.mark.parametrize("mixers", KINDS, ids=" ".join)
def test_the_bytes_that_are_counted_are_kept(mixers):
    model, cache = shaken(*mixers), None
    for tokens in (3, 20):
        cache = model.new_cache(1, tokens)
        with torch.no_grad():
            model(some_ids(1, tokens), cache)
        held = sum(layer.nbytes if isinstance(layer, StateCache) else layer.keys.nbytes + layer.values.nbytes
                   for layer in cache.layers)
        assert held == model.config.state_bytes(tokens)


def test_going_back_in_a_conversation_reads_on_from_where_it_still_can():
    model, ids = shaken("gated delta", "window"), some_ids(1, 30)
    with torch.no_grad():
        cache = model.new_cache(1)
        model(ids[:, :20], cache)
        model(ids[:, 20:], cache)
        cache.rewind(25)
        assert cache.length == 20
        torch.testing.assert_close(model(ids[:, cache.length :], cache), model(ids)[:, 20:], rtol=1e-4, atol=1e-4)


def test_a_chat_goes_on_with_its_state():
    torch.manual_seed(0)
    tokenizer = load_tokenizer("gpt2")
    sizes = {**SIZES, "vocab_size": 50257, "context_length": 4096, "mixers": ("gated delta", "attention")}
    model, read = HybridLlama(HybridConfig(**sizes)).eval(), []
    model.register_forward_pre_hook(lambda module, arguments: read.append(arguments[0].shape[1]))
    model.hidden_states = lambda ids, cache=None: read.append(ids.shape[1]) or HybridLlama.hidden_states(
        model, ids, cache)
    chat = Chat(model, tokenizer, stop="<|endoftext|>", max_new_tokens=4, system="", temperature=0,
                template=lambda messages: " ".join(message["content"] for message in messages))
    chat.say("A long first message about kettles that sing because they boil over and over again")
    before = len(read)
    chat.say("Go on")
    assert read[before] < 10  # not the whole conversation
    before = len(read)
    chat.say("word " * 2500)  # needs a larger cache than the first one, which goes on from the old one's state
    assert len(chat.messages) == 6
    assert 2500 < read[before] < len(chat.read_so_far.ids) - 20


def test_saving_and_loading(tmp_path):
    model = shaken("gated delta", "linear", "window", "attention", n_layers=4)
    save_model(model, tmp_path)
    again = load_model(tmp_path, "cpu")
    assert type(again) is HybridLlama and again.config == model.config and family_of(again).plain_head
    assert torch.equal(again(some_ids(1, 20)), model(some_ids(1, 20)))


def test_with_attention_everywhere_it_is_llama():
    torch.manual_seed(0)
    plain = Llama(LlamaConfig(**{name: SIZES[name] for name in SIZES if name not in ("window", "chunk")}))
    model = HybridLlama(HybridConfig(**{**SIZES, "mixers": ("attention",)}))
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model(some_ids(1, 20)), plain(some_ids(1, 20)))


@pytest.mark.parametrize("mixers", [("linear",), ("gated delta", "attention")], ids=" ".join)
def test_it_learns(mixers):
    torch.manual_seed(0)
    model = HybridLlama(HybridConfig(**{**SIZES, "mixers": mixers}))
    ids = some_ids(4, 17)
    history = train(model, [(ids[:, :-1], ids[:, 1:])], next_token_loss,
                    TrainingConfig(max_steps=30, learning_rate=1e-2, device="cpu", progress=False))
    assert history.steps[-1]["loss"] < 0.6 * history.steps[0]["loss"]


def test_states_stay_in_float32_where_the_rest_does_not():
    model = shaken("linear", "gated delta")
    half = shaken("linear", "gated delta").to(torch.bfloat16)
    cache = half.new_cache(1)
    with torch.no_grad():
        found = half(some_ids(1, 20), cache)
        wanted = model(some_ids(1, 20))
    assert found.dtype == torch.bfloat16 and all(layer.states[1].dtype == torch.float32 for layer in cache.layers)
    assert F.cosine_similarity(found.float().flatten(), wanted.flatten(), dim=0) > 0.98
    torch.set_warn_always(True)
    with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("error")  # norms of one number format with weights of another are slow, and said to be
        loss = next_token_loss(model, some_ids(2, 9), some_ids(2, 9))
    torch.set_warn_always(False)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("changes, message", [
    ({"mixers": ("mamba",)}, "no mixer 'mamba': choose from attention, window, linear, delta, gated delta"),
    ({"mixers": ()}, r"mixers is \(\): give a list"), ({"mixers": "linear"}, "mixers is 'linear': give a list"),
    ({"mixers": ("window",), "window": None}, "window is None: say how many tokens"),
    ({"chunk": 0}, "chunk is 0: it must be a whole number, at least 1"),
    ({"d_model": 0}, "d_model is 0"),
])
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        HybridConfig(**{**SIZES, **changes})


def test_each_block_has_the_mixer_that_is_named():
    blocks = shaken(*MIXERS, n_layers=5).blocks
    assert [type(block.attention) for block in blocks] == [MultiHeadAttention] * 2 + [LinearAttention] + [DeltaNet] * 2
    assert [block.attention.window for block in blocks[:2]] == [None, 5]
    assert blocks[3].attention.decay is None and blocks[4].attention.decay is not None


def test_mixers_are_repeated():
    config = HybridConfig(**{**SIZES, "n_layers": 6, "mixers": ["gated delta", "window", "window"]})
    assert config.mixers == ("gated delta", "window", "window") * 2 and config.window_layers == (1, 2, 4, 5)
    assert HybridConfig(**{**SIZES, "n_layers": 8}).mixers.count("attention") == 2


@pytest.mark.parametrize("ids, message", WRONG_TOKEN_IDS)
def test_wrong_ids_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        shaken("gated delta", vocab_size=50, context_length=24)(ids)


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 5\): give \(batch, tokens, 16\)"):
        DeltaNet(16, 2, 8)(torch.zeros(1, 3, 5))
