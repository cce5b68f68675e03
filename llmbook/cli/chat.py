"""`llmbook chat`: talk with a model that was trained to."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Hold a conversation on the terminal; returns the exit code."""
    from .interrupts import import_torch

    import_torch()
    from ..open_weights import Chat
    from .models import open_model

    with suppress(ImportError):
        import readline  # noqa: F401 (lets the reader edit a line and call back earlier ones)
    names = ("temperature", "top_k", "top_p", "seed")
    sampling = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    model, tokenizer = open_model(arguments.model, arguments.tokenizer, arguments.device, arguments.dtype)
    talk = Chat(model, tokenizer, arguments.system, arguments.max_new_tokens, **sampling)
    asked = "You: " if sys.stdin.isatty() else ""
    print("Ctrl-D ends the conversation." if asked else "", end="\n" if asked else "")
    try:
        while True:
            if not (text := input(asked)).strip():
                continue
            try:
                for piece in talk.stream(text):
                    print(piece, end="", flush=True)
                print()
            except ValueError as error:  # a message too long: the conversation goes on
                print(f"({error})")
    except (EOFError, KeyboardInterrupt):
        print()
    return 0
