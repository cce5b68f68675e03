"""What a chapter's own way to fine-tune hands to the book's one training loop."""

from types import ModuleType

import pytest

from llmbook.training import train


def watched_train(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[tuple]:
    """From now on, the arguments of each call that `module` makes to `train`, which runs as ever."""
    seen = []

    def watched(*arguments):
        seen.append(arguments)
        return train(*arguments)

    monkeypatch.setattr(module, "train", watched)
    return seen
