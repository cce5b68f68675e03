"""Cross-entropy in chunks of tokens: the plain one's number and gradients, without all the logits."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from llmbook import head_loss
from llmbook.formats.quantized import quantize
from llmbook.gemma import Gemma, GemmaConfig
from llmbook.gpt import GPT, GPTConfig
from llmbook.head_loss import chunked_loss, chunks_pay, head_weight
from llmbook.llama import Llama, LlamaConfig
from llmbook.training import evaluate, next_token_loss

VOCAB = 301


def gpt(**changes) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(**{"vocab_size": VOCAB, "context_length": 32, "d_model": 32, "n_heads": 2, "n_layers": 2,
                            "dropout": 0.0, **changes}))


def llama(tied: bool) -> Llama:
    torch.manual_seed(0)
    return Llama(LlamaConfig(vocab_size=VOCAB, context_length=32, d_model=32, n_heads=2, n_kv_heads=1, n_layers=2,
                             d_hidden=64, tie_embeddings=tied))


def gemma() -> Gemma:
    torch.manual_seed(0)
    return Gemma(GemmaConfig(vocab_size=VOCAB, context_length=32, d_model=32, n_heads=2, n_kv_heads=1, n_layers=2,
                             d_hidden=64, d_head=16, window=8))


MODELS = {"gpt": gpt, "llama, tied": lambda: llama(True), "llama, output apart": lambda: llama(False), "gemma": gemma}


def batch(rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(VOCAB, (rows, 33), generator=torch.Generator().manual_seed(1))
    targets = ids[:, 1:].clone()
    targets[0, 3:9] = -100
    return ids[:, :-1], targets


def plain(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    total = F.cross_entropy(model(inputs).flatten(0, 1).float(), targets.flatten(), reduction="sum")
    return total / (targets != -100).sum().clamp(min=1)


def found(loss_fn, model: nn.Module, *tensors: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss, and all gradients of 0.7 times it, as a part of a step has them."""
    model.zero_grad(set_to_none=True)
    loss = loss_fn(model, *tensors)
    (0.7 * loss).backward()
    return loss.detach(), [p.grad for p in model.parameters()]


def close(one, other, atol=1e-5, rtol=0.0) -> None:
    torch.testing.assert_close(one[0], other[0], atol=atol, rtol=rtol)
    for a, b in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=rtol)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 16 tokens, and no batch too small for them."""
    monkeypatch.setattr(head_loss, "CHUNK", {"cpu": 20 * VOCAB})
    monkeypatch.setattr(head_loss, "LEAST", 0)


@pytest.mark.parametrize("kind", MODELS)
def test_chunks_give_the_plain_loss_and_gradients(kind, small_chunks):
    model = MODELS[kind]()
    close(found(next_token_loss, model, *batch()), found(plain, model, *batch()), atol=1e-6)


@pytest.mark.parametrize("kind", ["gpt", "llama, output apart"])
def test_chunks_under_bfloat16_autocast_are_as_near_as_bfloat16_is(kind, small_chunks):
    model = MODELS[kind]()
    exact = found(plain, model, *batch())
    with torch.autocast("cpu", torch.bfloat16):
        ours, usual = found(chunked_loss, model, *batch()), found(plain, model, *batch())
    assert all(gradient.dtype == torch.float32 for gradient in ours[1])
    torch.testing.assert_close(ours[0], usual[0], atol=1e-3, rtol=0)
    mine, theirs, right = (torch.cat([gradient.flatten() for gradient in way[1]]) for way in (ours, usual, exact))
    assert (mine - right).norm() <= 1.1 * (theirs - right).norm()  # not further off than the usual way


def test_logits_in_float32_from_a_product_in_bfloat16(small_chunks, monkeypatch):
    """As a GPU writes them: nearer to the exact ones than the usual way."""
    model = gpt()
    exact = found(plain, model, *batch())
    monkeypatch.setattr(head_loss, "_product", lambda x, matrix: x.float() @ matrix.T.float())
    with torch.autocast("cpu", torch.bfloat16):
        ours, usual = found(chunked_loss, model, *batch()), found(plain, model, *batch())
    assert all(gradient.dtype == torch.float32 for gradient in ours[1])
    mine, theirs, right = (torch.cat([gradient.flatten() for gradient in way[1]]) for way in (ours, usual, exact))
    assert (mine - right).norm() <= 1.1 * (theirs - right).norm()
    torch.testing.assert_close(ours[0], exact[0], atol=1e-3, rtol=0)


def test_padded_rows_change_nothing(small_chunks, monkeypatch):
    """As on a GPU: the matrix has 304 rows while it is multiplied, and the model 301."""
    model, seen = gpt(), []
    original = head_loss.padded_rows
    monkeypatch.setattr(head_loss, "ROWS", 8)
    monkeypatch.setattr(head_loss, "padded_rows", lambda size, kind: seen.append(original(size, "cuda")) or seen[-1])
    close(found(chunked_loss, model, *batch()), found(plain, model, *batch()), atol=1e-6)
    assert seen == [304] and model.token_embedding.weight.grad.shape == (301, 32)
    assert [original(size, kind) for size, kind in ((301, "cpu"), (304, "cuda"))] == [301, 304]


def test_where_nothing_counts_the_loss_is_0_and_so_are_the_gradients(small_chunks):
    model, (inputs, targets) = gpt(), batch()
    loss, gradients = found(next_token_loss, model, inputs, torch.full_like(targets, -100))
    assert loss == 0 and not any(gradient.any() for gradient in gradients)


def test_a_frozen_part_gets_no_gradient_and_the_others_theirs(small_chunks):
    model = llama(False)
    model.output.requires_grad_(False)
    expected = found(plain, model, *batch())
    ours = found(chunked_loss, model, *batch())
    assert model.output.weight.grad is None
    close([ours[0], ours[1][:-1]], [expected[0], expected[1][:-1]], atol=1e-6)
    model.requires_grad_(False).zero_grad(set_to_none=True)
    model.output.requires_grad_(True)
    loss = chunked_loss(model, *batch())
    loss.backward()
    assert model.output.weight.grad.any() and model.token_embedding.weight.grad is None


class Widest(TorchDispatchMode):
    """The most numbers that one tensor of floating-point numbers had."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.numbers = max(self.numbers, tensor.numel())
        return result


