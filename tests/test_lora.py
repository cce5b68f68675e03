"""llmbook.lora: adapters on a model, trained, merged, switched, over 4 bits."""

import copy

import pytest
import torch
from torch import nn

from llmbook.classification import TextClassifier
from llmbook.formats.quantized import quantize
from llmbook.generation import generate
from llmbook.gpt import GPT, GPTConfig
from llmbook.llama import Llama, LlamaConfig
from llmbook.lora import (
    FourBitLinear,
    LoRALinear,
    LowRankUpdate,
    active_adapter,
    adapter_names,
    add_lora,
    load_adapter,
    lora_layers,
    merge_lora,
    save_adapter,
    to_four_bits,
    use_adapter,
)
from llmbook.model_files import load_model, save_model
from llmbook.training import TrainingConfig, next_token_loss, train
from tests.support.pretrained import SMALL, some_ids

IDS = some_ids(2, 30)
GPT_SIZES = GPTConfig(vocab_size=61, context_length=96, d_model=32, n_heads=4, n_layers=2)


def llama() -> Llama:
    torch.manual_seed(0)
    return Llama(LlamaConfig(**SMALL)).eval()


def gpt() -> GPT:
    torch.manual_seed(0)
    return GPT(GPT_SIZES).eval()


def shake(model: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            if layer.active is not None:
                layer.adapters[layer.active].A.normal_(std=0.3, generator=generator)
                layer.adapters[layer.active].B.normal_(std=0.3, generator=generator)
    return model


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(IDS)


@pytest.mark.parametrize("build", [llama, gpt])
def test_a_new_adapter_changes_nothing_and_is_all_that_is_trained(build):
    model, before = build(), logits(build())
    assert add_lora(model, 4) is model
    assert torch.equal(logits(model), before)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".adapters.default." in name for name in trained)
    assert {name.split(".adapters")[0].rpartition(".")[2] for name in trained} == {"qkv", "out", "expand", "contract"}


def test_an_update_is_scale_times_b_a():
    update = LowRankUpdate(5, 7, rank=2, alpha=6.0)
    nn.init.normal_(update.B)
    x = torch.randn(3, 4, 5)
    expected = 3.0 * (x @ update.A.T @ update.B.T)
    torch.testing.assert_close(update(x), expected)
    torch.testing.assert_close(x @ update.matrix().T, expected)
    assert torch.linalg.matrix_rank(update.matrix()) == 2
    half = update(x.bfloat16())
    assert half.dtype == torch.bfloat16 and (half.float() - expected).abs().max() < 0.1 * expected.abs().max()


def test_dropout_acts_on_the_input_in_training_mode_only():
    update = LowRankUpdate(50, 3, rank=2, alpha=2.0, dropout=0.5)
    nn.init.normal_(update.B)
    x = torch.ones(1, 50)
    torch.manual_seed(0)
    assert not torch.equal(update(x), update(x))
    update.eval()
    assert torch.equal(update(x), update(x))


def test_targets_and_blocks_choose_the_layers():
    model = add_lora(llama(), 2, targets=["qkv", "contract"], blocks=[1])
    assert list(lora_layers(model)) == ["blocks.1.attention.qkv", "blocks.1.feed_forward.contract"]


def test_also_train_keeps_a_head_trainable():
    classifier = add_lora(TextClassifier(llama(), 2), 2, also_train=["head"])
    assert classifier.head.weight.requires_grad and not classifier.model.final_norm.weight.requires_grad


def test_training_moves_adapters_only_and_lowers_the_loss():
    model = add_lora(llama(), 4)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    batch = [(IDS[:, :-1], IDS[:, 1:])]
    history = train(model, batch, next_token_loss, TrainingConfig(30, learning_rate=2e-2, progress=False, device="cpu"))
    assert history.steps[-1]["loss"] < history.steps[0]["loss"] - 0.25
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


