"""Chapter 4's exercises: right answers in more than one form pass, and each common mistake is named."""

import pkgutil
import re
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn

from llmbook.book import exercises
from llmbook.book.exercises import Wrong
from llmbook.book.exercises import chapter_04 as check
from llmbook.gpt import GPT, TransformerBlock, count_parameters


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


# --- 4.2 parameters of a block -----------------------------------------------------------------------------------

def block_parameters(d, bias):
    return 12 * d**2 + 10 * d + 3 * d * bias


def block_parameters_in_parts(d, bias):
    qkv, out = 3 * d * d + (3 * d if bias else 0), d * d + d
    return torch.tensor(qkv + out + (d * 4 * d + 4 * d) + (4 * d * d + d) + 2 * (d + d))


def test_block_parameters_right():
    check.exercise_2.verify(block_parameters)
    check.exercise_2.verify(block_parameters_in_parts)
    check.exercise_2.verify(lambda d, bias: np.int64(block_parameters(d, bias)))


@pytest.mark.parametrize("answer, phrase", [
    (lambda d, bias: 12 * d * d, "matrices alone"),
    (lambda d, bias: block_parameters(d, bias) - 4 * d, "the two norms"),
    (lambda d, bias: block_parameters(d, bias) - 2 * d, "One norm is missing"),
    (lambda d, bias: block_parameters(d, bias) - d, "output of attention has one too"),
    (lambda d, bias: block_parameters(d, bias) - 5 * d, "biases of feed-forward"),
    (lambda d, bias: block_parameters(d, bias) - 6 * d, "Biases are missing"),
    (lambda d, bias: block_parameters(d, True), "(12, False) is 1,884, PyTorch counts 1,848. Only with qkv_bias=True"),
    (lambda d, bias: block_parameters(d, False), "(12, True) is 1,848, PyTorch counts 1,884. Only with qkv_bias=True"),
    (lambda d, bias: block_parameters(d, bias) - 3 * d * (not bias), "each matrix is inputs x outputs"),
    (lambda d, bias: block_parameters(d, bias) + 3 * d * bias, "each matrix is inputs x outputs"),
    (lambda d, bias: True, "should be one number, not bool"),
    (lambda d, bias: torch.ones(2), "should be one number, not Tensor"),
    (lambda d, bias: block_parameters(d, bias) - d * d, "One matrix of attention"),
    (lambda d, bias: block_parameters(d, bias) - 4 * d * d, "feed-forward has two"),
    (lambda d, bias: 17, "each matrix is inputs x outputs"),
    (lambda d, bias: block_parameters(d, bias) + 0.5, "whole number"),
    (lambda d, bias: "many", "should be one number, not str"),
])
def test_block_parameters_wrong(answer, phrase):
    rejects(check.exercise_2, answer, phrase)


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


# --- 4.4 norm after the addition ---------------------------------------------------------------------------------

def post_norm(block, x):
    x = block.attention_norm(x + block.attention(x))
    return block.feed_forward_norm(x + block.feed_forward(x))


def post_norm_by_loop(block, x):
    for step, norm in ((block.attention, block.attention_norm), (block.feed_forward, block.feed_forward_norm)):
        total = torch.add(x, block.dropout(step(x)))
        centred = total - total.mean(-1, keepdim=True)
        x = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias
    return x


def steps(first, second):
    def answer(block, x):
        x = first(x, block.attention, block.attention_norm)
        return second(x, block.feed_forward, block.feed_forward_norm)
    return answer


def post(x, step, norm):
    return norm(x + step(x))


def on_branch(x, step, norm):
    return x + norm(step(x))


def no_addition(x, step, norm):
    return norm(step(x))


def no_norm(x, step, norm):
    return x + step(x)


def both_norms(x, step, norm):
    return norm(x + step(norm(x)))


def swapped_norms(block, x):
    x = block.feed_forward_norm(x + block.attention(x))
    return block.attention_norm(x + block.feed_forward(x))


def adds_to_the_input(block, x):
    middle = block.attention_norm(x + block.attention(x))
    return block.feed_forward_norm(x + block.feed_forward(middle))


def in_place(block, x):
    x += block.attention(x)
    return post_norm(block, x)


def test_post_norm_right():
    check.exercise_4.verify(post_norm)
    check.exercise_4.verify(post_norm_by_loop)


@pytest.mark.parametrize("answer, phrase", [
    (lambda block, x: block(x), "norms before the steps"),
    (swapped_norms, "norms are swapped"),
    (steps(on_branch, on_branch), "It belongs on the sum"),
    (steps(no_addition, post), "first addition is missing"),
    (steps(post, no_addition), "second addition is missing"),
    (steps(no_addition, no_addition), "without residual"),
    (steps(no_norm, post), "first norm is missing"),
    (steps(post, no_norm), "second norm is missing"),
    (steps(both_norms, both_norms), "a norm before it too"),
    (adds_to_the_input, "adds to the block's input"),
    (in_place, "x itself was changed"),
    (lambda block, x: x, "x = norm(x + step(x))"),
    (lambda block, x: post_norm(block, x)[0], "has shape"),
    (lambda block, x: (x, x), "The result should be a tensor, not tuple"),
])
def test_post_norm_wrong(answer, phrase):
    rejects(check.exercise_4, answer, phrase)


# --- 4.5 a table of its own --------------------------------------------------------------------------------------

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
    check.exercise_5.verify(Layer)
    check.exercise_5.verify(lambda config: Bare(config))


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
    check.exercise_4.verify(post_norm)
    check.exercise_5.verify(Layer)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_checks_here_do_not_reseed_a_gpu(monkeypatch):
    monkeypatch.setattr(torch, "manual_seed", None)  # it would: a check that calls it stops
    check.exercise_4.verify(post_norm)
    check.exercise_5.verify(Layer)


def test_the_pencil_agrees_with_a_block():
    from llmbook.gpt import GPTConfig

    block = TransformerBlock(GPTConfig(d_model=48, n_heads=4))
    assert count_parameters(block) == block_parameters(48, False)
