"""`llmbook generate`: let a model go on with a text."""

from __future__ import annotations

import argparse
import itertools
from typing import Any

from .errors import UsageError
from .text_input import check_text, whole_input

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print the prompt and what the model adds to it; returns the exit code."""
    prompt = whole_input() if arguments.prompt == "-" else arguments.prompt
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
    from ..formats.decoding import TextStream

    text = TextStream(tokenizer)
    for token in itertools.takewhile(lambda token: int(token) not in ends, tokens):
        yield text.push(token)
    yield text.finish()