@pytest.mark.parametrize("build", [llama, gpt])
def test_merging_computes_the_same_and_leaves_an_ordinary_model(build, tmp_path):
    model = shake(add_lora(build(), 3, 5.0))
    expected = logits(model)
    assert (expected - logits(build())).abs().max() > 0.1
    assert merge_lora(model) is model
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-4)
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    save_model(model, tmp_path / "merged")
    assert torch.equal(logits(load_model(tmp_path / "merged", device="cpu")), logits(model))


def test_adapters_are_switched_and_each_is_itself():
    plain, model = logits(llama()), llama()
    found = {}
    for seed, name in enumerate(("first", "second"), 1):
        shake(add_lora(model, 2, name=name, targets=["qkv"] if seed == 1 else ["qkv", "out"]), seed)
        found[name] = logits(model)
    assert (found["first"] - found["second"]).abs().max() > 0.1
    assert adapter_names(model) == ["first", "second"]
    for name in ("second", "first", "second"):
        use_adapter(model, name)
        assert torch.equal(logits(model), found[name])
        assert all(f".adapters.{name}." in parameter for parameter, p in model.named_parameters() if p.requires_grad)
    use_adapter(model, None)
    assert torch.equal(logits(model), plain)
    for name, expected in found.items():
        torch.testing.assert_close(logits(merge_lora(copy.deepcopy(model), name)), expected, atol=1e-5, rtol=1e-4)


def test_the_active_adapter_is_the_one_saved_and_merged(tmp_path):
    model = llama()
    for seed, name in enumerate(("first", "second"), 1):
        shake(add_lora(model, 2, name=name), seed)
    for name in ("first", "second"):
        use_adapter(model, name)
        assert active_adapter(model) == name
        expected = logits(model)
        save_adapter(model, tmp_path / name)
        torch.testing.assert_close(logits(load_adapter(llama(), tmp_path / name)), expected)
        torch.testing.assert_close(logits(merge_lora(copy.deepcopy(model))), expected, atol=1e-4, rtol=1e-4)
    use_adapter(model, None)
    assert active_adapter(model) is None
    with pytest.raises(ValueError, match="there is no adapter None to save: give one of first, second"):
        save_adapter(model, tmp_path / "none")
    with pytest.raises(ValueError, match="there is no adapter 'third' to save: give one of first, second"):
        save_adapter(model, tmp_path / "none", "third")
    assert not (tmp_path / "none").exists()


def test_a_head_trained_whole_stays_and_is_frozen_when_another_adapter_is_used():
    classifier = add_lora(TextClassifier(llama(), 2), 2, also_train=["head"])
    head = classifier.head.weight
    add_lora(classifier, 2, name="other")
    assert classifier.head.weight is head and not head.requires_grad


def test_a_cache_and_generation_work_with_an_adapter():
    model = shake(add_lora(llama(), 2))
    with torch.no_grad():
        cache = model.new_cache(2)
        parts = [model(part, cache) for part in IDS.split([7, 1, 22], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), logits(model), atol=1e-4, rtol=1e-4)
    merged = merge_lora(copy.deepcopy(model))
    told, expected = (generate(net, IDS[:1, :3], 8, temperature=0) for net in (model, merged))
    assert torch.equal(told, expected)


# --- 4 bits ---

