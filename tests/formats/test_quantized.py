"""llmbook.formats.quantized: linear layers with 8 and 4 bits a weight."""

import numpy as np
import pytest
import torch
from torch import nn

from llmbook.assets import fetch
from llmbook.formats.gguf import GGUFCheckpoint
from llmbook.formats.quantized import Int4Linear, Int8Linear, four_bit_codes, quantize
from llmbook.generation import generate
from llmbook.llama import Llama, LlamaConfig
from llmbook.training import save_model


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 40])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("small", "error"), [(Int8Linear, 0.05), (Int4Linear, 0.15)])
def test_quantised_layers_compute_nearly_the_same(small, error, bias, rows):
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 96, bias), torch.randn(2, rows, 64)
    if bias:
        nn.init.normal_(linear.bias)  # a forgotten one would show
    with torch.no_grad():
        exact, small = linear(x), small(linear)(x)
    assert small.shape == exact.shape and small.dtype == exact.dtype
    assert (small - exact).abs().max() < error * exact.abs().max()


@pytest.mark.parametrize("small", [Int8Linear, Int4Linear])
def test_rows_of_a_batch_get_what_each_gets_alone(small):
    torch.manual_seed(0)
    layer, x = small(nn.Linear(64, 96)), torch.randn(16, 64)
    with torch.no_grad():
        assert torch.equal(layer(x), torch.cat([layer(row[None]) for row in x]))


def test_int8_keeps_each_weight_to_half_a_step_of_its_row():
    torch.manual_seed(0)
    linear = nn.Linear(64, 96, bias=False)
    with torch.no_grad():
        linear.weight[3] *= 1000  # one large row must not blur the others
        linear.weight[4] = 0
    eight = Int8Linear(linear)
    assert eight.weight.dtype == torch.int8
    error = (eight.weight * eight.scale[:, None] - linear.weight).abs()
    assert (error <= 0.5001 * eight.scale[:, None] + 1e-9).all() and (eight.scale[:3] < 1e-3).all()


def four_bit_matrix(layer: Int4Linear) -> torch.Tensor:
    """The matrix that a 4-bit layer computes with, a column for each input that is one."""
    with torch.no_grad():
        return layer(torch.eye(64)).T


def test_int4_keeps_each_weight_to_half_a_step_of_its_group():
    torch.manual_seed(0)
    linear = nn.Linear(64, 96, bias=False)
    with torch.no_grad():
        linear.weight[3, :32] *= 1000  # one large group must not blur its neighbour
        linear.weight[4] = 0.25
    four = Int4Linear(linear)
    groups = linear.weight.detach().unflatten(1, (-1, 32))
    half_step = (groups.amax(2) - groups.amin(2)) / 30
    error = (four_bit_matrix(four).unflatten(1, (-1, 32)) - groups).abs().amax(2)
    assert (error <= half_step + 0.02 * groups.abs().amax(2)).all()  # steps and results are bfloat16
    assert error[3, 1] < 0.02 and error[4].max() < 1e-3
    assert four.weight.numel() * four.weight.element_size() == 64 * 96 // 2


def test_int4_computes_with_the_codes_of_the_file():
    checkpoint = GGUFCheckpoint(fetch("smollm2-135m-instruct"))
    name = next(name for name, kind in checkpoint.formats.items() if kind == "Q4_1")
    weight = torch.empty(checkpoint.shapes[name])
    checkpoint.copy(name, weight)
    first, row_bytes = checkpoint._places[name]
    packed = np.fromfile(checkpoint.path, np.uint8, len(weight) * row_bytes, offset=first).reshape(-1, 20)[:, 4:]
    theirs = np.concatenate([packed & 15, packed >> 4], axis=1).reshape(weight.shape)
    codes, step, minimum = four_bit_codes(weight)
    assert np.array_equal(codes.numpy(), theirs)
    again = minimum[..., None] + step[..., None] * codes.unflatten(1, (-1, 32))
    assert torch.allclose(again.flatten(1), weight, atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("bits", "error"), [(8, 0.05), (4, 0.3)])
def test_a_quantised_model_generates_and_cannot_be_trained(bits, error, tied):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=50, context_length=32, d_model=32, n_heads=4, n_kv_heads=2, n_layers=2, d_hidden=64,
                         tie_embeddings=tied)
    model = Llama(config).eval()
    ids = torch.randint(50, (1, 12))
    with torch.no_grad():
        exact = model(ids)
        assert quantize(model, bits) is model
        small = model(ids)
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    assert not any(module.training for module in model.modules())  # else generating guards against dropout, slowly
    assert isinstance(model.output, Int8Linear)  # in any case
    assert isinstance(model.blocks[1].feed_forward.contract, Int8Linear if bits == 8 else Int4Linear)
    assert (small - exact).abs().max() < error * exact.abs().max()
    assert generate(model, ids, 5, temperature=0).shape == (1, 17)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_layers_of_odd_sizes_get_eight_bits():
    config = LlamaConfig(vocab_size=50, context_length=32, d_model=24, n_heads=2, n_kv_heads=2, n_layers=1, d_hidden=64)
    model = quantize(Llama(config), 4)
    assert isinstance(model.blocks[0].attention.qkv, Int8Linear)  # 24 inputs are no groups of 32
    assert isinstance(model.blocks[0].feed_forward.contract, Int8Linear)  # nor 24 outputs of 16


def test_other_bits_are_refused():
    model = Llama(LlamaConfig(50, 16, 32, 2, 1, 1, 64))
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(ValueError, match=r"bits is 5: it must be 4 or 8$"):
        quantize(model, 5)
    with pytest.raises(ValueError, match=r"4-bit layers run on the CPU: move the model there, or give bits=8$"):
        quantize(model.to("meta"), 4)
    assert before == {name: type(module) for name, module in model.named_modules()}


@pytest.mark.parametrize("layout", ["llmbook", "huggingface"])
def test_a_quantised_model_is_not_saved_over_a_good_one(tmp_path, layout):
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocab_size=50, context_length=32, d_model=32, n_heads=4, n_kv_heads=2, n_layers=1,
                              d_hidden=64))
    save_model(model, tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    quantize(model)
    with pytest.raises(ValueError, match=r"this Llama is not what its config describes \(.*unknown .*\): save it"):
        save_model(model, tmp_path if layout == "llmbook" else tmp_path / "new", layout)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files  # and no new folder
