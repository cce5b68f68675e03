"""Signals as a terminal would leave them, for all tests."""

import signal

import pytest


@pytest.fixture(autouse=True)
def signals_as_usual():
    """However the tests were started: a script ignores SIGINT for what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
