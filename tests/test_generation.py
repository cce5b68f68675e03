"""Sampling: which tokens stay, the cache, stop tokens, seeds, bad arguments."""

import gc
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from llmbook import text_batch
from llmbook.generation import Sampling, filter_logits, generate, penalize_repetition, stream
from llmbook.gpt import GPT, GPTConfig


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=23, context_length=12, d_model=16, n_heads=2, n_layers=2, dropout=0.3))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)  # far from uniform, so that mistakes show
    return model.eval()


PROMPT = torch.tensor([[3, 1, 4], [1, 5, 9]])


def kept(logits: torch.Tensor) -> list[int]:
    return logits.isfinite().nonzero()[:, 1].tolist()


PROBABILITIES = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15]])


@pytest.mark.parametrize("top_p, expected", [
    (1e-9, [1]), (0.3, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.71, [1, 3, 4]), (0.86, [0, 1, 3, 4]),
    (0.96, [0, 1, 2, 3, 4]), (1.0, [0, 1, 2, 3, 4])])
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p, expected):
    assert kept(filter_logits(PROBABILITIES.log(), top_p=top_p)) == expected


@pytest.mark.parametrize("top_k, expected", [
    (1, [1]), (2, [1, 3]), (4, [0, 1, 3, 4]), (5, [0, 1, 2, 3, 4]), (99, [0, 1, 2, 3, 4])])
def test_top_k_keeps_k(top_k, expected):
    assert kept(filter_logits(PROBABILITIES.log(), top_k=top_k)) == expected


def test_top_p_counts_what_top_k_leaves():
    # of {0.4, 0.3} the first has 4/7 = 0.571 of the probability
    assert kept(filter_logits(PROBABILITIES.log(), top_k=2, top_p=0.55)) == [1]
    assert kept(filter_logits(PROBABILITIES.log(), top_k=2, top_p=0.6)) == [1, 3]


def test_rows_are_filtered_each_on_its_own():
    logits = torch.stack([PROBABILITIES[0], PROBABILITIES[0].flip(0)]).log()
    filtered = filter_logits(logits, top_p=0.6)
    assert filtered.isfinite().tolist() == [[False, True, False, True, False], [False, True, False, True, False]]


def test_temperature_divides_the_logits():
    torch.testing.assert_close(filter_logits(PROBABILITIES.log(), temperature=0.5).softmax(-1),
                               PROBABILITIES**2 / (PROBABILITIES**2).sum())


def reference(model, ids, count):
    """Greedy, no cache, everything read again each time."""
    with torch.no_grad():
        for _ in range(count):
            ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids


def test_greedy_with_the_cache_equals_reading_everything_again(model):
    assert torch.equal(generate(model, PROMPT, 9, temperature=0), reference(model, PROMPT, 9))


def test_one_kept_token_is_greedy(model):
    greedy = generate(model, PROMPT, 9, temperature=0)
    assert torch.equal(generate(model, PROMPT, 9, top_k=1), greedy)
    assert torch.equal(generate(model, PROMPT, 9, top_p=1e-9), greedy)


def test_samples_follow_the_model_s_distribution(model):
    prompts = torch.tensor([[3, 1, 4]]).expand(4000, -1)
    drawn = generate(model, prompts, 1, seed=0)[:, -1]
    with torch.no_grad():
        expected = model(prompts[:1])[0, -1].softmax(-1)
    counts = torch.bincount(drawn, minlength=23) / 4000
    assert (counts - expected).abs().max() < 0.04