def on_levels(rows: int, columns: int) -> nn.Linear:
    """A layer whose weights are 16 even levels in each 32 numbers, as in a Q4_1 file."""
    generator = torch.Generator().manual_seed(4)
    codes = torch.randint(0, 16, (rows, columns // 32, 32), generator=generator)
    codes[..., 0], codes[..., 1] = 0, 15
    linear = nn.Linear(columns, rows)
    with torch.no_grad():
        linear.weight.copy_((codes * 0.25 - 2.0).flatten(1))
    return linear


def test_four_bits_keep_weights_that_have_16_levels():
    linear = on_levels(6, 64)
    layer = FourBitLinear(linear)
    assert torch.equal(layer.unpacked(), linear.weight)
    stored = sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers())
    assert stored * 8 == 5 * linear.weight.numel()
    x = torch.randn(2, 3, 64)
    torch.testing.assert_close(layer(x), linear(x))


def test_four_bits_are_within_half_a_step_of_other_weights():
    linear = nn.Linear(96, 8, bias=False)
    layer = FourBitLinear(linear)
    groups = linear.weight.detach().unflatten(1, (-1, 32))
    step = (groups.amax(2) - groups.amin(2)) / 15
    wrong = (layer.unpacked().unflatten(1, (-1, 32)) - groups).abs().amax(2)
    assert bool((wrong <= 0.51 * step).all()) and bool((wrong > 0).any())


def test_gradients_flow_through_four_bits_and_keep_no_weight():
    layer = FourBitLinear(nn.Linear(64, 8))
    dense = nn.functional.linear
    x = torch.randn(3, 64, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = layer(x)
    y.square().sum().backward()
    dense(other, layer.unpacked(), layer.bias).square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad)
    assert not kept


def test_an_adapter_over_four_bits_trains_and_merges():
    model = to_four_bits(llama())
    kinds = {type(layer.base) for layer in lora_layers(add_lora(model, 4)).values()}
    assert kinds == {FourBitLinear}
    packed = {name: buffer.clone() for name, buffer in model.named_buffers()}
    history = train(model, [(IDS[:, :-1], IDS[:, 1:])], next_token_loss,
                    TrainingConfig(20, learning_rate=2e-2, progress=False, device="cpu"))
    assert history.steps[-1]["loss"] < history.steps[0]["loss"] - 0.15
    assert all(torch.equal(buffer, packed[name]) for name, buffer in model.named_buffers())
    expected = logits(model.eval())
    merge_lora(model)
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-3)
    assert not any(isinstance(module, FourBitLinear) for module in model.modules())


# --- what is refused ---

@pytest.mark.parametrize("settings, named", [
    ({"rank": 33}, "rank is 33: blocks.0.attention.qkv is 64 x 32, so give at most 32"),
    ({"rank": 0}, "rank is 0: it must be a whole number"), ({"rank": 2.0}, "rank is 2.0"),
    ({"targets": ["q_proj"]}, "'q_proj' is no linear layer of this Llama, which has qkv, out, expand, contract"),
    ({"targets": []}, "'nothing' is no linear layer"), ({"blocks": [2]}, "blocks names 2: there are 0 to 1"),
    ({"alpha": 0.0}, "alpha is 0.0"), ({"dropout": 1.0}, "dropout 1.0"), ({"name": "a.b"}, "name is 'a.b'"),
    ({"name": ""}, "name is ''")])
def test_what_cannot_be_added_is_named_in_one_line_and_changes_nothing(settings, named):
    model = llama()
    with pytest.raises(ValueError) as error:
        add_lora(model, **settings)
    assert named in str(error.value) and "\n" not in str(error.value)
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_names_and_orders_that_do_not_work_are_named():
    model = add_lora(llama(), 2)
    with pytest.raises(ValueError, match="adapter 'default' is there already: give another name"):
        add_lora(model, 2)
    with pytest.raises(ValueError, match="no adapter is named 'other': there are default"):
        use_adapter(model, "other")
    with pytest.raises(ValueError, match="no adapter 'other' to merge: give one of default"):
        merge_lora(model, "other")
    use_adapter(model, None)
    with pytest.raises(ValueError, match="no adapter None to merge"):
        merge_lora(model)
    with pytest.raises(ValueError, match="has adapters, which would be lost: merge_lora"):
        quantize(model)
    with pytest.raises(ValueError, match="has an adapter: call to_four_bits before add_lora"):
        to_four_bits(model)
    with pytest.raises(ValueError, match="this Llama has no adapter: call add_lora first"):
        use_adapter(llama(), "default")
    with pytest.raises(ValueError, match="no linear layers in blocks to adapt: add adapters before quantize"):
        add_lora(quantize(llama(), 8), 2)
    with pytest.raises(ValueError, match="save it before it is changed"):
        save_model(model, "nowhere")
