"""Chapter 3: attention equals PyTorch's own, never looks ahead, and gives the same outputs through its cache."""

import inspect
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from llmbook import attention
from llmbook.attention import KeyValueCache, MultiHeadAttention, causal_attention

SIZES = [(64, 4), (48, 1), (30, 5), (16, 16)]  # d_model, n_heads


def randomized(module: nn.Module, std: float = 0.1) -> nn.Module:
    """Biases too, which a new layer has at zero, where a lost one would not be noticed."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std)
    return module


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def empty_cache(layer: MultiHeadAttention, batch: int, tokens: int, n_layers: int = 1, **kind) -> KeyValueCache:
    """A cache for `layer` whose unused memory holds NaN, so that reading it would show."""
    d_head = layer.out.in_features // layer.n_heads
    cache = KeyValueCache(n_layers, batch, layer.n_heads, tokens, d_head, **kind)
    cache.keys.fill_(torch.nan)
    cache.values.fill_(torch.nan)
    return cache


def in_pieces(layer: MultiHeadAttention, x: Tensor, pieces: list[int]) -> Tensor:
    cache = empty_cache(layer, len(x), x.shape[1], dtype=x.dtype)
    with torch.no_grad():
        outputs = torch.cat([layer(piece, cache) for piece in x.split(pieces, dim=1)], dim=1)
    assert cache.length == x.shape[1]
    return outputs


def by_hand(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention by the formula, in loops over tokens: no mask, no broadcasting, nothing shared with our code."""
    context = torch.zeros_like(query)
    past = key.shape[2] - query.shape[2]
    for b, h, i in itertools.product(range(query.shape[0]), range(query.shape[1]), range(query.shape[2])):
        seen = past + i + 1
        scores = torch.stack([query[b, h, i] @ key[b, h, j] for j in range(seen)]) / query.shape[3] ** 0.5
        weights = scores.exp() / scores.exp().sum()
        context[b, h, i] = sum(weights[j] * value[b, h, j] for j in range(seen))
    return context


# What it computes


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("need_weights", [False, True], ids=["fused", "step by step"])
@pytest.mark.parametrize(("d_model", "n_heads"), SIZES)
def test_it_equals_pytorchs_own_to_a_millionth(d_model, n_heads, need_weights, bias):
    theirs = randomized(nn.MultiheadAttention(d_model, n_heads, bias=bias, batch_first=True))
    ours = MultiHeadAttention(d_model, n_heads, bias=bias)
    weights = {"qkv.weight": theirs.in_proj_weight, "out.weight": theirs.out_proj.weight}
    if bias:
        weights |= {"qkv.bias": theirs.in_proj_bias, "out.bias": theirs.out_proj.bias}
    ours.load_state_dict(weights)
    x = torch.randn(3, 40, d_model)
    future = torch.ones(40, 40, dtype=torch.bool).triu(1)
    with torch.no_grad():
        expected, _ = theirs(x, x, x, attn_mask=future, need_weights=need_weights)
        assert expected.std() > 1e-3
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-6)


def test_gradients_equal_those_of_the_formula():
    """All parameters and the input; `by_hand` cuts the heads itself, row by row of the stacked weights."""
    layer = randomized(MultiHeadAttention(12, 3, bias=True), std=0.3).double()
    x = torch.randn(2, 6, 12, dtype=torch.double, requires_grad=True)
    roles = []
    for role in range(3):
        rows = [slice(role * 12 + head * 4, role * 12 + head * 4 + 4) for head in range(3)]
        roles.append(torch.stack([x @ layer.qkv.weight[r].T + layer.qkv.bias[r] for r in rows], dim=1))
    context = by_hand(*roles)  # (batch, n_heads, tokens, d_head)
    expected = torch.cat(context.unbind(1), dim=-1) @ layer.out.weight.T + layer.out.bias
    output = layer(x)
    torch.testing.assert_close(output, expected)
    inputs = [x, *layer.parameters()]
    wish = torch.randn_like(output)
    for ours, theirs in zip(torch.autograd.grad((output * wish).sum(), inputs),
                            torch.autograd.grad((expected * wish).sum(), inputs)):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("past", "tokens"), [(0, 1), (0, 5), (4, 1), (4, 3), (1, 2)])