def test_all_the_logits_never_exist(small_chunks):
    model, (inputs, targets) = gpt(), batch(16)  # 512 tokens: 154,112 logits
    for loss_fn, full in ((plain, True), (next_token_loss, False)):
        with Widest() as widest:
            found(loss_fn, model, inputs, targets)
        assert (widest.numbers >= targets.numel() * VOCAB) is full
    assert widest.numbers < 40 * VOCAB + 4 * model.config.d_model * targets.numel()
    with Widest() as widest:  # an evaluation keeps no gradients either
        value = evaluate(model, [(inputs, targets)], next_token_loss, precision="float32")
    assert widest.numbers < targets.numel() * VOCAB
    assert value == pytest.approx(float(plain(model, inputs, targets).detach()), abs=1e-5)


def test_chunks_begin_where_the_logits_are_many():
    model = gpt(vocab_size=50257, d_model=2, n_layers=1)
    assert not chunks_pay(model, torch.zeros(1, 333)) and chunks_pay(model, torch.zeros(1, 334))


class Capped(GPT):
    def lm_head(self, hidden):
        return 5 * torch.tanh(super().lm_head(hidden) / 5)


class Deeper(GPT):
    """A class of the reader's, with the head of its family."""


def test_a_head_of_another_kind_is_computed_by_the_model_itself(small_chunks):
    """Scaled, capped, quantised, adapted: whatever is not one product goes the plain way."""
    assert head_weight(Deeper(gpt().config)) is not None
    capped = Capped(gpt().config)
    patched = gpt()
    patched.lm_head = lambda hidden: torch.zeros(*hidden.shape[:-1], VOCAB)
    biased = llama(False)
    biased.output = nn.Linear(32, VOCAB)
    quantised = llama(False)
    quantize(quantised, bits=8)
    for model in (capped, patched, biased, quantised, nn.Linear(2, 2)):
        assert head_weight(model) is None and not chunks_pay(model, torch.zeros(4, 4))
    close(found(next_token_loss, capped, *batch()), found(plain, capped, *batch()), atol=1e-6)


def test_a_gradient_may_be_taken_twice(small_chunks):
    model = gpt()
    loss = chunked_loss(model, *batch())
    loss.backward(retain_graph=True)
    once = model.token_embedding.weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(model.token_embedding.weight.grad, 2 * once)
