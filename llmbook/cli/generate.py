"""`llmbook generate`: let a model go on with a text."""

from __future__ import annotations

import argparse

from .errors import UsageError
from .text_input import check_text, whole_input

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print the prompt and what the model adds to it; returns the exit code."""
    prompt = whole_input() if arguments.prompt == "-" else arguments.prompt
    if not prompt:
        raise UsageError("the prompt is empty: give a few words to go on from")
    check_text(prompt, "the prompt")
    from .writers import open_writer

    model, tokenizer = open_writer(arguments)
    import torch

    from ..formats.decoding import TextStream
    from ..formats.tokenizers import encode_prompt, end_tokens
    from ..generation import stream

    ids, ends = torch.tensor([encode_prompt(tokenizer, prompt)]), end_tokens(tokenizer)  # (1, tokens)
    if ids.numel() == 0:
        raise UsageError(f"the prompt {prompt!r} has no tokens: give a few words to go on from")
    tokens = stream(model, ids, arguments.max_new_tokens, arguments.temperature, arguments.top_k, arguments.top_p,
                    ends, arguments.seed, vocab_size=tokenizer.n_vocab)
    print(prompt, end="", flush=True)
    text = TextStream(tokenizer)
    for token in tokens:
        if int(token) in ends:
            break
        print(text.push(int(token)), end="", flush=True)
    print(text.finish())
    return 0