def test_causal_attention_is_the_formula(past, tokens):
    query = torch.randn(2, 3, tokens, 4)
    key, value = torch.randn(2, 2, 3, past + tokens, 4)
    torch.testing.assert_close(causal_attention(query, key, value), by_hand(query, key, value))


@pytest.mark.parametrize(("bias", "out_bias", "expected"), [
    (False, None, (False, False)), (True, None, (True, True)),
    (False, True, (False, True)), (True, False, (True, False))])
def test_which_parts_have_a_bias(bias, out_bias, expected):
    layer = MultiHeadAttention(8, 2, bias=bias, out_bias=out_bias)
    assert (layer.qkv.bias is not None, layer.out.bias is not None) == expected


# It never looks ahead


@pytest.mark.parametrize("pieces", [None, [9], [1] * 9, [4, 5], [2, 1, 4, 2], [1, 8]])
def test_a_changed_future_token_changes_no_earlier_output(pieces):
    layer = randomized(MultiHeadAttention(16, 4, bias=True))
    x = torch.randn(3, 9, 16)

    def run(x: Tensor) -> Tensor:
        return layer(x).detach() if pieces is None else in_pieces(layer, x, pieces)

    before = run(x)
    for token in range(9):
        changed = x.clone()
        changed[:, token] += 100 * torch.randn(3, 16)
        after = run(changed)
        assert torch.equal(after[:, :token], before[:, :token])
        assert not torch.isclose(after[:, token:], before[:, token:]).all(dim=-1).any()  # all later ones do move


def test_no_gradient_flows_from_an_output_to_a_later_token():
    layer = randomized(MultiHeadAttention(16, 4))
    x = torch.randn(2, 7, 16, requires_grad=True)
    for token in range(7):
        gradient, = torch.autograd.grad(layer(x)[:, token].sum(), x)
        assert not gradient[:, token + 1 :].any()
        assert gradient[:, : token + 1].abs().amax(dim=-1).min() > 0


def test_texts_of_a_batch_do_not_mix():
    layer = randomized(MultiHeadAttention(16, 4))
    x = torch.randn(3, 5, 16)
    alone = torch.cat([layer(text[None]) for text in x])
    torch.testing.assert_close(layer(x), alone, rtol=0, atol=1e-6)
    pieces = torch.cat([in_pieces(layer, text[None], [2, 3]) for text in x])
    torch.testing.assert_close(in_pieces(layer, x, [2, 3]), pieces, rtol=0, atol=1e-6)


# The cache


@pytest.mark.parametrize("pieces", [[11], [1] * 11, [7, 1, 1, 2], [1, 10], [5, 6], [2, 3, 6]])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_cache_changes_no_output(batch, pieces):
    layer = randomized(MultiHeadAttention(24, 3, bias=True), std=0.3)
    x = torch.randn(batch, 11, 24)
    torch.testing.assert_close(in_pieces(layer, x, pieces), layer(x).detach(), rtol=0, atol=1e-5)


def test_layers_share_a_cache_without_touching_each_other():
    layers = [randomized(MultiHeadAttention(16, 2), std=0.3) for _ in range(3)]
    x = torch.randn(2, 6, 16)
    cache = empty_cache(layers[0], 2, 6, n_layers=3)
    outputs, lengths = [], []
    with torch.no_grad():
        whole = layers[2](layers[1](layers[0](x)))
        for piece in x.split([4, 2], dim=1):
            for index, layer in enumerate(layers):
                piece = layer(piece, cache, index)
                lengths.append(cache.length)
            outputs.append(piece)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole, rtol=0, atol=1e-5)
    assert lengths == [0, 0, 4, 4, 4, 6]  # tokens that every layer has


def test_append_stores_in_place_and_returns_views():
    cache = KeyValueCache(2, 2, 3, 5, 4, dtype=torch.float64)
    assert cache.keys.shape == cache.values.shape == (2, 2, 3, 5, 4)
    assert cache.keys.dtype == cache.values.dtype == torch.float64
    assert (cache.length, cache.max_tokens) == (0, 5)
    keys, values = torch.randn(2, 2, 3, 5, 4, dtype=torch.float64)
    address = cache.keys.data_ptr()
    first = cache.append(1, keys[:, :, :2], values[:, :, :2])
    so_far = cache.append(1, keys[:, :, 2:], values[:, :, 2:])
    assert torch.equal(so_far[0], keys) and torch.equal(so_far[1], values)
    assert torch.equal(first[0], keys[:, :, :2])
    assert so_far[0]._base is cache.keys and so_far[1]._base is cache.values
    assert cache.keys.data_ptr() == address
    assert cache.length == 0  # the other layer has none yet