def test_a_seed_repeats_and_another_differs(model):
    first, again, other = (generate(model, PROMPT, 9, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    before = torch.get_rng_state()
    generate(model, PROMPT, 2, seed=1)
    assert torch.equal(before, torch.get_rng_state())  # a seed leaves the global random state alone


def test_stream_yields_what_generate_returns(model):
    tokens = list(stream(model, PROMPT, 7, seed=3))
    assert all(token.shape == (2,) for token in tokens)
    assert torch.equal(torch.stack(tokens, 1), generate(model, PROMPT, 7, seed=3)[:, 3:])


class Script(GPT):
    """A stand-in whose likeliest next token is scripted: row r says SAYS[r][t] at its t-th new token. Which row is
    which, it reads from the cache. `computed` holds how many rows it was asked for, each time."""

    SAYS = torch.tensor([[7, 2, 7, 7, 7], [8, 8, 9, 8, 8]])

    def hidden_states(self, token_ids, cache):
        if not cache.length:
            self.computed = []
            cache.keys[:] = torch.arange(len(token_ids)).view(1, -1, 1, 1, 1).float()
        keys = cache.keys[0, :, :, : token_ids.shape[1]].clone()
        cache.append(0, keys, keys)
        self.computed.append(len(token_ids))
        return keys[:, 0, :, :1]  # (rows, tokens, 1): the row's number

    def lm_head(self, hidden):
        rows = hidden[:, 0].long()
        logits = torch.zeros(len(rows), 23)
        logits[torch.arange(len(rows)), self.SAYS[rows, len(self.computed) - 1]] = 1.0
        return logits


@pytest.mark.parametrize("stop_tokens, expected", [
    ([], [[7, 2, 7, 7, 7], [8, 8, 9, 8, 8]]),
    ([9], [[7, 2, 7, 7, 7], [8, 8, 9, 9, 9]]),
    ({2, 9}, [[7, 2, 2], [8, 8, 9]]),  # the first row waits, filled with the smallest stop token
    ((7, 8), [[7], [8]]),
])
def test_stop_tokens_end_a_row_and_then_the_run(stop_tokens, expected):
    model = Script(GPTConfig(vocab_size=23, context_length=12, d_model=16, n_heads=2, n_layers=1))
    assert generate(model, PROMPT, 5, temperature=0, stop_tokens=stop_tokens)[:, 3:].tolist() == expected


@pytest.mark.parametrize("stop_tokens, computed", [([], [2, 2, 2, 2, 2]), ([9], [2, 2, 2, 1, 1]), ([2, 9], [2, 2, 1])])
def test_rows_that_have_ended_are_not_computed(stop_tokens, computed):
    model = Script(GPTConfig(vocab_size=23, context_length=12, d_model=16, n_heads=2, n_layers=1))
    generate(model, PROMPT, 5, temperature=0, stop_tokens=stop_tokens)
    assert model.computed == computed


def test_unequal_prompts_are_read_in_one_pass(model, monkeypatch):
    def counted(ids, cache):
        computed.append(len(ids))
        return hidden_states(ids, cache)

    computed, hidden_states = [], model.hidden_states
    monkeypatch.setattr(model, "hidden_states", counted)
    rows = generate(model, [torch.tensor([2]), torch.tensor([3, 1, 4, 1, 5])], 3, temperature=0)
    assert computed == [2, 2, 2] and [len(row) for row in rows] == [4, 8]  # no pass for a part of a prompt (A19)


def test_many_rows_that_end_at_different_times_get_what_each_gets_alone(model):
    torch.manual_seed(0)
    prompts = [torch.randint(23, (int(length),)) for length in torch.randint(1, 9, (24,))]
    for limit in (6, 20):  # within the context of 12, and beyond
        for stops in ([], [3, 7], range(0, 23, 2)):
            together = generate(model, prompts, limit, temperature=0, stop_tokens=stops)
            alone = [generate(model, each[None], limit, temperature=0, stop_tokens=stops)[0] for each in prompts]
            assert all(map(torch.equal, together, alone))
            for prompt, row in zip(prompts, together, strict=True):
                new = row[len(prompt):].tolist()
                assert torch.equal(row[: len(prompt)], prompt) and 0 < len(new) <= limit
                assert not set(new[:-1]) & set(stops) and (len(new) == limit or new[-1] in stops)


def test_beyond_the_context_the_later_half_goes_on(model):
    out = generate(model, PROMPT, 30, temperature=0)
    assert out.shape == (2, 33)
    # 12 tokens fit; the 13th is predicted from the 12 read so far, the next from the last 6
    assert torch.equal(out[:, :13], reference(model, PROMPT, 10))
    assert torch.equal(out[:, 13:14], reference(model, out[:, 7:13], 1)[:, -1:])


def test_dropout_is_off_and_the_mode_is_restored(model):
    expected = generate(model, PROMPT, 5, temperature=0)
    model.train()
    assert torch.equal(generate(model, PROMPT, 5, temperature=0), expected) and model.training
    tokens = stream(model, PROMPT, 5)
    next(tokens)
    tokens.close()  # a reader who has seen enough
    assert model.training


# --- the model is only lent --------------------------------------------------------------------------

def test_two_streams_at_once_do_not_switch_dropout_on_for_each_other(model):
    """The first that ended used to put the model back into training mode under the other's feet."""
    expected = generate(model, PROMPT, 8, temperature=0)[:, 3:]
    model.train()
    first, second = (stream(model, PROMPT, count, temperature=0) for count in (3, 8))
    tokens = [next(second), next(first), next(second)]
    del tokens[1]
    list(first)  # to its end
    del first
    gc.collect()
    tokens += list(second)
    assert torch.equal(torch.stack(tokens, 1), expected)
    assert all(module.training for module in model.modules())
    torch.manual_seed(0)
    inputs = torch.ones(1000)
    assert (torch.nn.functional.dropout(inputs) == 0).any()  # nor is dropout off for anybody else


def test_threads_that_write_with_one_model_in_training_mode(model):
    expected = [generate(model, PROMPT[row : row + 1], 9, temperature=0) for row in (0, 1)]
    model.train()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda row: generate(model, PROMPT[row : row + 1], 9, temperature=0), [0, 1] * 20))
    assert all(torch.equal(each, expected[row % 2]) for row, each in enumerate(found))
    assert all(module.training for module in model.modules())


