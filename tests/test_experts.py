"""llmbook.experts: what a router sends where, the loss that balances it, and the model as a whole."""

import pytest
import torch
from torch import Tensor

from llmbook.experts import (
    ExpertLoss,
    ExpertsConfig,
    ExpertsLlama,
    MixtureOfExperts,
    balance_loss,
    watch_routers,
)
from llmbook.generation import generate
from llmbook.gpt import count_parameters
from llmbook.training import TrainingConfig, load_model, next_token_loss, save_model, train

SIZES = {"vocab_size": 40, "context_length": 32, "d_model": 16, "n_heads": 2, "n_kv_heads": 2, "n_layers": 2,
         "n_experts": 4, "experts_per_token": 2, "d_expert": 24}


def model(seed: int = 0, **changes) -> ExpertsLlama:
    torch.manual_seed(seed)
    return ExpertsLlama(ExpertsConfig(**{**SIZES, **changes}))


def some_ids(batch: int, tokens: int) -> Tensor:
    return torch.randint(40, (batch, tokens), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("d_shared", [0, 12])
def test_each_token_gets_the_weighted_sum_of_its_experts(d_shared):
    torch.manual_seed(0)
    layer = MixtureOfExperts(8, 5, 12, per_token=2, d_shared=d_shared)
    x = torch.randn(2, 7, 8)
    found = layer(x)
    for row in range(2):
        for place in range(7):
            token = x[row, place]
            scores = layer.router.weight @ token
            chosen = scores.argsort(descending=True)[:2]
            chances = scores.softmax(0)[chosen]
            wanted = sum(chance / chances.sum() * layer.experts[expert](token)
                         for chance, expert in zip(chances, chosen.tolist()))
            wanted = wanted + layer.shared(token) if d_shared else wanted
            torch.testing.assert_close(found[row, place], wanted, rtol=1e-5, atol=1e-6)


def test_all_experts_together_are_one_weighted_feed_forward_part():
    torch.manual_seed(0)
    layer = MixtureOfExperts(8, 3, 12, per_token=3)
    x = torch.randn(1, 4, 8)
    chances = layer.router(x).softmax(-1)
    wanted = sum(chances[..., i, None] * expert(x) for i, expert in enumerate(layer.experts))
    torch.testing.assert_close(layer(x), wanted)


def test_an_expert_that_nobody_chose_has_a_gradient_of_zero():
    """And not none: several processes wait for each other's gradients."""
    layer = MixtureOfExperts(8, 4, 12, per_token=1)
    layer(torch.randn(1, 1, 8)).sum().backward()
    sizes = [expert.contract.weight.grad.abs().sum().item() for expert in layer.experts]
    assert sum(size > 0 for size in sizes) == 1


def test_the_balance_loss_is_one_if_all_are_alike_and_more_if_not():
    n, k = 6, 2
    torch.testing.assert_close(balance_loss(torch.zeros(10, n), k).item(), 1.0)
    to_two = torch.tensor([[50.0, 50.0, 0, 0, 0, 0]]).repeat(10, 1)
    torch.testing.assert_close(balance_loss(to_two, k).item(), n / k)
    turns = 30 * torch.eye(n).repeat(2, 1)
    torch.testing.assert_close(balance_loss(turns, 1).item(), 1.0)


def test_the_balance_loss_pushes_down_the_one_that_gets_most():
    scores = torch.tensor([[1.0, 0.5, 0.0]]).repeat(4, 1).requires_grad_()
    gradient, = torch.autograd.grad(balance_loss(scores, 1), scores)
    assert gradient[0, 0] > 0 and (gradient[0, 1:] < 0).all()


def test_the_loss_adds_the_layers_mean_and_leaves_padding_out():
    net, ids = model(), some_ids(3, 9)
    inputs, targets = ids[:, :-1], ids[:, 1:].clone()
    targets[0, 4:] = -100
    with watch_routers(net) as seen:
        plain = next_token_loss(net, inputs, targets)
    assert len(seen) == 2 and seen[0][0].shape == (24, 4) and seen[0][1] == 2
    kept = (targets != -100).flatten()
    wanted = plain + 0.5 * sum(balance_loss(scores[kept], 2) for scores, _ in seen) / 2
    torch.testing.assert_close(ExpertLoss(0.5)(net, inputs, targets), wanted)
    torch.testing.assert_close(ExpertLoss(0.0)(net, inputs, targets), plain)
    assert ExpertLoss()(net, inputs, torch.full_like(targets, -100)).item() == 0.0


def test_where_nothing_is_trained_the_loss_is_that_of_any_model():
    net, ids = model().eval(), some_ids(3, 9)
    assert ExpertLoss(0.5)(net, ids[:, :-1], ids[:, 1:]) == next_token_loss(net, ids[:, :-1], ids[:, 1:])


def test_nobody_watches_afterwards():
    net = model()
    with pytest.raises(KeyboardInterrupt), watch_routers(net) as seen:
        net(some_ids(1, 3))
        raise KeyboardInterrupt
    net(some_ids(1, 3))
    assert len(seen) == 2 and not any(module._forward_hooks for module in net.modules())


def test_training_with_the_loss_balances_what_collapses_without():
    """From a router that sends everything to one expert."""
    shares = {}
    for balance in (0.0, 0.3):
        net, ids = model(experts_per_token=1), some_ids(8, 17)
        with torch.no_grad():
            for block in net.blocks:
                block.feed_forward_norm.weight[0], block.feed_forward.router.weight[:, 0] = 1.0, 0.0
                block.feed_forward.router.weight[0] += 0.3 * block.feed_forward.router.weight.abs().max()
        train(net, [(ids[:, :-1], ids[:, 1:])], ExpertLoss(balance),
              TrainingConfig(max_steps=40, learning_rate=1e-2, device="cpu", progress=False))
        with watch_routers(net) as seen, torch.no_grad():
            net(ids)
        shares[balance] = max((scores.argmax(1).bincount(minlength=4) / len(scores)).max().item() for scores, _ in seen)
    assert shares[0.3] < shares[0.0] and shares[0.3] < 0.5


def test_with_a_cache_as_without_also_beside_other_mixers(tmp_path):
    for mixers in (("attention",), ("gated delta", "attention")):
        net = model(mixers=mixers, d_shared=8).eval()
        prompt = some_ids(1, 6)
        found = generate(net, prompt, 8, temperature=0)
        ids = prompt
        for _ in range(8):
            with torch.no_grad():
                ids = torch.cat([ids, net(ids)[:, -1:].argmax(-1)], 1)
        assert torch.equal(found, ids)
    save_model(net, tmp_path)
    again = load_model(tmp_path, "cpu")
    assert type(again) is ExpertsLlama and again.config == net.config and torch.equal(again(prompt), net(prompt))


def test_parameters_are_those_of_all_experts():
    with_experts, dense = model(), model(n_experts=1, experts_per_token=1)
    assert count_parameters(with_experts) - count_parameters(dense) == 2 * 3 * (3 * 16 * 24 + 16)


def test_what_writes_into_the_residual_stream_begins_smaller():
    net = model(d_model=64, n_heads=2, d_expert=128, n_layers=8, d_shared=128)
    for part in (*net.blocks[0].feed_forward.experts, net.blocks[0].feed_forward.shared):
        assert part.contract.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
        assert part.expand.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("changes, message", [
    ({"n_experts": 0}, "n_experts is 0: it must be a whole number, at least 1"),
    ({"experts_per_token": 5}, r"experts_per_token \(5\) must not be more than n_experts \(4\)"),
    ({"d_expert": True}, "d_expert is True"),
    ({"d_shared": -1}, "d_shared is -1: it must be a whole number, at least 0"),
    ({"mixers": ("mamba",)}, "no mixer 'mamba'"),
])
def test_sizes_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ExpertsConfig(**{**SIZES, **changes})
