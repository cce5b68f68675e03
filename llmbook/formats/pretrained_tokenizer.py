"""The tokenizer of somebody else's model, and what it knows beside its ids: beginnings, ends and a chat template."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..tokenizing import utf8
from .tokenizer_descriptions import Description
from .tokenizer_runners import EncodingRunner, HubRunner, Runner

__all__ = ["MARKS", "PretrainedTokenizer", "adapt", "bos_token", "check_size", "encode_prompt", "end_tokens"]

# Special tokens that end a text or a turn wherever they occur, also in a model whose files do not say so.
ENDS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "</s>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>")
# Around a special token in what somebody else said: it is text there. No character, so nothing is lost (Unicode 23.7).
MARKS = "\ufdd0", "\ufdd1"


class PretrainedTokenizer:
    """A tokenizer with the calls of tiktoken that the book uses, and what its model's files say about it.

    Args:
        runner: turns text into ids; a `Description` stands for the runner of its kind.
        name: what to call it.
        named: the special tokens by their parts, as templates use them: {"bos_token": "<s>", "eos_token": "</s>"}.
        end_ids: tokens that end a text or a turn, as the files list them. Those of well-known names join them.
        prefix: the ids that the model expects before a text; None: as the description says.
        chat_template: the Jinja2 template that makes a text of a conversation, None if there is none.

    Attributes:
        n_vocab: ids are below this. special_tokens_set: tokens that stand for a place and not for text.
        bos_id: the token that begins a text, None if there is none. It is not put before each text: see `prefix`.
        end_ids: tokens that end a text or a turn. Generation stops at any of them.

    Threads can share it: no call changes it.
    """

    def __init__(self, runner: Runner | Description, name: str = "", named: Mapping[str, str] | None = None,
                 end_ids: Iterable[int] = (), prefix: Sequence[int] | None = None, chat_template: str | None = None):
        self.description = runner if isinstance(runner, Description) else None
        self.runner = HubRunner(runner) if isinstance(runner, Description) else runner
        self.name, self.n_vocab = name, self.runner.n_vocab
        self.special_tokens_set = set(self.runner.special)
        self.named = dict(named or {})
        self.chat_template = chat_template
        known = {**self.description.vocabulary, **self.runner.added} if self.description else self.runner.added
        self.bos_id = known.get(self.named.get("bos_token", ""))
        ends = [*end_ids, *(known[token] for token in [self.named.get("eos_token", "")] if token in known),
                *(self.runner.special[token] for token in ENDS if token in self.runner.special)]
        self.end_ids = tuple(dict.fromkeys(ends))
        if prefix is None:
            prefix = self.description.prefix if self.description else ()
        self.prefix = tuple(prefix)
        longest_first = sorted(self.runner.added, key=len, reverse=True)
        self._added = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def encode(self, text: str, *, allowed_special: Any = (), disallowed_special: Any = "all") -> list[int]:
        """Ids of a text, without BOS.

        Args:
            allowed_special: special tokens that are tokens in this text: "all", or some.
            disallowed_special: those that are an error: "all" that are not allowed, or some. The rest is text.

        Raises ValueError if the text holds a special token that is an error.
        """
        special = self.runner.special
        allowed = special.keys() if allowed_special == "all" else set(allowed_special)
        refused = special.keys() - allowed if disallowed_special == "all" else set(disallowed_special)
        if refused or allowed:
            for token in self._added.findall(text):
                if token in refused:
                    raise ValueError(f"the text holds the special token {token!r}: allow it by allowed_special, make "
                                     "it text by disallowed_special=(), or take it out")
        return self._encode_parts(self._parts(text, allowed) if allowed else [text])

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a text in which special tokens are text."""
        return self._encode_parts([text])

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a text to be continued: after BOS, if the model wants it; special tokens in it are tokens."""
        return [*self.prefix, *self.encode(text, allowed_special="all")]

    def encode_marked(self, text: str) -> list[int]:
        """Ids of a text with special tokens, where those between `MARKS` are text."""
        opening, closing = MARKS
        parts: list[str | int] = []
        for place, outside in enumerate(re.split(f"{opening}(.*?){closing}", text, flags=re.DOTALL)):
            outside = outside.replace(opening, "").replace(closing, "")  # a template may have cut one off
            parts += [outside] if place % 2 else self._parts(outside, self.runner.special.keys())
        return self._encode_parts(parts)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ids. Bytes that are no UTF-8 become U+FFFD, and so do ids that are no token."""
        parts = [self.token_bytes(token) for token in tokens]
        if None in parts:
            return self.runner.decode(tokens)
        whole = b"".join(parts)
        if self.runner.drops_first_space:
            whole = whole.removeprefix(b" ")
        return whole.decode("utf-8", "replace")

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """As `decode`, before the bytes become characters."""
        parts = [self.token_bytes(token) for token in tokens]
        return self.runner.decode(tokens).encode() if None in parts else b"".join(parts)

    def decode_single_token_bytes(self, token: int) -> bytes:
        """What a token adds to a text. Raises KeyError if there is no such token."""
        part = self.runner.token_bytes(int(token))
        return self.runner.decode([int(token)]).encode() if part is None else part

    def token_bytes(self, token: int) -> bytes | None:
        """What a token adds to a text; None if that depends on its neighbours; U+FFFD if there is no such token."""
        try:
            return self.runner.token_bytes(int(token))
        except KeyError:
            return "\ufffd".encode()

    @property
    def fingerprint(self) -> str | None:
        """A hash of all that decides which ids a text gets; None for a runner without a description."""
        return self.description.fingerprint if self.description else None

    def _parts(self, text: str, allowed: Collection[str]) -> list[str | int]:
        """A text cut at the special tokens that are allowed."""
        parts: list[str | int] = []
        start = 0
        for found in self._added.finditer(text):
            if found[0] in allowed and found[0] in self.runner.special:
                parts += [text[start : found.start()], self.runner.special[found[0]]]
                start = found.end()
        parts.append(text[start:])
        return [part for part in parts if part != ""]

    def _encode_parts(self, parts: Sequence[str | int]) -> list[int]:
        for part in parts:
            if isinstance(part, str):
                utf8(part)  # raises ValueError for half of a surrogate pair
        return self.runner.encode(parts)


def adapt(tokenizer: Any) -> PretrainedTokenizer:
    """Any tokenizer as a `PretrainedTokenizer`: the same if it is one; the book's own, or tiktoken's, wrapped."""
    if isinstance(tokenizer, PretrainedTokenizer):
        return tokenizer
    return PretrainedTokenizer(EncodingRunner(tokenizer), getattr(tokenizer, "name", ""))


def end_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The ids that end a text or a turn, for any tokenizer: generation stops at each of them."""
    return adapt(tokenizer).end_ids


def bos_token(tokenizer: Any) -> int | None:
    """The id that begins a text, None if the tokenizer has none."""
    return adapt(tokenizer).bos_id


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text to be continued by a model, for any tokenizer: with BOS where its model wants it."""
    return adapt(tokenizer).encode_prompt(text)


def check_size(tokenizer: PretrainedTokenizer, vocab_size: int | None, path: Path) -> None:
    """A few rows of an embedding may be spare, to round its size up; none may be missing. Raises ValueError."""
    if vocab_size is None:
        return
    spare = min(1024, max(64, vocab_size // 8))
    if not vocab_size - spare <= tokenizer.n_vocab <= vocab_size:
        raise ValueError(f"{path}: the tokenizer has {tokenizer.n_vocab:,} tokens, the embedding {vocab_size:,} rows: "
                         "they belong to different models")
