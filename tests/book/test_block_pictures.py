"""Chapter 4's pictures show what they are given: the block's order and shapes, lines, bars and influence."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from llmbook.attention import MultiHeadAttention
from llmbook.book import block_pictures as pictures
from llmbook.gpt import FeedForward


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def boxes(ax) -> list[str]:
    """The words in boxes, from top to bottom."""
    inside = [(box[1], text.get_text()) for text, box in ax.board.texts if box is not None]
    return [words for _, words in sorted(inside)]


def test_the_block_has_its_parts_in_order_and_a_shape_after_each():
    ax = pictures.block_diagram()
    assert boxes(ax) == ["one vector per token", "norm", "attention: tokens exchange", "norm", "linear", "GELU",
                         "linear", "one vector per token"]
    shapes = [text.get_text() for text, box in ax.board.texts if box is None and "(tokens" in text.get_text()]
    assert [shape for shape in shapes if "4 ×" in shape] == ["(tokens, 4 × d_model)"] * 2  # after linear and GELU
    assert len(shapes) == 9


def test_the_loop_shows_the_shapes_of_its_text():
    ax = pictures.generation_loop("a b c", [5, 6, 7], 99, "d")
    words = " | ".join(text.get_text() for text, _ in ax.board.texts)
    for shape in ("token ids (1, 3)", "logits (1, 3, 99)", "logits (1, 99)", "append: token ids (1, 4)", "5  6  7"):
        assert shape in words
    assert boxes(ax)[0] == "a b c" and boxes(ax)[4] == "d"


def test_curves_draw_one_line_for_each_label_and_a_band_for_seeds():
    ax = pictures.draw_lines([1, 2], {"one": [3.0, 4.0], "three seeds": [[1.0, 2.0], [3.0, 4.0], [2.0, 6.0]]},
                              "title", "x", "y", log=True, ylim=(0.5, 9))
    assert [line.get_ydata().tolist() for line in ax.lines] == [[3, 4], [2, 4]]
    legend, = ax.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "three seeds"]
    band, = ax.collections
    assert band.get_datalim(ax.transData).intervaly.tolist() == [1, 6]  # from the least to the most
    assert ax.get_yscale() == "log" and ax.get_ylim() == (0.5, 9)
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 2


def test_histograms_stand_one_below_the_other():
    first, second = pictures.draw_histograms({"before": torch.randn(2, 50), "after": torch.randn(2, 50)}, ["a", "b"],
                                             "x", "y")
    assert first.get_position().y0 > second.get_position().y1
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["a", "b"]
    wide, narrow = pictures.draw_histograms({"t": torch.tensor([[0.0, 6.0], [3.0, 3.1]])}, "ab", "x", "y")[0].patches
    assert np.diff(wide.get_xy()[:, 0]).max() == pytest.approx(np.diff(narrow.get_xy()[:, 0]).max())  # one width


def test_influence_finds_which_tokens_reach_which():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 8)
    moved = pictures.measure_influence(MultiHeadAttention(8, 2), x)
    assert moved.shape == (4, 4) and not moved.triu(1).any() and (moved.tril() > 0).sum() == 10
    alone = pictures.measure_influence(FeedForward(8), x)
    assert torch.equal(alone, alone.diag().diag()) and (alone.diag() > 0).all()
    shift = pictures.measure_influence(nn.Identity(), x)
    assert torch.allclose(shift, 8**0.5 * torch.eye(4), atol=1e-5)  # 1 in each of 8 features


def test_influence_is_drawn_with_a_word_for_each_token():
    axes = pictures.draw_influence({"first": torch.eye(2), "second": torch.ones(2, 2)}, ["a", "b"])
    assert [tick.get_text() for tick in axes[1].get_xticklabels()] == ["a", "b"]
    assert [text.get_text() for text in axes[0].texts] == ["1.0", "0.0", "0.0", "1.0"]
    axes = pictures.draw_influence({"a": torch.eye(2), "b": 3 * torch.eye(2)}, "ab")
    scales = {ax.images[0].get_clim() for ax in axes}
    assert scales == {(0, 3)}  # the same colour is the same number


def test_bars_are_put_together_from_their_parts():
    ax = pictures.draw_stacked_bars({"small": {"table": 30.0, "rest": 94.0}, "large": {"table": 80.0, "rest": 1478.0}},
                                    "title", "millions")
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(0, 30), (0, 80), (30, 94), (80, 1478)]
    assert [text.get_text() for text in ax.texts] == ["124 (24%)", "1,558 (5%)"]
