"""Chapter 3's checks: right answers pass, however written; wrong ones are named."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmbook.attention import MultiHeadAttention, causal_attention
from llmbook.book.exercises import Wrong
from llmbook.book.exercises import chapter_03 as check


def mask(tokens: int) -> torch.Tensor:
    return torch.ones(tokens, tokens, dtype=torch.bool).triu(1)


def refused(exercise, answer, message: str) -> None:
    with pytest.raises(Wrong) as caught:
        exercise.verify(answer)
    assert message in str(caught.value)


@pytest.mark.parametrize("number", range(1, 7))
def test_a_stub_is_not_started(number, capsys):
    exercise = getattr(check, f"exercise_{number}")
    for stub in (lambda *arguments: None, lambda *arguments: ...):
        exercise(stub)
        assert capsys.readouterr().out.startswith(f"Exercise 3.{number}: not started.")


def test_checks_leave_the_readers_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    check.exercise_1.verify(lambda q, k: (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(mask(q.shape[2]),
                                                                                     -torch.inf).softmax(-1))
    check.exercise_3.verify(looks_ahead)
    assert torch.equal(torch.randn(3), expected)


# 3.1


def weights(query, key, scale=None, hidden=None, fill=-torch.inf, dim=-1):
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    hidden = mask(query.shape[2]) if hidden is None else hidden
    return (query @ key.mT * scale).masked_fill(hidden, fill).softmax(dim)


def test_weights_right():
    check.exercise_1.verify(weights)

    def one_hot_values(query, key):  # the output of attention to one-hot values is the weights
        batch, n_heads, tokens, _ = query.shape
        return F.scaled_dot_product_attention(query, key, torch.eye(tokens).expand(batch, n_heads, -1, -1),
                                              is_causal=True)

    check.exercise_1.verify(one_hot_values)

    def renormalised(query, key):
        exponentials = (query @ key.mT / query.shape[-1] ** 0.5).exp().tril()
        return exponentials / exponentials.sum(-1, keepdim=True)

    check.exercise_1.verify(renormalised)


@pytest.mark.parametrize(("answer", "message"), [
    (lambda q, k: weights(q, k, hidden=mask(q.shape[2]) & False), "without the mask"),
    (lambda q, k: weights(q, k, scale=1.0), "without the scaling"),
    (lambda q, k: weights(q, k, scale=1 / q.shape[-1]), "divided by d_head, not by its square root"),
    (lambda q, k: weights(q, k, scale=q.shape[2] ** -0.5), "d_head is the last dimension"),
    (lambda q, k: weights(q, k, hidden=mask(q.shape[2]).T), "hides the past and leaves the future"),
    (lambda q, k: weights(q, k, hidden=mask(q.shape[2]) & False).tril(), "mask came after the softmax"),
    (lambda q, k: weights(q, k, fill=0.0), "only -inf gives the weight 0"),
    (lambda q, k: weights(q, k).log(), "the softmax is missing"),
    (lambda q, k: weights(k, q), "exchanged"),
    (lambda q, k: weights(q, k, dim=-2), "softmax runs over the wrong dimension"),
    (lambda q, k: weights(q, k, hidden=torch.ones_like(mask(q.shape[2])).triu(0)), "must at least see itself"),
    (lambda q, k: weights(q, k).sum(1), "expected (2, 3, 5, 5)"),
    (lambda q, k: 2 * weights(q, k), "do not add up to 1"),
    (lambda q, k: weights(q * 1.1, k), "The steps are: scores, scaling, mask, softmax"),
    (lambda q, k: 3, "should be a tensor, not int")])
def test_weights_wrong(answer, message):
    if message == "the softmax is missing":
        def answer(q, k):
            return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(mask(q.shape[2]), -torch.inf)
    refused(check.exercise_1, answer, message)


# 3.2


def window_mask(past, tokens, window):
    distance = torch.arange(past, past + tokens)[:, None] - torch.arange(past + tokens)
    return (distance >= 0) & (distance < window)


@pytest.mark.parametrize("answer", [
    window_mask,
    lambda past, tokens, window: (torch.ones(tokens, past + tokens).tril(past).triu(past - window + 1)).bool()])
def test_window_right(answer):
    check.exercise_2.verify(answer)


@pytest.mark.parametrize(("answer", "message"), [
    (lambda p, t, w: window_mask(p, t, w + 1), "one too many: the window counts the token itself"),
    (lambda p, t, w: window_mask(p, t, w - 1), "may not look at position 0, but that is within the last 3 tokens"),
    (lambda p, t, w: window_mask(p, t, 10**6), "one too many"),
    (lambda p, t, w: ~window_mask(p, t, w), "the wrong way round"),
    (lambda p, t, w: window_mask(0, p + t, w)[:t], "they start at position `past`"),
    (lambda p, t, w: torch.ones(t, p + t, dtype=torch.bool).triu(p - w + 1), "may look at position 1, that is the f"),
    (lambda p, t, w: window_mask(p, t, w).triu(p + 1), "a token always sees itself"),
    (lambda p, t, w: window_mask(p, t, w + 4) & ~window_mask(p, t, w + 1) | window_mask(p, t, w),
     "further back than the window reaches"),
    (lambda p, t, w: window_mask(p, t, w).float(), "has dtype torch.float32, expected torch.bool"),
    (lambda p, t, w: window_mask(0, t, w), "the mask has shape (3, 3), expected (3, 8)")])
def test_window_wrong(answer, message):
    refused(check.exercise_2, answer, message)


# 3.3


def looks_ahead(attention, x, changes=None):
    before = attention(x)
    for token in changes or range(1, x.shape[1]):
        changed = x.clone()
        changed[:, token] += 1
        if not torch.allclose(attention(changed)[:, :token], before[:, :token], atol=1e-6):
            return True
    return False


def test_ahead_right():
    check.exercise_3.verify(looks_ahead)

    def by_gradient(attention, x):
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            output = attention(x)
            return any(torch.autograd.grad(output[:, t].sum(), x, retain_graph=True)[0][:, t + 1 :].any()
                       for t in range(x.shape[1]))

    check.exercise_3.verify(by_gradient)

    def by_prefix(attention, x):
        whole = attention(x)
        return not all(torch.allclose(attention(x[:, :n]), whole[:, :n], atol=1e-6) for n in range(1, x.shape[1]))

    check.exercise_3.verify(by_prefix)


def only_the_next(attention, x):
    before = attention(x)
    for token in range(1, x.shape[1]):
        changed = x.clone()
        changed[:, token] += 1
        if not torch.allclose(attention(changed)[:, token - 1], before[:, token - 1], atol=1e-6):
            return True
    return False


def changes_x(attention, x):
    before = attention(x)
    x[:, -1] += 1
    return not torch.equal(attention(x)[:, :-1], before[:, :-1])


@pytest.mark.parametrize(("answer", "message"), [
    (lambda attention, x: False, "mixes in the mean of all tokens; you return False"),
    (lambda attention, x: True, "looks at no later token; you return True"),
    (lambda attention, x: looks_ahead(attention, x, [5]), "lets the first token look at the second; you return False"),
    (lambda attention, x: looks_ahead(attention, x, [1]), "lets the last token but one look at the last"),
    (lambda attention, x: looks_ahead(attention, x, [1, 5]), "lets one token in the middle look at the next"),
    (lambda attention, x: looks_ahead(attention, x, [1, 2, 3, 4]), "the last token but one"),
    (lambda attention, x: not torch.equal(attention(x), attention(x + 1)),
     "Compare only the outputs before the token that you change"),
    (changes_x, "changes `x` itself"),
    (only_the_next, "lets the first token look at the last; you return False"),
    (lambda attention, x: "no", "Return True or False, not str")])
def test_ahead_wrong(answer, message):
    refused(check.exercise_3, answer, message)


# 3.5


def with_distance(query, key, value, slopes, sign=-1.0, later=True, scale=None, inside=1.0, absolute=False):
    places = torch.arange(query.shape[2])
    distance = places[:, None] - places
    change = sign * slopes[:, None, None] * (distance.abs() if absolute else distance) * inside
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale) + change
    return (scores.masked_fill(distance < 0, -torch.inf) if later else scores).softmax(-1) @ value


def test_distance_right():
    check.exercise_5.verify(with_distance)

    def fused(query, key, value, slopes):
        places = torch.arange(query.shape[2])
        change = -slopes[:, None, None] * (places[:, None] - places)
        change = change.masked_fill(mask(query.shape[2]), -torch.inf)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=change)

    check.exercise_5.verify(fused)

    def per_head(query, key, value, slopes):  # adding j x slope is the same: a row's constant drops out
        places = torch.arange(query.shape[2])
        return torch.stack([((query[:, h] @ key[:, h].mT) / query.shape[-1] ** 0.5 + slopes[h] * places)
                            .masked_fill(mask(query.shape[2]), -torch.inf).softmax(-1) @ value[:, h]
                            for h in range(query.shape[1])], dim=1)

    check.exercise_5.verify(per_head)


@pytest.mark.parametrize(("changes", "message"), [
    ({"sign": 0.0}, "plain attention"),
    ({"sign": 1.0}, "far words count for more"),
    ({"later": False}, "The mask is missing"),
    ({"later": False, "absolute": True}, "The mask is missing"),
    ({"scale": 1.0}, "The scaling is missing"),
    ({"inside": 0.5}, "before the scaling"),
    ({"inside": 2.0}, "The values are not right")])
def test_distance_wrong(changes, message):
    refused(check.exercise_5, lambda q, k, v, s: with_distance(q, k, v, s, **changes), message)


def test_distance_with_one_slope_for_all_or_a_wrong_shape():
    refused(check.exercise_5, lambda q, k, v, s: with_distance(q, k, v, s[:1]), "each head has its own")
    refused(check.exercise_5, lambda q, k, v, s: weights(q, k), "the context has shape (2, 3, 5, 5)")


# 3.4


def heads(qkv, n_heads, order=(0, 2, 1, 3), masked=True, shift=0.0):
    query, key, value = qkv.unflatten(2, (3, n_heads, -1)).permute(2, 0, 3, 1, 4)
    attend = causal_attention if masked else F.scaled_dot_product_attention
    return attend(query, key, value).permute(order).flatten(2).reshape(*qkv.shape[:2], -1) + shift


def broken(qkv, n_heads):
    query, key, value = qkv.unflatten(2, (3, n_heads, -1)).permute(2, 0, 3, 1, 4)
    return causal_attention(query, key, value).reshape(*qkv.shape[:2], -1)


def test_mended_heads_right():
    check.exercise_4.verify(heads)


@pytest.mark.parametrize(("answer", "message"), [
    (broken, "This is still the broken layer"),
    (lambda qkv, n: heads(qkv, n, masked=False), "The mask was right"),
    (lambda qkv, n: heads(qkv, n, order=(0, 2, 3, 1)), "the heads should lie one after the other"),
    (lambda qkv, n: heads(qkv, n).roll(1, 0) + qkv.sum(1, keepdim=True)[..., :1], "still change when the last token"),
    (lambda qkv, n: heads(qkv, n, shift=1.0), "the values are not right"),
    (lambda qkv, n: qkv, "the context has shape")])
def test_mended_heads_wrong(answer, message):
    refused(check.exercise_4, answer, message)


def test_the_layer_that_the_chapter_hands_out_does_look_ahead():
    qkv = torch.randn(1, 6, 24)
    changed = qkv.clone()
    changed[:, -1] += 1
    assert not torch.allclose(broken(qkv, 2)[:, :-1], broken(changed, 2)[:, :-1])


# 3.6


class Copier(nn.Module):
    """Attention layers with skip connections, or without."""

    def __init__(self, n_layers, d_model=32, skip=True, ahead=False, scores=16):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(16, d_model), nn.Embedding(24, d_model)
        self.layers = nn.ModuleList(MultiHeadAttention(d_model, 1) for _ in range(n_layers))
        self.guess, self.skip, self.ahead = nn.Linear(d_model, scores), skip, ahead

    def forward(self, token_ids):
        x = self.tokens(token_ids) + self.positions(torch.arange(token_ids.shape[1]))
        for layer in self.layers:
            x = x + layer(x) if self.skip else layer(x)
        return self.guess(x + x.mean(1, keepdim=True) if self.ahead else x)


@pytest.mark.slow
def test_two_layers_reach_the_target():
    check.exercise_6.verify(lambda: Copier(2))


@pytest.mark.slow
def test_one_layer_does_not():
    refused(check.exercise_6, lambda: Copier(1), "Is there one layer only")


@pytest.mark.parametrize(("answer", "message"), [
    (lambda: Copier(2, d_model=64), "more than 20,000"),
    (lambda: Copier(2, ahead=True), "Your model looks ahead"),
    (lambda: Copier(2, scores=8), "has shape (4, 24, 8), expected (4, 24, 16)"),
    (lambda: 3, "Return a model, an nn.Module, not int")])
def test_copier_wrong(answer, message):
    refused(check.exercise_6, answer, message)


def test_a_copier_that_gives_no_number():
    class Nothing(nn.Module):
        def forward(self, token_ids):
            return torch.full((*token_ids.shape, 16), torch.nan)

    refused(check.exercise_6, Nothing, "Some scores are not finite")


def test_texts_repeat_and_only_what_can_be_known_is_asked():
    text, targets = check.repeated_texts(200)
    for row, target in zip(text.tolist(), targets.tolist()):
        length = next(n for n in range(6, 13) if row[n:] == row[:-n])
        assert len(set(row[:length])) == length  # one place to find, not several
        assert target[: length - 1] == [-100] * (length - 1) and target[length - 1 : -1] == row[length:]
