"""llmbook.state_cache: caches of layers whose memory cannot be shortened, behind the book's Cache protocol."""

import pytest
import torch

from llmbook.caching import KeyValueCache
from llmbook.state_cache import LayerCaches, StateCache, WindowCache


def state(batch: int, value: float) -> torch.Tensor:
    return torch.full((batch, 2), float(value))


def filled_to(length: int, remembered: int = 8) -> StateCache:
    """One token a pass; the state is the number of tokens."""
    cache = StateCache(1, remembered=remembered)
    for number in range(1, length + 1):
        cache.update(1, state(1, number))
    return cache


def test_it_goes_back_to_the_newest_place_that_it_remembers():
    cache = StateCache(1)
    cache.update(5, state(1, 5))
    cache.update(3, state(1, 8))
    cache.rewind(8)
    assert cache.length == 8 and cache.states[0][0, 0] == 8
    cache.rewind(7)
    assert cache.length == 5 and cache.states[0][0, 0] == 5
    cache.update(1, state(1, 6))
    cache.rewind(5)
    assert cache.length == 5 and cache.states[0][0, 0] == 5
    cache.rewind(4)
    assert cache.length == 0 and cache.states is None


def test_places_of_a_text_that_was_left_are_forgotten():
    cache = filled_to(8)
    cache.rewind(5)
    cache.update(9, state(1, 14))  # another text, past where the first one was
    assert cache.reachable(8) == 5 and cache.reachable(13) == 5
    cache.rewind(8)
    assert cache.length == 5 and cache.states[0][0, 0] == 5


def test_it_remembers_as_many_states_as_asked_and_counts_one():
    cache = filled_to(20, remembered=3)
    assert cache.reachable(17) == 17 and cache.reachable(16) == 0
    assert cache.nbytes == 8
    assert filled_to(20, remembered=0).reachable(19) == 0


def test_rows_are_chosen_in_earlier_states_too():
    cache = StateCache(3, torch.tensor([0, 1, 2]))
    cache.update(2, torch.tensor([[0.0], [1.0], [2.0]]))
    cache.update(2, torch.tensor([[10.0], [11.0], [12.0]]))
    cache.select(torch.tensor([2, 2, 0, 1]))
    assert cache.states[0][:, 0].tolist() == [12, 12, 10, 11] and cache.padding.tolist() == [2, 2, 0, 1]
    cache.rewind(2)
    assert cache.states[0][:, 0].tolist() == [2, 2, 0, 1] and cache.batch_size == 4


def test_padding_is_known_until_no_row_has_any_left():
    cache = StateCache(2, torch.tensor([0, 3]))
    assert cache.filled(4)[:, :, 0].tolist() == [[True] * 4, [False] * 3 + [True]]
    cache.update(2, torch.zeros(2, 1))
    assert cache.filled(2)[:, :, 0].tolist() == [[True, True], [False, True]]
    cache.update(1, torch.zeros(2, 1))
    assert cache.filled(5) is None and StateCache(2).filled(5) is None


def test_a_window_holds_what_the_next_token_sees_and_no_more():
    cache = WindowCache(3, 1)
    keys = torch.arange(7.0).view(1, 1, 7, 1)
    seen, _ = cache.append(0, keys[:, :, :5], keys[:, :, :5])
    assert seen.flatten().tolist() == [0, 1, 2, 3, 4] and cache.states[0].flatten().tolist() == [3, 4]
    seen, values = cache.append(0, keys[:, :, 5:6], -keys[:, :, 5:6])
    assert seen.flatten().tolist() == [3, 4, 5] and values.flatten().tolist() == [3, 4, -5]
    assert cache.length == 6 and cache.nbytes == 2 * 2 * 4
    cache.rewind(5)
    assert cache.append(0, keys[:, :, 6:], keys[:, :, 6:])[0].flatten().tolist() == [3, 4, 6]


def test_a_window_of_one_token_keeps_nothing():
    cache = WindowCache(1, 1)
    cache.append(0, torch.ones(1, 1, 4, 1), torch.ones(1, 1, 4, 1))
    assert cache.nbytes == 0 and cache.length == 4
    assert cache.append(0, torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))[0].shape[2] == 1


def test_a_window_masks_padding_where_it_is():
    cache = WindowCache(3, 2, torch.tensor([0, 4]))
    cache.append(0, torch.ones(2, 1, 5, 1), torch.ones(2, 1, 5, 1))
    assert cache.mask(1)[:, 0, 0].tolist() == [[True] * 3, [False, True, True]]
    assert WindowCache(3, 2).mask(1) is None
    first = WindowCache(3, 2, torch.tensor([0, 4])).mask(5)
    assert first[1, 0, 1].tolist() == [False, True, False, False, True]  # padding sees itself: no softmax over nothing


def all_layers() -> LayerCaches:
    cache = LayerCaches([KeyValueCache(1, 2, 1, 9, 1), WindowCache(3, 2), StateCache(2)], 9)
    for number in (4, 2):
        keys = torch.full((2, 1, number, 1), float(number))
        cache.layers[0].append(0, keys, keys)
        cache.layers[1].append(0, keys, keys)
        cache.layers[2].update(number, state(2, number))
    return cache


def test_all_layers_go_back_to_one_place():
    cache = all_layers()
    assert cache.length == 6 and cache.max_tokens == 9
    cache.rewind(5)
    assert cache.length == 4 and [layer.length for layer in cache.layers] == [4, 4, 4]
    cache = all_layers()
    cache.layers[1].remembered, cache.layers[1]._earlier = 0, []
    cache.rewind(5)
    assert [layer.length for layer in cache.layers] == [0, 0, 0]


