"""The look of the book's figures, for the tests that draw them."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import pytest

from llmbook.book import figures


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    """The book's style for one test; afterwards the settings are as before and no figure is open."""
    with plt.rc_context():
        figures.use_style()
        yield
    plt.close("all")
