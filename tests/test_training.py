"""The training loop, and saving that survives an interruption at any moment."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from llmbook import devices, families, files, training_run
from llmbook.families import Family, register_family
from llmbook.generation import generate
from llmbook.gpt import GPT, GPTConfig
from llmbook.model_files import write_weights
from llmbook.text import make_dataloader
from llmbook.training import (
    History,
    OneProcess,
    TrainingConfig,
    count_targets,
    decay_groups,
    evaluate,
    learning_rate_at,
    load_model,
    next_token_loss,
    save_model,
    train,
)
from tests.support import training_script as script

SIZES = GPTConfig(vocab_size=11, context_length=8, d_model=16, n_heads=2, n_layers=2, dropout=0.0)


def small(**changes) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(**{**SIZES.__dict__, **changes}))


def batches(count: int, size: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    ids = torch.randint(11, (count, size, 9), generator=torch.Generator().manual_seed(1))
    return [(row[:, :-1], row[:, 1:]) for row in ids]


def quick(steps: int = 3, **changes) -> TrainingConfig:
    return TrainingConfig(**{"max_steps": steps, "device": "cpu", "precision": "float32", "progress": False, **changes})


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- loss and evaluation -----------------------------------------------------------------------------------------

def test_next_token_loss_is_the_mean_of_minus_log_p():
    model, (inputs, targets) = small(), batches(1)[0]
    probabilities = model(inputs).softmax(-1).gather(2, targets[:, :, None])
    torch.testing.assert_close(next_token_loss(model, inputs, targets), -probabilities.log().mean())


def test_masked_targets_do_not_count_and_get_no_gradient():
    model, (inputs, targets) = small(), batches(1)[0]
    masked = targets.clone()
    masked[:, 4:] = -100
    expected = next_token_loss(model, inputs[:, :4], targets[:, :4])
    torch.testing.assert_close(next_token_loss(model, inputs, masked), expected)


def test_a_batch_in_which_nothing_counts_has_loss_0_and_no_gradient():
    model, (inputs, targets) = small(), batches(1)[0]
    loss = next_token_loss(model, inputs, torch.full_like(targets, -100))
    loss.backward()
    assert float(loss.detach()) == 0 and all(float(p.grad.abs().max()) == 0 for p in model.parameters())


@pytest.mark.parametrize("targets, count", [
    (torch.tensor([[1, -100], [-100, -100]]), 1), (torch.tensor([3, 4, 5]), 3), (torch.zeros(4, 7), 4),
    (torch.full((2, 3), -100), 0), (torch.tensor([True, False]), 2)])
def test_what_counts_in_a_batch(targets, count):
    assert count_targets((torch.zeros(9), targets)) == count


def test_evaluate_weights_batches_turns_dropout_off_and_restores_the_mode():
    model = small(dropout=0.5).train()
    uneven = [batches(1, 6)[0], batches(1, 2)[0]]
    model.eval()
    parts = [float(next_token_loss(model, *batch)) for batch in uneven]
    model.train()
    value = evaluate(model, uneven, next_token_loss, precision="float32")
    assert value == pytest.approx((6 * parts[0] + 2 * parts[1]) / 8, abs=1e-6)
    assert evaluate(model, uneven, next_token_loss, max_batches=1, precision="float32") == pytest.approx(parts[0])
    assert model.training
    with pytest.raises(ValueError, match="no batch to evaluate"):
        evaluate(model, [], next_token_loss)


# --- the loop ----------------------------------------------------------------------------------------------------

def test_a_trained_model_predicts_the_next_letter():
    ids = [0, 1, 2] * 60  # abcabc...
    model = small()
    loader = make_dataloader(ids, context_length=8, batch_size=8, stride=1, seed=0)
    train(model, loader, next_token_loss, quick(60, learning_rate=1e-2))
    assert generate(model.eval(), torch.tensor([[0, 1, 2, 0]]), 4, temperature=0)[0, 4:].tolist() == [1, 2, 0, 1]


def test_history_has_a_row_a_step_and_evaluations_where_asked():
    history = train(small(), batches(5), next_token_loss, quick(7, eval_every=3), batches(2))
    frame = history.to_frame()
    assert frame.index.tolist() == [1, 2, 3, 4, 5, 6, 7]  # the loader of five batches was started again
    assert frame["val_loss"].dropna().index.tolist() == [3, 6, 7]
    assert frame["examples"].tolist() == [4 * step for step in range(1, 8)]
    assert frame["seconds"].is_monotonic_increasing and not history.interrupted
    assert History().to_frame().empty


def test_accumulation_equals_one_large_batch():
    parts = batches(4)
    whole = tuple(torch.cat(tensors) for tensors in zip(*parts))
    one, four = small(), small()
    train(one, [whole], next_token_loss, quick(2))
    history = train(four, parts, next_token_loss, quick(2, accumulation_steps=4))
    for a, b in zip(one.parameters(), four.parameters()):
        assert (a - b).abs().max() < 2e-5
    assert history.steps[0]["examples"] == 16


def test_learning_rate_warms_up_then_falls_along_a_cosine():
    config = quick(11, learning_rate=1.0, warmup_steps=2, final_fraction=0.1)
    rates = [learning_rate_at(step, config) for step in range(11)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[6] == pytest.approx(0.1 + 0.9 * 0.5) and rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[1:], rates[2:]))
    frame = train(small(), batches(1), next_token_loss, config).to_frame()
    assert frame["learning_rate"].tolist() == pytest.approx(rates)


def test_decay_groups_spare_biases_and_norms_and_hold_each_parameter_once():
    model = small(qkv_bias=True)
    decayed, spared = decay_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1 and spared["weight_decay"] == 0.0
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(names[id(p)].endswith("weight") and "norm" not in names[id(p)] for p in decayed["params"])
    assert all(names[id(p)].endswith("bias") or "norm" in names[id(p)] for p in spared["params"])
    ids = [id(p) for group in (decayed, spared) for p in group["params"]]
    assert len(ids) == len(set(ids)) == len(names)


def test_weight_decay_shrinks_matrices_only():
    model = small()
    zero_loss = lambda model, *batch: sum((p * 0).sum() for p in model.parameters())  # noqa: E731
    with torch.no_grad():
        model.final_norm.bias.fill_(1.0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    train(model, batches(1), zero_loss, quick(1, learning_rate=0.1, weight_decay=0.5))
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if parameter.dim() >= 2 else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)


def test_gradients_are_clipped_to_max_norm():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, 2))

    def steep(model, batch):
        return 1000 * model.weight.sum() + 0 * batch.sum()

    seen = {}
    model = Line()
    model.weight.register_post_accumulate_grad_hook(lambda p: seen.update(raw=p.grad.norm().item()))
    original = torch.optim.AdamW.step

    def step(self, *args, **options):
        seen["clipped"] = model.weight.grad.norm().item()
        return original(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        history = train(model, [(torch.zeros(1),)], steep, quick(1, max_norm=0.5))
        assert seen["clipped"] == pytest.approx(0.5, rel=1e-3) and seen["raw"] == pytest.approx(2000)
        assert history.steps[0]["gradient_norm"] == pytest.approx(2000)  # as it was before clipping
        train(model, [(torch.zeros(1),)], steep, quick(1, max_norm=None))
        assert seen["clipped"] == pytest.approx(2000)


def test_frozen_parameters_stay_and_nothing_trainable_is_an_error():
    model = small()
    model.token_embedding.requires_grad_(False)
    before = model.token_embedding.weight.clone()
    train(model, batches(1), next_token_loss, quick(2))
    assert torch.equal(before, model.token_embedding.weight)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        train(model, batches(1), next_token_loss, quick(1))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_leaves_the_weights(bad):
    model, calls = small(), []

    def spoiled(model, inputs, targets):
        calls.append({name: p.clone() for name, p in model.state_dict().items()})
        return next_token_loss(model, inputs, targets) * (bad if len(calls) == 3 else 1.0)

    with pytest.raises(FloatingPointError, match="step 3: .*look at this batch and the loss function first"):
        train(model, batches(5), spoiled, quick(5))
    assert all(torch.equal(value, calls[-1][name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_optimizer_that_cannot_look_itself_leaves_the_weights_too(bad, monkeypatch):
    def unfused(optimizer, numbers):
        optimizer.defaults["fused"] = False
        devices.guard_update(optimizer, numbers)

    monkeypatch.setattr(training_run, "guard_update", unfused)
    test_a_loss_that_is_not_finite_stops_and_leaves_the_weights(bad)


def spoil_weight(model):
    with torch.no_grad():
        model.blocks[1].feed_forward.expand.weight[0, 0] = torch.nan


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))


def distance(model, inputs):
    return (model.weight * inputs).square().sum()


def test_the_error_of_a_step_names_what_spoiled_it():
    """Not every nan is the learning rate's fault."""
    model = small()
    spoil_weight(model)
    where = r"weights blocks.1.feed_forward.expand.weight \(they hold nan\)"
    with pytest.raises(FloatingPointError, match=where + ".*load or build"):
        train(model, batches(1), next_token_loss, quick(1))
    model = small()
    with pytest.raises(FloatingPointError, match=r"step 2: .*weights .*after the last update: lower the learning_rate"):
        train(model, batches(1), next_token_loss, quick(3), on_step=lambda record: spoil_weight(model))
    inputs = torch.ones(2, 2)
    with pytest.raises(FloatingPointError, match=r"the batch holds inf in a tensor of \(2, 2\): clean the data"):
        train(Line(), [(inputs / 0,)], distance, quick(1))
    with pytest.raises(FloatingPointError, match="not the learning rate: look at this batch, at the loss function"):
        train(Line(), [(inputs,)], lambda *batch: distance(*batch) * math.nan, quick(1))
    masked = [(ids, torch.full_like(ids, -100)) for ids, _ in batches(1)]
    with pytest.raises(FloatingPointError, match=r"no target that counts \(all are -100\), .* must give 0"):
        train(small(), masked, lambda *batch: next_token_loss(*batch) / 0, quick(1))
    model = Line()
    model.config = SimpleNamespace(norm_eps=-4.0)
    with pytest.raises(FloatingPointError, match=r"not the learning rate: .*norm_eps is -4\)"):
        train(model, [(inputs,)], lambda *batch: distance(*batch) * math.nan, quick(1))


