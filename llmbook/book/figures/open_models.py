"""Chapter 5b's pictures: the Llama block beside the GPT block, norms, what turns, a published model's files."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Arc
from torch import Tensor

from .board import Board
from .style import BLUE, GREEN, GREY, ORANGE

# GPT's part, Llama's part in its place
_PARTS = (("layer norm", "RMSNorm"),
          ("attention, each head\nwith its own keys", "attention, rotary\nand grouped heads"),
          ("layer norm", "RMSNorm"),
          ("feed-forward: GELU\n2 matrices, biases", "feed-forward: SwiGLU\n3 matrices, no bias"))
_FILES = (("settings", "config.json", "metadata"),
          ("weights", "model.safetensors\nnames and numbers", "tensors, often in\n4 to 8 bits each"),
          ("tokenizer", "tokenizer.json", "tokens, merges, rule"),
          ("chat\ntemplate", "chat_template.jinja", "template"))


def gpt_and_llama() -> Axes:
    """Draw the block of chapter 4's GPT and, beside it, the Llama block, with what differs lit.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.3; Touvron et al.,
        "LLaMA: Open and Efficient Foundation Language Models" (2023), section 2.2; grouped heads: Ainslie et al., "GQA"
        (2023), section 2.2.
    """
    board = Board(418, "Two blocks side by side. In Llama's, RMSNorm stands in the place of layer norm, attention has "
                       "rotary positions and grouped heads, and SwiGLU is the feed-forward part. Both add what each "
                       "half computes to its input. GPT adds position embeddings before the first block, Llama "
                       "does not.")
    for x, name, lit in ((8, "GPT block", False), (222, "Llama block", True)):
        middle, side = x + 105, x + 12
        board.text(x + 95, 13, name, size=11, ha="center", weight="bold", colour="#003D63" if lit else "#333333")
        board.box(x, 28, 190, 34, "token embedding" if lit else "token embedding\n+ position embedding", lit, size=9,
                  data=True)
        board.arrow([(middle, 62), (middle, 112)])
        board.frame(x, 90, 190, 282)
        for half, top in enumerate((100, 236)):
            norm, part = (parts[lit] for parts in _PARTS[2 * half : 2 * half + 2])
            board.box(x + 24, top + 12, 162, 26, norm, lit, size=9.5)
            board.arrow([(middle, top + 38), (middle, top + 54)])
            board.box(x + 24, top + 54, 162, 40, part, lit, size=8.4 if lit else 9)
            board.arrow([(middle, top + 94), (middle, top + 108)])
            board.plus(middle, top + 116)
            board.arrow([(middle, top), (side, top), (side, top + 116), (middle - 8, top + 116)])
        board.arrow([(middle, 224), (middle, 248)])
        board.arrow([(middle, 360), (middle, 398)])
    board.shape(215, 76, "(tokens, d_model)", ha="center")
    board.shape(215, 386, "to the next block", ha="center")
    return board.ax


def model_files() -> Axes:
    """Draw what a Hugging Face folder and a GGUF file hold, and what `load_pretrained` makes of either.

    Source: the `safetensors` library's and the `gguf` package's descriptions of their formats.
    """
    board = Board(386, "A Hugging Face folder holds config.json, model.safetensors, tokenizer.json and a chat "
                       "template; one GGUF file holds the same four things. load_pretrained makes a model and a "
                       "tokenizer of either.")
    board.text(167, 13, "a Hugging Face folder", size=10, ha="center", weight="bold", colour="#333333")
    board.text(335, 13, "one GGUF file", size=10, ha="center", weight="bold", colour="#333333")
    board.frame(90, 26, 155, 196, tint="blue")
    board.frame(258, 26, 155, 196, tint="orange")
    for row, (what, folder, gguf) in enumerate(_FILES):
        y = 34 + 47 * row
        board.text(82, y + 19, what, size=9.5, ha="right", colour="#333333")
        board.box(97, y, 141, 38, folder, size=9, tint="blue")
        board.box(265, y, 141, 38, gguf, size=9, tint="orange")
    board.arrow([(167, 222), (167, 256)])
    board.arrow([(335, 222), (335, 256)])
    board.box(90, 256, 323, 34, "load_pretrained", lit=True, size=10.5)
    for x in (167, 335):  # one arrow that forks: either form gives both
        board.arrow([(251, 290), (251, 308), (x, 308), (x, 332)], lit=True)
    board.box(90, 332, 155, 44, "model: your Llama\n(or your GPT)", data=True, lit=True, size=9)
    board.box(258, 332, 155, 44, "tokenizer, with the\nchat template", data=True, lit=True, size=9)
    return board.ax


def turning_arrows(arrows: Mapping[str, Mapping[int, Tensor]], title: str = "") -> Axes:
    """Draw vectors of two features as arrows from the origin, with the position of each at its tip.

    Args:
        arrows: name -> {position: (2,)}; the first name is blue, the second orange. An arc joins the first vectors
            of both, and so on.
        title: of the picture.
    """
    _, ax = plt.subplots(figsize=(5.0, 4.6))
    longest = max(float(vector.norm()) for vectors in arrows.values() for vector in vectors.values())
    for (name, vectors), colour in zip(arrows.items(), (BLUE, ORANGE), strict=False):
        for position, vector in vectors.items():
            ax.annotate("", vector.tolist(), (0, 0), arrowprops={"arrowstyle": "->", "color": colour})
            tip = (vector * (1 + 0.12 * longest / vector.norm())).tolist()
            ax.text(*tip, str(position), color=colour, ha="center", va="center")
        ax.plot([], [], color=colour, label=name)
    for pair in zip(*(vectors.values() for vectors in arrows.values()), strict=False):
        start, end = (math.degrees(math.atan2(vector[1], vector[0])) for vector in pair)
        if (end - start) % 360 > 180:
            start, end = end, start
        ax.add_patch(Arc((0, 0), 0.8 * longest, 0.8 * longest, theta1=start, theta2=end, color="#555555"))
    ax.set(title=title, xlim=(-1.3 * longest, 1.3 * longest), ylim=(-1.3 * longest, 1.7 * longest), aspect="equal",
           xlabel="feature 1", ylabel="feature 2")
    ax.legend(loc="upper center", ncols=2, fontsize=8)
    return ax


def compare_bars(values: Mapping[str, Tensor], title: str = "") -> Axes:
    """Draw the features of several vectors as bars, side by side.

    Args:
        values: name -> (features,); at most three, in grey, orange and blue.
        title: of the picture.
    """
    _, ax = plt.subplots(figsize=(5.4, 2.8))
    for place, ((name, numbers), colour) in enumerate(zip(values.items(), (GREY, ORANGE, BLUE), strict=False)):
        shift = 0.27 * (place - (len(values) - 1) / 2)
        ax.bar([feature + shift for feature in range(len(numbers))], numbers.tolist(), 0.25, label=name, color=colour)
    ax.set(title=title, xlabel="feature", ylabel="value", xticks=range(len(numbers)))
    ax.legend()
    return ax


def turning_speeds(cosines: Tensor, frequencies: Tensor, pairs: Sequence[int]) -> list[Axes]:
    """Draw how some pairs of a head turn with the position and, below, how many positions a full turn takes for each.

    Args:
        cosines: of the angles, (positions, features), pair i in column i.
        frequencies: radians per position, (pairs,).
        pairs: at most four, which get a line above.
    """
    _, (upper, lower) = plt.subplots(2, 1, figsize=(5.4, 5.6))
    for pair, colour in zip(pairs, (ORANGE, BLUE, GREEN, GREY), strict=False):
        upper.plot(cosines[:, pair].tolist(), ".-", color=colour, label=f"pair {pair}", linewidth=0.7, markersize=4)
    upper.set(title="Each pair turns at its own speed", xlabel="position", ylabel="cosine of the angle",
              ylim=(-1.1, 1.7))
    upper.legend(ncols=4, loc="upper center", fontsize=8, columnspacing=1)
    turns = (2 * math.pi / frequencies).tolist()
    lower.plot(turns, ".-", color=BLUE)
    lower.set(title=f"A full turn takes {min(turns):.0f} to {max(turns):,.0f} positions", xlabel="pair", yscale="log",
              ylabel="positions per turn")
    return [upper, lower]
