"""The transformer of 2017, and which of its halves became BERT and GPT."""

from matplotlib.axes import Axes

from .board import LINE, LIT_LINE, Board

_HALVES = ("encoder", "decoder", "attention")


def transformer_2017(lit: str | None = None) -> Axes:
    """Draw the original transformer while it translates "This is an example" into German, at the last word.

    The encoder reads the whole sentence, and its vectors are passed on to every block of the decoder, which writes one
    word after the other and reads what it has written so far.

    Args:
        lit: "encoder", "decoder" or "attention" (all three kinds of it); with None the encoder is blue and the decoder
            orange, as in `bert_and_gpt`.

    Raises:
        ValueError: for another part.

    Source: Vaswani et al., "Attention Is All You Need" (2017), figure 1. The norms and additions are left out.
    """
    if lit is not None and lit not in _HALVES:
        raise ValueError(f"no part {lit!r} in the transformer of 2017: choose one of {', '.join(_HALVES)}, or None")
    board = Board(436, "The transformer of 2017: an encoder reads This is an example; its vectors are passed on to a "
                       "decoder, which has written Das ist ein and writes Beispiel next.")
    encoder, decoder, attention = (lit == name for name in _HALVES)
    blue, orange = ("blue", "orange") if lit is None else (None, None)
    board.text(103, 13, "Encoder", size=11, ha="center", weight="bold", colour="#003D63" if encoder else "#333333")
    board.text(317, 13, "Decoder", size=11, ha="center", weight="bold", colour="#003D63" if decoder else "#333333")
    _column(board, 8, "This is an example", "whole sentence", encoder, blue)
    _column(board, 222, "<start> Das ist ein", "output so far", decoder, orange)

    board.frame(8, 142, 190, 132, encoder, blue)
    board.text(190, 155, "N blocks", size=8.5, ha="right", colour="#003D63" if encoder else "#5F666E")
    board.arrow([(103, 124), (103, 168)], encoder)
    board.box(20, 168, 166, 34, "self-attention", encoder or attention, tint=blue)
    board.arrow([(103, 202), (103, 226)], encoder)
    board.box(20, 226, 166, 34, "feed-forward", encoder, tint=blue)
    board.arrow([(103, 260), (103, 302)], encoder)
    board.box(20, 302, 166, 42, "encoded vectors\n4 words, each (d_model,)", encoder, size=9, data=True)

    board.frame(222, 142, 190, 190, decoder, orange)
    board.text(404, 155, "N blocks", size=8.5, ha="right", colour="#003D63" if decoder else "#5F666E")
    board.arrow([(317, 124), (317, 168)], decoder)
    board.box(234, 168, 166, 34, "masked self-attention", decoder or attention, size=9, tint=orange)
    board.arrow([(317, 202), (317, 226)], decoder)
    board.box(234, 226, 166, 34, "cross-attention", decoder or attention, tint=orange)
    board.arrow([(317, 260), (317, 284)], decoder)
    board.box(234, 284, 166, 34, "feed-forward", decoder, tint=orange)
    board.arrow([(186, 323), (210, 323), (210, 243), (234, 243)], encoder or decoder or attention)
    board.arrow([(317, 318), (317, 346)], decoder)
    board.box(234, 346, 166, 30, "output layer, softmax", decoder, size=9.5, tint=orange)
    board.arrow([(317, 376), (317, 400)], decoder)
    board.box(234, 400, 166, 28, "Beispiel", decoder, data=True)
    board.text(224, 414, "next word", size=8.5, ha="right")
    board.arrow([(400, 414), (416, 414), (416, 40), (400, 40)], decoder, dashed=True)
    board.text(103, 362, "passed on to\nevery block of the decoder", size=8.5, ha="center", va="center")
    return board.ax


def _column(board: Board, x: float, words: str, name: str, lit: bool, tint: str | None) -> None:
    """A text and its embeddings, at the top of a column."""
    board.box(x + 12, 26, 166, 28, words, lit, data=True)
    board.arrow([(x + 95, 54), (x + 95, 90)], lit)
    board.shape(x + 102, 69, name, lit)
    board.box(x + 12, 90, 166, 34, "embeddings\n+ positions", lit, size=9, tint=tint)


def bert_and_gpt() -> Axes:
    """Draw which half of the transformer BERT and GPT each use, what each predicts, and which tokens may look at which.

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (2019);
        Radford et al., "Improving Language Understanding by Generative Pre-Training" (2018).
    """
    board = Board(272, "BERT, the encoder half, predicts a masked word from the words on both sides; GPT, the decoder "
                       "half, predicts the next word from the words before it.")
    halves = ((8, "BERT", "encoder half", "the kettle [MASK]\nbecause it boiled", "sang", 2, "the masked word"),
              (222, "GPT", "decoder half", "the kettle\nsang because it", "boiled", 4, "the next word"))
    for x, name, half, text, answer, place, what in halves:
        middle, causal = x + 95, name == "GPT"
        tint, strong = ("orange", "#B37400") if causal else ("blue", LIT_LINE)
        board.text(middle, 13, f"{name}: {half}", size=10.5, ha="center", weight="bold", colour="#333333")
        board.box(x + 12, 28, 166, 42, text, data=True)
        board.arrow([(middle, 70), (middle, 90)])
        board.frame(x, 90, 190, 104, tint=tint)
        board.text(middle, 104, "sees the words before it" if causal else "sees the words on both sides", size=8.5,
                   ha="center")
        n = 5 if causal else 6
        places = [middle + 27 * (i - (n - 1) / 2) for i in range(n)]
        for to, right in enumerate(places):
            for source, left in enumerate(places):
                if source <= to or not causal:
                    here = to == place
                    board.ax.plot([left, right], [124, 174], color=strong if here else "#C9CED4",
                                  linewidth=1.5 if here else 0.8, zorder=3 if here else 2)
        for i, centre in enumerate(places):
            board.ax.plot(centre, 124, "o", color=LINE, markersize=7, zorder=4)
            board.ax.plot(centre, 174, "o", color=strong if i == place else LINE, markersize=7, zorder=4)
        board.arrow([(places[place], 180), (places[place], 224)])
        start = min(max(places[place] - 40, x + 12), x + 98)
        board.box(start, 224, 80, 26, answer, tint=tint)
        board.text(start + 40, 261, what, size=8.5, ha="center")
    return board.ax
