"""The command line: `llmbook pretrain`, `tokenize`, `finetune`, `generate`, `chat`, `serve`. See `llmbook --help`.

Everything is imported inside `main`, and PyTorch inside the commands: help and wrong usage are answered at once, and
Ctrl-C ends in one line whenever it comes.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 fine, 1 an error of the work, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else [str(argument) for argument in arguments]
    try:
        from .program import run_program

        return run_program(arguments)
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("llmbook: interrupted", file=sys.stderr)
        return INTERRUPTED
