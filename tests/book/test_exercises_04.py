"""Chapter 4's exercises: right answers in more than one form pass, and each common mistake is named."""

import pkgutil
import re
from importlib import import_module

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmbook.book import exercises
from llmbook.book.exercises import Wrong
from llmbook.book.exercises import chapter_04 as check
from llmbook.book.ladder import CONTEXT
from llmbook.gpt import GPT, GPTConfig, TransformerBlock, count_parameters


def rejects(exercise, answer, phrase):
    with pytest.raises(Wrong, match=re.escape(phrase)):
        exercise.verify(answer)


# --- 4.1 shapes --------------------------------------------------------------------------------------------------

def shapes(config, batch, tokens):
    keys = (config.n_layers, batch, config.n_heads, config.context_length, config.d_model // config.n_heads)
    return [(batch, tokens, config.d_model), (batch, tokens, 4 * config.d_model), (batch, tokens, config.vocab_size),
            (batch, config.vocab_size), keys]


def shapes_measured(config, batch, tokens):
    with torch.device("meta"):
        model = GPT(config)
        hidden = model.hidden_states(torch.zeros(batch, tokens, dtype=torch.long))
        return (hidden.shape, model.blocks[0].feed_forward.expand(hidden).shape, model.lm_head(hidden).shape,
                model.lm_head(hidden[:, -1]).shape, model.new_cache(batch).keys.shape)


def with_shape(index, change):
    def answer(config, batch, tokens):
        found = shapes(config, batch, tokens)
        found[index] = change(config, batch, tokens)
        return tuple(found)
    return answer


def test_shapes_right():
    check.exercise_1.verify(shapes)
    check.exercise_1.verify(shapes_measured)


@pytest.mark.parametrize("answer, phrase", [
    (with_shape(0, lambda c, b, t: (t, b, c.d_model)), "the batch comes first"),
    (with_shape(0, lambda c, b, t: (b, c.context_length, c.d_model)), "is the most that fits"),
    (with_shape(0, lambda c, b, t: (b, t)), "vector of d_model features"),
    (with_shape(1, lambda c, b, t: (b, t, c.d_model)), "the shape before and after"),
    (with_shape(1, lambda c, b, t: (b, t, 3 * c.d_model)), "4 x d_model features"),
    (with_shape(2, lambda c, b, t: (b, c.vocab_size)), "scores at every place"),
    (with_shape(2, lambda c, b, t: (b, t, c.d_model)), "one score for each token of the vocabulary"),
    (with_shape(3, lambda c, b, t: (b, 1, c.vocab_size)), "takes the dimension of the tokens away"),
    (with_shape(3, lambda c, b, t: (b, t, c.vocab_size)), "one place is left of each text"),
    (with_shape(4, lambda c, b, t: (c.n_layers, b, c.n_heads, t, c.d_model // c.n_heads)), "reserved at once"),
    (with_shape(4, lambda c, b, t: (b, c.n_heads, c.context_length, c.d_model // c.n_heads)), "serves all blocks"),
    (with_shape(4, lambda c, b, t: (c.n_layers, b, c.n_heads, c.context_length, c.d_model)), "share the d_model"),
    (with_shape(4, lambda c, b, t: (b, t, c.d_model)), "room for tokens"),
    (lambda c, b, t: shapes(c, b, t)[:4], "five shapes"),
    (lambda c, b, t: b * t, "five shapes"),
    (lambda c, b, t: (1, 2, 3, 4, 5), "should be a tuple of sizes"),
])
def test_shapes_wrong(answer, phrase):
    rejects(check.exercise_1, answer, phrase)


# --- 4.2 the block that forgets ----------------------------------------------------------------------------------

def steps(first, second):
    def answer(block, x):
        x = first(x, block.attention, block.attention_norm)
        return second(x, block.feed_forward, block.feed_forward_norm)
    return answer


def pre(x, step, norm):
    return x + step(norm(x))


def forgets(x, step, norm):
    return norm(x) + step(norm(x))


def post(x, step, norm):
    return norm(x + step(x))


def no_norm(x, step, norm):
    return x + step(x)


def no_addition(x, step, norm):
    return step(norm(x))


def swapped_norms(block, x):
    x = x + block.attention(block.feed_forward_norm(x))
    return x + block.feed_forward(block.attention_norm(x))


def adds_to_the_input(block, x):
    middle = x + block.attention(block.attention_norm(x))
    return x + block.feed_forward(block.feed_forward_norm(middle))


def in_place(block, x):
    x += block.attention(block.attention_norm(x))
    return x + block.feed_forward(block.feed_forward_norm(x))


def by_hand(block, x):
    for step, norm in ((block.attention, block.attention_norm), (block.feed_forward, block.feed_forward_norm)):
        centred = x - x.mean(-1, keepdim=True)
        x = x + block.dropout(step(centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
                                   + norm.bias))
    return x


def test_mended_block_right():
    check.exercise_2.verify(steps(pre, pre))
    check.exercise_2.verify(by_hand)
    check.exercise_2.verify(lambda block, x: block(x))


@pytest.mark.parametrize("answer, phrase", [
    (steps(forgets, forgets), "still the forgetful block"),
    (steps(pre, forgets), "The first half is right"),
    (steps(forgets, pre), "The second half is right"),
    (steps(post, post), "norms of 2017"),
    (steps(no_norm, no_norm), "norms are gone"),
    (steps(no_addition, no_addition), "additions are gone"),
    (swapped_norms, "norms are swapped"),
    (adds_to_the_input, "adds to the block's input"),
    (in_place, "x itself was changed"),
    (lambda block, x: x, "x = x + part(norm(x))"),
    (lambda block, x: block(x)[0], "has shape"),
    (lambda block, x: (x, x), "The result should be a tensor, not tuple"),
])
def test_mended_block_wrong(answer, phrase):
    rejects(check.exercise_2, answer, phrase)


def test_the_forgetful_block_forgets_how_large_its_input_was():
    """What the exercise tells the reader to try."""
    torch.manual_seed(0)
    block = TransformerBlock(GPTConfig(d_model=64, n_heads=4, dropout=0.0))
    x = torch.randn(1, 6, 64)
    with torch.no_grad():
        forgetful, ours = steps(forgets, forgets), steps(pre, pre)
        assert torch.allclose(forgetful(block, 10 * x), forgetful(block, x), atol=1e-3)
        assert (ours(block, 10 * x) - ours(block, x)).abs().max() > 1


# --- 4.3 memory of the cache -------------------------------------------------------------------------------------

def cache_memory(config, batch, tokens, size):
    return 2 * config.n_layers * batch * tokens * config.d_model * size


def cache_memory_measured(config, batch, tokens, size):
    with torch.device("meta"):
        cache = GPT(config).new_cache(batch, tokens)
    return sum(tensor.numel() for tensor in (cache.keys, cache.values)) * size


def test_cache_memory_right():
    check.exercise_3.verify(cache_memory)
    check.exercise_3.verify(cache_memory_measured)


@pytest.mark.parametrize("answer, phrase", [
    (lambda c, b, t, s: cache_memory(c, b, t, s) // 2, "keys and values are both kept"),
    (lambda c, b, t, s: cache_memory(c, b, t, s) // c.n_layers, "one block's share"),
    (lambda c, b, t, s: cache_memory(c, b, t, s) * c.n_heads, "the heads share d_model"),
    (lambda c, b, t, s: cache_memory(c, b, t, s) // c.n_heads, "one head's share"),
    (lambda c, b, t, s: cache_memory(c, b, t, 1), "Multiply by bytes_per_number"),
    (lambda c, b, t, s: cache_memory(c, b, t, 8 * s), "in bits"),
    (lambda c, b, t, s: cache_memory(c, 1, t, s), "one text's share"),
    (lambda c, b, t, s: cache_memory(c, b, c.context_length, s), "not context_length"),
    (lambda c, b, t, s: cache_memory(c, b, t, 4), "bytes_per_number=2"),
    (lambda c, b, t, s: cache_memory(c, b, t, s) / 1e9, "in bytes should be a whole number"),
    (lambda c, b, t, s: float("nan"), "should be a whole number, not nan"),
    (lambda c, b, t, s: 5, "one token in one block"),
])
def test_cache_memory_wrong(answer, phrase):
    rejects(check.exercise_3, answer, phrase)


# --- 4.4 a table of its own --------------------------------------------------------------------------------------

class Layer(GPT):
    """The head as a layer."""

    def __init__(self, config, std=0.02, bias=False):
        super().__init__(config)
        self.output = nn.Linear(config.d_model, config.vocab_size, bias=bias)
        if std is not None:
            nn.init.normal_(self.output.weight, std=std)

    def lm_head(self, hidden):
        return self.output(hidden)


class Bare(GPT):
    """The head as a parameter, under another name."""

    def __init__(self, config):
        super().__init__(config)
        self.table = nn.Parameter(0.02 * torch.randn_like(self.token_embedding.weight))

    def lm_head(self, hidden):
        return hidden @ self.table.T


class InForward(Layer):
    def forward(self, token_ids, cache=None):
        return self.output(self.hidden_states(token_ids, cache))

    def lm_head(self, hidden):
        return GPT.lm_head(self, hidden)


class Unused(Layer):
    def lm_head(self, hidden):
        return GPT.lm_head(self, hidden)


class Hidden(GPT):
    """The head under the name of the method."""

    def __init__(self, config, draw=False):
        super().__init__(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if draw:
            nn.init.normal_(self.lm_head.weight, std=0.02)  # the method has no weight


class Tied(Layer):
    def __init__(self, config):
        super().__init__(config)
        self.output.weight = self.token_embedding.weight


class Copied(Layer):
    def __init__(self, config):
        super().__init__(config)
        self.output.weight = nn.Parameter(self.token_embedding.weight.detach().clone())


class ForgetsTheCache(Layer):
    def hidden_states(self, token_ids, cache=None):
        return super().hidden_states(token_ids)


class Transposed(GPT):
    def __init__(self, config):
        super().__init__(config)
        self.table = nn.Parameter(0.02 * torch.randn(config.d_model, config.vocab_size))

    def lm_head(self, hidden):
        return hidden @ self.table


def test_untied_right():
    check.exercise_4.verify(Layer)
    check.exercise_4.verify(lambda config: Bare(config))


@pytest.mark.parametrize("answer, phrase", [
    (GPT, "no more parameters than a GPT"),
    (Tied, "no more parameters than a GPT"),
    (lambda config: Layer(config, bias=True), "The output has a bias"),
    (lambda config: Layer(config, std=None), "standard deviation of 0.1"),
    (lambda config: Layer(config, std=1.0), "standard deviation of"),
    (InForward, "Change lm_head, not forward"),
    (Unused, "The output still uses the token embedding"),
    (Hidden, "hidden by the method of that name"),
    (lambda config: Hidden(config, draw=True), "hidden by the method of that name"),
    (Copied, "starts as a copy"),
    (Transposed, "shape (vocab_size, d_model)"),
    (ForgetsTheCache, "With the cache, in parts"),
    (lambda config: Layer, "the class itself"),
    (lambda config: nn.Linear(2, 2), "not Linear"),
    (lambda config: Layer(type(config)(d_model=32, n_heads=4, n_layers=2, vocab_size=300)), "config differs"),
])
def test_untied_wrong(answer, phrase):
    rejects(check.exercise_4, answer, phrase)


# --- 4.5 the lab -------------------------------------------------------------------------------------------------

class ThreeBytes(nn.Module):
    """The solution: chapter 1's three bytes below two blocks."""

    def __init__(self, features=48, blocks=2):
        super().__init__()
        config = GPTConfig(257, CONTEXT, features, n_heads=4, dropout=0.0)
        self.embedding, self.hidden = nn.Embedding(257, 24), nn.Linear(3 * 24, features)
        self.position = nn.Parameter(0.1 * torch.randn(CONTEXT, features))
        self.blocks = nn.Sequential(*(TransformerBlock(config) for _ in range(blocks)))
        self.norm, self.out = nn.LayerNorm(features), nn.Linear(features, 257)

    def forward(self, ids):
        three = F.pad(ids, (2, 0), value=256).unfold(1, 3, 1)
        x = self.hidden(self.embedding(three).flatten(2)) + self.position[: ids.shape[1]]
        return self.out(self.norm(self.blocks(x)))


class LooksAhead(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(257, 8), nn.Linear(8, 257)

    def forward(self, ids):
        return self.out(self.embedding(ids.roll(-1, dims=1)))


def test_small_model_right():
    assert count_parameters(ThreeBytes()) <= check.LAB_PARAMETERS


@pytest.mark.slow
def test_small_model_reaches_the_target():
    check.exercise_5.verify(lambda: (ThreeBytes(), 8e-3))


@pytest.mark.slow
def test_the_plain_model_that_the_text_names_misses_the_target():
    rejects(check.exercise_5, lambda: (GPT(GPTConfig(257, CONTEXT, 48, 4, 2, 0.0)), 1e-3), "the target is 2.6")


@pytest.mark.parametrize("bits, rate, phrase", [
    (3.5, 8e-3, "no better than counting pairs"), (float("nan"), 8e-3, "no better than counting pairs"),
    (2.9, 1e-3, "larger learning rate"), (2.9, 8e-3, "What does the first layer see")])
def test_small_model_missed(monkeypatch, bits, rate, phrase):
    monkeypatch.setattr(check, "train_small_model", lambda model, rate: bits)
    rejects(check.exercise_5, lambda: (ThreeBytes(), rate), phrase)


def test_small_model_just_made_it(monkeypatch):
    monkeypatch.setattr(check, "train_small_model", lambda model, rate: check.LAB_TARGET - 0.001)
    check.exercise_5.verify(lambda: (ThreeBytes(), 1e-3))


@pytest.mark.parametrize("answer, phrase", [
    (lambda: ThreeBytes(), "Return two things"),
    (lambda: (1e-3, ThreeBytes()), "should be one number, not ThreeBytes"),
    (lambda: ("model", 1e-3), "not str"),
    (lambda: (ThreeBytes(), 3), "The learning rate is 3"),
    (lambda: (ThreeBytes(64), 1e-3), "parameters, more than 100,000"),
    (lambda: (LooksAhead(), 1e-3), "looks ahead"),
    (lambda: (nn.Sequential(nn.Embedding(257, 8), nn.Linear(8, 256)), 1e-3), "has shape (2, 64, 256)"),
])
def test_small_model_wrong(answer, phrase):
    rejects(check.exercise_5, answer, phrase)


# --- all of them -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", range(1, 6))
def test_a_stub_has_not_been_started_and_a_crash_is_reported(number, capsys):
    for stub in (lambda *arguments: None, lambda *arguments: ...):
        getattr(check, f"exercise_{number}")(stub)
        assert capsys.readouterr().out.startswith(f"Exercise 4.{number}: not started.")
    getattr(check, f"exercise_{number}")(lambda *arguments: 1 / 0)
    assert "not yet. Your code stopped with ZeroDivisionError" in capsys.readouterr().out


@pytest.mark.parametrize("stub", [None, ...])
def test_shapes_that_are_stubs_have_not_been_started(stub, capsys):
    check.exercise_1(lambda config, batch, tokens: [*shapes(config, batch, tokens)[:4], stub])
    assert capsys.readouterr().out.startswith("Exercise 4.1: not started.")


CHECKS = [f"{chapter.name}.{name}" for chapter in pkgutil.iter_modules(exercises.__path__)
          for name in vars(import_module(f"llmbook.book.exercises.{chapter.name}")) if name.startswith("exercise_")]


@pytest.mark.parametrize("name", CHECKS)
def test_every_chapters_checks_leave_the_random_numbers_as_they_were(name, capsys):
    def draws_and_fails(*arguments):
        raise ZeroDivisionError(torch.rand(3))

    chapter, exercise = name.split(".")
    printed = set()
    for seed in (5, 6):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        getattr(getattr(exercises, chapter), exercise)(draws_and_fails)
        assert torch.equal(torch.get_rng_state(), before)
        printed.add(capsys.readouterr().out)
    assert len(printed) == 1, "a check draws the same numbers each time"


def test_a_right_answer_leaves_the_random_numbers_as_they_were():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    check.exercise_2.verify(by_hand)
    check.exercise_4.verify(Layer)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_checks_here_do_not_reseed_a_gpu(monkeypatch):
    monkeypatch.setattr(torch, "manual_seed", None)  # it would: a check that calls it stops
    check.exercise_2.verify(by_hand)
    check.exercise_4.verify(Layer)
