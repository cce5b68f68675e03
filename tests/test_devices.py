"""Which device and which number format: one place decides."""

from contextlib import nullcontext

import pytest
import torch

from llmbook import devices


def test_cuda_comes_first_then_mps_then_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.best_device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.best_device().type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices.best_device().type == "cpu"


@pytest.mark.parametrize("capability, native", [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bfloat16_is_native_from_ampere_on(monkeypatch, capability, native):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.has_native_bfloat16("cuda") is native


def test_mps_stays_in_float32():
    assert devices.has_native_bfloat16("mps") is False


@pytest.mark.parametrize("native, precision, expected", [
    (True, "auto", torch.bfloat16), (False, "auto", torch.float32),
    (True, "float32", torch.float32), (False, "bfloat16", torch.bfloat16)])
def test_autocast_follows_the_hardware_unless_forced(monkeypatch, native, precision, expected):
    monkeypatch.setattr(devices, "has_native_bfloat16", lambda device: native)
    layer = torch.nn.Linear(4, 4)
    with devices.autocast("cpu", precision):
        assert layer(torch.ones(2, 4)).dtype == expected
    assert layer.weight.dtype == torch.float32


def test_unknown_precision_is_named():
    with pytest.raises(ValueError, match="'float16'.*auto, float32, bfloat16"):
        devices.autocast("cpu", "float16")


@pytest.mark.parametrize("shape", [(1, 64), (1, 1, 64), (64,), (2, 64), (1, 5, 64)])
@pytest.mark.parametrize("outputs", [96, 97])  # 97 rows cannot be shared out evenly
@pytest.mark.parametrize("bias", [True, False])
def test_a_shared_product_is_the_product(shape, outputs, bias, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # the suite may run with one thread, which shares nothing
    monkeypatch.setattr(devices, "one_row_has_one_thread", lambda: True)
    torch.manual_seed(0)
    layer, x = devices.Linear(64, outputs, bias=bias), torch.randn(shape)
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    with torch.no_grad():
        assert torch.allclose(layer(x), expected, atol=1e-5)
        assert layer(x).shape == expected.shape


def test_one_row_in_float32_is_shared_out_and_nothing_else(monkeypatch):
    shared = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(devices, "one_row_has_one_thread", lambda: True)
    monkeypatch.setattr(torch, "bmm", lambda x, pieces: shared.append(tuple(pieces.shape)) or torch.matmul(x, pieces))
    layer = devices.Linear(8, 12)
    with torch.no_grad():
        layer(torch.ones(1, 1, 8))
        assert shared == [(4, 8, 3)]
        layer(torch.ones(2, 8))
        layer.bfloat16()(torch.ones(1, 8, dtype=torch.bfloat16))
    layer.float()(torch.ones(1, 8)).sum().backward()
    monkeypatch.setattr(devices, "one_row_has_one_thread", lambda: False)
    with torch.no_grad():
        layer(torch.ones(1, 1, 8))
    assert len(shared) == 1


@pytest.mark.parametrize(("told", "expected"), [
    ("vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC", True), ("vendor_id\t: GenuineIntel", False),
    ("CPU implementer\t: 0x41", False), (None, True)])
def test_whose_processor_it_is(told, expected, monkeypatch):
    def read_text(path, **_):
        if told is None:
            raise FileNotFoundError(path)
        return told

    monkeypatch.setattr(devices.Path, "read_text", read_text)
    monkeypatch.setattr(devices.platform, "processor", lambda: "AMD64 Family 25 Model 33 Stepping 0, AuthenticAMD")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert devices.one_row_has_one_thread.__wrapped__() is expected


@pytest.fixture
def product_precision():
    """As PyTorch is installed, before and after."""
    def reset():
        torch.set_float32_matmul_precision("highest")
        for backend in (torch.backends.cuda, torch.backends.mkldnn):
            if hasattr(getattr(backend, "matmul", None), "fp32_precision"):
                backend.matmul.fp32_precision = "none"

    reset()
    yield torch.get_float32_matmul_precision
    reset()


def test_float32_is_trained_in_tf32_on_cuda_alone_and_for_that_time_alone(product_precision):
    for _ in range(2):  # the second time as the first
        with devices.fast_products("cuda"):
            assert product_precision() == "high"
        assert product_precision() == "highest"
    with pytest.raises(KeyError), devices.fast_products(torch.device("cuda", 1)):
        raise KeyError
    assert product_precision() == "highest"
    for device in ("cpu", "mps"):
        with devices.fast_products(device):
            assert product_precision() == "highest"


def test_a_precision_of_one_s_own_stays(product_precision):
    torch.set_float32_matmul_precision("medium")
    with devices.fast_products("cuda"):
        assert product_precision() == "medium"
    assert product_precision() == "medium"


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="PyTorch 2.9 has it first")
@pytest.mark.parametrize("choice", ["ieee", "tf32"])
def test_a_precision_set_in_the_newer_way_stays(product_precision, choice):
    torch.backends.cuda.matmul.fp32_precision = choice
    with devices.fast_products("cuda"):
        assert torch.backends.cuda.matmul.fp32_precision == choice
    assert torch.backends.cuda.matmul.fp32_precision == choice


def test_training_asks_for_fast_products_of_its_device(monkeypatch):
    from llmbook import training, training_run

    asked = []
    monkeypatch.setattr(training_run, "fast_products", lambda device: asked.append(device) or nullcontext())
    layer, config = torch.nn.Linear(2, 2), training.TrainingConfig(1, device="cpu", progress=False)
    training.train(layer, [(torch.ones(1, 2),)], lambda model, x: model(x).sum(), config)
    assert asked == [torch.device("cpu")]


def test_batches_go_to_a_gpu_through_page_locked_memory_and_nobody_waits(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: asked.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, non_blocking: asked.append(non_blocking) or self)
    batch = (torch.ones(2), torch.zeros(2, dtype=torch.int64))
    devices.send(batch, torch.device("cuda"))
    assert asked == ["pinned", "pinned", True, True]
    devices.send(batch, torch.device("cpu"))
    assert asked[4:] == [True, True]


def test_numbers_are_fetched_together():
    assert devices.Numbers(torch.tensor(1.5, requires_grad=True), torch.tensor(2.0).bfloat16()).wait() == [1.5, 2.0]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("number", [1.0, float("nan"), float("inf")])
def test_a_guarded_update_does_nothing_where_a_number_is_not_finite(fused, number):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], fused=fused)
    for _ in range(2):  # the guard holds for one step
        weight.grad = torch.ones(3)
        devices.guard_update(optimizer, devices.Numbers(torch.tensor(1.0), torch.tensor(number)))
        optimizer.step()
        assert bool((weight == 1).all()) is (number != 1.0)
    weight.grad = torch.ones(3)
    devices.guard_update(optimizer, devices.Numbers(torch.tensor(1.0)))
    optimizer.step()
    assert not bool((weight == 1).any()) and float(optimizer.state[weight]["step"]) == (3 if number == 1 else 1)


