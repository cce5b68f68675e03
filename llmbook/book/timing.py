"""How long something takes, for the chapters' comparisons."""

import time
from collections.abc import Callable

from torch import Tensor

__all__ = ["median_time"]


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