def test_a_run_that_diverged_is_told_to_lower_the_learning_rate():
    worse = iter([1.0, 2.0, 9.0, math.inf])
    with pytest.raises(FloatingPointError, match=r"step 4: .*risen from 1 to 9: lower the learning_rate \(0.0006\)"):
        train(Line(), [(torch.ones(2, 2),)], lambda model, x: model.weight.sum() * 0 + next(worse), quick(4))


class Waits(TorchDispatchMode):
    """Counts what a program waits for a GPU with: a number with a fraction that is read, places that are counted.

    Whole numbers are not: ids are looked at before they leave for the device, where they are in reach.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        reads = name == "_local_scalar_dense" and args[0].is_floating_point()
        self.count += reads or name in ("nonzero", "equal", "is_nonzero", "masked_select", "unique_dim")
        return func(*args, **(kwargs or {}))


def waits(monkeypatch, steps: int, parts: int) -> int:
    def counted(self):
        mode.count += 1
        return original(self)

    original = devices.Numbers.wait
    with monkeypatch.context() as patch, Waits() as mode:
        patch.setattr(devices.Numbers, "wait", counted)
        train(small(), batches(3), next_token_loss, quick(steps, accumulation_steps=parts))
    return mode.count


@pytest.mark.parametrize("parts", [1, 8])
def test_a_step_waits_once_for_the_device_however_many_parts_it_has(monkeypatch, parts):
    assert waits(monkeypatch, 3, parts) - waits(monkeypatch, 1, parts) == 2
    assert waits(monkeypatch, 1, parts) == 1


def test_the_test_of_waits_sees_a_loss_that_is_read(monkeypatch):
    def reads(model, inputs, targets):
        loss = next_token_loss(model, inputs, targets)
        assert float(loss.detach()) > 0
        return loss

    with Waits() as mode:
        train(small(), batches(1), reads, quick(2, accumulation_steps=4))
    assert mode.count == 8


# --- averages: the mean over all targets that count, however they are cut into batches ----------------

def uneven(rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch whose rows count 8, 1, 0, ... targets, as answers of different length do."""
    ids = torch.randint(11, (len(rows), 9), generator=torch.Generator().manual_seed(2))
    targets = ids[:, 1:].clone()
    for row, counted in enumerate(rows):
        targets[row, counted:] = -100
    return ids[:, :-1], targets


