"""What every section is handed: the device, the sizes, the clock, and where its rows go."""

import contextlib
import gc
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.gpu.report import FAILED, MISSING, OURS, SKIPPED, Row


class OutOfTime(BaseException):
    """The section's time is over. Not an Exception: compilers that catch those would go on."""


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raises OutOfTime inside after so many seconds, where the system can."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.05, seconds), 2.0)  # again, where a library swallows the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Bench:
    """One section's surroundings.

    Args:
        section: its name.
        device: where to measure.
        tiny: whether all of it runs with tiny models, to see that the script works.
        deadline: of `time.monotonic()`: when the section has to end.
        send: takes each row as soon as it is known.
        about: what earlier sections found out about the card.
    """

    section: str
    device: torch.device
    tiny: bool
    deadline: float
    send: Callable[[Row], None]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds until the section's end."""
        return self.deadline - time.monotonic()

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def fresh(self) -> None:
        """Nothing is left over from what was measured before: memory, compiled code, number formats."""
        torch.compiler.reset()
        torch.set_float32_matmul_precision("highest")
        for backend in (torch.backends.cuda, torch.backends.mkldnn):
            if hasattr(getattr(backend, "matmul", None), "fp32_precision"):  # PyTorch 2.9 and later
                backend.matmul.fp32_precision = "none"  # as installed: llmbook leaves alone what somebody has set
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> dict[str, float]:
        return {"GiB": torch.cuda.max_memory_allocated() / 2**30} if self.cuda else {}

    def seconds(self, function: Callable[[], object]) -> float:
        """How long a call takes, the device's work included."""
        self.wait()
        start = time.perf_counter()
        function()
        self.wait()
        return time.perf_counter() - start

    def attempt(self, function: Callable[[], Any], least: float = 0.0) -> tuple[Any, str]:
        """What a call returns and "", or None and why it could not. `least`: the fewest seconds that it can need."""
        if self.left() < least:
            return None, f"{SKIPPED}: no time left"
        try:
            with alarm(self.left()):
                return function(), ""
        except OutOfTime:
            return None, f"{SKIPPED}: no time left"
        except Exception as error:  # one that fails must not take the others along
            package = (getattr(error, "name", None) or "").split(".")[0]
            if isinstance(error, ModuleNotFoundError) and package not in ("llmbook", "tests", "torch"):
                return None, f"{MISSING}: the package {package}"
            text = " ".join(str(error).split())
            return None, f"{FAILED}: {type(error).__name__}: {text[:300]}"

    def compare(self, work: str, contenders: Mapping[str, Callable[[], Mapping[str, float]]],
                least: float = 0.0, note: str = "", limits: Mapping[str, float] | None = None) -> dict[str, Any]:
        """Let each contender measure, one after the other, and send a row for each unit that they give.

        Each is called afresh and returns {unit: number}; what it gives is sent at once, so that one that takes too long
        costs no other's figure. Rows of the same work and unit are put together. Returns what they gave.
        """
        found = {}
        for name, measure in contenders.items():
            self.fresh()
            result, problem = self.attempt(measure, least)
            if problem:
                self.send(Row(self.section, work, "", {}, {name: problem}, None, note))
                continue
            found[name] = dict(result)
            for unit, value in found[name].items():
                self.send(Row(self.section, work, unit, {name: value}, {}, (limits or {}).get(unit), note))
        return found

    def check(self, work: str, unit: str, measure: Callable[[], float], limit: float | None, least: float = 0.0,
              note: str = "") -> None:
        """One number of ours, which may be at most `limit`."""
        self.compare(work, {OURS: lambda: {unit: measure()}}, least, note, None if limit is None else {unit: limit})

    def turns(self, work: str, unit: str, contenders: Mapping[str, Callable[[], Callable[[], float]]],
              rounds: int = 3, least: float = 0.0, note: str = "") -> dict[str, float]:
        """As `compare`, for measurements that are short: contenders take turns, and medians count.

        Each contender is called once, gets ready, warms up, and returns what measures once. Returns the medians.
        """
        self.fresh()
        ready: dict[str, Callable[[], float]] = {}
        results: dict[str, list[float]] = {}
        problems: dict[str, str] = {}
        for name, prepare in contenders.items():
            measure, problem = self.attempt(prepare, least)
            if problem:
                problems[name] = problem
            else:
                ready[name] = measure
        for number in range(1 if self.tiny else rounds):
            for name in list(ready) if number % 2 == 0 else reversed(list(ready)):
                value, problem = self.attempt(ready[name])
                if not problem:
                    results.setdefault(name, []).append(value)
                elif name not in results:  # one that was measured before the time was over counts
                    problems[name] = problem
            self.send(Row(self.section, work, unit, self._medians(results), problems, None, note))
        if not rounds or not ready:
            self.send(Row(self.section, work, unit, {}, problems, None, note))
        return self._medians(results)

    @staticmethod
    def _medians(results: Mapping[str, list[float]]) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in results.items()}
