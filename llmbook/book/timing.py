"""How long something takes, for the chapters' comparisons."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llmbook.gpt import GPT

__all__ = ["median_time", "token_times"]


def median_time(function: Callable[[], Tensor], repeats: int = 3) -> float:
    """Seconds that a call takes: the median of several, after one that warms up.

    Args:
        function: returns a tensor, of which one number is read, so that a GPU has finished.
    """
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function().flatten()[0].item()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])[repeats // 2]


@torch.inference_mode()
def token_times(model: GPT, lengths: Sequence[int], cached: bool) -> list[float]:
    """Seconds that the logits of one more token take after texts of some lengths, with or without a cache.

    Args:
        lengths: tokens read before; with a cache at most `context_length` - 10, because the token is read ten times.
    """
    seconds = []
    for length in lengths:
        text = torch.randint(model.config.vocab_size, (1, length), device=model.token_embedding.weight.device)
        cache = model.new_cache(1) if cached else None
        if cache is not None:
            model.hidden_states(text, cache)  # the text is read before the clock starts
        unread = text[:, :1] if cached else text
        seconds.append(median_time(lambda unread=unread, cache=cache:
                                   model.lm_head(model.hidden_states(unread, cache)[:, -1]),
                                   repeats=9 if cached else 3))  # what is soon over is measured more often
    return seconds