def test_dropout_is_off_where_only_a_part_is_in_training_mode(model):
    expected = generate(model, PROMPT, 5, temperature=0)
    model.blocks[1].train()
    assert torch.equal(generate(model, PROMPT, 5, temperature=0), expected)
    assert not model.training and model.blocks[1].training


@settings(max_examples=40, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5), count=st.integers(0, 16),
       stops=st.sets(st.integers(0, 22), max_size=4), training=st.booleans(), seed=st.integers(0, 10**6))
def test_unequal_prompts_equal_each_alone(lengths, count, stops, training, seed):
    """Within the context of 12 and beyond: padding, rows that leave and later halves change nothing."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=23, context_length=12, d_model=16, n_heads=2, n_layers=2, dropout=0.3))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    generator = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(23, (length,), generator=generator) for length in lengths]
    model.eval()
    alone = [generate(model, prompt[None], count, temperature=0, stop_tokens=stops)[0] for prompt in prompts]
    model.train(training)
    together = generate(model, prompts, count, temperature=0, stop_tokens=stops)
    assert all(map(torch.equal, together, alone))


def test_stream_takes_unequal_prompts_too(model):
    prompts = [torch.tensor([3, 1, 4, 1, 5]), torch.tensor([2])]
    columns = torch.stack(list(stream(model, prompts, 4, temperature=0)), dim=1)
    rows = generate(model, prompts, 4, temperature=0)
    assert columns.tolist() == [rows[0][5:].tolist(), rows[1][1:].tolist()]


def test_a_prompt_that_is_to_be_sampled_several_times_is_read_once(model, monkeypatch):
    shapes, hidden_states = [], model.hidden_states
    monkeypatch.setattr(model, "hidden_states", lambda ids, c: shapes.append(ids.shape) or hidden_states(ids, c))
    rows = generate(model, PROMPT[:1].expand(5, -1), 6, seed=0)
    assert shapes == [(1, 3), *[(5, 1)] * 5] and len({tuple(row) for row in rows.tolist()}) > 1
    one = generate(model, PROMPT[:1], 6, temperature=0)
    assert torch.equal(generate(model, PROMPT[:1].expand(5, -1), 6, temperature=0), one.expand(5, -1))


# --- the repetition penalty ---------------------------------------------------------------------------------------

def which(rows: list[list[int]], vocab_size: int = 23) -> torch.Tensor:
    return torch.tensor([[token in row for token in range(vocab_size)] for row in rows])


@pytest.mark.parametrize("penalty", [1.3, 0.7])
def test_the_penalty_is_that_of_transformers(penalty):
    from transformers import RepetitionPenaltyLogitsProcessor

    generator = torch.Generator().manual_seed(0)
    logits, ids = torch.randn(4, 23, generator=generator), torch.randint(23, (4, 9), generator=generator)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    assert torch.equal(penalize_repetition(logits, penalty, which(ids.tolist())), expected)


def test_the_penalty_comes_before_everything_else():
    logits = torch.tensor([[3.0, 2.9, -1.0, 0.5]])
    seen = torch.tensor([[True, False, True, False]])
    penalized = torch.tensor([[1.5, 2.9, -2.0, 0.5]])
    for options in ({}, {"temperature": 0.5}, {"top_k": 1}, {"top_p": 0.6}, {"temperature": 2.0, "top_k": 3}):
        found = filter_logits(logits, **options, repetition_penalty=2.0, seen=seen)
        assert torch.equal(found, filter_logits(penalized, **options))
    assert torch.equal(filter_logits(logits, repetition_penalty=1.0), filter_logits(logits))
    assert Sampling(temperature=0, repetition_penalty=2.0).choose(logits, seen=seen).tolist() == [1]
    assert Sampling(top_k=1, repetition_penalty=2.0).choose(logits, seen=seen).tolist() == [1]
    with pytest.raises(ValueError, match=r"repetition_penalty is 1.2 .* hand in seen, \(batch, vocab_size\)"):
        filter_logits(logits, repetition_penalty=1.2)


def penalized_greedily(model: GPT, prompt: torch.Tensor, count: int, penalty: float, stops: set[int]) -> list[int]:
    """One text, read anew for each token, by the definition: every token that the whole text has had."""
    text = prompt.tolist()
    read, context = len(text), model.config.context_length
    for _ in range(count):
        read = context // 2 if read > context else read
        scores = model(torch.tensor([text[-read:]]))[0, -1].tolist()
        scores = [(s / penalty if s > 0 else s * penalty) if token in text else s for token, s in enumerate(scores)]
        text.append(scores.index(max(scores)))
        read += 1
        if text[-1] in stops:
            break
    return text


@settings(max_examples=40, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5), count=st.integers(0, 16),
       stops=st.sets(st.integers(0, 22), max_size=3), penalty=st.sampled_from([0.8, 1.2, 3.0]),
       seed=st.integers(0, 10**6))
def test_a_penalty_counts_each_row_s_own_tokens(lengths, count, stops, penalty, seed):
    """Cached, beside others, padded with token 0, beyond the context, and after rows have left."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=23, context_length=12, d_model=16, n_heads=2, n_layers=2)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    generator = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(23, (length,), generator=generator) for length in lengths]
    with torch.no_grad():
        alone = [penalized_greedily(model, prompt, count, penalty, stops) for prompt in prompts]
    rows = generate(model, prompts, count, temperature=0, stop_tokens=stops, repetition_penalty=penalty)
    assert [row.tolist() for row in rows] == alone


