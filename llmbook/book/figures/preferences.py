"""Chapter 8's picture: from a storyteller to one whose stories are liked."""

from matplotlib.axes import Axes

from .board import Board

__all__ = ["preference_pipeline"]


def preference_pipeline() -> Axes:
    """Draw what is made of votes: a reward model with two uses, and, beside it, DPO, which goes without one.

    Source of the path on the left: Ouyang et al., "Training Language Models to Follow Instructions with Human Feedback"
    (2022), figure 2.
    """
    board = Board(386, "Diagram of learning from preferences. The storyteller tells two stories, a reader votes for "
                       "one. Votes train a reward model, which chooses the best of n stories or gives the reward for "
                       "REINFORCE; or DPO trains the storyteller on the votes directly.")
    board.box(100, 8, 220, 30, "the storyteller, as it is", data=False)
    board.arrow([(210, 38), (210, 66)])
    board.box(100, 66, 220, 30, "two stories", data=True)
    board.arrow([(210, 96), (210, 124)])
    board.shape(221, 110, "a reader compares them")
    board.box(100, 124, 220, 30, "votes: chosen, rejected", lit=True, data=True)
    board.arrow([(150, 154), (150, 168), (110, 168), (110, 192)], lit=True)
    board.arrow([(270, 154), (270, 168), (340, 168), (340, 268)], lit=True)
    board.box(20, 192, 180, 34, "reward model r, 8.3", lit=True)
    board.arrow([(60, 226), (60, 268)], lit=True)
    board.arrow([(165, 226), (165, 268)], lit=True)
    board.box(10, 268, 110, 46, "best of n\n8.4", lit=True, size=9.5)
    board.box(130, 268, 130, 46, "REINFORCE\n8.8", lit=True, size=9.5)
    board.box(280, 268, 130, 46, "DPO\n8.5", lit=True, size=9.5)
    for x in (65, 195, 345):
        board.arrow([(x, 314), (x, 346)], lit=True)
    board.box(10, 346, 110, 30, "a better choice", data=True, size=9)
    board.box(130, 346, 280, 30, "a storyteller whose stories are liked", data=True, size=9.5)
    return board.ax
