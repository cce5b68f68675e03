"""Ctrl-C while large modules are imported: it ends the program with one line, wherever the import stands."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

__all__ = ["import_torch"]


def _leave(number: int, frame: Any) -> None:
    """Nothing has been written yet, so nothing has to be tidied. An exception here could surface inside the
    initialisation of another module, as an error that hides it."""
    if sys.stderr is not None:
        sys.stderr.write("llmbook: interrupted\n")
        sys.stderr.flush()
    os._exit(130)


def import_torch() -> None:
    """Import PyTorch, which takes a second or more."""
    if "torch" in sys.modules:
        return
    changed = (threading.current_thread() is threading.main_thread()
               and signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    if changed:
        signal.signal(signal.SIGINT, _leave)
    try:
        import torch  # noqa: F401
    finally:
        if changed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