@torch.inference_mode()
def test_what_each_row_has_had_is_its_own(model):
    """Not the padding's token 0, and not another row's when rows leave."""
    texts = text_batch.TextBatch(model, [torch.tensor([3, 1, 4, 1]), torch.tensor([2]), torch.tensor([7, 0])], 4,
                                 remember=True)
    assert torch.equal(texts.seen, which([[3, 1, 4], [2], [7, 0]]))
    texts.next_logits()
    texts.append(torch.tensor([5, 3, 7]))
    assert torch.equal(texts.seen, which([[3, 1, 4, 5], [2, 3], [7, 0]]))
    texts.keep(torch.tensor([2, 0]))
    assert torch.equal(texts.seen, which([[7, 0], [3, 1, 4, 5]]))


def test_a_penalty_holds_for_one_prompt_sampled_often_and_for_a_cache_handed_in(model):
    one = generate(model, PROMPT[:1], 9, temperature=0, repetition_penalty=1.5)
    many = generate(model, PROMPT[:1].expand(5, -1), 9, temperature=0, repetition_penalty=1.5)
    assert torch.equal(many, one.expand(5, -1))
    cache = model.new_cache(1)
    generate(model, PROMPT[:1], 4, temperature=0, repetition_penalty=1.5, cache=cache)
    again = generate(model, one[:, :7], 5, temperature=0, repetition_penalty=1.5, cache=cache)
    assert torch.equal(again, one)  # what the cache holds counts too