def token_losses(model, inputs, targets):
    """A loss over rows of numbers, of which all count."""
    return (model(inputs).float().mean(dim=(1, 2)) - targets).square().mean()


def classes(model, inputs, targets):
    return F.cross_entropy(model(inputs)[:, -1], targets)


def first_step(model, loader, loss_fn, config, team=None):
    """A step's loss and its gradients, as the optimizer would get them."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "update_weights", lambda optimizer, rate: seen.extend(
            p.grad.clone() for group in optimizer.param_groups for p in group["params"]))
        history = train(model, loader, loss_fn, config, team=team)
    return history.steps[0]["loss"], seen


UNEVEN = [8, 1, 0, 5, 2, 8, 0, 0, 1]
CASES = {"next token": (next_token_loss, uneven(UNEVEN)),
         "classes": (classes, (uneven(UNEVEN)[0], torch.arange(9))),
         "numbers": (token_losses, (uneven(UNEVEN)[0], torch.linspace(-1, 1, 9)))}


@pytest.mark.parametrize("cut", [[1] * 9, [4, 5], [2, 6, 1], [3, 3, 3]])
@pytest.mark.parametrize("case", CASES)
def test_accumulated_parts_equal_one_large_batch(case, cut):
    loss_fn, whole = CASES[case]
    parts = list(zip(*(tensor.split(cut) for tensor in whole)))
    one, many = small(), small()
    settings = {"learning_rate": 1e-3, "max_norm": None, "weight_decay": 0.0}
    gradients = []
    for model, loader, count in ((one, [whole], 1), (many, parts, len(cut))):
        gradients.append(first_step(model, loader, loss_fn, quick(1, accumulation_steps=count, **settings)))
    (loss, expected), (found_loss, found) = gradients
    assert found_loss == pytest.approx(loss, abs=1e-6)
    for a, b in zip(expected, found):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-6)
    assert evaluate(one, parts, loss_fn, precision="float32") == pytest.approx(
        evaluate(one, [whole], loss_fn, precision="float32"), abs=1e-6)


def test_a_loss_may_count_by_a_rule_of_its_own():
    def first_tokens(model, inputs, targets):
        return F.cross_entropy(model(inputs)[:, 0], targets[:, 0])

    first_tokens.count_targets = lambda batch: len(batch[0])
    model, parts = small(), [batches(1, 1)[0], batches(1, 3)[0]]
    values = [float(first_tokens(model, *part).detach()) for part in parts]
    right = (values[0] + 3 * values[1]) / 4
    assert evaluate(model, parts, first_tokens, precision="float32") == pytest.approx(right, abs=1e-6)
    assert train(model, parts, first_tokens, quick(1, accumulation_steps=2)).steps[0]["loss"] == pytest.approx(right)


def test_a_step_in_which_nothing_counts_goes_by():
    """It has loss 0, and the run goes on."""
    masked = [(inputs, torch.full_like(targets, -100)) for inputs, targets in batches(1)]
    history = train(small(), [*batches(2), *masked], next_token_loss, quick(4))
    assert history.steps[2]["loss"] == 0 and history.steps[3]["loss"] > 1
    with pytest.raises(ValueError, match="no target to evaluate"):
        evaluate(small(), masked, next_token_loss)


class Halves:
    """A team of two in one process: it takes the steps of both, one after the other, as their mean would."""

    size, leads, device = 2, True, torch.device("cpu")

    def __init__(self, rank, losses):
        self.rank, self.losses = rank, losses

    def share(self, model, loss_fn):
        return loss_fn

    def own_rows(self, batch):
        return tuple(tensor[self.rank :: 2] for tensor in batch)

    def exchange(self, last):
        return nullcontext()

    def sum(self, number):
        self.losses.append(number)
        return number


def test_two_processes_equal_one_large_batch():
    whole, losses = uneven(UNEVEN), []
    found = [first_step(small(), [whole], next_token_loss, quick(1, max_norm=None), team)
             for team in (None, Halves(0, losses), Halves(1, losses))]
    alone, gradients = found[0][0], [gradients for _, gradients in found]
    assert sum(losses) == pytest.approx(alone, abs=1e-6)
    for one, first, second in zip(*gradients):
        torch.testing.assert_close((first + second) / 2, one, rtol=0, atol=1e-6)


def test_several_processes_without_a_team_are_an_error(monkeypatch):
    """Each would train a model of its own, and all would write it."""
    monkeypatch.setenv("WORLD_SIZE", "2"), monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match=r"2 processes .* pass team=Team\(\) of llmbook.scale.team"):
        train(small(), batches(1), next_token_loss, quick(1))


def test_evaluation_leaves_each_part_in_its_mode():
    model = small(dropout=0.5)
    model.blocks[0].eval()  # as a frozen part may be
    evaluate(model, batches(1), next_token_loss)
    assert model.training and model.blocks[1].training and not model.blocks[0].training


def test_a_team_of_one_takes_the_device_of_the_config():
    assert OneProcess("cpu").device == torch.device("cpu")
    with pytest.raises(ValueError, match="device is 'gpu': use 'cpu', 'cuda'"):
        train(small(), batches(1), next_token_loss, quick(1, device="gpu"))


@pytest.mark.parametrize("where", ["loss", "evaluation"])
def test_ctrl_c_returns_the_history_so_far(where):
    def interrupted(model, inputs, targets):
        if model.training == (where == "loss") and len(seen) >= 2:
            raise KeyboardInterrupt
        seen.append(None)
        return next_token_loss(model, inputs, targets)

    seen: list[None] = []
    history = train(small(), batches(3), interrupted, quick(9, eval_every=2), batches(1))
    assert history.interrupted and len(history.steps) == 2


@pytest.mark.slow
def test_a_real_interrupt_returns_the_history_so_far(tmp_path):
    script = """
