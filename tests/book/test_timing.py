"""The median of several calls, without the first."""

import pytest
import torch

from llmbook.book import timing
from llmbook.book.timing import median_time
from llmbook.gpt import GPT, GPTConfig


def test_the_median_leaves_the_first_call_out(monkeypatch):
    clock = iter([0, 100, 0, 3, 0, 1, 0, 2])  # the first call takes 100 s, the others 3, 1 and 2
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls = []
    assert median_time(lambda: calls.append(0) or torch.zeros(2)) == 2
    assert len(calls) == 4


@pytest.mark.parametrize("cached", [False, True])
def test_one_more_token_is_timed_after_each_length(monkeypatch, cached):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=20, context_length=24, d_model=8, n_heads=2, n_layers=1)).eval()
    read, original = [], GPT.hidden_states
    monkeypatch.setattr(GPT, "hidden_states", lambda self, ids, cache=None: read.append(ids.shape[1])
                        or original(self, ids, cache))
    seconds = timing.token_times(model, [3, 12], cached)
    assert len(seconds) == 2 and min(seconds) > 0
    assert read == ([3, *[1] * 10, 12, *[1] * 10] if cached else [3] * 4 + [12] * 4)
