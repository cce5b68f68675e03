"""Rows of tokens: every piece in a box of its own, in its row, in order, within the picture."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.patches import FancyBboxPatch

from llmbook.book.figures import token_rows
from llmbook.book.figures.tokens import BYTE, TOKEN


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def boxes(axes):
    return [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]


def test_each_piece_has_a_box_in_its_row_and_a_gap_has_none():
    axes = token_rows([[" ", "t", None, "he"], [" the"]], ["bytes", "merged"], "Two rows")
    texts = [text for text in axes.texts if text.get_text() not in ("bytes", "merged")]
    assert [text.get_text() for text in texts] == ["·", "t", "he", "·the"]
    assert [text.get_position()[1] for text in texts] == [0, 0, 0, -1]
    assert [box.get_facecolor() for box in boxes(axes)] == [
        plt.matplotlib.colors.to_rgba(colour) for colour in (BYTE, BYTE, TOKEN, TOKEN)]
    ends = [(box.get_x(), box.get_x() + box.get_width()) for box in boxes(axes)]
    for (_, end), (begin, _) in zip(ends[:2], ends[1:3]):
        assert end < begin
    assert ends[2][1] < axes.get_xlim()[1] and axes.get_title() == "Two rows"


def test_aligned_pieces_stand_in_line():
    axes = token_rows([["the", " kettle"], [" kettle", " sa"]], ["inputs", "targets"], aligned=True)
    first, second, below, last = (box.get_x() for box in boxes(axes))
    assert first == below and second == last
    loose = token_rows([["the", " kettle"], [" kettle", " sa"]], ["inputs", "targets"])
    assert boxes(loose)[1].get_x() != boxes(loose)[3].get_x()


def test_as_many_labels_as_rows():
    with pytest.raises(ValueError, match="2 rows and 1 labels: give one label for each row"):
        token_rows([["a"], ["b"]], ["only"])


def faces(axes):
    return [plt.matplotlib.colors.to_hex(box.get_facecolor()).upper() for box in boxes(axes)]


def test_a_new_piece_stands_out_in_its_row_only():
    axes = token_rows([["t", "h", "e"], ["t", "he"], ["the"]], ["a", "b", "c"], colour="new")
    assert faces(axes) == [BYTE, BYTE, BYTE, BYTE, TOKEN, TOKEN]
    axes = token_rows([["k", "et", "et"], ["k", "etet"]], ["a", "b"], colour="new")
    assert faces(axes) == [BYTE, BYTE, BYTE, BYTE, TOKEN]


def test_a_piece_keeps_its_colour_from_row_to_row():
    axes = token_rows([["the", " kettle"], [" kettle", " sa"]], ["in", "out"], colour="piece")
    the, kettle, again, last = faces(axes)
    assert kettle == again and len({the, kettle, last}) == 3


def test_another_colour_is_refused():
    with pytest.raises(ValueError, match="no colour 'age' for tokens: choose one of length, new, piece"):
        token_rows([["a"]], ["only"], colour="age")