def test_a_penalty_works_with_fewer_ids_than_the_model_has(model):
    options = {"repetition_penalty": 1.2, "vocab_size": 15, "seed": 0}
    assert generate(model, PROMPT, 9, **options)[:, 3:].max() < 15
    assert torch.equal(generate(model, PROMPT, 9, **options), generate(model, PROMPT, 9, **options))


def test_without_a_penalty_nothing_is_remembered(model, monkeypatch):
    monkeypatch.setattr(text_batch.TextBatch, "_tokens_of_each_row", lambda self: pytest.fail("remembered"))
    assert torch.equal(generate(model, PROMPT, 9, seed=3, repetition_penalty=1.0), generate(model, PROMPT, 9, seed=3))


# --- a cache that is handed in ------------------------------------------------------------------------------------

def test_a_conversation_reads_only_what_is_new(model, monkeypatch):
    """The turns before are in the cache; a changed text goes back to where it still agrees."""
    read, hidden_states = [], model.hidden_states
    cache = model.new_cache(1)
    first = generate(model, PROMPT[:1], 3, temperature=0, cache=cache)
    assert cache.length == 5  # the last token has not been read yet
    monkeypatch.setattr(model, "hidden_states", lambda ids, c: read.append(ids.shape[1]) or hidden_states(ids, c))
    longer = torch.cat([first, torch.tensor([[9, 2]])], dim=1)
    second = generate(model, longer, 3, temperature=0, cache=cache)
    assert read == [3, 1, 1]
    monkeypatch.undo()
    assert torch.equal(second, generate(model, longer, 3, temperature=0))
    other = second[:, :7].clone()
    other[0, 6] = (other[0, 6] + 1) % 23
    cache.rewind(6)
    assert torch.equal(generate(model, other, 3, temperature=0, cache=cache), generate(model, other, 3, temperature=0))


def test_a_cache_that_runs_full_stays_a_prefix_of_the_text(model):
    cache = model.new_cache(1)
    out = generate(model, PROMPT[:1], 20, temperature=0, cache=cache)
    assert torch.equal(out, generate(model, PROMPT[:1], 20, temperature=0)) and cache.length == 12
    cache.rewind(8)
    again = generate(model, out[:, :10], 2, temperature=0, cache=cache)
    assert torch.equal(again, generate(model, out[:, :10], 2, temperature=0))


def test_rows_with_a_cache_are_not_dropped_under_its_owner(model):
    cache = model.new_cache(2)
    greedy = generate(model, PROMPT, 6, temperature=0)
    out = generate(model, PROMPT, 6, temperature=0, cache=cache, stop_tokens=[int(greedy[0, 3])])
    assert len(cache.keys[0]) == 2 and out.shape[0] == 2 and out[0, 3] == greedy[0, 3]


