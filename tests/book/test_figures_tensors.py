"""Appendix A's pictures show what PyTorch computed. That their words can be read is tested with the other boards."""

import matplotlib

matplotlib.use("agg")

import pytest
import torch

from llmbook.book import figures
from tests.support.style import style  # noqa: F401 (a fixture for every test here)

COLUMN, ROW = torch.tensor([[0.0], [10.0], [20.0]]), torch.tensor([1.0, 2.0, 3.0, 4.0])


def graph(leave_out: str = ""):
    w, b = (torch.tensor(value, requires_grad=True) for value in (2.0, 0.5))
    product = w * 3.0
    guess = product + b
    error = guess - 10.0
    loss = error**2
    for tensor in (product, guess, error, loss):
        tensor.retain_grad()
    loss.backward(retain_graph=True)
    names = {"w": w, "b": b, "product = w · 3": product, "guess = product + b": guess, "error = guess − 10": error,
             "loss = error²": loss}
    return figures.computation_graph(loss, {name: tensor for name, tensor in names.items() if name != leave_out})


APPENDIX_A = [figures.training_step, lambda: figures.broadcasting(COLUMN, ROW), graph, lambda: figures.number_bits(0.1)]


def said(ax) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


def test_the_step_of_training_names_the_shapes_and_the_sections():
    words = " | ".join(said(figures.training_step(batch=7, letters=5)))
    for part in ("inputs (7, 5)", "scores (7, 2)", "targets\n(7,)", "(A.6)", "(A.7)", "(A.8)", "(A.9)", "zero_grad",
                 "backward"):
        assert part in words, part


def test_broadcasting_repeats_what_is_stretched_and_adds():
    ax = figures.broadcasting(COLUMN, ROW)
    words = said(ax)
    assert [words[0], words[13], words[27]] == ["(3, 1)", "(4,)", "(3, 4)"]
    numbers = torch.tensor([float(word) for word in words if word.isdigit()]).view(3, 3, 4)
    assert torch.equal(numbers[2], COLUMN + ROW) and torch.equal(numbers[0] + numbers[1], numbers[2])
    repeated = [patch for patch in ax.patches if patch.get_linestyle() != "-" and patch.get_linestyle() != "solid"]
    assert len(repeated) == 9 + 8


def test_the_graph_has_each_value_each_gradient_and_the_chain_rule_between():
    words = said(graph())
    for label in ("w\nvalue 2, gradient −21", "b\nvalue 0.5, gradient −7", "product = w · 3\nvalue 6, gradient −7",
                  "guess = product + b\nvalue 6.5, gradient −7", "error = guess − 10\nvalue −3.5, gradient −7",
                  "loss = error²\nvalue 12.25, gradient 1"):
        assert words.count(label) == 1, label
    assert sorted(word for word in words if word.startswith("×")) == ["× 1", "× 1", "× 1", "× 3", "× −7"]


@pytest.mark.parametrize("left_out", ["guess = product + b", "b"])
def test_a_step_without_a_name_is_refused(left_out):
    with pytest.raises(ValueError, match="has no name: add its tensor"):
        graph(left_out)


@pytest.mark.parametrize("value", [0.1, 1.0, 300.0])
def test_the_bits_are_those_of_the_number(value):
    words = said(figures.number_bits(value))
    bits = "".join(word for word in words if word in ("0", "1"))
    assert len(bits) == 32 + 16 + 16
    stored = int(bits[:32], 2)
    assert torch.tensor(stored, dtype=torch.int32).view(torch.float32) == torch.tensor(value)
    half = torch.tensor(int(bits[32:48], 2), dtype=torch.int16)
    assert half.view(torch.bfloat16).item() == torch.tensor(value).bfloat16().item()
    assert f"float16, 1 + 5 + 10 bits: {torch.tensor(value).half().item():.8f}" in words


def test_cells_without_a_number_need_less_room():
    matrix = torch.zeros(10, 14)
    with_numbers, without = (figures.heatmap(matrix, form=form).figure.get_size_inches() for form in (".2f", None))
    assert without[0] < 7 < with_numbers[0] and without[1] < with_numbers[1]
