"""llmbook.book.adapters: what memory a step needs, counted by hand for a small model, and the stored study."""

import json

import matplotlib

matplotlib.use("agg")

import pytest
import torch
from torch import nn

from llmbook.book import adapters as book
from llmbook.book.adapters import count_weights, lora_study, train_adapter, training_memory
from llmbook.book.figures import BLUE, ORANGE
from llmbook.classification import PreparedTexts, TextClassifier
from llmbook.llama import Llama, LlamaConfig
from llmbook.lora import add_lora, to_four_bits
from llmbook.training import History
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


def test_the_stored_study_is_whole():
    study = lora_study()
    assert set(study.columns) >= {"method", "seed", "learning_rate", "trained", "seconds", "n", "right", "loss"}
    ranks = [f"rank {2**i}" for i in range(7)]
    cells = {(method, seed) for method in ("head", *ranks, "last block", "two blocks") for seed in range(3)}
    assert set(zip(study["method"], study["seed"])) == cells and len(study) == len(cells)
    assert (study["right"] <= study["n"]).all() and (study["n"] == 160).all()
    counts = study.groupby("method")["trained"].first()
    each = (counts["rank 8"] - 1154) / 8  # numbers of one rank in all adapted layers
    assert all(counts[name] == pytest.approx(1154 + int(name.split()[1]) * each) for name in ranks)


def test_the_summary_of_the_study_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr("llmbook.book.adapters.resources.files", lambda package: tmp_path)
    rows = [{"method": method, "seed": seed, "learning_rate": 0.01, "trained": trained, "n": 200, "right": right}
            for method, trained, rights in (("two blocks", 900, (190, 192, 194)), ("rank 4", 50, (180, 190, 170)))
            for seed, right in enumerate(rights)]
    (tmp_path / "lora.json").write_text(json.dumps({"runs": rows}))
    found = book.study_summary()
    assert list(found.index) == ["rank 4", "two blocks"] and list(found["seeds"]) == [3, 3]
    assert list(found["right, %"]) == [90, 96] and list(found["worst seed"]) == [2, 0]
    assert list(found["± (95%, t)"]) == pytest.approx([4.30 * 5 / 3**0.5, 4.30 * 1 / 3**0.5])
    ax = book.draw_study()
    assert [text.get_text() for text in ax.texts] == ["4", "two"]
    assert [line.get_color() for line in ax.lines] == [ORANGE, ORANGE, BLUE, BLUE]
    assert list(ax.lines[0].get_ydata()) == [90, 95, 85] and list(ax.lines[3].get_ydata()) == [96]


def test_losses_and_shares_are_those_they_are_given():
    first, second = (History([{"step": 1, "loss": loss}, {"step": 2, "loss": loss / 2}]) for loss in (2.0, 1.0))
    ax = book.draw_runs({"one": first, "two": second})
    assert [(line.get_color(), list(line.get_ydata())) for line in ax.lines] == [(BLUE, [2.0, 1.0]),
                                                                                (ORANGE, [1.0, 0.5])]
    share = book.right_share(torch.tensor([True, False, True]))
    assert (share.right, share.of) == (2, 3)
