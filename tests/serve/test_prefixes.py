"""What was read before: which of it is kept, for how long, and from where a text goes on."""

import pytest
import torch

from llmbook.caching import KeyValueCache
from llmbook.generation import Sampling
from llmbook.serve.engine import Engine, Request
from llmbook.serve.prefixes import Prefixes
from llmbook.text import train_bpe
from tests.cli.helpers import STORY
from tests.serve.kinds import MODELS, STATES, alone, prompts, shaken, together


def keys_and_values(tokens: int, value: float = 0.0) -> KeyValueCache:
    """Two layers, two heads of 8 features: 256 bytes a token."""
    numbers = torch.full((2, 1, 2, tokens, 8), float(value))
    return KeyValueCache.over(numbers, numbers.clone(), tokens)


def test_the_ones_that_were_not_used_for_longest_are_dropped():
    model, token = shaken("llama"), 2 * 2 * 2 * 8 * 4
    store = Prefixes(12 * token)
    for start in (0, 10):
        store.keep(range(start, start + 5), keys_and_values(5, start))
    assert store.begin(model, [0, 1, 2, 9], 6).length == 3  # used: the other one is older now
    assert store.begin(model, [10, 11], 2).length == 1  # one is left to be read
    store.begin(model, [0, 1, 2], 6)
    store.keep(range(20, 25), keys_and_values(5, 20))
    assert store.size == 10 * token
    assert store.begin(model, [10, 11, 12], 3).length == 0
    cache = store.begin(model, [20, 21, 22], 3)
    assert cache.length == 2 and bool((cache.keys[:, :, :, :2] == 20).all()) and cache.max_tokens == 3
    store.keep([*range(20, 25), 1], keys_and_values(6))
    assert store.size == 11 * token  # the longer one in place of its beginning
    store.keep(range(20, 25), keys_and_values(5))
    store.keep(range(13), keys_and_values(13))  # more than all the room
    assert store.size == 11 * token and store.begin(model, [0, 1, 2, 9], 6).length == 3
    store.clear()
    assert store.size == 0


def test_a_text_that_goes_on_never_changes_what_is_kept():
    model, store = shaken("llama"), Prefixes(2**20)
    kept = keys_and_values(4, 1.0)
    store.keep([1, 2, 3, 4], kept)
    with torch.no_grad():
        model.hidden_states(torch.tensor([[9, 9]]), store.begin(model, [1, 2, 9, 9], 8))
    assert bool((kept.keys == 1).all()) and kept.length == 4


def read_in_parts(model, ids, *parts):
    cache, start = model.new_cache(1, len(ids)), 0
    with torch.no_grad():
        for end in (*parts, len(ids)):
            model.hidden_states(torch.tensor([ids[start:end]]), cache)
            start = end
    return cache


@pytest.mark.parametrize("kind", STATES)
def test_states_are_continued_from_the_places_where_they_were_kept(kind):
    model, (ids, others) = shaken(kind).eval(), prompts(30, 12)
    store = Prefixes(2**20)
    store.keep(ids, read_in_parts(model, ids, 8, 16))
    for same, start in ((4, 0), (8, 8), (15, 8), (20, 16), (29, 16)):
        text = [*ids[:same], *others]
        cache = store.begin(model, text, len(text))
        assert cache.length == start
        with torch.no_grad():
            found = model(torch.tensor([text[start:]]), cache)[0, -1]
            torch.testing.assert_close(found, model(torch.tensor([text]))[0, -1], atol=5e-4, rtol=2e-3)
    assert store.begin(model, [*ids, 1], 31).length == 30


def test_a_text_of_states_stays_beside_the_longer_one_that_cannot_go_back_to_its_end():
    model, ids = shaken("hybrid").eval(), prompts(30)[0]
    store = Prefixes(2**20)
    first = read_in_parts(model, ids[:20])
    store.keep(ids[:20], first)
    longer = read_in_parts(model, ids)
    store.keep(ids, longer)
    assert store.size == first.held_bytes + longer.held_bytes
    assert store.begin(model, [*ids[:25], 1], 26).length == 20
    store.keep(ids, read_in_parts(model, ids))  # known already
    assert store.size == first.held_bytes + longer.held_bytes
    store.clear()
    store.keep(ids[:20], first)
    both = read_in_parts(model, ids, 20)
    store.keep(ids, both)
    assert store.size == both.held_bytes and store.begin(model, [*ids[:25], 1], 26).length == 20


def test_earlier_states_count_as_memory():
    model, ids = shaken("linear"), prompts(24)[0]
    plain, parts = read_in_parts(model, ids), read_in_parts(model, ids, 8, 16)
    assert parts.held_bytes == 3 * plain.held_bytes == 3 * model.config.state_bytes(24)
    store = Prefixes(2 * plain.held_bytes)
    store.keep(ids, parts)
    assert store.size == 0
    store.keep(ids, plain)
    assert store.size == plain.held_bytes


@pytest.mark.parametrize("kind", MODELS)
def test_what_was_read_before_is_not_read_again(kind, monkeypatch):
    """The second text reads a shared beginning once more where a state has passed it by, and leaves one there."""
    model = shaken(kind).eval()
    read, passes = model.hidden_states, []
    monkeypatch.setattr(model, "hidden_states", lambda ids, cache: passes.append(ids.shape[1]) or read(ids, cache))
    system, *said = prompts(30, 4, 5, 3)
    requests = [Request([*system, *ids], 6, Sampling(0)) for ids in said]
    with Engine(model, train_bpe(STORY, 300), rows=2) as engine:
        told = [together(engine, [request])[0].ended for request in requests]
        turns = [Request([*request.ids, *ended.ids, 5], 6, Sampling(0)) for request, ended in zip(requests, told)]
        told += [together(engine, [turn])[0].ended for turn in turns]
    states = kind in STATES
    assert [ended.reused for ended in told[:3]] == ([0, 0, 30] if states else [0, 30, 30])
    assert [ended.reused for ended in told[3:]] == [len(turn.ids) - 2 for turn in turns]  # the last one was never read
    assert [size for size in passes if size > 1] == ([34, 30, 5, 3] if states else [34, 5, 3]) + [2, 2, 2]
    monkeypatch.undo()
    assert [ended.ids for ended in told] == [alone(model, request) for request in [*requests, *turns]]


def test_a_few_tokens_in_common_are_worth_no_pass_of_their_own():
    model, (ids, others) = shaken("linear").eval(), prompts(40, 20)
    store = Prefixes(2**20)
    assert store.parting(ids, 0) is None
    store.keep(ids, read_in_parts(model, ids))
    assert store.parting([*ids[:15], *others], 0) is None
    assert store.parting([*ids[:16], *others], 0) == 16
    assert store.parting([*ids[:30], *others], 15) is None and store.parting([*ids[:31], *others], 15) == 31
    assert store.parting(ids, 0) == 39  # one is left to be read