import torch
from tests.test_training import batches, quick, small
from llmbook.training import next_token_loss, train
def slow(model, inputs, targets):
    print("step", flush=True)
    return next_token_loss(model, inputs, targets)
history = train(small(), batches(3), slow, quick(10**6))
print("kept", len(history.steps), history.interrupted)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    for _ in range(5):
        assert process.stdout.readline().strip() == "step"
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=60)[0].splitlines()[-1].split()
    assert printed[0] == "kept" and int(printed[1]) >= 4 and printed[2] == "True"


def test_an_empty_loader_is_an_error():
    with pytest.raises(ValueError, match="no batch"):
        train(small(), [], next_token_loss, quick(1))
    with pytest.raises(ValueError, match="no batch"):
        train(small(), iter(batches(2)), next_token_loss, quick(3))  # an iterator can't be started again


def test_a_bfloat16_step_trains_float32_weights():
    model = small()
    before = model.token_embedding.weight.clone()
    history = train(model, batches(1), next_token_loss, quick(1, precision="bfloat16"))
    assert model.token_embedding.weight.dtype == torch.float32
    assert not torch.equal(before, model.token_embedding.weight)
    assert history.steps[0]["loss"] == pytest.approx(math.log(11), abs=0.2)


@pytest.mark.parametrize("changes, message", [
    ({"max_steps": 0}, "max_steps is 0"), ({"warmup_steps": -1}, "warmup_steps is -1"),
    ({"accumulation_steps": 0}, "accumulation_steps is 0"), ({"eval_every": 0}, "eval_every is 0"),
    ({"betas": (0.9, 1.0)}, r"betas are \(0.9, 1.0\)"), ({"betas": (-0.1, 0.9)}, r"betas are \(-0.1"),
    ({"final_fraction": -1}, "final_fraction is -1"), ({"max_steps": 2.5}, "max_steps is 2.5"),
    ({"learning_rate": math.nan}, "learning_rate is nan"), ({"weight_decay": math.inf}, "weight_decay is inf"),
    ({"learning_rate": math.inf}, "learning_rate is inf"), ({"betas": (0.9,)}, r"betas are \(0.9,\)"),
    ({"eval_batches": 0}, "eval_batches is 0"), ({"precision": "float8"}, "precision is 'float8'"),
    ({"max_norm": math.nan}, "max_norm is nan"),
    ({"learning_rate": 0.0}, "learning_rate is 0.0"), ({"weight_decay": -0.1}, "weight_decay is -0.1"),
    ({"max_norm": 0.0}, "max_norm is 0.0"),
])
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        quick(**changes)