def test_a_new_token_costs_one_row_however_long_the_past():
    """Counted in multiply-adds: 4 d^2 for the products, 2 d a token seen."""
    counter = pytest.importorskip("torch.utils.flop_counter").FlopCounterMode
    from torch.nn.attention import SDPBackend, sdpa_kernel

    layer = MultiHeadAttention(32, 4)
    cache = empty_cache(layer, 1, 20)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        layer(torch.randn(1, 19, 32), cache)
        with counter(display=False) as count:
            layer(torch.randn(1, 1, 32), cache)
    assert count.get_total_flops() == 2 * (4 * 32**2 + 2 * 20 * 32)


def test_inference_mode_can_fill_a_cache_made_outside():
    layer, x = randomized(MultiHeadAttention(16, 2)), torch.randn(1, 4, 16)
    cache = empty_cache(layer, 1, 4)
    with torch.inference_mode():
        pieces = torch.cat([layer(piece, cache) for piece in x.split(2, dim=1)], dim=1)
        torch.testing.assert_close(pieces, layer(x), rtol=0, atol=1e-6)


# Numbers of half the size


def test_bfloat16_is_near_float32_with_and_without_cache():
    layer, x = randomized(MultiHeadAttention(64, 4)), torch.randn(2, 12, 64)
    expected = layer(x).detach()
    half, half_x = randomized(MultiHeadAttention(64, 4)).to(torch.bfloat16), x.to(torch.bfloat16)
    half.load_state_dict(layer.state_dict())
    for output in (half(half_x).detach(), in_pieces(half, half_x, [7, 1, 4])):
        assert output.dtype == torch.bfloat16
        assert (output.float() - expected).norm() < 0.02 * expected.norm()


def test_autocast_works_with_a_bfloat16_cache_and_refuses_a_float32_one():
    layer, x = randomized(MultiHeadAttention(64, 4)), torch.randn(2, 6, 64)
    expected = layer(x).detach()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cache = empty_cache(layer, 2, 6, dtype=torch.bfloat16)
        output = torch.cat([layer(piece, cache) for piece in x.split([4, 2], dim=1)], dim=1)
        assert (output.float() - expected).norm() < 0.02 * expected.norm()
        with pytest.raises(ValueError, match=r"keys of torch.bfloat16 on cpu do not fit a cache of torch.float32 on "
                                             r"cpu: make it with the model's dtype and device"):
            layer(x, empty_cache(layer, 2, 6))


# Dropout


def test_dropout_is_for_training_mode_only():
    layer, x = randomized(MultiHeadAttention(32, 4, dropout=0.5)), torch.randn(2, 8, 32)
    plain = MultiHeadAttention(32, 4)
    plain.load_state_dict(layer.state_dict())
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), plain(x))
    layer.train()
    layer.dropout = 0.0
    assert torch.equal(layer(x), plain(x))


def test_dropout_acts_on_the_weights_and_keeps_their_mean():
    """One head, values one-hot: the output is the weights. Some are 0, the others twice as large."""
    query, key = torch.randn(2, 400, 1, 6, 4)
    one_hot = torch.eye(6).expand(400, 1, 6, 6)
    weights, dropped = causal_attention(query, key, one_hot), causal_attention(query, key, one_hot, dropout=0.5)
    kept = dropped > 0
    torch.testing.assert_close(dropped[kept], 2 * weights[kept])
    assert 0.45 < kept.sum() / (weights > 0).sum() < 0.55


# What does not fit is refused, in one line


@pytest.mark.parametrize(("d_model", "n_heads"), [(100, 12), (8, 16), (8, 0), (8, -2)])
def test_sizes_that_do_not_go_together(d_model, n_heads):
    with pytest.raises(ValueError, match=rf"^d_model \({d_model}\) must be divisible by n_heads \({n_heads}\)$"):
        MultiHeadAttention(d_model, n_heads)


@pytest.mark.parametrize("shape", [(2, 5, 15), (5, 16), (16,), (1, 2, 5, 16)])
def test_x_of_another_shape(shape):
    layer = MultiHeadAttention(16, 4)
    with pytest.raises(ValueError) as caught:
        layer(torch.randn(shape))
    assert str(caught.value) == f"x has shape {shape}: give (batch, tokens, 16)"


