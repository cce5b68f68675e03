"""Appendix A's pictures: one step of training, tensors that stretch, what autograd recorded, the bits of a number."""

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from .board import Board
from .style import BLUE, GREY, ORANGE

__all__ = ["broadcasting", "computation_graph", "number_bits", "training_step"]

CELL = 27  # side of one number of a tensor
FIELDS = {  # bits of sign, exponent, fraction
    torch.float32: (1, 8, 23), torch.bfloat16: (1, 8, 7), torch.float16: (1, 5, 10)}
_PALE, _PALE_ORANGE, _PALE_GREY = "#CDE5F5", "#FBE3B5", "#E4E6E9"


def training_step(batch: int = 256, letters: int = 12) -> Axes:
    """Draw what one step of training does, the shapes on the arrows, and the sections of appendix A that explain it.

    Args:
        batch, letters: the sizes of appendix A's batch.
    """
    board = Board(428, "Diagram of one step of training: a data set, a loader, a model, a loss, the backward pass and "
                       "the optimizer, which changes the model's parameters.")
    parts = (("data set and loader  (A.8)", False), ("model with parameters  (A.7)", True),
             ("loss  (A.9)", False), ("zero_grad(), loss.backward()  (A.6)", False), ("optimizer.step()  (A.9)", True))
    shapes = (f"inputs ({batch}, {letters})", f"scores ({batch}, 2)", "one number", "a gradient for each parameter")
    for number, (words, lit) in enumerate(parts):
        top = 10 + 92 * number
        board.box(40, top, 250, 36, words, lit)
        if number < len(shapes):
            board.arrow([(110, top + 36), (110, top + 92)])
            board.shape(121, top + 64, shapes[number])
    board.arrow([(290, 28), (330, 28), (330, 212), (290, 212)])
    board.text(339, 118, f"targets\n({batch},)", size=8.5, colour="#5F666E")
    board.arrow([(40, 396), (22, 396), (22, 120), (40, 120)], lit=True)
    board.text(12, 258, "new parameters", size=8.5, colour="#003D63", ha="center", rotation=90)
    return board.ax


def broadcasting(first: Tensor, second: Tensor) -> Axes:
    """Draw the sum of two tensors as blocks of numbers; what broadcasting repeats is pale, with a dashed edge.

    Args:
        first, second: of one or two dimensions, which stretch to at most 4 columns.
    """
    total = first + second
    rows, columns = total.shape
    board = Board(42 + rows * CELL, f"Two tensors of shapes {tuple(first.shape)} and {tuple(second.shape)} and their "
                                    f"sum of shape {tuple(total.shape)}, as blocks of numbers.")
    width = columns * CELL
    gap = (420 - 3 * width) / 4
    for number, (sign, tensor) in enumerate((("", first), ("+", second), ("=", total))):
        left = gap + number * (width + gap)
        board.text(left + width / 2, 16, str(tuple(tensor.shape)), size=10, ha="center", weight="bold")
        board.text(left - gap / 2, 36 + rows * CELL / 2, sign, size=13, ha="center")
        height, across = (1, *tensor.shape)[-2:]
        for row in range(rows):
            for column in range(columns):
                real = row < height and column < across
                value = tensor.expand(rows, columns)[row, column].item()
                colour = _PALE_ORANGE if sign == "=" else _PALE
                board.ax.add_patch(Rectangle(
                    (left + column * CELL, 36 + row * CELL), CELL - 3, CELL - 3, linewidth=1,
                    facecolor=colour if real else "white", edgecolor=GREY if real else "#A8AEB5",
                    linestyle="-" if real else (0, (2, 2))))
                board.text(left + (column + 0.5) * CELL - 1.5, 36 + (row + 0.5) * CELL - 1.5, f"{value:g}", size=9,
                           ha="center", colour="black" if real else "#767676")
    return board.ax