@pytest.mark.parametrize("change, message", [
    (lambda cache: None, r"holds 5 tokens and the prompt has 3: first cache.rewind\(2\)"),
    (lambda cache: cache.rewind(3), r"first cache.rewind\(2\)"),
    (lambda cache: (cache.rewind(0), setattr(cache, "max_tokens", 4)), "room for 4 tokens and 6 are needed"),
    (lambda cache: setattr(cache, "padding", torch.tensor([1])), "without padding"),
])
def test_a_cache_that_does_not_fit_is_refused(model, change, message):
    cache = model.new_cache(1)
    generate(model, PROMPT[:1], 3, cache=cache)
    change(cache)
    with pytest.raises(ValueError, match=message):
        stream(model, PROMPT[:1], 3, cache=cache)


# --- numbers that are none --------------------------------------------------------------------------

@pytest.mark.parametrize("temperature", [0, 1e-6, 1.0])
@pytest.mark.parametrize("value, kind", [(math.nan, "nan"), (math.inf, "inf|nan")])
def test_logits_that_are_not_numbers_are_named(model, value, kind, temperature):
    with torch.no_grad():
        model.final_norm.bias[0] = value
    with pytest.raises(FloatingPointError, match=rf"after 3 tokens are ({kind}): its weights final_norm.bias"):
        generate(model, PROMPT, 3, temperature=temperature)


def test_logits_that_overflow_are_named(model, monkeypatch):
    monkeypatch.setattr(model, "lm_head", lambda hidden: torch.full((2, 23), math.nan))
    with pytest.raises(FloatingPointError, match="weights are finite, .* overflowed in float32: load it with dtype="):
        generate(model, PROMPT, 3)


def test_the_lowest_temperature_is_greedy_and_scores_of_minus_infinity_are_never_chosen(model, monkeypatch):
    assert torch.equal(generate(model, PROMPT, 9, temperature=1e-6), generate(model, PROMPT, 9, temperature=0))
    logits = torch.full((2, 23), -math.inf)
    logits[:, 4] = -3e38  # a number, though a small one
    monkeypatch.setattr(model, "lm_head", lambda hidden: logits)
    assert generate(model, PROMPT, 4, temperature=0.5)[:, 3:].eq(4).all()


def test_spare_ids_are_never_chosen(model):
    """A model may have more ids than its tokenizer has tokens."""
    with torch.no_grad():
        model.token_embedding.weight[15:] *= 10
    assert generate(model, PROMPT, 9, temperature=0)[:, 3:].max() >= 15
    assert generate(model, PROMPT, 9, temperature=0, vocab_size=15)[:, 3:].max() < 15
    assert generate(model, PROMPT, 9, seed=0, vocab_size=15)[:, 3:].max() < 15


def test_nothing_to_generate_returns_the_prompt(model):
    assert torch.equal(generate(model, PROMPT, 0), PROMPT)