def test_a_device_by_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices.chosen_device() == devices.best_device() == torch.device("cpu")
    assert devices.chosen_device("cpu") == devices.chosen_device(torch.device("cpu")) == torch.device("cpu")
    for name in ("cuda", "cuda:1", "mps"):  # one policy, and one line where it cannot be kept
        with pytest.raises(ValueError, match=f"device is '{name}', and PyTorch finds none here: use 'cpu'"):
            devices.chosen_device(name)
    for name in ("gpu", 3.5, ""):
        with pytest.raises(ValueError, match=f"device is {name!r}: use 'cpu', 'cuda', 'mps'"):
            devices.chosen_device(name)


@pytest.mark.parametrize("device, native, expected", [
    ("cpu", True, torch.float32), ("cuda", True, torch.bfloat16), ("cuda", False, torch.float32)])
def test_the_number_format_for_use(monkeypatch, device, native, expected):
    monkeypatch.setattr(devices, "has_native_bfloat16", lambda device: native)
    assert devices.inference_dtype(device) == expected


def test_what_a_layer_computes_in():
    weight = torch.zeros(2, 2)
    assert devices.activation_dtype(weight) == torch.float32
    assert devices.activation_dtype(weight.bfloat16()) == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert devices.activation_dtype(weight) == torch.bfloat16


class Dropping(torch.nn.Module):
    """Every way in which PyTorch drops something out."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Dropout(0.9), torch.nn.AlphaDropout(0.9), torch.nn.Dropout1d(0.9)])

    def forward(self, x):
        functional = torch.nn.functional
        for layer in self.layers:
            x = layer(x)
        x = functional.dropout(x, 0.9, self.training)
        return functional.scaled_dot_product_attention(x, x, x, dropout_p=0.9 if self.training else 0.0)


def test_without_dropout_a_model_computes_as_in_evaluation_mode_and_stays_as_it_is():
    model, x = Dropping(), torch.randn(2, 5, 8)
    expected = model.eval()(x)
    for mode in (True, False):
        model.train(mode)
        with devices.without_dropout(model):
            assert torch.equal(model(x), expected)
            assert model.training is mode
    model.train()
    assert not torch.equal(model(x), expected)


def test_evaluation_mode_gives_each_part_its_mode_back_whatever_happens():
    model = Dropping()
    model.layers[1].eval()
    with pytest.raises(RuntimeError), devices.evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
