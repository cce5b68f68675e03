"""Ctrl-C and SIGTERM: a run ends in order, and what it says is saved is saved. No test here depends on how it was
started: see tests/support/signal_runs.py, which runs them hundreds of times."""

import os
import signal
import sys
import threading

import pytest

from llmbook.scale.checkpoints import Checkpoints
from llmbook.training import next_token_loss, train
from tests.support import training_script as script
from tests.support.checkpoint_checks import Stop, same, steps_kept, stop_at
from tests.support.training_script import forks, gpt, loader, quick, records, wait_for, write_json

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills processes as only Unix can")


def unbroken(steps: int):
    model = gpt()
    return model, records(train(model, loader(), next_token_loss, quick(steps)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_end_is_heard_after_the_step(folder, tmp_path, number):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    model, expected = unbroken(9)

    def asked(model, *batch):  # in the middle of step 4
        calls.append(None)
        if len(calls) == 4:
            signal.raise_signal(number)
        return next_token_loss(model, *batch)

    calls: list[None] = []
    history = train(gpt(), loader(), asked, quick(9), checkpoints=Checkpoints(folder))
    assert history.interrupted and records(history) == expected[:4] and steps_kept(folder) == [4]
    assert before == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    again = gpt(seed=1)
    history = train(again, loader(), next_token_loss, quick(9), checkpoints=Checkpoints(folder))
    assert not history.interrupted and records(history) == expected and same(model, again)
    assert before == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_from_outside(folder, tmp_path, number):
    out = tmp_path / "out"
    process = forks().start(script.until_a_signal, tmp_path / "printed", folder=str(folder), out=str(out))
    wait_for(f"{out}.ready")
    os.kill(process, number)
    assert forks().wait(process) == 0, (tmp_path / "printed").read_text()
    told = wait_for(out)
    steps = len(told["records"])
    assert told["interrupted"] and told["restored"] and 3 <= steps < 1000 and steps_kept(folder) == [steps]
    assert told["saved"] == steps
    with pytest.raises(Stop):  # and it goes on with the next step
        train(gpt(seed=1), loader(), next_token_loss, quick(1000), None, Checkpoints(folder, 1), stop_at(steps + 2))
    assert steps_kept(folder) == [steps, steps + 1]


@pytest.mark.parametrize("first, second, code", [
    (signal.SIGTERM, signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, signal.SIGINT, 0),
    (signal.SIGINT, signal.SIGTERM, -signal.SIGTERM), (signal.SIGTERM, signal.SIGINT, 0)])
def test_a_second_signal_ends_at_once(folder, tmp_path, first, second, code):
    out = tmp_path / "out"
    process = forks().start(script.until_a_signal, tmp_path / "printed", folder=str(folder), out=str(out), hold=True,
                            grace=0.05)
    wait_for(f"{out}.ready")
    os.kill(process, first)
    wait_for(f"{out}.late")
    os.kill(process, second)
    assert forks().wait(process) == code, (tmp_path / "printed").read_text()  # though the step is held
    if code == 0:  # a second Ctrl-C is caught: the history so far, and what of it is on the disk
        told = wait_for(out)
        assert told["interrupted"] and len(told["records"]) == 2 and told["saved"] == 0 and told["restored"]
    assert steps_kept(folder) == []


@pytest.mark.parametrize("first, second", [(signal.SIGINT, signal.SIGINT), (signal.SIGINT, signal.SIGTERM),
                                           (signal.SIGTERM, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM)])
def test_two_signals_within_a_moment_are_one_request(folder, tmp_path, first, second):
    out = tmp_path / "out"
    process = forks().start(script.until_a_signal, tmp_path / "printed", folder=str(folder), out=str(out), hold=True,
                            grace=1000.0)
    wait_for(f"{out}.ready")
    os.kill(process, first)
    os.kill(process, second)
    wait_for(f"{out}.noticed")
    os.kill(process, second)
    write_json(f"{out}.go", True)
    assert forks().wait(process) == 0, (tmp_path / "printed").read_text()
    told = wait_for(out)
    assert told["interrupted"] and told["restored"] and len(told["records"]) == told["saved"] == 3
    assert steps_kept(folder) == [3]


def test_what_is_ignored_stays_ignored(folder, tmp_path):
    """A script ignores SIGINT for what it starts in the background; SIGTERM ends that in order."""
    out = tmp_path / "out"
    process = forks().start(script.until_a_signal, tmp_path / "printed", folder=str(folder), out=str(out), hold=True,
                            grace=1000.0, ignored=True)
    wait_for(f"{out}.ready")
    for _ in range(3):
        os.kill(process, signal.SIGINT)
    os.kill(process, signal.SIGTERM)
    wait_for(f"{out}.noticed")
    os.kill(process, signal.SIGINT)
    write_json(f"{out}.go", True)
    assert forks().wait(process) == 0, (tmp_path / "printed").read_text()
    told = wait_for(out)
    assert told["interrupted"] and told["restored"] and told["saved"] == 3


def test_handlers_are_restored_whatever_happens(folder):
    before, seen = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)], []

    def on_step(record):
        seen.append([signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)])
        raise Stop

    with pytest.raises(Stop):
        train(gpt(), loader(), next_token_loss, quick(9), None, Checkpoints(folder), on_step)
    assert seen[0] != before and before == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]


def test_a_thread_can_train_too(folder):
    """Signals belong to the main thread; without them the rest works."""
    found = []
    thread = threading.Thread(target=lambda: found.append(
        train(gpt(), loader(), next_token_loss, quick(3), checkpoints=Checkpoints(folder))))
    thread.start()
    thread.join(60)
    assert len(found[0].steps) == 3 and steps_kept(folder) == [3]