# --- saving and loading ------------------------------------------------------------------------------------------

def test_a_saved_model_comes_back_equal_and_ready_to_use(tmp_path):
    model = small(qkv_bias=True, dropout=0.1)
    save_model(model, tmp_path / "new" / "folder")
    loaded = load_model(tmp_path / "new" / "folder")
    assert loaded.config == model.config and same(model, loaded) and not loaded.training
    assert sorted(p.suffix for p in (tmp_path / "new" / "folder").iterdir()) == [".json", ".safetensors"]
    train(loaded, batches(1), next_token_loss, quick(1))  # and can be trained on
    assert not same(model, loaded)


def test_a_saved_model_may_be_loaded_in_another_number_format(tmp_path):
    model = small()
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, "cpu", torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert torch.equal(loaded.token_embedding.weight, model.token_embedding.weight.bfloat16())
    assert {p.dtype for p in load_model(tmp_path, "cpu").parameters()} == {torch.float32}


def test_saving_again_replaces_the_old_weights(tmp_path):
    model = small()
    save_model(model, tmp_path)
    with torch.no_grad():
        model.final_norm.bias.fill_(3.0)
    save_model(model, tmp_path)
    assert same(model, load_model(tmp_path)) and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("call", [1, 2])
def test_an_interrupted_save_leaves_the_old_model(tmp_path, monkeypatch, function, call):
    old, new = small(), small()
    with torch.no_grad():
        new.final_norm.bias.fill_(3.0)
    save_model(old, tmp_path)
    original, calls = getattr(os, function), []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, function, failing)
        with pytest.raises(OSError, match="No space left"):
            save_model(new, tmp_path)
    assert same(old, load_model(tmp_path))
    assert not list(tmp_path.glob("*.tmp"))
    save_model(new, tmp_path)
    assert same(new, load_model(tmp_path)) and len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_a_killed_save_leaves_a_whole_model(tmp_path):
    for number, pause in enumerate((0.0, 0.001, 0.003, 0.006, 0.009, 0.013, 0.017, 0.021)):
        printed, folder = tmp_path / f"printed-{number}", tmp_path / "model"  # over what the last kill left there
        process = script.forks().start(script.saves_without_end, printed, folder=str(folder))
        end = time.monotonic() + 60
        while not printed.exists() or printed.read_text().count("\n") < 3:
            assert time.monotonic() < end, "it did not save three times"
            time.sleep(0.002)
        time.sleep(pause)
        os.kill(process, signal.SIGKILL)
        assert script.forks().wait(process) == -signal.SIGKILL
        values = {float(p.detach().flatten()[0]) for p in load_model(folder).parameters()}
        assert len(values) == 1 and values.pop() >= 2  # all from one save, the third or a later one


