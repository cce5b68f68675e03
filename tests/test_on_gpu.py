"""What only a CUDA GPU can show: the same results as without its short cuts, and a host that does not wait for it."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from llmbook import head_loss
from llmbook.compiled import compile_decoding
from llmbook.devices import send
from llmbook.generation import generate
from llmbook.scale.checkpoints import Checkpoints
from llmbook.training import TrainingConfig, load_model, next_token_loss, save_model, train
from tests.gpu import sizes
from tests.gpu.checks import counted_waits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")]
GPU = torch.device("cuda")
VOCABULARY = 1003  # of the small models: no multiple of 64


def batches(count: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return sizes.token_batches(VOCABULARY, count, 4, 64)


def settings(steps: int, **changes) -> TrainingConfig:
    return TrainingConfig(**{"max_steps": steps, "learning_rate": 1e-3, "device": str(GPU), "precision": "float32",
                             "progress": False, **changes})


def losses(config: TrainingConfig, **arguments) -> list[float]:
    return [record["loss"] for record in train(sizes.small_gpt(GPU), batches(), next_token_loss, config,
                                               **arguments).steps]


def waits_a_piece(run: Callable[[int], object], few: int, many: int) -> tuple[float, dict]:
    """Waits for each step or token, those of the start subtracted; and where."""
    run(few)  # warms up
    counts = []
    for pieces in (few, many):
        torch.cuda.synchronize()
        with counted_waits() as places:
            run(pieces)
        counts.append(places)
    return (counts[1].total() - counts[0].total()) / (many - few), dict(counts[1] - counts[0])


@pytest.mark.parametrize("build", [sizes.small_gpt, sizes.small_llama])
def test_compiled_decoding_writes_what_the_plain_model_writes(build):
    model = build(GPU).eval()
    prompts = [prompt.to(GPU) for prompt in sizes.prompts_of(VOCABULARY, [4, 11])]
    for one, other in zip(generate(model, prompts, 24, temperature=0),
                          generate(compile_decoding(model), prompts, 24, temperature=0), strict=True):
        assert one.tolist() == other.tolist()


@pytest.mark.parametrize("wrap", [lambda model: model, compile_decoding], ids=["plain", "compiled"])
def test_decoding_waits_once_in_eight_tokens_at_most(wrap):
    model = wrap(sizes.small_gpt(GPU).eval())
    prompt = torch.randint(VOCABULARY, (2, 4), device=GPU)
    stops = {VOCABULARY - 1}
    waits, where = waits_a_piece(lambda new: generate(model, prompt, new, temperature=0, stop_tokens=stops), 8, 72)
    assert waits <= 1 / 8, where


def test_a_step_of_training_waits_once():
    model = sizes.small_gpt(GPU)
    waits, where = waits_a_piece(lambda steps: train(model, batches(), next_token_loss, settings(
        steps, accumulation_steps=8)), 2, 6)
    assert waits <= 1, where


def test_a_batch_is_sent_without_waiting():
    batch = batches(1)[0]
    torch.cuda.synchronize()
    with counted_waits() as places:
        there = send(batch, GPU)
    assert not places
    assert all(one.is_cuda and torch.equal(one.cpu(), other) for one, other in zip(there, batch))


def test_the_loss_in_pieces_is_the_loss_of_all_logits(monkeypatch):
    monkeypatch.setattr(head_loss, "LEAST", 0)
    monkeypatch.setitem(head_loss.CHUNK, "cuda", 50 * VOCABULARY)  # 256 tokens in six pieces
    ids, targets = (tensor.to(GPU) for tensor in batches(1)[0])
    targets[0, :7] = -100
    found = []
    for loss_of in (next_token_loss, lambda model, ids, targets: F.cross_entropy(
            model(ids).flatten(0, 1), targets.flatten(), ignore_index=-100)):
        model = sizes.small_gpt(GPU)
        loss = loss_of(model, ids, targets)
        loss.backward()
        found.append((loss.detach(), [weight.grad for weight in model.parameters()]))
    (loss, gradients), (other, others) = found
    assert head_loss.padded_rows(VOCABULARY, "cuda") == 1024
    torch.testing.assert_close(loss, other, rtol=1e-5, atol=0)
    for one, two in zip(gradients, others):
        assert float((one - two).norm()) <= 1e-4 * float(two.norm()) + 1e-9


def test_compiled_training_has_the_same_losses():
    torch.testing.assert_close(torch.tensor(losses(settings(6, compile=True))), torch.tensor(losses(settings(6))),
                               rtol=2e-3, atol=0)


def test_weights_are_loaded_in_the_format_asked_for(tmp_path):
    model = sizes.small_gpt(torch.device("cpu"))
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", GPU, torch.bfloat16)
    for (name, weight), (_, saved) in zip(loaded.named_parameters(), model.named_parameters(), strict=True):
        assert weight.is_cuda and weight.dtype == torch.bfloat16, name
        assert torch.equal(weight.cpu(), saved.to(torch.bfloat16)), name


def test_a_run_in_two_pieces_is_the_unbroken_run_to_the_last_bit(tmp_path):
    def stop(record: dict) -> None:
        if record["step"] == 3:
            raise KeyboardInterrupt

    config = settings(6)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels add up in an order that changes from run to run
        whole = losses(config)
        losses(config, checkpoints=Checkpoints(tmp_path, every_steps=1), on_step=stop)
        assert losses(config, checkpoints=Checkpoints(tmp_path, every_steps=1)) == whole


def test_float32_training_multiplies_in_tf32_unless_somebody_chose_otherwise():
    seen = []

    def loss_of(model, inputs, targets):
        left, right = torch.randn(2, 512, 512, device=GPU)
        exact = left.double() @ right.double()
        seen.append(float((left @ right - exact).abs().max()))
        return next_token_loss(model, inputs, targets)

    train(sizes.small_gpt(GPU), batches(), loss_of, settings(1))
    left, right = torch.randn(2, 512, 512, device=GPU)
    outside = float((left @ right - left.double() @ right.double()).abs().max())
    assert seen[0] > 20 * outside  # 11 significant bits beside 24; and nothing is left switched on


def test_a_precision_that_somebody_chose_stays():
    matmuls = [backend.matmul for backend in (torch.backends.cuda, torch.backends.mkldnn)
               if hasattr(getattr(backend, "matmul", None), "fp32_precision")]
    if not matmuls:
        pytest.skip("before 2.9, PyTorch does not tell a choice from what is installed")
    seen = []

    def loss_of(model, inputs, targets):
        seen.append(torch.get_float32_matmul_precision())
        return next_token_loss(model, inputs, targets)

    torch.set_float32_matmul_precision("highest")
    try:
        train(sizes.small_gpt(GPU), batches(), loss_of, settings(1))
    finally:
        for matmul in matmuls:
            matmul.fp32_precision = "none"  # as installed
    assert seen == ["highest"]
