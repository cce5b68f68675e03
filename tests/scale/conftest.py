"""A folder for checkpoints, and signals as a terminal would leave them."""

import os
import signal
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def folder():
    """In memory if possible: a checkpoint waits until it is on the disk, and a disk takes its time."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as place:
        yield Path(place) / "run"


@pytest.fixture(autouse=True)
def signals_as_usual():
    """However the tests were started: a script ignores SIGINT for what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
