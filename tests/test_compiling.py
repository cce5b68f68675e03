"""Training through torch.compile. Most tests stop before the machine code (backend "aot_eager"), which takes long."""

import shutil
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmbook import compiling, head_loss
from llmbook.classification import ClassificationLoss, TextClassifier
from llmbook.compiling import check_compiler, compiled_loss
from llmbook.gpt import GPT, GPTConfig
from llmbook.instructions import response_loss
from llmbook.llama import Llama, LlamaConfig
from llmbook.training import TrainingConfig, evaluate, load_model, next_token_loss, save_model, train


def gpt(**changes) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(**{"vocab_size": 11, "context_length": 8, "d_model": 16, "n_heads": 2, "n_layers": 1,
                            "dropout": 0.0, **changes}))


def llama() -> Llama:
    torch.manual_seed(0)
    return Llama(LlamaConfig(vocab_size=11, context_length=8, d_model=16, n_heads=2, n_kv_heads=1, n_layers=1,
                             d_hidden=32))


def batches(count: int, size: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    ids = torch.randint(11, (count, size, 9), generator=torch.Generator().manual_seed(1))
    return [(row[:, :-1], row[:, 1:]) for row in ids]


def masked(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(inputs, targets.where(torch.arange(8) > number % 4, -100))
            for number, (inputs, targets) in enumerate(batches(count))]


def texts(count: int) -> list[tuple[torch.Tensor, ...]]:
    return [(inputs, torch.tensor([8, 5, 3, 8]), torch.tensor([0, 1, 2, 0])) for inputs, _ in batches(count)]


def quick(steps: int, **changes) -> TrainingConfig:
    return TrainingConfig(**{"max_steps": steps, "device": "cpu", "precision": "float32", "progress": False, **changes})


@pytest.fixture
def no_machine_code(monkeypatch):
    """torch.compile traces and differentiates, and PyTorch's own operations compute. What is traced is counted."""
    original, seen = torch.compile, []

    def compile_quickly(function, **options):
        def backend(graph, example):
            seen.append(graph)
            return aot(graph, example)

        return original(function, backend=backend, **options)

    aot = torch._dynamo.lookup_backend("aot_eager")
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", compile_quickly)
    yield seen
    torch._dynamo.reset()


CASES = {"gpt": (gpt, next_token_loss, batches(3)), "llama": (llama, next_token_loss, masked(3)),
         "responses": (gpt, response_loss, masked(3)),
         "classifier": (lambda: TextClassifier(gpt(), 3), ClassificationLoss(), texts(3))}


@pytest.mark.parametrize("case", ["gpt", *(pytest.param(case, marks=pytest.mark.slow) for case in list(CASES)[1:])])
def test_a_compiled_run_is_the_usual_run(case, no_machine_code):
    """Losses, evaluations, gradient norms and weights; the model and its names stay as they are."""
    build, loss_fn, loader = CASES[case]
    records, models = [], []
    for compiled in (False, True):
        model = build()
        names = list(model.state_dict())
        config = quick(3, compile=compiled, accumulation_steps=2, eval_every=2, learning_rate=1e-3)
        history = train(model, loader, loss_fn, config, loader[:1])
        assert list(model.state_dict()) == names
        records.append([[row["loss"], row["gradient_norm"], row.get("val_loss", 0.0)] for row in history.steps])
        models.append(model)
        assert bool(no_machine_code) is compiled
    torch.testing.assert_close(*map(torch.tensor, records), atol=1e-5, rtol=1e-5)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("build", [gpt, llama])
@pytest.mark.parametrize("chunks", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_pretraining_is_one_graph_forward(build, chunks, precision, no_machine_code, monkeypatch):
    """Nothing breaks it: neither the check of the ids, nor the chunks, nor autocast."""
    monkeypatch.setattr(head_loss, "LEAST", 0 if chunks else 2**24)
    monkeypatch.setattr(head_loss, "CHUNK", {"cpu": 11 * 11})
    train(build(), batches(3), next_token_loss, quick(3, compile=True, precision=precision))
    assert len(no_machine_code) == 1


def test_a_graph_is_made_for_each_state_of_autocast(no_machine_code, monkeypatch):
    """What it found about autocast when it was made holds for that state only."""
    monkeypatch.setattr(head_loss, "LEAST", 0)
    model, batch = gpt(), batches(1)[0]
    compute, found = compiled_loss(next_token_loss, "cpu"), []
    for loss_fn in (next_token_loss, compute, next_token_loss, compute):
        with torch.autocast("cpu", torch.bfloat16, enabled=len(found) >= 2):
            found.append(loss_fn(model, *batch).detach())
    assert found[0] == pytest.approx(found[1]) and found[2] == pytest.approx(found[3]) and found[0] != found[2]
    assert len(no_machine_code) == 2


def test_each_run_may_be_compiled_as_often_as_the_first(no_machine_code):
    def loss_fn(model, inputs):
        return model(inputs).square().mean()

    for number in range(10):  # PyTorch gives up a piece of code that it has compiled eight times
        train(nn.Linear(2, number + 1), [(torch.ones(3, 2),)], loss_fn, quick(1, compile=True))
    assert len(no_machine_code) == 10


def test_a_compiled_loss_keeps_its_rule_of_counting(no_machine_code):
    def first_tokens(model, inputs, targets):
        return F.cross_entropy(model(inputs)[:, 0], targets[:, 0])

    first_tokens.count_targets = lambda batch: len(batch[0])
    assert compiled_loss(first_tokens, "cpu").count_targets is first_tokens.count_targets


def test_a_compiled_model_is_saved_and_evaluated_as_ever(no_machine_code, tmp_path):
    model = gpt()
    train(model, batches(2), next_token_loss, quick(2, compile=True))
    save_model(model, tmp_path)
    assert evaluate(load_model(tmp_path, "cpu"), batches(1), next_token_loss, precision="float32") == pytest.approx(
        evaluate(model, batches(1), next_token_loss, precision="float32"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32" or not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_machine_code_computes_the_same(precision, monkeypatch):
    monkeypatch.setattr(head_loss, "LEAST", 0)
    monkeypatch.setattr(head_loss, "CHUNK", {"cpu": 20 * 11})
    torch._dynamo.reset()
    found = []
    for compiled in (False, True):
        history = train(gpt(), batches(3), next_token_loss, quick(3, compile=compiled, precision=precision))
        found.append([row["loss"] for row in history.steps])
    torch.testing.assert_close(*map(torch.tensor, found), atol=1e-5 if precision == "float32" else 5e-3, rtol=0)


# --- where it cannot be done ---

def test_without_a_compiler_a_line_says_so_before_anything_is_computed(monkeypatch):
    monkeypatch.delenv("CXX", raising=False), monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    model = gpt()
    with pytest.raises(RuntimeError, match=r"C\+\+ compiler, and there is no g\+\+: install one .*compile=False"):
        train(model, batches(1), next_token_loss, quick(1, compile=True))
    train(model, batches(1), next_token_loss, quick(1))  # without, all is well
    monkeypatch.setenv("CXX", "mine -m64")
    with pytest.raises(RuntimeError, match="there is no mine: "):
        check_compiler("cpu")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name == "mine" else None)
    check_compiler("cpu")
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(RuntimeError, match="there is no gcc or clang: .*name it in CC, or do without"):
        check_compiler("cuda")
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="needs Triton on cuda: pip install triton, or do without"):
        check_compiler("cuda:1")


def test_a_compiler_that_fails_is_one_line(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: fails)

    def fails(*arguments):
        raise torch._dynamo.exc.TorchDynamoException("\n  Python.h: no such file\nand a page of other lines")

    with pytest.raises(RuntimeError, match=r"^torch.compile failed \(Python.h: no such file\): train without it"):
        train(gpt(), batches(1), next_token_loss, quick(1, compile=True))

    def other(*arguments):
        raise ValueError("token id 12 is outside the vocabulary")

    monkeypatch.setattr(torch, "compile", lambda function: other)
    with pytest.raises(ValueError, match="token id 12"):
        train(gpt(), batches(1), next_token_loss, quick(1, compile=True))
