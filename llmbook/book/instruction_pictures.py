"""Chapter 7's picture of a batch: which of its tokens are only read, and which are targets that count."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from torch import Tensor

from .figures import BLUE, ORANGE

__all__ = ["draw_targets"]

PADDING = "#DDDDDD"


def draw_targets(inputs: Tensor, targets: Tensor) -> Axes:
    """A batch of `collate_instructions`, both (batch, tokens): a line for each row, coloured by what each token is for.
    Inputs that are 0 up to the row's end are padding; a target of -100 is left out of the loss."""
    padding = (inputs == 0).flip(1).cumprod(1).flip(1).bool()  # (batch, tokens)
    picture = torch.where(padding, 0, 1 + (targets != -100).long())
    _, ax = plt.subplots(figsize=(6, 2.4))
    ax.imshow(picture.numpy(), aspect="auto", cmap=ListedColormap([PADDING, BLUE, ORANGE]), vmin=0, vmax=2)
    ax.set(title="Only what the assistant writes counts", xlabel="position", ylabel="conversation",
           yticks=range(len(inputs)))
    ax.grid(False)
    for colour, label in ((BLUE, "read only"), (ORANGE, "target counts"), (PADDING, "padding")):
        ax.plot([], [], "s", color=colour, label=label)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35), ncol=3)
    return ax
