"""Chapter 12's measurements and its picture of a layer: what they count, and which ticks they have."""

import copy

import matplotlib.pyplot as plt
import pytest
import torch

from llmbook.book import decoding
from llmbook.generation import generate
from llmbook.llama import Llama, LlamaConfig
from llmbook.quantization import ModelDraft, PromptLookup
from llmbook.serve.server import Server
from tests.serve.served import tiny_chat
from tests.support.pretrained import SMALL, shaken, some_ids


@pytest.fixture
def model():
    return shaken(Llama(LlamaConfig(**SMALL)))


@pytest.fixture
def axes(monkeypatch):
    """The axes that were shown."""
    shown = []
    monkeypatch.setattr(decoding.plt, "show", lambda: shown.append(plt.gca()))
    yield shown
    plt.close("all")


def test_ticks_are_plain_numbers_also_on_a_logarithmic_axis():
    _, ax = plt.subplots()
    ax.loglog([1, 100], [0.2, 50])
    decoding.plain_ticks(ax.yaxis, (0.5, 5, 50))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0.5", "5", "50"]
    assert not len(ax.yaxis.get_minorticklocs())
    plt.close("all")


def test_the_roofs_meet_at_a_corner_and_each_tick_names_its_rows(axes):
    decoding.draw_roofline({1: 10.0, 2: 18.0, 4: 30.0, 32: 100.0}, 20.0, 100.0)
    [ax] = axes
    measured, roofs = ax.get_lines()
    assert list(measured.get_xdata()) == [0.5, 1, 2, 16]
    assert list(zip(roofs.get_xdata(), roofs.get_ydata())) == [(0.5, 10.0), (5.0, 100.0), (16, 100.0)]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.5\n1", "1\n2", "2\n4", "16\n32"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["10", "20", "50", "100"]


def test_pictures_of_rounding_have_plain_ticks_and_what_they_were_given(axes):
    decoding.draw_weight_errors({4: [9.0, 11.0], 2: [50.0, 70.0]}, (8, 32), "One")
    decoding.draw_bit_losses({8: (0.0, 0.001), 2: (4.0, 0.1)}, "Two")
    first, second = axes
    assert [list(line.get_xdata()) for line in first.get_lines()] == [[6.0, 4.5], [4.0, 2.5]]
    assert first.get_legend().get_title().get_text() == "blocks of 32, 8" and first.get_title() == "One"
    assert [label.get_text() for label in first.get_yticklabels()] == ["0.5", "1", "2", "5", "10", "20", "50"]
    assert [label.get_text() for label in second.get_yticklabels()] == ["0", "0.01", "0.1", "1", "10"]
    assert second.figure.get_label() == "Loss added against bits per code: 0.000 nats at 8 bits, 4.000 nats at 2 bits"


def test_a_layer_is_rounded_alone(model):
    ids = some_ids(2, 7)
    before = model(ids)
    table = decoding.layer_errors(model, ids, 4)
    assert list(table.index) == ["block 1", "block 2"] and len(table.columns) >= 4
    assert ((table > 1) & (table < 20)).all(axis=None) and (decoding.layer_errors(model, ids, 8) < 1.5).all(axis=None)
    assert torch.equal(model(ids), before)
    assert not any(layer._forward_hooks for layer in model.modules())


def test_a_server_is_asked_for_the_likeliest_text():
    served, tokenizer = tiny_chat()
    with Server(served, tokenizer, name="tiny", port=0) as server:
        told = decoding.completion(server.url, "the sea", 8)
    ids = torch.tensor([tokenizer.encode("the sea")])
    ends = tokenizer.encode("<|im_end|><|endoftext|>", allowed_special="all")
    text = generate(served, ids, 8, temperature=0, stop_tokens=ends, vocab_size=tokenizer.n_vocab)[0].tolist()
    assert told and told == tokenizer.decode([token for token in text[ids.shape[1] :] if token not in ends])


def test_a_pass_is_timed_after_what_was_read(model, monkeypatch):
    read, original = [], Llama.hidden_states
    monkeypatch.setattr(Llama, "hidden_states", lambda self, ids, cache: read.append(
        (ids.shape[1], cache.length)) or original(self, ids, cache))
    assert decoding.pass_time(model, 3, 20) > 0
    assert read == [(20, 0), *[(3, 20)] * 16]


def test_drafts_are_compared_on_the_same_texts(model, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(decoding.time, "perf_counter", lambda: next(clock) ** 2)  # each call takes longer than the last
    openings = [some_ids(1, 6 + more) for more in range(4)]
    drafts = {"itself": ModelDraft(copy.deepcopy(model), 4), "nothing": PromptLookup(61, 30)}
    table = decoding.compare_drafts(model, drafts, openings, 20, 0.0)
    assert list(table.index) == ["itself", "nothing"]
    assert table.loc["nothing", "tokens per pass"] == 1 and table.loc["nothing", "±"] == 0
    assert table.loc["itself", "tokens per pass"] == 5 and table.loc["itself", "±"] == 0
    assert (table["from"] < table["times as fast"]).all() and (table["times as fast"] < table["to"]).all()
    assert (table["times as fast"] < 1).all()  # as the clock has it
    with pytest.raises(ValueError, match="there are 3 openings: give 4, 6, 8, 10, 12, for an interval"):
        decoding.compare_drafts(model, drafts, openings[:3], 20, 0.0)


def test_the_interval_is_students():
    row = decoding._row([1.0, 2.0, 3.0, 2.0], [1.0, 2.0, 4.0, 2.0])
    spread = torch.tensor([1.0, 2.0, 3.0, 2.0]).std().item()
    assert row["tokens per pass"] == 2 and row["±"] == pytest.approx(3.18 * spread / 2)
    assert row["times as fast"] == pytest.approx(2) and row["from"] * row["to"] == pytest.approx(4)
