"""A folder for checkpoints."""

import os
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def folder():
    """In memory if possible: a checkpoint waits until it is on the disk, and a disk takes its time."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as place:
        yield Path(place) / "run"