def saved(tmp_path, **changes):
    """A saved model whose config.json is changed afterwards."""
    save_model(small(), tmp_path)
    path = tmp_path / "config.json"
    description = json.loads(path.read_text())
    description["config"].update(changes)
    path.write_text(json.dumps(description))
    return path, description


def test_wrong_shapes_missing_and_unknown_weights_are_named(tmp_path):
    saved(tmp_path, d_model=32)
    with pytest.raises(ValueError, match=r"attention.out.bias has shape \(16,\) instead of \(32,\); .* more$"):
        load_model(tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    state = load_file(weights)
    state["extra.weight"] = state.pop("final_norm.bias")
    weights.unlink()
    renamed = write_weights(state, tmp_path).name
    saved_again = json.loads((tmp_path / "config.json").read_text())
    saved_again["config"]["d_model"], saved_again["weights"] = 16, renamed
    (tmp_path / "config.json").write_text(json.dumps(saved_again))
    with pytest.raises(ValueError, match=r"missing \['final_norm.bias'\]; unknown \['extra.weight'\]"):
        load_model(tmp_path)


def test_unknown_settings_and_classes_are_named(tmp_path):
    saved(tmp_path, depth=3)
    with pytest.raises(ValueError, match=r"unknown configuration keys \['depth'\]"):
        load_model(tmp_path)
    path, description = saved(tmp_path)
    path.write_text(json.dumps({**description, "model": "os.system"}))
    with pytest.raises(ValueError, match="config.json: no model family 'os.system': known are GPT"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", ["", "not json", "[]", "{}", '{"model": "GPT", "config": {}}',
                                     '{"model": "GPT", "config": 3, "weights": "x"}',
                                     '{"model": "GPT", "config": {}, "weights": 5}'])