def test_layers_agree_on_a_place_that_all_remember():
    layers = [StateCache(1), StateCache(1)]
    for layer, places in zip(layers, ((2, 4, 6), (3, 6))):
        for place in places:
            layer.update(place - layer.length, state(1, place))
    cache = LayerCaches(layers, 9)
    assert cache.reachable(6) == 6 and cache.reachable(5) == 0  # 4, then 3, then 2, then the beginning
    cache.rewind(5)
    assert [layer.length for layer in layers] == [0, 0]


def test_a_beginning_is_a_cache_of_its_own():
    cache = all_layers()
    assert [cache.reachable(place) for place in (6, 5, 4, 3)] == [6, 4, 4, 0]
    begun = cache.beginning(5, 7)
    assert begun.length == 4 and begun.max_tokens == begun.layers[0].max_tokens == 7
    assert begun.layers[0].keys[0, 0, 0, :4].flatten().tolist() == [4, 4, 4, 4]
    assert begun.layers[2].states[0].tolist() == [[4, 4], [4, 4]] and begun.layers[1].window == 3
    begun.layers[2].update(1, state(2, 9))
    begun.layers[0].append(0, torch.ones(2, 1, 1, 1), torch.ones(2, 1, 1, 1))
    assert cache.length == 6 and cache.layers[2].states[0][0, 0] == 2  # this one stays where it was
    assert cache.layers[0].keys[0, 0, 0, :6].flatten().tolist() == [4, 4, 4, 4, 2, 2]
    cache.rewind(4)
    assert cache.layers[2].states[0][0, 0] == 4
    with pytest.raises(ValueError, match="a cache of 4 tokens cannot go back to 5"):
        filled_to(4).beginning(5, 9)


def test_what_is_held_counts_earlier_states_too():
    cache = all_layers()
    attention, window, states = 2 * 2 * 9 * 4, 2 * 2 * 2 * 4, 2 * 2 * 4
    assert cache.held_bytes == attention + 2 * window + 2 * states
    assert filled_to(20, remembered=3).held_bytes == 4 * 8


def test_a_cache_of_the_same_layer_holds_other_texts():
    cache = WindowCache(3, 1)
    cache.append(0, torch.ones(1, 1, 4, 1), torch.ones(1, 1, 4, 1))
    keys = torch.arange(4.0).view(2, 1, 2, 1)
    cache.append(0, torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    other = cache.holding((keys, -keys), 5, 2, torch.tensor([0, 4]))
    assert other.length == 5 and other.reachable(4) == 0 and cache.reachable(4) == 4 and cache.batch_size == 1
    assert other.mask(1)[:, 0, 0].tolist() == [[True] * 3, [False, True, True]]
    seen, values = other.append(0, torch.full((2, 1, 1, 1), 9.0), torch.full((2, 1, 1, 1), 8.0))
    assert seen.flatten().tolist() == [0, 1, 9, 2, 3, 9] and values.flatten().tolist() == [0, -1, 8, -2, -3, 8]


@pytest.mark.parametrize("rows", [torch.tensor([1]), [1]])
def test_all_layers_keep_the_same_rows(rows):
    cache = all_layers()
    cache.padding = torch.tensor([0, 2])
    cache.select(rows)
    assert cache.padding.tolist() == [2]
    assert cache.layers[0].keys.shape[1] == cache.layers[1].batch_size == len(cache.layers[2].states[0]) == 1


def test_positions_leave_padding_out():
    cache = LayerCaches([StateCache(2, torch.tensor([0, 2]))], 9, torch.tensor([0, 2]))
    cache.layers[0].update(3, state(2, 0))
    assert cache.positions(2).tolist() == [[3, 4], [1, 2]]
    assert LayerCaches([StateCache(2)], 9).positions(3).tolist() == [0, 1, 2]
    empty = LayerCaches([StateCache(2, torch.tensor([0, 3]))], 9, torch.tensor([0, 3]))
    assert empty.positions(5).tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 0, 1]]  # never negative


@pytest.mark.parametrize("act, message", [
    (lambda cache: cache.rewind(4), r"a cache of 3 tokens cannot go back to 4: give 0 to 3"),
    (lambda cache: cache.rewind(-1), r"go back to -1: give 0 to 3"),
    (lambda cache: cache.update(1, state(2, 0)), r"the state has 2 rows, the cache 1: make one with new_cache"),
    (lambda cache: cache.update(1, state(1, 0).requires_grad_()), r"needs gradients.*torch.no_grad"),
    (lambda cache: cache.select(torch.tensor([[0]])), r"rows are \(1, 1\) of torch.int64: give the numbers"),
    (lambda cache: StateCache(2, torch.tensor([1])), r"padding has shape \(1,\): give one number for each of the 2"),
])
def test_what_does_not_fit_is_refused_and_nothing_is_taken(act, message):
    cache = filled_to(3)
    with pytest.raises(ValueError, match=message):
        act(cache)
    assert cache.length == 3 and cache.states[0][0, 0] == 3


def test_a_window_refuses_another_batch():
    cache = WindowCache(3, 2)
    cache.append(0, torch.ones(2, 1, 2, 1), torch.ones(2, 1, 2, 1))
    with pytest.raises(ValueError, match="the state has 3 rows, the cache 2"):
        cache.append(0, torch.ones(3, 1, 1, 1), torch.ones(3, 1, 1, 1))
