"""How the threads that PyTorch computes with wait for each other."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import warnings

__all__ = ["SETTINGS", "dismiss_threads", "let_threads_sleep"]

SETTINGS = {
    # GNU's OpenMP (PyTorch from pip, on Linux): how often a thread looks before it sleeps. 300,000 times if unset.
    "GOMP_SPINCOUNT": "10000",
    # LLVM's and Intel's OpenMP (PyTorch on macOS, and from conda): for how many milliseconds. 200 if unset.
    "KMP_BLOCKTIME": "1",
}

_HARD = 2  # omp_pause_hard: the threads end


def let_threads_sleep() -> None:
    """Make threads that wait fall asleep soon, so that a busy program beside them does not make them crawl.

    PyTorch shares out each operation between threads, which meet again at its end. One that has to wait looks again
    and again, milliseconds long: on a core of its own that is the quickest way. But where another program has that
    core, the thread that is waited for cannot run while the others look. So they should soon give their cores away.

    Only the environment says so, and the threads' library reads it once, when it is loaded, so this must happen before
    PyTorch is imported. `import llmbook` does it. What you have set yourself (GOMP_SPINCOUNT, KMP_BLOCKTIME, or
    OMP_WAIT_POLICY for any of them) stays as it is. Where PyTorch was there first and other programs are busy, a
    warning says what to do.
    """
    if "OMP_WAIT_POLICY" in os.environ:
        return
    late = "torch" in sys.modules and "GOMP_SPINCOUNT" not in os.environ and _spins_beside_others()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)  # also for the processes that this one starts
    if late:
        warnings.warn("PyTorch was imported before llmbook and other programs are busy: its threads may wait for each "
                      f"other ten times longer than they need. Import llmbook first, or set GOMP_SPINCOUNT="
                      f"{SETTINGS['GOMP_SPINCOUNT']} before Python starts", RuntimeWarning, stacklevel=3)


def _spins_beside_others() -> bool:
    """Whether PyTorch's threads are GNU's, more than one, and likely to meet another program on their cores."""
    torch = sys.modules["torch"]
    try:
        gnu = bool(_gnu_libraries())
        threads = torch.get_num_threads()
        busy = os.getloadavg()[0]  # how many threads of any program wanted a core in the last minute
        cores = len(os.sched_getaffinity(0))
    except (OSError, AttributeError):  # not Linux, or torch is only half imported
        return False
    return gnu and threads > 1 and busy > max(0.7, cores - threads + 0.7)


def dismiss_threads() -> bool:
    """End the threads that PyTorch keeps for the calling thread's operations; it makes new ones when it computes again.

    Each of a program's threads that computes has such helpers of its own. Where they are more than there are cores,
    GNU's OpenMP lets all of them sleep at once instead of looking for work for a moment, and then each operation waits
    until they are awake: a small model writes half as fast. So a thread that loaded a model, and lets another one
    compute with it, should call this first.

    Returns whether there was such a library to be told; with others, nothing needs to be done. Source: OpenMP 5.0,
    omp_pause_resource_all.
    """
    try:
        libraries = [ctypes.CDLL(path) for path in _gnu_libraries()]
        return [library.omp_pause_resource_all(_HARD) for library in libraries] == [0] * max(1, len(libraries))
    except (OSError, AttributeError):  # not Linux, or older than OpenMP 5
        return False


def _gnu_libraries() -> list[str]:
    """Where GNU's OpenMP lies that this process has loaded; PyTorch brings one. Raises OSError where Linux does not
    say."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        return sorted(set(re.findall(r"/\S*libgomp\S*", maps.read())))
