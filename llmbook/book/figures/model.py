"""The whole model from text to the next token, with this chapter's part lit: at the top of every chapter."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from .board import Board

# what may be lit, and which parts of the picture that lights
MODEL_PARTS = {
    "text": ("text", "tokenizer", "ids"),
    "tokens": ("tokenizer", "ids"),
    "embeddings": ("embeddings",),
    "attention": ("attention",),
    "block": ("block", "attention", "feed-forward"),
    "gpt": ("embeddings", "block", "attention", "feed-forward", "norm", "output"),
    "model": ("text", "tokenizer", "ids", "embeddings", "block", "attention", "feed-forward", "norm", "output",
              "softmax", "next"),
    "training": ("embeddings", "block", "attention", "feed-forward", "norm", "output", "loss"),
    "sampling": ("softmax", "next"),
    "classifier": ("output", "label"),
    "instructions": ("text", "next", "answer"),
}
PIECES = ("the", " kettle", " sang", " because", " it")
IDS = (1169, 40231, 25889, 780, 340)  # by GPT-2's tokenizer
FEATURES = "(tokens, d_model)"


def model_diagram(lit: str | Sequence[str], closed: bool = False) -> Axes:
    """Draw the model of this book as a flow of data, the shape on every arrow, for one text.

    Args:
        lit: what the chapter is about: one of `MODEL_PARTS` or several. "classifier" and "instructions" change the
            end or the text of the picture to theirs; "training" adds the loss.
        closed: draw what is between the ids and the softmax as one box, for readers who have not met its parts.

    Raises:
        ValueError: for a part that is not there.
    """
    names = (lit,) if isinstance(lit, str) else tuple(lit)
    for name in names:
        if name not in MODEL_PARTS:
            raise ValueError(f"no part {name!r} in the model: choose one of {', '.join(MODEL_PARTS)}")
    on = {part for name in names for part in MODEL_PARTS[name]}
    if closed:
        return _closed(on)
    board = Board(594, f"Data-flow diagram of a GPT, from a text to the next token; lit: {', '.join(names)}.")
    _input(board, on)
    _blocks(board, on)
    _output(board, on)
    return board.ax


def _closed(on: set[str]) -> Axes:
    """The picture with one box for the model, from a text to the next token."""
    board = Board(302, "A language model as one closed box: token ids go in, a probability for each token comes out, "
                       "the next token is appended to the text, and all of it is repeated.")
    ids, last, going_on = "ids" in on, "softmax" in on, "next" in on
    board.box(60, 8, 330, 28, "".join(PIECES), "text" in on, data=True)
    board.arrow([(110, 36), (110, 58)], "tokenizer" in on)
    board.shape(121, 46, "text", "tokenizer" in on)
    board.box(60, 58, 330, 28, "tokenizer", "tokenizer" in on)
    board.arrow([(110, 86), (110, 112)], ids)
    board.shape(121, 98, "token ids", ids)
    board.text(390, 98, "  ".join(str(number) for number in IDS), size=8.5, ha="right", family="monospace",
               colour="#003D63" if ids else "#5F666E")
    board.box(60, 112, 330, 70, "the model\n(closed until chapters 2 to 4)")
    board.arrow([(110, 182), (110, 212)], last)
    board.shape(121, 196, "a probability for each token", last)
    board.box(60, 212, 330, 28, "take one token", last)
    board.arrow([(110, 240), (110, 266)], going_on)
    board.box(60, 266, 330, 28, "boiled", going_on, data=True)
    board.arrow([(60, 280), (26, 280), (26, 22), (60, 22)], going_on, dashed=True)
    board.text(14, 151, "append, and again", size=8.5, rotation=90, ha="center",
               colour="#003D63" if going_on else "#5F666E")
    return board.ax


def _input(board: Board, on: set[str]) -> None:
    answers = "answer" in on
    words = "Q: Why did the kettle sing? A:" if answers else "the kettle sang because it"
    board.box(60, 8, 330, 28, words, "text" in on, data=True)
    board.arrow([(110, 36), (110, 58)], "tokenizer" in on)
    board.shape(121, 46, "text", "tokenizer" in on)
    board.box(60, 58, 330, 28, "tokenizer", "tokenizer" in on)
    board.arrow([(110, 86), (110, 112)], "ids" in on or "embeddings" in on)
    board.shape(121, 98, "(tokens,)", "ids" in on)
    if not answers:
        board.text(390, 98, "  ".join(str(number) for number in IDS), size=8.5, ha="right", family="monospace",
                   colour="#003D63" if "ids" in on else "#5F666E")
    lit = "embeddings" in on
    board.box(60, 112, 148, 28, "token embedding", lit, size=9.5)
    board.box(226, 112, 164, 28, "position embedding", lit, size=9.5)
    board.arrow([(110, 140), (110, 148)], lit, head=False)
    board.arrow([(308, 140), (308, 156), (118, 156)], lit)
    board.plus(110, 156, lit)


def _blocks(board: Board, on: set[str]) -> None:
    lit, attention, forward = "block" in on, "attention" in on, "feed-forward" in on
    board.arrow([(110, 187), (110, 258)], lit, head=False)
    board.arrow([(110, 164), (110, 187)], lit or "embeddings" in on, head=False)
    board.shape(121, 174, FEATURES, lit or "embeddings" in on)
    board.frame(60, 187, 330, 186, lit)
    board.text(380, 200, "L blocks, one after the other", size=8.5, ha="right", colour="#003D63" if lit else "#5F666E")
    for y, name, on_now in ((226, "attention", attention), (308, "feed-forward", forward)):
        board.arrow([(110, y), (144, y)], on_now)
        board.box(144, y - 16, 62, 32, "norm", lit, size=9.5)
        board.arrow([(206, y), (232, y)], on_now)
        board.box(232, y - 16, 146, 32, name, on_now)
        board.arrow([(305, y + 16), (305, y + 38), (118, y + 38)], on_now)
        board.plus(110, y + 38, on_now)
        board.shape(128, y + 26, FEATURES, on_now)
    board.arrow([(110, 272), (110, 340)], lit, head=False)


def _output(board: Board, on: set[str]) -> None:
    norm, head, last = "norm" in on, "output" in on, "softmax" in on
    board.arrow([(110, 354), (110, 398)], norm or "block" in on)
    board.shape(121, 385, FEATURES, norm or "block" in on)
    board.box(60, 398, 330, 26, "norm", norm)
    board.arrow([(110, 424), (110, 448)], head)
    board.shape(121, 435, FEATURES, head)
    if "label" in on:
        _ending(board, ("classifier head, not the output layer", "logits (classes,) of the last token", "softmax",
                        "probabilities (classes,)", "ham"), True, False, True)
        return
    going_on = "next" in on
    if "loss" in on and not going_on:
        _ending(board, ("output layer", "logits (tokens, vocab_size)", "softmax of each token's logits",
                        "probabilities (tokens, vocab_size)", None), head, True, True)
        board.box(60, 558, 110, 28, "loss ( )", True)
        board.arrow([(200, 572), (170, 572)], True)
        board.box(200, 558, 190, 28, "true next tokens (tokens,)", True, data=True, size=9)
        return
    _ending(board, ("output layer", "logits (tokens, vocab_size)", "softmax of the last token's logits",
                    "probabilities (vocab_size,)", None), head, last, going_on)
    if "loss" in on:
        board.box(60, 558, 176, 28, "boiled", going_on, data=True)
        board.box(268, 558, 122, 28, "loss in training", True, size=9)
        board.arrow([(236, 572), (268, 572)], True)
    else:
        board.box(60, 558, 330, 28, "because" if "answer" in on else "boiled", going_on, data=True)
    board.arrow([(60, 572), (26, 572), (26, 22), (60, 22)], going_on, dashed=True)
    board.text(14, 290, "append, and again", size=8.5, rotation=90, ha="center",
               colour="#003D63" if going_on else "#5F666E")


def _ending(board: Board, words: tuple[str, ...], head: bool, softmax: bool, result: bool) -> None:
    """The last boxes: output layer, softmax, and the result if it has words."""
    layer, logits, function, probabilities, answer = words
    board.box(60, 448, 330, 28, layer, head)
    board.arrow([(110, 476), (110, 502)], head or softmax)
    board.shape(121, 488, logits, head or softmax)
    board.box(60, 502, 330, 28, function, softmax)
    board.arrow([(110, 530), (110, 558)], softmax or result)
    board.shape(121, 543, probabilities, softmax or result)
    if answer is not None:
        board.box(60, 558, 330, 28, answer, result, data=True)
