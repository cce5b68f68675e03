"""Appendix E's picture: a frozen linear layer with an adapter beside it."""

from matplotlib.axes import Axes

from .board import Board

__all__ = ["adapter_diagram"]


def adapter_diagram() -> Axes:
    """Draw a linear layer and its adapter: the input goes through both, and what they give is added.

    What is trained is lit. Shapes are those of a row for each token.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), figure 1.
    """
    board = Board(312, "Diagram of a low-rank adapter. The input x, tokens times d_in, goes through the frozen weight "
                       "W and, beside it, through A, which gives tokens times r, through B, which gives tokens times "
                       "d_out, and is multiplied by alpha / r. Both results are added.")
    board.box(20, 10, 180, 30, "x", data=True)
    board.shape(216, 25, "(tokens, d_in)")
    board.arrow([(110, 40), (110, 84)])
    board.box(20, 84, 180, 112, "W, frozen\n(d_out, d_in)")
    board.arrow([(110, 56), (315, 56), (315, 84)], lit=True)
    board.box(230, 84, 170, 36, "A, trained  (r, d_in)", lit=True, size=9.5)
    board.arrow([(315, 120), (315, 160)], lit=True)
    board.shape(326, 140, "(tokens, r)", lit=True)
    board.box(230, 160, 170, 36, "B, trained  (d_out, r)", lit=True, size=9.5)
    board.arrow([(315, 196), (315, 240), (118, 240)], lit=True)
    board.shape(326, 218, "times α / r", lit=True)
    board.arrow([(110, 196), (110, 232)])
    board.plus(110, 240, lit=True)
    board.arrow([(110, 248), (110, 274)])
    board.box(20, 274, 180, 30, "y", data=True)
    board.shape(216, 289, "(tokens, d_out)")
    return board.ax
