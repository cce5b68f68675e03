"""The tests of signals and kills, again and again, however they are started: `python -m tests.support.signal_runs`.

Each run is a pytest of its own, in turn in the foreground, in a session of its own as a script's background job, with
SIGINT ignored as a shell leaves it there, and beside a process that keeps every core busy. Prints a line for each kind
at the end; exits with 1 if any run failed. 200 runs take about an hour on two cores.
"""

import argparse
import multiprocessing
import os
import signal
import subprocess
import sys
import time

from tests.support.repository import ROOT

TESTS = ("tests/scale/test_signals.py", "tests/scale/test_checkpoints.py::test_the_lock_of_a_killed_run_is_free",
         "tests/scale/test_checkpoints.py::test_kills_at_random_moments_leave_no_trace")
KINDS = ("foreground", "background", "SIGINT ignored", "under load")


def _ignore() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _burn() -> None:
    while True:
        sum(range(10_000))


def run_once(kind: str, tests: list[str]) -> subprocess.CompletedProcess:
    options = {"background": {"start_new_session": True}, "SIGINT ignored": {"preexec_fn": _ignore,
                                                                             "start_new_session": True}}
    burners = [multiprocessing.get_context("fork").Process(target=_burn, daemon=True)
               for _ in range(2 * (os.cpu_count() or 1) if kind == "under load" else 0)]
    for burner in burners:
        burner.start()
    try:
        return subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", *tests],
                              cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, **options.get(kind, {}))
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("tests", nargs="*", default=TESTS)
    options = parser.parse_args()
    done, failed = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    start = time.monotonic()
    for number in range(options.runs):
        kind = KINDS[number % len(KINDS)]
        result = run_once(kind, list(options.tests))
        done[kind] += 1
        if result.returncode:
            failed[kind] += 1
            sys.stdout.write(f"run {number + 1}, {kind}:\n{result.stdout[-5000:]}{result.stderr[-2000:]}\n")
        sys.stdout.write(f"{number + 1} of {options.runs} after {time.monotonic() - start:.0f} s: {kind}, "
                         f"{'failed' if result.returncode else 'passed'}\n")
        sys.stdout.flush()
    for kind in KINDS:
        sys.stdout.write(f"{kind}: {done[kind]} runs, {failed[kind]} failed\n")
    return 1 if any(failed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