@pytest.mark.parametrize(("n_heads", "shape", "layer", "message"), [
    (4, (2, 9, 16), 0, "9 tokens do not fit a cache of 8: make it with more max_tokens"),
    (4, (3, 5, 16), 0, "a batch of 3 does not fit a cache made for 2: make one for each batch size"),
    (4, (1, 5, 16), 0, "a batch of 1 does not fit a cache made for 2: make one for each batch size"),
    (4, (2, 5, 16), 3, "layer 3 does not exist in a cache made for 3 layers, counted from 0: "
                       "make it with the model's n_layers"),
    (4, (2, 5, 16), -1, "layer -1 does not exist in a cache made for 3 layers, counted from 0: "
                        "make it with the model's n_layers"),
    (1, (2, 5, 4), 0, "keys (2, 1, 5, 4) and values (2, 1, 5, 4) do not fit a cache made for 4 heads of 4 features"),
    (4, (2, 5, 32), 0, "keys (2, 4, 5, 8) and values (2, 4, 5, 8) do not fit a cache made for 4 heads of 4 features")])
def test_a_cache_that_does_not_fit(n_heads, shape, layer, message):
    cache = KeyValueCache(n_layers=3, batch_size=2, n_heads=4, max_tokens=8, d_head=4)
    cache.keys.zero_(), cache.values.zero_()
    with torch.no_grad(), pytest.raises(ValueError) as caught:
        MultiHeadAttention(shape[2], n_heads)(torch.randn(shape), cache, layer)
    assert str(caught.value) == message
    assert cache.length == 0 and not cache.keys.any() and not cache.values.any()  # nothing was stored


def test_a_full_cache_keeps_what_it_has():
    layer, x = randomized(MultiHeadAttention(16, 4)), torch.randn(1, 5, 16)
    cache = empty_cache(layer, 1, 5)
    with torch.no_grad():
        layer(x[:, :4], cache)
        with pytest.raises(ValueError, match="6 tokens do not fit a cache of 5"):
            layer(x[:, :2], cache)
        last = layer(x[:, 4:], cache)  # what fits still goes on from where it was
    torch.testing.assert_close(last, layer(x)[:, 4:].detach(), rtol=0, atol=1e-6)


def test_a_cache_with_more_layers_than_the_model_or_left_half_filled():
    """Its length would stay behind, and with it the positions of all tokens to come."""
    cache = KeyValueCache(2, 1, 4, 8, 4)
    layer, x = MultiHeadAttention(16, 4), torch.randn(1, 2, 16)
    with torch.no_grad():
        layer(x, cache, 0), layer(x, cache, 1)
        layer(x, cache, 0)
        with pytest.raises(ValueError, match=r"the last pass did not fill all 2 layers.* rewind\(cache.length\)"):
            layer(x, cache, 0)
        cache.rewind(cache.length)  # the message's remedy
        layer(x, cache, 0), layer(x, cache, 1)
    assert cache.length == 4


def test_keys_and_values_of_different_shapes():
    cache = KeyValueCache(1, 2, 3, 5, 4)
    with pytest.raises(ValueError, match=r"keys \(2, 3, 2, 4\) and values \(2, 3, 1, 4\) do not fit"):
        cache.append(0, torch.zeros(2, 3, 2, 4), torch.zeros(2, 3, 1, 4))


def test_a_cache_on_another_device():
    layer = MultiHeadAttention(16, 4)
    with torch.no_grad(), pytest.raises(ValueError, match="keys of torch.float32 on cpu do not fit a cache of "
                                                          "torch.float32 on meta: make it with the model's"):
        layer(torch.randn(2, 3, 16), KeyValueCache(1, 2, 4, 8, 4, device="meta"))


def test_a_cache_takes_no_part_in_training():
    layer = MultiHeadAttention(16, 4)
    cache = empty_cache(layer, 2, 8)
    with pytest.raises(ValueError, match=r"a cache is for inference: run the model under torch.no_grad\(\)"):
        layer(torch.randn(2, 3, 16), cache)
    assert not cache.keys.requires_grad and cache.length == 0


# Rows and lengths that change: what `generate` and a conversation need


