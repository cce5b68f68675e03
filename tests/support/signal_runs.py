"""The tests of signals and kills, again and again, however they are started: `python -m tests.support.signal_runs`.

In turn in the foreground, in a session of its own as a script's background job, with SIGINT ignored as a shell leaves
it there, and beside processes that keep every core busy. Prints a line for each round of tests, and one for each kind
at the end; exits with 1 if any failed. 200 rounds take about half an hour on two cores.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.repository import ROOT

TESTS = ("tests/scale/test_signals.py", "tests/scale/test_checkpoints.py")
CHOSEN = "test_signals or lock_of_a_killed or (random_moments and 4)"
KINDS = ("foreground", "background", "SIGINT ignored", "under load")


def rounds(count: int, kind: str) -> int:
    """Run the tests so often in this process; returns how many rounds failed."""
    failed, start = 0, time.monotonic()
    for number in range(count):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:nbval", "-o", "addopts=", "--no-header",
                                "-m", "not slow", "-k", CHOSEN, *(str(ROOT / test) for test in TESTS)])
        failed += code != 0
        if code:
            sys.stdout.write(printed.getvalue()[-6000:])
        sys.stdout.write(f"{kind}, round {number + 1} of {count}, {time.monotonic() - start:.0f} s: "
                         f"{printed.getvalue().strip().splitlines()[-1]}\n")
        sys.stdout.flush()
    return failed


def _ignore() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _burn() -> None:
    while True:
        sum(range(10_000))


def started(kind: str, count: int) -> int:
    """The rounds in a process that is started in this way; returns how many failed."""
    options = {"background": {"start_new_session": True},
               "SIGINT ignored": {"start_new_session": True, "preexec_fn": _ignore}}
    burners = [multiprocessing.get_context("fork").Process(target=_burn, daemon=True)
               for _ in range(os.cpu_count() or 1 if kind == "under load" else 0)]
    for burner in burners:
        burner.start()
    try:
        return subprocess.run([sys.executable, "-m", "tests.support.signal_runs", "--runs", str(count), "--kind", kind],
                              cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                              stdin=subprocess.DEVNULL, **options.get(kind, {})).returncode
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--kind", help="in this process, under this name")
    options = parser.parse_args()
    if options.kind:
        return min(rounds(options.runs, options.kind), 250)
    shares = {kind: len(range(place, options.runs, len(KINDS))) for place, kind in enumerate(KINDS)}
    failed = {kind: started(kind, share) for kind, share in shares.items() if share}
    for kind, share in shares.items():
        sys.stdout.write(f"{kind}: {share} rounds, {failed.get(kind, 0)} failed\n")
    return 1 if any(failed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
