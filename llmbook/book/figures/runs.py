"""Appendix D's picture: a training run, and what of it a checkpoint holds."""

from matplotlib.axes import Axes

from .board import Board

__all__ = ["training_run"]

_PARTS = (  # what the run does, what flows to the next, what of it a checkpoint holds
    ("tokens on the disk  (D.6)", "inputs, targets (batch, tokens)", "place in the data"),
    ("rows for each process  (D.5)", "(batch / processes, tokens)", ""),
    ("model, loss, backward pass", "a gradient for each weight", "weights:\n4 bytes each"),
    ("AdamW's step", "", "two averages:\n2 × 4 bytes"),
)


def training_run() -> Axes:
    """Draw a training run from tokens on the disk to AdamW's step, the shapes on the arrows, and beside each part what
    a checkpoint holds of it, lit. The numbers of bytes are those of float32.
    """
    board = Board(370, "Diagram of a training run: tokens, processes, the model with its loss, AdamW's step. A "
                       "checkpoint holds the place in the data, the random states, the weights, AdamW's averages, the "
                       "step and the settings.")
    board.frame(274, 8, 138, 354, lit=True)
    board.text(343, 24, "checkpoint", size=10, ha="center", weight="bold", colour="#003D63")
    board.text(343, 38, "(D.2 to D.4)", size=8.5, ha="center", colour="#003D63")
    for number, (words, flows, held) in enumerate(_PARTS):
        top = 52 + 72 * number
        board.box(26, top, 220, 36, words, size=9.5)
        if held:
            board.arrow([(246, top + 18), (282, top + 18)], lit=True, dashed=True)
            board.box(282, top, 122, 36, held, lit=True, size=9, data=True)
        if flows:
            board.arrow([(66, top + 36), (66, top + 72)])
            board.shape(76, top + 54, flows)
    board.arrow([(246, 204), (264, 204), (264, 142), (282, 142)], lit=True, dashed=True)
    board.box(282, 124, 122, 36, "random states\n(dropout)", lit=True, size=9, data=True)
    board.box(282, 322, 122, 30, "step, settings", lit=True, size=9, data=True)
    board.arrow([(26, 286), (10, 286), (10, 214), (26, 214)])
    board.shape(26, 320, "new weights, and the next step")
    return board.ax
