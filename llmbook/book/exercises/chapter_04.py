"""Checks for the exercises of chapter 4, the GPT model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from numbers import Real

import torch
from torch import Tensor, nn

from ...gpt import GPT, GPTConfig, TransformerBlock, count_parameters
from . import close, exercise, expect, expect_tensor

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


@exercise("4.2", "Your pencil agrees with PyTorch.")
def exercise_2(count_block: Callable[[int, bool], int]) -> None:
    for d_model, qkv_bias in ((12, False), (12, True), (64, True), (768, False), (1600, True)):
        answer = _number(count_block(d_model, qkv_bias), "The count")
        with torch.device("meta"):
            block = TransformerBlock(GPTConfig(d_model=d_model, n_heads=4, qkv_bias=qkv_bias))
        right, d = count_parameters(block), d_model
        mistakes = {
            12 * d * d: "This is the matrices alone. Biases, scales and shifts are missing.",
            right - 4 * d: "4 x d_model are missing: the two norms, each with a scale and a shift? Or the biases "
                           "of the widened features?",
            right - 2 * d: "One norm is missing, or the shifts of both.",
            right - d: "One bias of d_model is missing: the output of attention has one too, "
                       "also where query, key and value have none.",
            right - 5 * d: "The biases of feed-forward are missing: 4 d_model to widen and d_model to come back.",
            right - 6 * d: "Biases are missing: the output of attention has one, and both matrices of feed-forward.",
            right - 3 * d if qkv_bias else right + 3 * d: "Only with qkv_bias=True do query, key and value have a bias "
                                                          "each, of d_model.",
            right - d * d: "One matrix of attention is missing: query, key, value and the output.",
            right - 4 * d * d: "One matrix is missing: feed-forward has two, d_model x 4 d_model and back.",
        }
        expect(answer == right, f"count_block({d_model}, {qkv_bias}) is {answer:,}, PyTorch counts {right:,}. "
               + mistakes.get(answer, "Add up attention, feed-forward and two norms; each matrix is inputs x outputs."))


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


def _shaken_block(config: GPTConfig) -> TransformerBlock:
    block = TransformerBlock(config).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return block


@exercise("4.4", "The norms now stand on the path itself, so the gradient passes every one of them.")
def exercise_4(post_norm_forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    for config in _SIZES:
        with torch.no_grad():
            block = _shaken_block(config)
            x = 2 * torch.randn(2, 6, config.d_model)
            before = x.clone()
            answer = expect_tensor(post_norm_forward(block, x), x.shape, "The result")
            expect(torch.equal(x, before), "x itself was changed. Write x = x + ..., not x += ...: the caller's "
                   "tensor is not yours.")
            norm_1, norm_2 = block.attention_norm, block.feed_forward_norm
            middle = norm_1(x + block.attention(x))
            right = norm_2(middle + block.feed_forward(middle))
            swapped = norm_2(x + block.attention(x))
            branch = x + norm_1(block.attention(x))
            bare = norm_1(block.attention(x))
            plain = x + block.attention(x)
            both = norm_1(x + block.attention(norm_1(x)))
            mistakes = (
                (block(x), "These are the values with the norms before the steps, which is what the block does."),
                (norm_1(swapped + block.feed_forward(swapped)), "The two norms are swapped."),
                (branch + norm_2(block.feed_forward(branch)),
                 "The norm is on what a step adds. It belongs on the sum: norm(x + step(x))."),
                (norm_2(bare + block.feed_forward(bare)), "The first addition is missing."),
                (norm_2(block.feed_forward(bare)), "The additions are missing: these are the values without residual "
                                                   "connections."),
                (norm_2(block.feed_forward(middle)), "The second addition is missing."),
                (norm_2(plain + block.feed_forward(plain)), "The first norm is missing."),
                (middle + block.feed_forward(middle), "The second norm is missing."),
                (norm_2(both + block.feed_forward(norm_2(both))),
                 "Each step has a norm before it too. Here it reads the stream as it is: norm(x + step(x))."),
                (norm_2(x + block.feed_forward(middle)),
                 "The second step adds to the block's input. It should add to what the first step left."),
            )
            for values, message in mistakes:
                expect(not close(answer, values), message)
            expect(close(answer, right, 1e-4), "The values are off. Two steps, and each one is "
                   "x = norm(x + step(x)): first attention, then feed-forward.")


@exercise("4.5", "The design is yours to change: one method is the whole output layer.")
def exercise_5(untied_gpt: Callable[[GPTConfig], GPT]) -> None:
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
