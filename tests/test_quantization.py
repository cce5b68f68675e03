"""llmbook.quantization: rounding, layers of codes, and guesses that change nothing."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmbook.generation import generate
from llmbook.gpt import GPT, GPTConfig
from llmbook.llama import Llama, LlamaConfig
from llmbook.quantization import (
    BlockLinear,
    CountDraft,
    ModelDraft,
    PromptLookup,
    absmax_codes,
    accept_guesses,
    cache_memory,
    from_codes,
    quantize_blocks,
    sharpened,
    speculate,
)
from tests.support.pretrained import SMALL, shaken, some_ids
from tests.support.scripted import Scripted


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("block", [None, 8, 32])
def test_rounding_is_off_by_half_a_scale_at_most(bits, block):
    weight = numbers(6, 64)
    weight[2, 5], weight[3] = 50.0, 0.0
    codes, scales = absmax_codes(weight, bits, block)
    assert codes.dtype == torch.int8 and codes.abs().max() == 2 ** (bits - 1) - 1
    assert codes.shape == (6, 64) and scales.shape == (6, 64 // (block or 64))
    back = from_codes(codes, scales)
    wide = scales.repeat_interleave(block or 64, dim=1)
    assert ((back - weight).abs() <= 0.5001 * wide).all()
    assert not back[3].any()
    again, _ = absmax_codes(back, bits, block)
    assert torch.equal(again, codes)  # what is rounded already stays


@pytest.mark.parametrize("bits, block, message", [
    (1, 32, "bits is 1: it must be from 2 to 8"), (9, 32, "bits is 9"),
    (4, 48, "a row of 64 numbers is no whole number of blocks of 48: choose a block"), (4, 0, "blocks of 0"),
])
def test_what_cannot_be_rounded(bits, block, message):
    with pytest.raises(ValueError, match=message):
        absmax_codes(numbers(2, 64), bits, block)


@pytest.mark.parametrize("bits, bias", [(2, False), (4, True), (8, True)])
def test_a_layer_of_codes_computes_with_the_rounded_weights(bits, bias):
    torch.manual_seed(0)
    linear = nn.Linear(64, 12, bias=bias)
    layer = BlockLinear(linear, bits)
    codes, scales = absmax_codes(linear.weight, bits)
    expected = F.linear(x := numbers(3, 5, 64, seed=1), from_codes(codes, scales.half()), linear.bias)
    torch.testing.assert_close(layer(x), expected)
    kept = sum(tensor.numel() * tensor.element_size() for tensor in (layer.codes, layer.scales))
    assert kept * 8 == 12 * 64 * (8 if bits > 4 else 4) + 12 * 2 * 16
    assert layer(x.bfloat16()).dtype == torch.bfloat16 if not bias else True


def test_only_the_layers_that_are_named_are_exchanged():
    model = shaken(Llama(LlamaConfig(**SMALL)))
    expected = {name for name, layer in model.blocks.named_modules() if isinstance(layer, nn.Linear)}
    ids, before = some_ids(2, 20), model(some_ids(2, 20))
    quantize_blocks(model, 8, only="attention.out")
    made = {name for name, layer in model.blocks.named_modules() if isinstance(layer, BlockLinear)}
    assert made == {name for name in expected if "attention.out" in name}
    assert 0 < (model(ids) - before).abs().max() < 0.1 * before.std()
    quantize_blocks(model, 8)
    assert all(not isinstance(layer, nn.Linear) for layer in model.blocks.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="no linear layer in the blocks has 'mlp' in its name"):
        quantize_blocks(shaken(Llama(LlamaConfig(**SMALL))), only="mlp")


@pytest.mark.parametrize("model", [
    Llama(LlamaConfig(**SMALL)), Llama(LlamaConfig(**SMALL, d_head=12)), GPT(GPTConfig(61, 96, 32, 4, 2, 0.0)),
], ids=["grouped", "wide heads", "GPT"])
def test_the_cache_takes_what_is_said(model):
    cache = model.new_cache(3, 50)
    assert cache_memory(model.config, 50, 3, 4) == 4 * (cache.keys.numel() + cache.values.numel())


# --- guesses ---

def test_kept_and_redrawn_tokens_have_the_model_s_distribution():
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
    q = torch.tensor([[0.1, 0.6, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]])
    generator, draws = torch.Generator().manual_seed(0), 6000
    firsts, seconds = torch.zeros(4), torch.zeros(4)
    for _ in range(draws):
        guesses = torch.multinomial(q, 1, generator=generator)[:, 0]
        taken = accept_guesses(p, guesses, q, generator).tolist()
        assert 1 <= len(taken) <= 3
        firsts[taken[0]] += 1
        if len(taken) > 1:
            seconds[taken[1]] += 1
    for counts, wanted in ((firsts, p[0]), (seconds, p[1])):
        expected = counts.sum() * wanted
        assert ((counts - expected) ** 2 / expected).sum() < 16.3  # 3 degrees of freedom, once in a thousand


def test_a_guess_that_cannot_be_is_never_kept_and_a_sure_one_always():
    p, q = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert accept_guesses(p, torch.tensor([0]), q).tolist() == [1]
    assert accept_guesses(p, torch.tensor([1]), q.roll(1)).tolist() == [1, 0]
    assert accept_guesses(p[1:], torch.tensor([], dtype=torch.long), q[:0]).tolist() == [0]


class Bad:
    """Guesses what nobody would."""

    def propose(self, ids, temperature, generator=None):
        guesses = (ids[-3:] + 7) % 61
        return guesses, F.one_hot(guesses, 61).float()


def small_draft(context_length: int = 96, **sizes) -> ModelDraft:
    torch.manual_seed(5)
    return ModelDraft(shaken(Llama(LlamaConfig(**{**SMALL, "context_length": context_length, "n_layers": 1, **sizes}))))


@pytest.mark.parametrize("kind", ["Llama", "GPT"])
@pytest.mark.parametrize("draft", [PromptLookup(61, 1, 5), PromptLookup(61, 9), Bad(),
                                   CountDraft([some_ids(1, 90)[0].tolist()], 61, 4), small_draft(), small_draft(30)],
                         ids=["lookup", "nothing found", "bad", "counts", "small model", "small context"])
def test_the_likeliest_text_is_the_same_with_any_guesses(kind, draft):
    model = shaken(Llama(LlamaConfig(**SMALL)) if kind == "Llama" else GPT(GPTConfig(61, 96, 32, 4, 2, 0.0)))
    start = some_ids(1, 6)
    expected = generate(model, start, 60, temperature=0)
    found, passes = speculate(model, start, 60, draft, temperature=0)
    assert torch.equal(found, expected) and 1 <= passes <= 60


def test_right_guesses_save_passes():
    model = shaken(Llama(LlamaConfig(**SMALL)))
    text = generate(model, some_ids(1, 6), 40, temperature=0)[0]

    class Knows:
        def propose(self, ids, temperature, generator=None):
            guesses = text[len(ids) : len(ids) + 4]
            return guesses, F.one_hot(guesses, 61).float()

    found, passes = speculate(model, some_ids(1, 6), 40, Knows(), temperature=0)
    assert torch.equal(found[0], text) and passes == 8  # five tokens in each


@pytest.mark.parametrize("kind", ["counts", "small model"])
def test_sampled_text_has_the_model_s_distribution(kind):
    torch.manual_seed(0)
    model = shaken(Llama(LlamaConfig(**{**SMALL, "vocab_size": 3, "n_layers": 1})))
    with torch.no_grad():
        model.token_embedding.weight *= 0.3
    start, counts = torch.tensor([[0, 1]]), torch.zeros(3, 3)
    draft = CountDraft([[0, 1, 2, 1, 0, 0, 2]], 3, 2) if kind == "counts" else small_draft(vocab_size=3)
    torch.manual_seed(1)
    for _ in range(1500):
        pair = speculate(model, start, 2, draft)[0][0, 2:].tolist()
        counts[pair[0], pair[1]] += 1
    with torch.no_grad():
        first = model(start)[0, -1].softmax(0)
        both = torch.stack([first[a] * model(torch.tensor([[0, 1, a]]))[0, -1].softmax(0) for a in range(3)])
    expected = 1500 * both
    assert ((counts - expected) ** 2 / expected).sum() < 26.1  # 8 degrees of freedom, once in a thousand
    assert both.min() > 0.003


def test_lookup_takes_the_last_place_and_says_nothing_without_one():
    ids = torch.tensor([5, 6, 1, 5, 6, 2, 9, 5, 6])
    guesses, q = PromptLookup(10, 2, 3).propose(ids, 1.0)
    assert guesses.tolist() == [2, 9, 5] and torch.equal(q, F.one_hot(guesses, 10).float())
    for text in ([1, 2, 3], [1, 1], [1], [1, 2]):
        guesses, q = PromptLookup(10, 2, 3).propose(torch.tensor(text), 0)
        assert len(guesses) == 0 and q.shape == (0, 10)
    assert PromptLookup(10, 1, 4).propose(torch.tensor([7, 7, 7]), 0)[0].tolist() == [7]


def test_counts_count():
    draft = CountDraft([[0, 1, 0, 1, 0, 2]], 3, 2)
    torch.testing.assert_close(draft.chances[0], torch.tensor([0.001, 2.001, 1.001]) / 3.003)
    guesses, q = draft.propose(torch.tensor([2, 0]), 0)
    assert guesses.tolist() == [1, 0] and torch.equal(q, F.one_hot(guesses, 3).float())


def test_a_small_model_guesses_its_own_text_and_reads_each_token_once():
    model = Scripted(context_length=40, vocab_size=61)
    draft, ids = ModelDraft(model, 3), some_ids(1, 6)[0]
    model.says = [7, 8, 9]
    guesses, q = draft.propose(ids, 0)
    assert guesses.tolist() == [7, 8, 9] and torch.equal(q, F.one_hot(guesses, 61).float())
    assert model.passes == [6, 1, 1]
    model.says = [1, 2, 3]
    assert draft.propose(torch.cat([ids, torch.tensor([7, 8, 5])]), 0)[0].tolist() == [1, 2, 3]  # two were kept
    assert model.passes[3:] == [1, 1, 1] and model.held == [*ids.tolist(), 7, 8, 5, 1, 2]
    model.says = [4, 5, 6]
    draft.propose(some_ids(1, 39)[0].flip(0), 0)  # another text: from the beginning, and its context soon ends
    assert model.passes[6:] == [39, 1] and len(model.says) == 1
    guesses, q = draft.propose(some_ids(1, 50)[0], 0)
    assert guesses.shape == (0,) and q.shape == (0, 61)


def test_the_model_itself_as_its_draft_is_always_right():
    model = shaken(Llama(LlamaConfig(**SMALL)))
    expected = generate(model, some_ids(1, 6), 40, temperature=0)
    found, passes = speculate(model, some_ids(1, 6), 40, ModelDraft(copy.deepcopy(model), 4), temperature=0)
    assert torch.equal(found, expected) and passes == 8


def test_temperatures():
    p = torch.tensor([[0.5, 0.3, 0.2]])
    torch.testing.assert_close(sharpened(p, 1.0), p)
    torch.testing.assert_close(sharpened(p, 0.5), p**2 / (p**2).sum())
    assert sharpened(p, 0).tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("temperature", [-1, float("nan"), float("inf"), 1e-9])
def test_a_temperature_that_cannot_be_is_refused_in_one_line(temperature):
    model = shaken(Llama(LlamaConfig(**SMALL)))
    for call in (lambda: speculate(model, some_ids(1, 5), 3, PromptLookup(61), temperature),
                 lambda: speculate(model, some_ids(1, 5), 0, PromptLookup(61), temperature),
                 lambda: sharpened(torch.tensor([0.5, 0.5]), temperature)):
        with pytest.raises(ValueError, match=f"temperature is {temperature}: it must be 0"):
            call()


@pytest.mark.parametrize("call, message", [
    (lambda: PromptLookup(61, match=0), "match is 0 and count 8: both must be at least 1"),
    (lambda: PromptLookup(61, count=0), "match is 2 and count 0: both"),
    (lambda: CountDraft([[1, 2]], 61, count=0), "count is 0: it must be at least 1"),
    (lambda: ModelDraft(None, count=0), "count is 0: it must be at least 1"),
    (lambda: speculate(shaken(Llama(LlamaConfig(**SMALL))), some_ids(1, 5), -1, PromptLookup(61)),
     "max_new_tokens is -1: it must be a whole number, at least 0"),
    (lambda: speculate(shaken(Llama(LlamaConfig(**SMALL))), some_ids(1, 5), 3, PromptLookup(60)),
     "the draft knows 60 tokens and the model 61: give a draft with the model's tokenizer"),
])
def test_guesses_that_cannot_be_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("ids, count", [(some_ids(1, 5)[0], 3), (some_ids(2, 5), 3), (some_ids(1, 5)[:, :0], 3),
                                        (some_ids(1, 90), 7)])
def test_texts_that_do_not_fit_are_refused(ids, count):
    model = shaken(Llama(LlamaConfig(**SMALL)))
    with pytest.raises(ValueError, match="give one text that has, with . tokens more, 1 to 96"):
        speculate(model, ids, count, PromptLookup(61))
    assert speculate(model, some_ids(1, 90), 6, PromptLookup(61))[0].shape == (1, 96)


def test_the_model_is_left_as_it_was():
    model = shaken(Llama(LlamaConfig(**SMALL)))
    before = copy.deepcopy(model.state_dict())
    speculate(model, some_ids(1, 5), 10, PromptLookup(61), seed=3)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))
    draft = CountDraft([some_ids(1, 90)[0].tolist()], 61)
    texts = [speculate(model, some_ids(1, 5), 10, draft, seed=seed)[0].tolist() for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1] and len({str(text) for text in texts}) > 1
    assert list(itertools.chain(*texts[0]))[:5] == some_ids(1, 5)[0].tolist()
