"""The plain products give what PyTorch's kernel gives, and are used where they pay."""

import pytest
import torch
from torch.nn import functional as F

from llmbook import short_attention
from llmbook.short_attention import scaled_dot_product_attention


def _tensors(dtype, tokens=40, heads=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, heads, tokens, 16, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


@pytest.fixture
def plain_calls(monkeypatch):
    calls, plain = [], short_attention._plain_causal

    def counted(*args):
        calls.append(args)
        return plain(*args)

    monkeypatch.setattr(short_attention, "_plain_causal", counted)
    return calls


@pytest.mark.parametrize("scale", [None, 0.5])
def test_output_and_gradients_are_those_of_float32_attention(scale, plain_calls):
    short, exact = _tensors(torch.bfloat16), _tensors(torch.bfloat16)
    out = scaled_dot_product_attention(*short, is_causal=True, scale=scale)
    reference = F.scaled_dot_product_attention(*(x.float() for x in exact), is_causal=True, scale=scale)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (out.float() * weights).sum().backward()
    (reference * weights).sum().backward()
    assert len(plain_calls) == 1
    torch.testing.assert_close(out.float(), reference, atol=0.03, rtol=0.03)
    for ours, theirs in zip(short, exact):
        torch.testing.assert_close(ours.grad.float(), theirs.grad.float(), atol=0.06, rtol=0.06)


def test_a_token_does_not_see_later_ones():
    query, key, value = _tensors(torch.bfloat16)
    before = scaled_dot_product_attention(query, key, value, is_causal=True)
    changed = value.detach().clone()
    changed[:, :, 20:] += 5
    after = scaled_dot_product_attention(query, key, changed, is_causal=True)
    assert torch.equal(before[:, :, :20], after[:, :, :20])
    assert not torch.equal(before[:, :, 20:], after[:, :, 20:])


@pytest.mark.parametrize("change", [{"dtype": torch.float32}, {"dropout_p": 0.5}, {"is_causal": False}, {"grad": False},
                                    {"tokens": 1}, {"most": 100}])
def test_everything_else_is_pytorch_s_own(change, plain_calls, monkeypatch):
    query, key, value = _tensors(change.get("dtype", torch.bfloat16))
    if change.get("tokens") == 1:  # one new token, and a cache
        query = query[:, :, :1]
    if not change.get("grad", True):
        query, key, value = query.detach(), key.detach(), value.detach()
    monkeypatch.setattr(short_attention, "_MOST_BYTES", change.get("most", short_attention._MOST_BYTES))
    arguments = {"dropout_p": change.get("dropout_p", 0.0), "is_causal": change.get("is_causal", True)}
    if change.get("tokens") == 1:
        arguments["is_causal"] = False
    torch.manual_seed(0)
    out = scaled_dot_product_attention(query, key, value, **arguments)
    torch.manual_seed(0)
    assert torch.equal(out, F.scaled_dot_product_attention(query, key, value, **arguments))
    assert not plain_calls