class Stack(nn.Module):
    """Attention layers one on the other: what a position holds in the second depends on all before it."""

    def __init__(self, **options):
        super().__init__()
        self.layers = nn.ModuleList(MultiHeadAttention(24, 3, bias=True, **options) for _ in range(2))

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = x + layer(x, cache, number)
        return x


def new_cache(batch: int, tokens: int = 40, padding: Tensor | None = None) -> KeyValueCache:
    cache = KeyValueCache(2, batch, 3, tokens, 8, padding=padding)
    cache.keys.fill_(torch.nan)
    cache.values.fill_(torch.nan)
    return cache


OPERATIONS = st.lists(st.one_of(
    st.tuples(st.just("read"), st.integers(1, 5)),
    st.tuples(st.just("rewind"), st.integers(0, 100)),
    st.tuples(st.just("select"), st.lists(st.integers(0, 100), min_size=1, max_size=4))), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(operations=OPERATIONS, first=st.integers(1, 3), window=st.sampled_from([None, 1, 3]),
       padding=st.one_of(st.none(), st.lists(st.integers(0, 4), min_size=3, max_size=3)))
@torch.no_grad()
def test_any_sequence_of_reading_going_back_and_choosing_rows_equals_reading_alone(operations, first, window, padding):
    """The cache against no cache: after each operation, each row is read again by itself, without its padding."""
    torch.manual_seed(1)
    stack = randomized(Stack(window=window))
    paddings = [0] * first if padding is None else padding[:first]
    cache = new_cache(first, 80, None if padding is None else torch.tensor(paddings))
    texts = torch.randn(first, 0, 24)
    for name, value in [("read", 5), *operations]:
        if name == "read":
            new = torch.randn(len(texts), value, 24)
            texts = torch.cat([texts, new], dim=1)
            assert cache.positions(value).shape == ((value,) if padding is None else (len(texts), value))
            outputs = stack(new, cache)
            for row, (text, lead) in enumerate(zip(texts, paddings)):
                shown = min(value, texts.shape[1] - lead)  # what of the new places is no padding
                if shown > 0:
                    alone = stack(text[None, lead:])[0, -shown:]
                    torch.testing.assert_close(outputs[row, -shown:], alone, rtol=0, atol=1e-5)
            assert not outputs.isnan().any()  # of padding neither: its NaN would spread
        elif name == "rewind":
            length = value % (texts.shape[1] + 1)
            cache.rewind(length)
            texts = texts[:, :length]
        else:
            rows = torch.tensor(value) % len(texts)
            cache.select(rows)
            texts, paddings = texts[rows], [paddings[row] for row in rows]
        assert cache.length == texts.shape[1]


def test_positions_and_mask_of_padded_rows():
    cache = new_cache(2, padding=torch.tensor([0, 3]))
    assert cache.positions(5).tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 0, 1]]  # never negative
    mask = cache.mask(5)
    assert mask.shape == (2, 1, 5, 5) and mask.dtype == torch.bool
    assert mask[0].all() and mask[1, 0, 4].tolist() == [False, False, False, True, True]
    assert mask[1, 0, 1].tolist() == [False, True, False, True, True]  # padding sees itself: no softmax over nothing
    assert new_cache(2).mask(5) is None and new_cache(2).positions(2).tolist() == [0, 1]


def test_a_beginning_of_a_cache_is_one_of_its_own():
    stack, texts = Stack(), torch.randn(2, 6, 24)
    cache = new_cache(2, padding=torch.tensor([0, 2]))
    with torch.no_grad():
        stack(texts[:, :5], cache)
        begun = cache.beginning(4, 7)
        assert begun.length == 4 and begun.max_tokens == 7 and cache.reachable(9) == 5 and cache.reachable(3) == 3
        assert begun.held_bytes == 2 * 2 * 2 * 3 * 7 * 8 * 4
        found = stack(-texts[:, 4:], begun)  # goes on otherwise
        same = new_cache(2, padding=torch.tensor([0, 2]))
        stack(texts[:, :4], same)
        torch.testing.assert_close(found, stack(-texts[:, 4:], same))
        assert cache.length == 5
        again = new_cache(2, padding=torch.tensor([0, 2]))
        stack(texts[:, :5], again)
        torch.testing.assert_close(stack(texts[:, 5:], cache), stack(texts[:, 5:], again))


