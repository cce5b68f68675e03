"""Figures in words: what `describe` says of each kind of drawing, and that a notebook stores it with the picture."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure

from llmbook.book import figures
from llmbook.book.figures import words
from tests.support.style import style  # noqa: F401 (a fixture for every test here)


def test_a_label_goes_before_what_was_drawn():
    figure = figures.model_diagram("attention").figure
    assert figures.describe(figure) == figure.get_label() and "attention" in figure.get_label()


def test_a_table_names_rows_columns_and_its_range():
    ax = figures.heatmap(torch.tensor([[0.0, 1.0], [2.0, 3.0]]), ["a", "b"], ["x", "y"], "A table", "feature", "word")
    assert figures.describe(ax.figure) == ("A table: a table of 2 rows (a, b) and 2 columns (x, y), coloured by value "
                                           "from 0 to 3; “word” against “feature”.")


def test_curves_say_where_they_begin_and_end():
    figure, ax = plt.subplots()
    ax.plot([4.0, 3.0, 2.0], label="train")
    ax.plot([4.5, 3.5, 3.0], label="held out")
    ax.axhline(1)
    ax.set(title="Both losses fall", xlabel="step", ylabel="loss")
    assert figures.describe(figure) == ("Both losses fall: curves: train from 4 to 2, held out from 4.5 to 3; "
                                        "“loss” against “step”.")


@pytest.mark.parametrize("kind", ["bar", "barh"])
def test_bars_say_their_values(kind):
    figure, ax = plt.subplots()
    getattr(ax, kind)(["one", "two"], [3, 4.5])
    ax.set_title("Two bars")
    assert figures.describe(figure) == "Two bars: bars: one 3, two 4.5."


def test_panels_are_counted_and_tokens_read_out():
    figure, (upper, lower) = plt.subplots(2)
    upper.scatter([1, 2, 3], [1, 2, 3])
    upper.set_title("Points")
    figures.token_strip(["the", " kettle"], title="Tokens", ax=lower)
    assert figures.describe(figure) == "2 panels. Points: 3 points. Tokens: it reads: the ·kettle."


def test_many_of_a_kind_are_counted():
    figure, ax = plt.subplots()
    ax.bar(range(30), range(30))
    ax.set_title("Thirty")
    assert figures.describe(figure) == "Thirty: bars: 30 bars from 0 to 29."
    assert figures.describe(plt.figure()) == "An empty figure."


def test_a_notebook_stores_the_words_with_the_picture(monkeypatch):
    class Shell:
        display_formatter = DisplayFormatter()

    formatter = Shell.display_formatter.formatters["image/png"]
    formatter.for_type(Figure, lambda figure: "picture")
    monkeypatch.setattr("IPython.get_ipython", lambda: Shell)
    for _ in range(2):  # a second call wraps nothing again
        words.store_descriptions()
    figure = figures.model_diagram("attention").figure
    data, metadata = Shell.display_formatter.format(figure)
    assert data["image/png"] == "picture" and metadata["image/png"] == {"alt": figures.describe(figure)}
    assert formatter.for_type(Figure).printer(figure) == "picture"
