"""How the threads that PyTorch computes with wait for each other."""

from __future__ import annotations

import os
import sys
import warnings

__all__ = ["SETTINGS", "let_threads_sleep"]

SETTINGS = {
    # GNU's OpenMP (PyTorch from pip, on Linux): how often a thread looks before it sleeps. 300,000 times if unset.
    "GOMP_SPINCOUNT": "10000",
    # LLVM's and Intel's OpenMP (PyTorch on macOS, and from conda): for how many milliseconds. 200 if unset.
    "KMP_BLOCKTIME": "1",
}


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
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            gnu = "libgomp" in maps.read()
        threads = torch.get_num_threads()
        busy = os.getloadavg()[0]  # how many threads of any program wanted a core in the last minute
        cores = len(os.sched_getaffinity(0))
    except (OSError, AttributeError):  # not Linux, or torch is only half imported
        return False
    return gnu and threads > 1 and busy > max(0.7, cores - threads + 0.7)
