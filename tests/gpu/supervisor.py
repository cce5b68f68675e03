"""Runs sections, each in a process of its own and for so long at most: what one of them breaks the others keep.

A section may raise, hang, run out of memory or bring down CUDA: the rows that it has sent are there, a row says what
happened, and the next one begins. On Linux the processes are forked from this one, which has imported everything and
never touched the GPU; elsewhere, or if the fork cannot use the GPU, they are started anew.
"""

import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.gpu.report import FAILED, OURS, SKIPPED, Row, add

GRACE = 5.0  # seconds for a section that is over its time to end by itself


@dataclass(frozen=True)
class Section:
    """A name to choose it by, what runs it (called with a `Bench`), and its share of the minutes."""

    name: str
    run: Callable[[Any], None]
    share: float


def work(connection, section: Section, tiny: bool, deadline: float, about: dict) -> None:
    """In the process of a section: run it and send what it finds."""
    if hasattr(os, "setsid"):
        os.setsid()  # so that it can be ended together with the compilers that it starts
    try:
        import torch

        warnings.filterwarnings("ignore", module=r"torch\._(inductor|dynamo|functorch)")  # compilers' advice
        from llmbook.devices import best_device
        from tests.gpu.bench import Bench

        device = torch.device("cpu") if tiny and not torch.cuda.is_available() else best_device()
        if device.type == "cuda":
            torch.cuda.init()
        if tiny:  # to trace the models is enough; kernels for a CPU would take minutes
            compile_with = torch.compile
            torch.compile = lambda *args, **kwargs: compile_with(*args, **{**kwargs, "backend": "eager"})
        bench = Bench(section.name, device, tiny, deadline, lambda row: connection.send(("row", row)), dict(about))
        section.run(bench)
        connection.send(("about", bench.about))
    except BaseException as error:
        traceback.print_exc()
        connection.send(("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
    finally:
        connection.close()


def end(process) -> None:
    """End a section's process and what it started."""
    if process.is_alive():
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (AttributeError, ProcessLookupError, PermissionError):
            process.kill()
    process.join()


def run_section(section: Section, tiny: bool, seconds: float, about: dict, method: str) -> Iterator[Row]:
    """Yields a section's rows as they come, and one more if it does not end as it should. `about` grows."""
    context = multiprocessing.get_context(method)
    deadline = time.monotonic() + seconds
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(sender, section, tiny, deadline, about), daemon=False)
    process.start()
    sender.close()
    problem = f"{FAILED}: the process ended with {{}}"
    try:
        while True:
            if not receiver.poll(max(0.0, deadline + GRACE - time.monotonic())):
                problem = f"{SKIPPED}: stopped after {seconds:.0f} s"
                break
            kind, content = receiver.recv()
            if kind == "row":
                yield content
            elif kind == "about":
                about.update(content)
                problem = ""
            else:
                problem = f"{FAILED}: {content}"
    except EOFError:  # it has closed its end
        process.join(GRACE)
    finally:
        end(process)
    if problem:
        yield Row(section.name, f"section {section.name}", problems={OURS: problem.format(process.exitcode)})


def run_all(sections: list[Section], tiny: bool, minutes: float, about: dict,
            took: Callable[[list[Row], Row], None]) -> list[Row]:
    """Run the sections in order within so many minutes; `took` is called with all rows and the newest.

    A section may take its share of what all may take, and what those before it left over.
    """
    start, rows = time.monotonic(), []
    method = "fork" if sys.platform == "linux" else "spawn"
    total, allowed = sum(section.share for section in sections), 0.0
    for section in sections:
        allowed += (60 * minutes - GRACE) * section.share / total
        left = allowed - (time.monotonic() - start)
        if left < 1:
            add(rows, skipped := Row(section.name, f"section {section.name}",
                                     problems={OURS: f"{SKIPPED}: no time left"}))
            took(rows, skipped)
            continue
        for attempt in (method, "spawn"):
            before, poisoned = list(rows), False
            for row in run_section(section, tiny, left, about, attempt):
                poisoned |= any("in forked subprocess" in why for why in row.problems.values())
                add(rows, row)
                took(rows, row)
            if attempt == "spawn" or not poisoned:
                break
            method, rows = "spawn", before
            left = allowed - (time.monotonic() - start)
    return rows