def computation_graph(loss: Tensor, names: dict[str, Tensor]) -> Axes:
    """Draw what autograd recorded on the way to `loss`, with the values and, beside the arrows, the chain rule.

    Args:
        loss: a scalar on which `backward()` was called with `retain_graph=True`.
        names: label -> tensor, scalars whose `.grad` is there: the loss, all weights, all results in between (on which
            `retain_grad()` was called before). An operation's second recorded input is drawn on the right.

    Raises:
        ValueError: for a step of the graph that has no name.
    """
    nodes = {tensor.grad_fn: label for label, tensor in names.items() if tensor.grad_fn is not None}
    leaves = {id(tensor): label for label, tensor in names.items() if tensor.grad_fn is None}
    places, arrows = {}, []

    def walk(node: torch.autograd.graph.Node, depth: int, column: int) -> str:
        leaf = getattr(node, "variable", None)
        label = nodes.get(node) if leaf is None else leaves.get(id(leaf))
        if label is None:
            raise ValueError(f"the graph has a step {node.name()} that has no name: add its tensor to names")
        places[label] = depth, column
        inputs = [function for function, _ in node.next_functions if function is not None]
        for number, function in enumerate(inputs):
            arrows.append((walk(function, depth + 1, column + number), label))
        return label

    walk(loss.grad_fn, 0, 0)
    deepest = max(depth for depth, _ in places.values())
    board = Board(50 + 80 * deepest, "The graph of a computation, from the weights down to the loss, with each value "
                                     "and each gradient.")

    def place(label: str) -> tuple[float, float]:
        depth, column = places[label]
        return 105 + 215 * column, 4 + 80 * (deepest - depth)

    for label in places:
        (x, y), tensor = place(label), names[label]
        board.box(x - 92, y, 184, 38, f"{label}\nvalue {_said(tensor)}, gradient {_said(tensor.grad)}",
                  lit=tensor.grad_fn is None, size=8.5)
    for source, target in arrows:
        (x, top), (end, bottom) = place(source), place(target)
        factor = f"× {_said(names[source].grad / names[target].grad)}"
        if x == end:
            board.arrow([(x - 22, top + 38), (x - 22, bottom)])
            board.arrow([(x + 10, bottom), (x + 10, top + 38)], lit=True, dashed=True)
            board.shape(x + 18, (top + 38 + bottom) / 2, factor, lit=True)
        else:
            board.arrow([(x - 22, top + 38), (x - 22, bottom + 12), (end + 92, bottom + 12)])
            board.arrow([(end + 92, bottom + 27), (x + 10, bottom + 27), (x + 10, top + 38)], lit=True, dashed=True)
            board.shape(x + 18, (top + 38 + bottom) / 2, factor, lit=True)
    return board.ax


def _said(number: Tensor) -> str:
    return f"{number.item():g}".replace("-", "−")


def number_bits(value: float) -> Axes:
    """Draw how float32, bfloat16 and float16 store a positive number: its bits, and the number that they stand for."""
    board = Board(206, f"The bits of {value} in float32, bfloat16 and float16: sign, exponent and fraction.")
    colours = (_PALE_GREY, _PALE_ORANGE, _PALE)
    edges = (GREY, ORANGE, BLUE)
    for number, (dtype, fields) in enumerate(FIELDS.items()):
        stored = torch.tensor(value, dtype=dtype)
        whole = stored.view({4: torch.int32, 2: torch.int16}[stored.element_size()]).item()
        bits = format(whole, f"0{sum(fields)}b")
        top = 10 + 58 * number
        lengths = " + ".join(map(str, fields))
        board.text(12, top + 8, f"{str(dtype)[6:]}, {lengths} bits: {stored.item():.8f}", size=9.5, weight="bold")
        kinds = [kind for kind, length in enumerate(fields) for _ in range(length)]
        for place, (bit, kind) in enumerate(zip(bits, kinds)):
            board.ax.add_patch(Rectangle((12 + 12.4 * place, top + 20), 11.4, 20, linewidth=0.8,
                                         facecolor=colours[kind], edgecolor=edges[kind]))
            board.text(17.7 + 12.4 * place, top + 30, bit, size=8, ha="center", family="monospace", colour="black")
    for left, kind, words in ((14, 0, "sign"), (90, 1, "exponent: the size"), (236, 2, "fraction: the digits")):
        board.ax.add_patch(Rectangle((left, 184), 12, 12, facecolor=colours[kind], edgecolor=edges[kind]))
        board.text(left + 18, 190.5, words, size=8.5)
    return board.ax