@pytest.mark.parametrize("prompt, options, message", [
    (torch.zeros(1, 0, dtype=torch.long), {}, "at least one token"),
    (torch.zeros(3, dtype=torch.long), {}, r"\(batch, tokens\)"),
    (torch.zeros(1, 13, dtype=torch.long), {}, "13 tokens exceed the context_length of 12"),
    (torch.tensor([[23]]), {}, "token id 23 is outside the vocabulary of 23"),
    (torch.tensor([[-1]]), {}, "token id -1 is outside"),
    (torch.zeros(1, 2), {}, "token_ids are torch.float32: give whole numbers"),
    ("text", {}, "token_ids are a str: encode the text first"),
    (PROMPT, {"temperature": -0.1}, "temperature is -0.1"),
    (PROMPT, {"temperature": math.nan}, "temperature is nan"),
    (PROMPT, {"temperature": math.inf}, "temperature is inf"),
    (PROMPT, {"temperature": 1e-40}, "temperature is 1e-40: it must be 0"),
    (PROMPT, {"top_k": 2.5}, "top_k is 2.5"),
    (PROMPT, {"top_p": math.nan}, "top_p is nan"),
    (PROMPT, {"vocab_size": 0}, "vocab_size is 0"),
    (PROMPT, {"repetition_penalty": 0}, "repetition_penalty is 0: it must be above 0; 1 is none"),
    (PROMPT, {"repetition_penalty": math.nan}, "repetition_penalty is nan"),
    (PROMPT, {"repetition_penalty": math.inf}, "repetition_penalty is inf"),
    (PROMPT, {"max_new_tokens": 2.0}, "max_new_tokens is 2.0"),
    (PROMPT, {"stop_tokens": [1.5]}, r"stop_tokens are \[1.5\]"),
    (PROMPT, {"stop_tokens": 5}, "stop_tokens are 5: give a list"),
    (PROMPT, {"top_k": 0}, "top_k is 0"),
    (PROMPT, {"top_p": 0.0}, "top_p is 0.0"),
    (PROMPT, {"top_p": 1.1}, "top_p is 1.1"),
    (PROMPT, {"max_new_tokens": -1}, "max_new_tokens is -1"),
])
def test_bad_arguments_are_refused_at_the_call(model, prompt, options, message):
    with pytest.raises(ValueError, match=message):
        stream(model, prompt, **{"max_new_tokens": 3, **options})  # before the first token is asked for


def test_prompts_of_unequal_length_get_what_each_gets_alone(model):
    prompts = [torch.tensor([3, 1, 4, 1, 5]), torch.tensor([2]), torch.tensor([7, 0, 7])]
    together = generate(model, prompts, 6, temperature=0)
    for prompt, row in zip(prompts, together, strict=True):
        assert torch.equal(row, generate(model, prompt[None], 6, temperature=0)[0])


def test_unequal_rows_are_cut_after_their_own_stop_token(model):
    prompts = [torch.tensor([3, 1, 4, 1, 5]), torch.tensor([2])]
    free = generate(model, prompts, 6, temperature=0)
    stop = int(free[1][3])  # a token that the second row comes to; those inside a prompt do not count
    first = free[1][1:].tolist().index(stop) + 1
    rows = generate(model, prompts, 6, temperature=0, stop_tokens=[stop, 1, 5])
    assert rows[0][:5].tolist() == [3, 1, 4, 1, 5] and len(rows[0]) > 5
    assert len(rows[1]) <= first + 1 and int(rows[1][-1]) in (stop, 1, 5)
    assert torch.equal(rows[1], free[1][: len(rows[1])])


def test_a_list_may_ask_for_nothing_or_be_wrong(model):
    prompts = [torch.tensor([3, 1]), torch.tensor([2])]
    assert [row.tolist() for row in generate(model, prompts, 0)] == [[3, 1], [2]]
    for bad in ([], [torch.tensor([3]), torch.tensor([], dtype=torch.long)]):
        with pytest.raises(ValueError, match="at least one token"):
            generate(model, bad, 3)


# --- a GPU is looked at every 8 tokens ---------------------------------------------------------------------------

