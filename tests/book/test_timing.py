"""The median of several calls, without the first."""

import torch

from llmbook.book import timing
from llmbook.book.timing import median_time


def test_the_median_leaves_the_first_call_out(monkeypatch):
    clock = iter([0, 100, 0, 3, 0, 1, 0, 2])  # the first call takes 100 s, the others 3, 1 and 2
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls = []
    assert median_time(lambda: calls.append(0) or torch.zeros(2)) == 2
    assert len(calls) == 4