@pytest.mark.parametrize("length", [-1, 4, 100])
def test_a_cache_cannot_go_back_to_what_it_does_not_hold(length):
    cache = new_cache(1)
    with torch.no_grad():
        Stack()(torch.randn(1, 3, 24), cache)
    with pytest.raises(ValueError, match=rf"3 tokens cannot go back to {length}: give 0 to 3"):
        cache.rewind(length)
    assert cache.length == 3


@pytest.mark.parametrize("rows", [torch.tensor([True, False]), torch.tensor(0), torch.tensor([0.0])])
def test_rows_are_numbers(rows):
    with pytest.raises(ValueError, match=r"rows are .* give the numbers of the rows to keep"):
        new_cache(2).select(rows)


@pytest.mark.parametrize("padding", [torch.tensor([1, 2, 3]), torch.tensor(1)])
def test_padding_for_each_row(padding):
    with pytest.raises(ValueError, match=r"give one number for each of the 2 rows"):
        new_cache(2, padding=padding)


# What other families ask for: a mask, a window, a scale, norms of queries and keys


@pytest.mark.parametrize("past", [0, 1, 6])
@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("window", [None, 1, 3, 10, 50])
@pytest.mark.parametrize("masked", [False, True])
def test_mask_window_and_scale_equal_the_formula(past, tokens, window, masked):
    query, key, value = (torch.randn(2, 3, n, 8) for n in (tokens, past + tokens, past + tokens))
    mask = torch.rand(2, 1, tokens, past + tokens) < 0.6 if masked else None
    places = torch.arange(past + tokens)
    itself = places == places[past:, None]
    seen = (places <= places[past:, None]) & (places > places[past:, None] - (window or 10**6))
    if masked:
        mask |= itself
        seen = seen & mask
    scores = (query @ key.mT * 0.3).masked_fill(~seen, -torch.inf)
    found = causal_attention(query, key, value, mask=mask, window=window, scale=0.3)
    torch.testing.assert_close(found, scores.softmax(-1) @ value)


def test_a_window_of_none_is_refused():
    with pytest.raises(ValueError, match="window is 0: it must be at least 1"):
        MultiHeadAttention(16, 4, window=0)


def test_norms_of_queries_and_keys_come_before_the_rotation():
    layer = randomized(MultiHeadAttention(24, 6, n_kv_heads=2, qk_norm=lambda size: nn.RMSNorm(size, eps=1e-6),
                                          scale=0.4, window=3), std=0.5)
    x = torch.randn(2, 7, 24)
    query, key, value = (part.unflatten(2, (-1, 4)).transpose(1, 2) for part in layer.qkv(x).split([24, 8, 8], dim=2))
    query, key = layer.query_norm(query).roll(1, -1), layer.key_norm(key).roll(1, -1)
    context = causal_attention(query, key, value, window=3, scale=0.4)
    found = layer(x, rotate=lambda features: features.roll(1, -1))
    torch.testing.assert_close(found, layer.out(context.transpose(1, 2).flatten(2)))
    assert not torch.allclose(layer.query_norm.weight, layer.key_norm.weight)  # one each


def test_a_plain_layer_has_the_names_it_always_had():
    names = list(MultiHeadAttention(24, 6, bias=True).state_dict())
    assert names == ["qkv.weight", "qkv.bias", "out.weight", "out.bias"]


# The public names


def test_public_names_are_typed_and_documented():
    assert set(attention.__all__) == {"KeyValueCache", "MultiHeadAttention", "causal_attention"}
    for name in attention.__all__:
        assert "batch" in inspect.getdoc(getattr(attention, name))  # shapes
    for function in (MultiHeadAttention.__init__, MultiHeadAttention.forward, KeyValueCache.__init__,
                     KeyValueCache.append, causal_attention):
        parameters = list(inspect.signature(function).parameters.values())
        assert all(p.annotation is not p.empty for p in parameters if p.name != "self")
    assert str(inspect.signature(MultiHeadAttention)) == (
        "(d_model: int, n_heads: int, dropout: float = 0.0, bias: bool = False, out_bias: bool | None = None, "
        "n_kv_heads: int | None = None, d_head: int | None = None, "
        "qk_norm: collections.abc.Callable[[int], torch.nn.modules.module.Module] | None = None, "
        "window: int | None = None, scale: float | None = None)")
