"""llmbook.book.adapters: what memory a step needs, counted by hand for a small model, and the stored study."""

import pytest
import torch
from torch import nn

from llmbook.book.adapters import count_weights, lora_study, train_adapter, training_memory
from llmbook.classification import PreparedTexts, TextClassifier
from llmbook.llama import Llama, LlamaConfig
from llmbook.lora import add_lora, to_four_bits
from tests.support.pretrained import SMALL


def test_memory_of_a_linear_layer_by_hand():
    model = nn.Sequential(nn.Linear(10, 6), nn.Tanh(), nn.Linear(6, 2))
    batch = torch.randn(5, 10), torch.randn(5, 2)

    def loss(net, x, y):
        return (net(x) - y).sum()  # keeps nothing of its own

    weights = 4 * (66 + 14)
    found = training_memory(model, loss, batch)
    # the first layer keeps its input (5, 10), the tanh its output (5, 6), which the second layer keeps too
    assert found == {"weights": weights, "gradients": weights, "AdamW": 2 * weights,
                     "kept for the backward pass": 4 * (50 + 30)}
    model[0].requires_grad_(False)
    found = training_memory(model, loss, batch, model[2])
    assert found == {"weights": 56, "gradients": 56, "AdamW": 112, "kept for the backward pass": 4 * 30}


def classifier() -> TextClassifier:
    torch.manual_seed(0)
    return TextClassifier(Llama(LlamaConfig(**SMALL)), 2)


def test_four_bits_count_as_weights():
    plain = count_weights(classifier())[1]
    packed = classifier()
    to_four_bits(packed)
    assert count_weights(packed) == (0, plain)
    add_lora(packed, 2, targets=["out"])
    assert count_weights(packed) == (2 * 2 * (32 + 32), plain + 2 * 2 * (32 + 32))


def test_an_adapter_learns_to_classify():
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, 61, (6,), generator=generator) for _ in range(64)]
    texts = PreparedTexts(ids, [int(row[-1] > 30) for row in ids], None)
    model = add_lora(classifier(), 4, also_train=["head"])
    frozen = model.model.blocks[0].attention.qkv.base.weight.clone()
    steps = train_adapter(model, texts, 15, 1e-2, progress=False, device="cpu").steps
    assert steps[-1]["loss"] < 0.3 < 0.6 < steps[0]["loss"]
    assert torch.equal(model.model.blocks[0].attention.qkv.base.weight, frozen)


def test_the_study_is_read_or_what_makes_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("llmbook.book.adapters.resources.files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match="lora.json is missing: make it with `python tools/lora.py`"):
        lora_study()
    (tmp_path / "lora.json").write_text('{"runs": [{"method": "rank 8", "seed": 0, "right": 0.97}]}')
    assert lora_study().to_dict("records") == [{"method": "rank 8", "seed": 0, "right": 0.97}]
