"""Checks for the exercises of chapter 4, the GPT model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from numbers import Real

import torch
from torch import Tensor, nn

from ...gpt import GPT, GPTConfig, TransformerBlock, count_parameters
from ..ladder import CONTEXT, bits_per_byte, ladder_data, total_nats, train_rung
from . import close, exercise, expect, expect_number, expect_tensor

_SIZES = (GPTConfig(vocab_size=11, context_length=8, d_model=12, n_heads=3, n_layers=2, dropout=0.0),
          GPTConfig(vocab_size=30, context_length=16, d_model=20, n_heads=5, n_layers=3, qkv_bias=True))


def _started(answer: object) -> object:
    if answer is None or answer is ...:
        raise NotImplementedError
    return answer


def _number(answer: object, what: str) -> int:
    """`answer` as a whole number."""
    _started(answer)
    answer = answer.item() if isinstance(answer, Tensor) and answer.numel() == 1 else answer
    expect(isinstance(answer, Real) and not isinstance(answer, bool),
           f"{what} should be one number, not {type(answer).__name__}.")
    expect(answer % 1 == 0, f"{what} should be a whole number, not {answer}.")
    return int(answer)


@exercise("4.1", "You can follow a tensor through the whole model.")
def exercise_1(predict_shapes: Callable[[GPTConfig, int, int], tuple]) -> None:
    for config, batch, tokens in ((_SIZES[0], 2, 7), (_SIZES[1], 3, 4), (GPTConfig(), 5, 256)):
        answer = _started(predict_shapes(config, batch, tokens))
        expect(isinstance(answer, (tuple, list)) and len(answer) == 5,
               "Return five shapes, each a tuple: stream, widened, logits, last logits, cache keys.")
        if any(shape is None or shape is ... for shape in answer):
            raise NotImplementedError
        expect(all(isinstance(shape, (tuple, list)) for shape in answer),
               "Each of the five shapes should be a tuple of sizes, such as (batch, tokens, 768).")
        stream, widened, logits, last, keys = (tuple(shape) for shape in answer)
        vocab, layers, heads, d_model = config.vocab_size, config.n_layers, config.n_heads, config.d_model
        context, d_head = config.context_length, config.d_model // config.n_heads
        case = f"for {batch} texts of {tokens} tokens and {config}"
        expect(stream != (tokens, batch, d_model),
               f"The stream is not {stream} {case}: the batch comes first, (batch, tokens, features).")
        expect(stream != (batch, context, d_model),
               f"The stream is not {stream} {case}: context_length is the most that fits; these texts are shorter.")
        expect(stream == (batch, tokens, d_model),
               f"The stream is not {stream} {case}: each token of each text is a vector of d_model features.")
        expect(widened != stream, f"The widened vectors are not {widened} {case}: that is the shape before and after.")
        expect(widened == (batch, tokens, 4 * d_model),
               f"The widened vectors are not {widened} {case}: each token has 4 x d_model features there.")
        expect(logits != (batch, vocab),
               f"The logits are not {logits} {case}: forward gives scores at every place, not only at the last.")
        expect(logits == (batch, tokens, vocab),
               f"The logits are not {logits} {case}: each place has one score for each token of the vocabulary.")
        expect(last != (batch, 1, vocab),
               f"The last logits are not {last} {case}: hidden[:, -1] takes the dimension of the tokens away; "
               "hidden[:, -1:] would keep it.")
        expect(last == (batch, vocab),
               f"The last logits are not {last} {case}: one place is left of each text, with its scores.")
        expect(keys != (layers, batch, heads, tokens, d_head),
               f"The cache's keys are not {keys} {case}: the memory is reserved at once, for context_length tokens.")
        expect(keys != (batch, heads, context, d_head),
               f"The cache's keys are not {keys} {case}: the cache serves all blocks, and each has its own keys.")
        expect(keys != (layers, batch, heads, context, d_model),
               f"The cache's keys are not {keys} {case}: the heads share the d_model features out among them.")
        expect(keys == (layers, batch, heads, context, d_head),
               f"The cache's keys are not {keys} {case}: (n_layers, batch, n_heads, room for tokens, features a head).")


def _shaken_block(config: GPTConfig) -> TransformerBlock:
    block = TransformerBlock(config).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return block


@exercise("4.2", "The norms had overwritten the residual stream, so nothing was left of its size.")
def exercise_2(mended_block: Callable[[nn.Module, Tensor], Tensor]) -> None:
    for config in _SIZES:
        with torch.no_grad():
            block = _shaken_block(config)
            x = 2 * torch.randn(2, 6, config.d_model)
            before = x.clone()
            answer = expect_tensor(mended_block(block, x), x.shape, "The result")
            expect(torch.equal(x, before), "x itself was changed. Write x = x + ..., not x += ...: the caller's "
                   "tensor is not yours.")
            norm_1, norm_2, attention, forward = (block.attention_norm, block.feed_forward_norm, block.attention,
                                                  block.feed_forward)
            first = x + attention(norm_1(x))  # the first half mended
            lost = norm_1(x) + attention(norm_1(x))  # as it is in the broken block
            after = norm_1(x + attention(x))
            bare = x + attention(x)
            mistakes = (
                (norm_2(lost) + forward(norm_2(lost)), "This is still the forgetful block. Compare the first line with "
                 "x + attention(norm(x)): what is added to what?"),
                (norm_2(first) + forward(norm_2(first)), "The first half is right. The second one still replaces x by "
                 "its normalised copy before it adds."),
                (lost + forward(norm_2(lost)), "The second half is right. The first one still replaces x by its "
                 "normalised copy before it adds."),
                (norm_2(after + forward(after)), "These are the norms of 2017, after each addition. Then the stream "
                 "still forgets how large it was: let each part read a normalised copy, and leave the stream alone."),
                (bare + forward(bare), "The norms are gone. Each part should still read a normalised copy."),
                (x + attention(norm_2(x)) + forward(norm_1(x + attention(norm_2(x)))), "The two norms are swapped."),
                (forward(norm_2(attention(norm_1(x)))), "The additions are gone: these are the values without skip "
                 "connections."),
                (x + forward(norm_2(first)), "The second part adds to the block's input. It should add to what the "
                 "first part left."),
            )
            for values, message in mistakes:
                expect(not close(answer, values), message)
            expect(close(answer, block(x), 1e-4), "The values are off. Two parts, and each one is "
                   "x = x + part(norm(x)): first attention, then feed-forward.")


@exercise("4.3", "Long texts in large batches can take more memory than the model itself.")
def exercise_3(cache_bytes: Callable[[GPTConfig, int, int, int], int]) -> None:
    first = GPTConfig(vocab_size=2, context_length=13, d_model=20, n_heads=5, n_layers=7)  # mistakes differ here
    cases = [(first, 3, 11, 4), (first, 3, 11, 2), (_SIZES[0], 1, 1, 4), (GPTConfig.preset("gpt2-xl"), 32, 8, 2)]
    for config, batch, tokens, size in cases:
        answer = _number(cache_bytes(config, batch, tokens, size), "The memory in bytes")
        with torch.device("meta"):
            cache = GPT(replace(config, vocab_size=2)).new_cache(batch, tokens)
        right = (cache.keys.numel() + cache.values.numel()) * size
        mistakes = {
            right // 2: "That is half: keys and values are both kept.",
            right // config.n_layers: "That is one block's share: each block keeps its own.",
            right * config.n_heads: "You multiplied by n_heads and by d_model; the heads share d_model among them.",
            right // config.n_heads: "That is one head's share: n_heads x d_head is d_model.",
            right // size: "That is how many numbers there are. Multiply by bytes_per_number.",
            right * 8: "That is in bits; the question is bytes.",
            right // batch: "That is one text's share: each text of the batch keeps its own.",
            right // tokens * config.context_length: "The cache holds `tokens` tokens here, not context_length.",
        }
        expect(answer == right, f"{answer:,} bytes for n_layers={config.n_layers}, d_model={config.d_model}, "
               f"batch_size={batch}, tokens={tokens}, bytes_per_number={size}; the cache takes {right:,}. "
               + mistakes.get(answer, "Count the numbers kept for one token in one block, then multiply by n_layers, "
                                        "tokens, batch_size and bytes_per_number."))


@exercise("4.4", "The design is yours to change: one method is the whole output layer.")
def exercise_4(untied_gpt: Callable[[GPTConfig], GPT]) -> None:
    config = GPTConfig(vocab_size=300, context_length=16, d_model=32, n_heads=4, n_layers=2, dropout=0.0)
    hidden_layer = ("A layer stored as self.lm_head is hidden by the method of that name, and not used. Give the layer "
                    "another name and override lm_head.")
    try:
        model, tied = _started(untied_gpt(config)), GPT(config)
    except AttributeError as error:  # of self.lm_head.weight
        expect("'function' object has no attribute" not in str(error), hidden_layer)
        raise
    expect(isinstance(model, GPT), "Return an instance of a subclass of GPT, such as UntiedGPT(config), not "
           f"{'the class itself' if isinstance(model, type) else type(model).__name__}.")
    expect(model.config == config, "The model's config differs from the one it was given.")
    model.eval()
    extra, table = count_parameters(model) - count_parameters(tied), config.vocab_size * config.d_model
    expect(extra != 0, "The model has no more parameters than a GPT. A new table has to be an nn.Parameter or a "
           "layer, and another one than the embedding's.")
    expect(extra != table + config.vocab_size, "The output has a bias. GPT's output has none: bias=False.")
    expect(extra == table, f"The model has {extra:,} parameters more than a GPT, expected {table:,}: "
           "one table, vocab_size x d_model.")
    ids = torch.randint(0, config.vocab_size, (2, 9))
    logits = expect_tensor(model(ids), (2, 9, config.vocab_size), "model(token_ids)")
    hidden = model.hidden_states(ids)
    through_head = expect_tensor(model.lm_head(hidden), (2, 9, config.vocab_size), "model.lm_head(hidden)")
    expect(close(through_head, logits), "model(ids) and model.lm_head(model.hidden_states(ids)) differ. Change "
           "lm_head, not forward: writing text calls lm_head by itself.")
    gradient, = torch.autograd.grad(logits[0, 0, 0], model.token_embedding.weight)
    unread = torch.ones(config.vocab_size, dtype=torch.bool)
    unread[ids] = False
    expect(not gradient[unread].any() or "lm_head" not in dict(model.named_children()), hidden_layer)
    expect(not gradient[unread].any(), "The output still uses the token embedding: rows of tokens that were not "
           "read get a gradient.")
    _check_first_table(model)
    with torch.no_grad():
        cache = model.new_cache(2)
        parts = [model(ids[:, :4], cache), model(ids[:, 4:5], cache), model(ids[:, 5:], cache)]
    expect(close(torch.cat(parts, 1), logits), "With the cache, in parts, the logits differ from those at once. "
           "Leave hidden_states as it is.")


def _check_first_table(model: GPT) -> None:
    table = model.token_embedding.weight
    heads = [p for n, p in model.named_parameters() if p.shape == table.shape and p is not table]
    expect(len(heads) == 1, "The new table should have the shape (vocab_size, d_model), as nn.Linear(d_model, "
           "vocab_size).weight has.")
    expect(not torch.equal(heads[0], table), "The new table starts as a copy of the embedding. Draw it by itself.")
    spread = heads[0].std().item()
    expect(0.018 < spread < 0.022, f"The new table starts with a standard deviation of {spread:.3f}, expected 0.02. "
           "GPT.__init__ has drawn its weights before your layer exists, so draw this one yourself.")


LAB_PARAMETERS, LAB_STEPS, LAB_STORIES, LAB_TARGET = 100_000, 600, 30, 2.6


def train_small_model(model: nn.Module, learning_rate: float) -> float:
    """Train a model on the ladder's stories, in place; returns bits per byte of 30 validation stories."""
    data = ladder_data()
    train_rung(model, data.train, seed=0, learning_rate=learning_rate, steps=LAB_STEPS)
    model.eval()
    stories = data.validation[:LAB_STORIES]
    return bits_per_byte(total_nats(model, stories, CONTEXT), sum(len(story) - 2 for story in stories))


