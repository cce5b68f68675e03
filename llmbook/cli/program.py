"""One command from its words to its exit code: the one place that catches errors and speaks of them."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from contextlib import suppress
from typing import Any

from .errors import UsageError, one_line
from .parser import make_parser

__all__ = ["run_program"]


def run_program(arguments: list[str]) -> int:
    """Run one command; returns its exit code. Raises KeyboardInterrupt only."""
    _open_streams()
    try:
        if sys.stdout is None:
            raise OSError("the standard output is closed: give it a file or a pipe, or > /dev/null")
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = _run(arguments)
        sys.stdout.flush()  # what cannot be written must be known before the program says that all went well
        return code
    except BrokenPipeError:  # the reader of our output has seen enough, as in `llmbook generate ... | head`
        _drop_output()
        return 1
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = "the standard output"
            _drop_output()
        _complain(one_line(error))
        return 2 if isinstance(error, UsageError) else 1


def _run(arguments: list[str]) -> int:
    from .. import __version__

    parser = make_parser(__version__)
    try:
        parsed = parser.parse_args(arguments)
    except SystemExit as end:  # after --help or --version
        return int(end.code or 0)
    for name, value in vars(parsed).items():  # what argparse makes of --flag=--
        if value == [] and name != "set" or isinstance(value, list) and [] in value:
            raise UsageError(f"--{name.replace('_', '-')} is '--': give it a value")
    if not hasattr(parsed, "run"):
        parser.print_help()
        return 0
    return parsed.run(parsed)


def _open_streams() -> None:
    """A terminal that knows few characters shows ? for the others; closed streams are /dev/null, but for the output,
    without which no command makes sense."""
    with suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="replace")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open until the process ends)


def _drop_output() -> None:
    """Send to nowhere what is left in the output's buffer: Python would try again at its end, and complain."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(text: str) -> None:
    with suppress(OSError, ValueError):
        print(f"llmbook: {text}", file=sys.stderr, flush=True)


def _show_warning(message: Warning | str, *_: Any) -> None:
    _complain(" ".join(str(message).split()))
