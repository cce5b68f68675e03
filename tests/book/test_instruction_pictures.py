"""Chapter 7's picture of a batch shows what each token is for."""

import matplotlib.pyplot as plt
import torch

from llmbook.book.instruction_pictures import draw_targets


def test_padding_what_is_read_and_what_counts_are_three_colours():
    inputs = torch.tensor([[7, 0, 8, 9], [7, 8, 0, 0]])  # a 0 in the middle is a token
    targets = torch.tensor([[-100, 8, 9, 3], [-100, 5, -100, -100]])
    ax = draw_targets(inputs, targets)
    assert ax.images[0].get_array().tolist() == [[1, 2, 2, 2], [1, 2, 0, 0]]
    assert ax.images[0].get_clim() == (0, 2)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["read only", "target counts", "padding"]
    assert list(ax.get_yticks()) == [0, 1]
    plt.close("all")
