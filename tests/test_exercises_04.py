"""Chapter 4's exercises: right answers in more than one form pass, and each common mistake is named."""

import re

import pytest
import torch
from torch import nn

from llmbook.exercises import Wrong
from llmbook.exercises import chapter_04 as check
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


@pytest.mark.parametrize("answer, phrase", [
    (lambda d, bias: 12 * d * d, "matrices alone"),
    (lambda d, bias: block_parameters(d, bias) - 4 * d, "the two norms"),
    (lambda d, bias: block_parameters(d, bias) - 2 * d, "One norm is missing"),
    (lambda d, bias: block_parameters(d, bias) - d, "output of attention has one too"),
    (lambda d, bias: block_parameters(d, bias) - 5 * d, "biases of feed-forward"),
    (lambda d, bias: block_parameters(d, True), "With qkv_bias=False"),
    (lambda d, bias: block_parameters(d, False), "With qkv_bias=True"),
    (lambda d, bias: block_parameters(d, bias) - d * d, "One matrix of attention"),
    (lambda d, bias: block_parameters(d, bias) - 4 * d * d, "feed-forward has two"),
    (lambda d, bias: 17, "each matrix is inputs x outputs"),
    (lambda d, bias: block_parameters(d, bias) + 0.5, "whole number"),
    (lambda d, bias: "many", "should be a number, not str"),
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
    (adds_to_the_input, "adds to the block's input"),
    (in_place, "x itself was changed"),
    (lambda block, x: x, "x = norm(x + step(x))"),
    (lambda block, x: post_norm(block, x)[0], "has shape"),
    (lambda block, x: 3, "should be a tensor"),
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
def test_a_stub_has_not_been_started(number, capsys):
    getattr(check, f"exercise_{number}")(lambda *arguments: None)
    assert capsys.readouterr().out.startswith(f"Exercise 4.{number}: not started.")


def test_the_checks_leave_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check.exercise_4.verify(post_norm)
    check.exercise_5.verify(Layer)
    assert torch.equal(torch.rand(3), expected)


def test_the_pencil_agrees_with_a_block():
    from llmbook.gpt import GPTConfig

    block = TransformerBlock(GPTConfig(d_model=48, n_heads=4))
    assert count_parameters(block) == block_parameters(48, False)
