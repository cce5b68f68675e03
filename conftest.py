"""What every test run shares. The notebooks are tests too, through nbval (settings in pyproject.toml)."""

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

import llmbook  # noqa: F401  (before PyTorch: see llmbook.threads)


def pytest_collectstart(collector) -> None:
    if isinstance(collector, IPyNbFile):
        # Progress bars and warnings go to stderr. Whether they appear depends on the machine (a download bar,
        # only where the cache is empty), so they are neither stored nor compared.
        collector.skip_compare += ("stderr",)


# With several workers a long file that comes last keeps one of them busy alone. The rest come in the usual order.
LONGEST_FIRST = ("E_lora.ipynb", "07_instructions.ipynb", "06_classification.ipynb", "05a_pretraining.ipynb",
                 "D_training.ipynb", "test_checkpoints.py", "05b_open_weights.ipynb", "02_text_data.ipynb",
                 "04_gpt.ipynb", "test_colab.py")


def pytest_collection_modifyitems(items) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))  # stable: files stay whole


def pytest_itemcollected(item) -> None:
    if isinstance(item, IPyNbCell):
        item.add_marker(pytest.mark.book)
