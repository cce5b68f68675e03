"""Chapter 3's pictures show what they are given, in the right order and with the right shapes."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from llmbook.book.attention_pictures import causal_maps, grouped_heads, heads_cut, matrix_chains


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize(("rows", "columns", "shown"), [(3, 3, 6), (2, 5, 9)])
def test_maps_hide_what_lies_above_the_diagonal(rows, columns, shown):
    axes = causal_maps([("first", torch.ones(rows, columns)), ("second", torch.ones(rows, columns))],
                       [str(i) for i in range(rows)], [str(i) for i in range(columns)])
    assert [ax.get_title(loc="left") or ax.get_title() for ax in axes] == ["first", "second"]
    assert len(axes[0].texts) == shown
    assert axes[0].get_position().y0 > axes[1].get_position().y1  # one below the other


def test_maps_without_a_mask_show_everything_on_one_scale():
    ax, = causal_maps([("all", torch.eye(3))], list("abc"), hide_future=False, limits=(0, 2))
    assert len(ax.texts) == 9 and ax.images[0].get_clim() == (0, 2)


def test_matrices_have_their_shapes_and_numbers():
    matrix, other = torch.arange(6.0).view(2, 3), torch.ones(3, 1)
    ax = matrix_chains([[("$X$", matrix), "@", ("$W$", other), "=\nproduct", ("$Q$", matrix @ other)]])
    assert texts(ax) == ["$X$", "2×3", "@", "", "$W$", "3×1", "=", "product", "$Q$", "2×1"]
    assert np.array_equal(ax.images[0].get_array(), matrix)
    left, right, bottom, top = ax.images[0].get_extent()
    assert (right - left) / (top - bottom) == pytest.approx(3 / 2)  # cells are squares


def test_heads_are_cut_by_features_and_lie_end_to_end_again():
    ax = heads_cut(tokens=2, n_heads=3, d_head=4)
    cells = [(patch.get_xy(), patch.get_facecolor()) for patch in ax.patches]
    assert len(cells) == 3 * 2 * 12  # the whole, the heads, the whole again
    assert "one product gives every query: 2 × 12" in texts(ax) and "cut: 3 × 2 × 4" in texts(ax)
    top = max(y for (_, y), _ in cells)
    first_row = [colour for (x, y), colour in sorted(cells) if y == top]
    assert len(first_row) == 12 and len(set(first_row)) == 3
    assert first_row[:4] == [first_row[0]] * 4 and first_row[3] != first_row[4]


def test_each_query_head_is_tied_to_its_group():
    ax = grouped_heads(8, [2], ["grouped"])
    assert texts(ax)[0] == "grouped: 8 query heads, 2 of keys and values"
    ends = [line.get_xdata()[1] for line in ax.lines]
    assert ends == [1.5] * 4 + [5.5] * 4
    shared = [patch.get_x() + patch.get_width() / 2 for patch in ax.patches][8:]
    assert shared == pytest.approx([1.5, 5.5])
