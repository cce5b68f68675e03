"""The rows of a batch: each keeps its text, whoever joins, leaves or overflows beside it."""

import pytest
import torch

from llmbook.caching import KeyValueCache
from llmbook.serve.rows import Rows
from llmbook.state_cache import LayerCaches, StateCache, WindowCache
from tests.serve.kinds import MODELS, STATES, prompts, shaken


@pytest.fixture
def dirty_memory():
    """New tensors that nobody filled hold nan, as they may."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def read(model, ids):
    """A cache of one row that holds these ids."""
    cache = model.new_cache(1, len(ids))
    model.hidden_states(torch.tensor([ids]), cache)
    return cache


class Texts:
    """Rows, and beside them the text of each, so that every score can be compared with that of the text alone."""

    def __init__(self, model, most):
        self.model, self.rows, self.texts = model.eval(), Rows(model, most), []

    def join(self, length):
        ids = prompts(length)[0]
        self.rows.join(read(self.model, ids))
        self.texts.append(ids)

    def leave(self, row):
        self.rows.leave(row)
        self.texts[row] = self.texts[-1]
        self.texts.pop()

    def step(self, times=1):
        for _ in range(times):
            new = [(7 * len(text) + 3 * row + 1) % 300 for row, text in enumerate(self.texts)]
            scores = self.rows.step(new)
            assert len(scores) == len(self.texts) == len(self.rows)
            for row, (text, token) in enumerate(zip(self.texts, new)):
                text.append(token)
                self.check(scores[row], text)

    def check(self, scores, text):
        torch.testing.assert_close(scores, self.model(torch.tensor([text]))[0, -1], atol=5e-4, rtol=2e-3)


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_rows_keep_their_texts_as_others_join_leave_and_move(kind, monkeypatch, dirty_memory):
    """In the order that is hardest: longer ones join shorter ones, room runs out, nobody is left and one comes."""
    monkeypatch.setattr("llmbook.serve.rows._FEWEST", 8)
    texts = Texts(shaken(kind), 3)
    for length in (3, 9, 1):
        texts.join(length)
        texts.step(2)
    texts.leave(0)
    texts.step(9)
    texts.join(40)
    texts.leave(1)
    texts.step(12)
    texts.leave(1)
    texts.step(3)
    texts.leave(0)
    texts.join(2)
    texts.step(15)
    assert len(texts.rows) == 1 and texts.rows.longest == 17
    texts.rows.clear()
    texts.texts.clear()
    assert len(texts.rows) == texts.rows.longest == 0
    for _ in range(3):  # as long as each other: nobody has padding
        texts.join(4)
    texts.step(5)
    with pytest.raises(ValueError, match="all 3 rows are taken: wait"):
        texts.rows.join(read(texts.model, [1]))


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_a_copy_of_a_row_goes_on_alone_and_in_another_batch(kind):
    texts = Texts(shaken(kind), 3)
    for length in (2, 11, 5):
        texts.join(length)
    texts.step(2)
    for row, text in enumerate(texts.texts):
        cache = texts.rows.copy_of(row)
        assert cache.length == len(text) and getattr(cache, "padding", None) is None
        begun = cache.beginning(len(text), len(text) + 1)
        texts.check(texts.model(torch.tensor([[8]]), begun)[0, -1], [*text, 8])
        other = Rows(texts.model, 2)
        other.join(read(texts.model, prompts(7)[0]))
        other.join(cache)
        texts.check(other.step([5, 9])[1], [*text, 9])
    texts.step(3)  # none of this has changed the rows


@pytest.mark.parametrize("bad", [1, 2])
@torch.no_grad()
def test_a_row_that_overflowed_spoils_no_later_one(dirty_memory, bad):
    model = shaken("llama")
    rows = Rows(model, 3)

    def join(ids, spoilt=False):
        cache = read(model, ids)
        cache.keys += torch.nan if spoilt else 0
        cache.values += torch.nan if spoilt else 0
        rows.join(cache)

    def check():
        for row, ids in zip(rows.step([1, 2, 3]), ([9, 8, 7, 1], [4, 2], [5, 6, 3]), strict=True):
            torch.testing.assert_close(row, model(torch.tensor([ids]))[0, -1], atol=2e-4, rtol=1e-3)

    join([9, 8, 7])  # the longest stays, so that the others have places before them
    for row in (1, 2):
        join([1, 2, 3] if row == bad else [4], spoilt=row == bad)
    rows.leave(bad)
    join([5, 6])
    check()
    rows._parts[0]._keys += torch.nan
    rows._parts[0]._values += torch.nan
    rows.clear()
    for ids in ([9, 8, 7], [4], [5, 6]):
        join(ids)
    check()


@pytest.mark.parametrize("kind", STATES)
@torch.no_grad()
def test_a_state_that_overflowed_leaves_with_its_row(kind):
    texts = Texts(shaken(kind), 3)
    for length in (3, 6):
        texts.join(length)
    spoilt = read(texts.model, [1, 2, 3])
    for layer in spoilt.layers:
        if isinstance(layer, StateCache):
            layer.states = tuple(state + torch.nan for state in layer.states)
    texts.rows.join(spoilt)
    texts.texts.append([1, 2, 3])
    texts.leave(2)
    texts.join(2)
    texts.step(3)


@torch.no_grad()
def test_states_take_no_room_that_grows():
    rows = Rows(shaken("only windows"), 2)
    rows.join(read(rows.model, [1, 2]))
    for token in range(20):
        rows.step([token])
    kept = rows.copy_of(0)
    assert kept.length == 22 and [layer.states[0].shape[2] for layer in kept.layers] == [6, 6]
    assert kept.held_bytes == rows.model.config.state_bytes(22)


class OtherCache(KeyValueCache):
    pass


@pytest.mark.parametrize("cache, said", [
    (OtherCache(2, 1, 2, 1, 8), "is a OtherCache, in which texts cannot come and go: serve the model itself"),
    (LayerCaches([WindowCache(3, 1), OtherCache(1, 1, 2, 1, 8)], 1), "is a OtherCache.*serve the model itself"),
    ({}, "is a dict.*: only models that keep keys and values or states, as those of this book, can be served")])
def test_a_model_with_another_cache_is_refused(cache, said):
    model = shaken("llama")
    model.new_cache = lambda batch, room=None, padding=None: cache
    with pytest.raises(ValueError, match=said):
        Rows(model, 2)