def test_a_damaged_description_is_an_error_of_one_line(tmp_path, content):
    save_model(small(), tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json"):
        load_model(tmp_path)


def test_truncated_weights_missing_weights_and_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json does not exist: give a folder"):
        load_model(tmp_path)
    save_model(small(), tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(tmp_path)


def test_a_weights_file_outside_the_folder_is_refused(tmp_path):
    save_model(small(), tmp_path / "other")
    path, description = saved(tmp_path / "mine")
    outside = "../other/" + next((tmp_path / "other").glob("*.safetensors")).name
    path.write_text(json.dumps({**description, "weights": outside}))
    with pytest.raises(ValueError, match="inside the folder"):
        load_model(tmp_path / "mine")


# a folder that is not ours

FOREIGN = {
    "a Hugging Face model": {"config.json": '{"model_type": "gpt2"}', "model-00001-of-00002.safetensors": "shard",
                             "model-00002-of-00002.safetensors": "shard", "model.safetensors.index.json": "{}"},
    "a config.json that is no JSON": {"config.json": "not json"},
    "a config.json with another meaning": {"config.json": '{"model": "GPT", "weights": "model.safetensors"}'},
    "somebody's notes": {"notes.txt": "my notes", "thesis.tex": "my thesis"},
    "weights alone": {"model.safetensors": "weights"},
}


@pytest.mark.parametrize("layout", ["llmbook", "huggingface"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_of_somebody_else_is_left_alone(tmp_path, kind, layout):
    for name, content in FOREIGN[kind].items():
        (tmp_path / name).write_text(content)
    with pytest.raises((FileExistsError, ValueError), match=rf"{tmp_path.name}.*(empty|new) folder"):
        save_model(small(), tmp_path, layout=layout)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == FOREIGN[kind]


def test_a_file_in_the_folder_s_place_is_named(tmp_path):
    (tmp_path / "model").write_text("a file")
    with pytest.raises(FileExistsError, match="model is a file: give a folder"):
        save_model(small(), tmp_path / "model")


def test_saving_removes_only_what_save_model_wrote(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")  # may be there first
    (tmp_path / "model-0123456789ab.safetensors").write_text("left by an interrupted save")
    os.utime(tmp_path / "model-0123456789ab.safetensors", (0, 0))
    save_model(small(), tmp_path)
    others = ["README.md", "model-00001-of-00002.safetensors", "model-best.safetensors", "model-abcdef012345.txt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    young = tmp_path / "model-abcdef012345.safetensors"
    young.write_text("of another process, which has not replaced config.json yet")
    changed = small()
    with torch.no_grad():
        changed.final_norm.bias.fill_(3.0)
    save_model(changed, tmp_path)
    assert same(changed, load_model(tmp_path))
    assert not (tmp_path / "model-0123456789ab.safetensors").exists()
    assert young.exists() and all((tmp_path / name).read_text() == "mine" for name in others)
    assert len(list(tmp_path.iterdir())) == 8  # config.json, its weights, tokenizer.json, young and the others


def test_one_process_of_several_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2"), monkeypatch.setenv("RANK", "1")
    save_model(small(), tmp_path / "model")
    assert not (tmp_path / "model").exists()
    monkeypatch.setenv("RANK", "0")
    save_model(small(), tmp_path / "model")
    assert same(small(), load_model(tmp_path / "model", "cpu"))


# files of older versions

V0_1_0 = Path(__file__).parent / "fixtures" / "v0_1_0"


@pytest.mark.parametrize("kind", ["gpt", "llama", "classifier"])
def test_a_model_saved_by_version_0_1_0_gives_its_numbers(kind):
    expected = json.loads((V0_1_0 / "expected.json").read_text())
    model = load_model(V0_1_0 / kind, "cpu")
    with torch.no_grad():
        found = model(torch.arange(12)[None])[0]  # (labels,), or (tokens, vocab_size)
    wanted = torch.tensor(expected[kind])
    found = found if kind == "classifier" else found[-1, : len(wanted)]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_a_missing_key_has_its_default_and_an_unknown_one_is_an_error(tmp_path):
    path, description = saved(tmp_path)
    for name in ("qkv_bias", "vocab_size"):
        del description["config"][name]
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"instead of \(50257, 16\)"):  # vocab_size has a default as well
        load_model(tmp_path)
    description["config"]["vocab_size"] = 11
    path.write_text(json.dumps(description))
    assert same(load_model(tmp_path), small()) and not load_model(tmp_path).config.qkv_bias
    path.write_text(json.dumps({**description, "config": {**description["config"], "qkv_bais": True}}))
    with pytest.raises(ValueError, match=r"config.json: unknown configuration keys \['qkv_bais'\]"):
        load_model(tmp_path)


def test_a_missing_key_without_a_default_is_named(tmp_path):
    path, description = saved(tmp_path)
    classifier = {"model": "TextClassifier", "config": {}, "weights": description["weights"]}
    path.write_text(json.dumps(classifier))
    with pytest.raises(ValueError, match=r"config.json: missing configuration keys \['"):
        load_model(tmp_path)


# the weights are those that were saved, and stay so

@pytest.mark.parametrize("place", [200, 900, 0.5, -1])
def test_a_flipped_bit_is_noticed(tmp_path, place):
    save_model(small(), tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    place = int(place * len(content)) if isinstance(place, float) else place
    content[place] ^= 4
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{weights.name} (is damaged: the sha256|cannot be read).*copy the whole"):
        load_model(tmp_path)


@pytest.mark.parametrize("change", ["zeros", "nothing"])
def test_a_loaded_model_does_not_hang_on_its_file(tmp_path, change):
    save_model(small(), tmp_path)
    model, weights = load_model(tmp_path, "cpu"), next(tmp_path.glob("*.safetensors"))
    size = weights.stat().st_size
    with open(weights, "r+b") as file:  # the same file, as a careless copy does it
        file.write(bytes(size)) if change == "zeros" else file.truncate(0)
    assert same(model, small())


class Mine(GPT):
    """A class of somebody's own."""


def test_a_class_of_one_s_own_has_to_be_registered(tmp_path, monkeypatch):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"Mine would come back as GPT: register_family"):
        save_model(Mine(SIZES), tmp_path)
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    register_family(Family("Mine", f"{__name__}:Mine", "llmbook.gpt:GPTConfig"))
    save_model(Mine(SIZES), tmp_path)
    assert type(load_model(tmp_path)) is Mine
