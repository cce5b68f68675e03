"""`llmbook generate`: let a model go on with a text."""

from __future__ import annotations

import argparse
import itertools
import sys
import types
from typing import Any

from .errors import UsageError

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print the prompt and what the model adds to it; returns the exit code."""
    prompt = _standard_input() if arguments.prompt == "-" else arguments.prompt
    if not prompt:
        raise UsageError("the prompt is empty: give a few words to go on from")
    check_text(prompt, "the prompt")
    from .interrupts import import_torch

    import_torch()
    import torch

    from ..generation import stream
    from .models import open_model

    model, tokenizer = open_model(arguments.model, arguments.tokenizer, arguments.device, arguments.dtype)
    ids = torch.tensor([tokenizer.encode(prompt, allowed_special="all")])  # (1, tokens)
    ends = [tokenizer.encode(token, allowed_special="all")[0] for token in ("<|endoftext|>", "<|im_end|>")
            if token in tokenizer.special_tokens_set]
    tokens = stream(model, ids, arguments.max_new_tokens, arguments.temperature, arguments.top_k, arguments.top_p,
                    ends, arguments.seed)
    print(prompt, end="", flush=True)
    for piece in _pieces(tokens, tokenizer, ends):
        print(piece, end="", flush=True)
    print()
    return 0


def _pieces(tokens: Any, tokenizer: Any, ends: list[int]) -> Any:
    from ..open_weights import _decode

    before_end = itertools.takewhile(lambda token: int(token) not in ends, tokens)
    return _decode(before_end, types.SimpleNamespace(tokenizer=tokenizer, stop=None))


def _standard_input() -> str:
    """All of the standard input, which must be UTF-8."""
    if sys.stdin is None:
        raise UsageError("the standard input is closed: give the prompt as an argument")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UsageError(f"the standard input is not UTF-8 (byte {error.start:,} is "
                         f"0x{error.object[error.start]:02x}): convert it first") from None


def check_text(text: str, what: str) -> None:
    """Raise UsageError for text that has no UTF-8: a shell hands on any bytes, as half characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not UTF-8 (its character {error.start + 1:,} is {text[error.start]!r}): convert "
                         "it first, or take the character out") from None
