"""Ctrl-C and SIGTERM, so that a run can end in order."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

__all__ = ["StopSignals"]

GRACE = 1.0  # seconds in which a second signal is the first one's echo


class StopSignals:
    """Notices Ctrl-C and SIGTERM, to end a run in order; a second one ends it at once.

    Attributes: arrived, whether one has come.

    The first one (SIGTERM is what a machine that is about to be taken away sends) sets `arrived`, and that is all.
    Wrappers often send two within milliseconds: one to each process of a group, another to their child, or SIGINT
    and then SIGTERM. So whatever comes within a second after the first counts as the same request. A later one
    does what it would have done without all this: Ctrl-C raises KeyboardInterrupt, SIGTERM ends the process.

    A signal that is ignored when the run begins stays ignored, as POSIX programs have it: a shell script ignores
    SIGINT for what it starts in the background, and nohup SIGHUP, so that a Ctrl-C meant for another does not reach
    it. Such a run is ended by SIGTERM. Outside the main thread, Python has no say in signals; nothing is noticed then.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.first: float | None = None  # when it came, by the monotonic clock
        self.before: dict[int, Any] = {}

    @property
    def arrived(self) -> bool:
        return self.first is not None

    def watch(self) -> None:
        """From now on."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self.NUMBERS:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):  # None: not set by Python, which could not set it again
                self.before[number] = handler
                signal.signal(number, self._notice)

    def _notice(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = now
        elif now - self.first >= GRACE:
            self.restore()
            signal.raise_signal(number)

    def restore(self) -> None:
        """Leave signals to whoever had them before."""
        for number, handler in list(self.before.items()):
            signal.signal(number, handler)
            self.before.pop(number, None)  # after it: a signal between the two finds one of the handlers