@exercise("4.5", "A good first layer and a bold learning rate are worth more than another block.")
def exercise_5(best_small_model: Callable[[], tuple[nn.Module, float]]) -> None:
    answer = _started(best_small_model())
    expect(isinstance(answer, (tuple, list)) and len(answer) == 2, "Return two things: a model and a learning rate.")
    model, rate = _started(answer[0]), expect_number(answer[1], "The learning rate")
    expect(isinstance(model, nn.Module), f"Return a model, an nn.Module, not {type(model).__name__}.")
    expect(0 < rate < 1, f"The learning rate is {rate:g}: choose one above 0 and below 1.")
    numbers = count_parameters(model)
    expect(numbers <= LAB_PARAMETERS, f"Your model has {numbers:,} parameters, more than {LAB_PARAMETERS:,}.")
    ids = torch.randint(0, 256, (2, CONTEXT))
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 256
    model.eval()
    with torch.no_grad():
        logits = expect_tensor(model(ids), (2, CONTEXT, 257), "What your model returns")
        expect(bool(logits.isfinite().all()), "Some logits are not finite.")
        expect(close(model(changed)[:, :-1], logits[:, :-1]),
               "Your model looks ahead: earlier logits change when the last byte does.")
    model.train()
    bits = train_small_model(model, rate)
    hint = ("That is no better than counting pairs of bytes (3.39): is the learning rate far too small or too large?"
            if not bits < 3.4 else "Try a larger learning rate." if rate < 2e-3 else
            "What does the first layer see? Chapter 1's network reads three bytes at once.")
    expect(bits < LAB_TARGET, f"After {LAB_STEPS} steps it needs {bits:.2f} bits per byte; the target is "
           f"{LAB_TARGET}. {hint}")
