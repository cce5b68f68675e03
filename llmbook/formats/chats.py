"""A conversation with a model: the turns, the answers piece by piece, and what the model has read already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..generation import stream as stream_tokens
from .chat_templates import Template, chat_template, default_system
from .conversations import ReadSoFar, answer_ends, fit_conversation
from .decoding import TextStream
from .tokenizers import Tokenizer

__all__ = ["Chat"]


class Chat:
    """A conversation with a model: keeps the turns, streams the answers, stays within the context.

    Args:
        model, tokenizer: as `load_pretrained` gives them.
        system: the first message, which says how to answer; "" for none. None: that it is a helpful
            assistant, if the template has a place for that.
        max_new_tokens: the longest answer.
        template: how the model reads a conversation: in Jinja2, or a function like `format_chat`.
            None: as its files say, else ChatML.
        stop: the special token that ends an answer. None: all that its files name.
        sampling: further arguments of `generate`: temperature, top_k, top_p, seed.

    Attributes:
        messages: the turns so far, each a dict of role and content.
        cut: whether the last answer broke off before its end.
        dropped, notice: how many old turns went for want of room; a sentence if some just did.

    Raises ValueError for a model that was not trained to converse.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, system: str | None = None,
                 max_new_tokens: int = 200, template: Template | None = None,
                 stop: str | None = None, **sampling: Any):
        self.model, self.tokenizer, self.max_new_tokens = model, tokenizer, max_new_tokens
        self.template = chat_template(tokenizer) if template is None else template
        self.ends = answer_ends(tokenizer, stop)
        self.sampling = {"temperature": 0.7, "top_p": 0.9, **sampling}
        self.system = default_system(tokenizer, self.template) if system is None else system
        self.clear()

    def clear(self) -> None:
        """Begin anew, with `system` as the first message."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []
        self.cut, self.dropped, self.notice = False, 0, ""
        self.read_so_far, self.answering = ReadSoFar(self.model), None

    def say(self, text: str) -> str:
        """Say something; returns the whole answer."""
        return "".join(self.stream(text))

    def stream(self, text: str) -> Iterator[str]:
        """Say something; yields the answer piece by piece. Raises ValueError if it cannot fit.

        Closing the iterator breaks the answer off, and so does the next message.
        """
        if self.answering is not None:
            self.answering.close()
        said = {"role": "user", "content": text}
        kept, ids = fit_conversation(self.tokenizer, self.messages, said, self.template,
                                     self.read_so_far, self.max_new_tokens)
        gone, self.messages = (len(self.messages) - len(kept) + 1) // 2, kept
        self.dropped += gone
        self.notice = f"the context is full: the oldest {gone} of the turns went" if gone else ""
        self.answering = self._answer(said, ids)
        return self.answering

    def _answer(self, said: dict[str, str], ids: list[int]) -> Iterator[str]:
        """The pieces of an answer. What was said joins the conversation, however it ends."""
        cache = self.read_so_far.recall(ids, self.max_new_tokens)  # what it has read already
        tokens = stream_tokens(self.model, torch.tensor([ids]), self.max_new_tokens, cache=cache,
                               stop_tokens=self.ends, **self.sampling)
        text = TextStream(self.tokenizer, continues=False, skip_special=True)
        answer, self.cut, failed = "", True, True
        try:
            for token in map(int, tokens):
                self.read_so_far.add(token)
                if token in self.ends:
                    self.cut = False
                    break
                if piece := text.push(token):  # nothing, inside a character of several tokens
                    answer += piece
                    yield piece
            failed = False
        finally:
            if answer or not failed:
                self.messages += [said, {"role": "assistant", "content": answer}]
