"""`llmbook generate`: let a model go on with a text."""

from __future__ import annotations

import argparse
from typing import Any

from .errors import UsageError
from .text_input import check_text, whole_input

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print the prompt and what the model adds to it; returns the exit code."""
    prompt = whole_input() if arguments.prompt == "-" else arguments.prompt
    check_text(prompt, "the prompt")
    from .models import begins_with_end
    from .writers import open_writer

    model, tokenizer = open_writer(arguments)
    import torch

    from ..formats.decoding import TextStream
    from ..formats.tokenizers import encode_prompt, end_tokens
    from ..generation import stream

    start = encode_prompt(tokenizer, prompt)
    if not start or begins_with_end(arguments.model):  # what stands before a text that begins
        start = _after_an_end(start, tokenizer)
    if not start:
        raise UsageError(f"the prompt {prompt!r} has no tokens: give a few words to go on from")
    ids, ends = torch.tensor([start]), end_tokens(tokenizer)  # (1, tokens)
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


def _after_an_end(ids: list[int], tokenizer: Any) -> list[int]:
    """Ids with that of `<|endoftext|>` before them, if the tokenizer knows it and they do not begin with it."""
    from ..text import END_OF_TEXT

    if END_OF_TEXT not in tokenizer.special_tokens_set:
        return ids
    end = tokenizer.encode(END_OF_TEXT, allowed_special="all")
    return ids if ids[:1] == end[-1:] else [*end[-1:], *ids]
