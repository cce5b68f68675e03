"""The next step's batches, fetched ahead. That a checkpoint skips none is tested in scale/test_checkpoints.py."""

import pytest
import torch

from llmbook import prefetching
from llmbook.prefetching import BatchesAhead
from llmbook.scale.resumable_loader import ResumableLoader

BATCHES = [(torch.tensor([number]),) for number in range(6)]


class Place(list):
    """A loader that is told what is taken ahead."""

    def __init__(self, batches):
        super().__init__(batches)
        self.told = []

    def hold(self):
        self.told.append("hold")

    def release(self):
        self.told.append("release")


def numbers(parts) -> list[int]:
    return [int(batch[0]) for batch in parts]


def test_a_cpu_fetches_when_it_is_time():
    loader = Place(BATCHES)
    source = iter(loader)
    batches = BatchesAhead(loader, source, 2, torch.device("cpu"))
    assert numbers(batches.take()) == [0, 1]
    batches.fetch_ahead()
    assert int(next(source)[0]) == 2 and loader.told == []


def test_a_gpu_gets_them_ahead_in_page_locked_memory(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(int(self)) or self)
    loader = Place(BATCHES)
    batches = BatchesAhead(loader, iter(loader), 2, torch.device("cuda"))
    assert numbers(batches.take()) == [0, 1] and loader.told == []
    batches.fetch_ahead()
    batches.fetch_ahead()  # they are there
    assert pinned == [0, 1, 2, 3] and loader.told == ["hold"]
    assert numbers(batches.take()) == [2, 3] and loader.told == ["hold", "release"]
    assert numbers(batches.take()) == [4, 5] and loader.told == ["hold", "release"]


def test_an_error_waits_for_its_step_and_an_interruption_does_not(monkeypatch):
    monkeypatch.setattr(prefetching, "DEVICES", ("cpu",))

    def breaks(error):
        yield BATCHES[0]
        raise error

    batches = BatchesAhead([], breaks(OSError("gone")), 1, torch.device("cpu"))
    batches.take()
    batches.fetch_ahead()
    with pytest.raises(OSError, match="gone"):
        batches.take()
    batches = BatchesAhead([], breaks(KeyboardInterrupt()), 1, torch.device("cpu"))
    batches.take()
    with pytest.raises(KeyboardInterrupt):
        batches.fetch_ahead()


def test_what_the_model_itself_writes_is_never_fetched_ahead(monkeypatch):
    """It would come from the weights before the step."""
    monkeypatch.setattr(prefetching, "DEVICES", ("cpu",))

    class Written(Place):
        samples_from_model = True

    loader = ResumableLoader(Written(BATCHES))
    source = iter(loader)
    batches = BatchesAhead(loader, source, 1, torch.device("cpu"))
    assert numbers(batches.take()) == [0]
    batches.fetch_ahead()
    assert batches.waiting is None and int(next(source)[0]) == 1
