"""What every test run shares. The notebooks are tests too, through nbval (settings in pyproject.toml)."""

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

import llmbook  # noqa: F401  (before PyTorch: see llmbook.threads)


def pytest_collectstart(collector) -> None:
    if isinstance(collector, IPyNbFile):
        # Progress bars and warnings go to stderr. Whether they appear depends on the machine (a download bar,
        # only where the cache is empty), so they are neither stored nor compared.
        collector.skip_compare += ("stderr",)


def pytest_itemcollected(item) -> None:
    if isinstance(item, IPyNbCell):
        item.add_marker(pytest.mark.book)