class Waits(TorchDispatchMode):
    """Counts what would wait for a GPU: numbers that Python reads from tensors, and shapes that depend on them."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.count += name in ("_local_scalar_dense", "nonzero", "masked_select", "multinomial") or "unique" in name
        return func(*args, **(kwargs or {}))


@pytest.fixture
def like_a_gpu(monkeypatch):
    monkeypatch.setitem(text_batch.LOOK_EVERY, "cpu", 8)
    monkeypatch.setattr("llmbook.gpt.check_token_ids", lambda *_: None)  # on a GPU it compares nothing


@pytest.mark.parametrize("prompts, options", [
    (torch.tensor([[3, 1, 4]]), {"temperature": 0}), ([torch.tensor([2]), torch.tensor([3, 1, 4, 1])], {"seed": 1}),
    (torch.arange(20)[:, None], {"seed": 1, "top_k": 5, "top_p": 0.9, "stop_tokens": range(0, 23, 4)})])
def test_generation_waits_for_the_device_once_in_eight_tokens(monkeypatch, like_a_gpu, prompts, options):
    model = GPT(GPTConfig(vocab_size=23, context_length=90, d_model=16, n_heads=2, n_layers=2)).eval()
    waits, looks, tolist = Waits(), [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: looks.append(waits.count) or tolist(tensor))
    tokens = stream(model, prompts, 80, **options)
    with waits:
        columns = list(tokens)
    before = looks[0]  # once, to find equal prompts
    assert before <= 2 and waits.count == before
    assert 0 < len(looks) <= math.ceil(len(columns) / 8)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5), count=st.integers(0, 30), every=st.integers(2, 9),
       stops=st.sets(st.integers(0, 22), max_size=8), seed=st.integers(0, 10**6), greedy=st.booleans())
def test_how_often_it_looks_changes_no_text(lengths, count, every, stops, seed, greedy):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=23, context_length=12, d_model=16, n_heads=2, n_layers=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    prompts = [torch.randint(23, (length,), generator=torch.Generator().manual_seed(seed)) for length in lengths]
    options = {"temperature": 0} if greedy else {"seed": seed}
    expected = generate(model, prompts, count, stop_tokens=stops if greedy else (), **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(text_batch.LOOK_EVERY, "cpu", every)
        found = generate(model, prompts, count, stop_tokens=stops if greedy else (), **options)
    assert all(map(torch.equal, found, expected))


def test_a_cache_goes_back_to_the_end_of_the_text(model, like_a_gpu):
    """What a GPU read beyond it was thrown away."""
    greedy = generate(model, PROMPT[:1], 9, temperature=0)
    for stop in greedy[0, 3:6].tolist():
        cache = model.new_cache(1)
        text = generate(model, PROMPT[:1], 9, temperature=0, stop_tokens=[stop], cache=cache)
        assert int(text[0, -1]) == stop and cache.length == text.shape[1] - 1 < 11


def test_scores_that_are_no_numbers_are_named_after_the_tokens_before_them(model, monkeypatch, like_a_gpu):
    lm_head, calls, found = model.lm_head, [], []
    monkeypatch.setattr(model, "lm_head", lambda hidden: calls.append(0) or (
        lm_head(hidden) * (math.nan if len(calls) == 4 else 1)))
    with pytest.raises(FloatingPointError, match="logits after 6 tokens are nan: its weights are finite"):
        for token in stream(model, PROMPT, 8):
            found.append(token)
    assert len(found) == 3 and len(calls) == 8


# --- equal prompts -----------------------------------------------------------------------------------------------

def test_each_of_several_prompts_is_read_once_however_often_it_comes(model, monkeypatch):
    read, hidden_states = [], model.hidden_states
    prompts = [torch.tensor([3, 1, 4]), torch.tensor([2]), torch.tensor([3, 1, 4]), torch.tensor([2])]
    alone = [generate(model, prompt[None], 6, temperature=0)[0] for prompt in prompts]
    monkeypatch.setattr(model, "hidden_states", lambda ids, c: read.append(tuple(ids.shape)) or hidden_states(ids, c))
    assert all(map(torch.equal, generate(model, prompts, 6, temperature=0), alone))
    assert read == [(2, 3), *[(4, 1)] * 5]


def test_a_prompt_that_begins_with_token_0_is_not_taken_for_a_shorter_one(model):
    pairs = [[torch.tensor([0, token]), torch.tensor([token])] for token in range(23)]  # padding looks like token 0
    alone = [[generate(model, prompt[None], 6, temperature=0)[0] for prompt in pair] for pair in pairs]
    assert any(longer[2:].tolist() != shorter[1:].tolist() for longer, shorter in alone)
    for pair, expected in zip(pairs, alone, strict=True):
        assert all(map(torch.equal, generate(model, pair, 6, temperature=0), expected))
