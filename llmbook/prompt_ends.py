"""What ends a response in each prompt format, and which text may stand in a prompt at all."""

from __future__ import annotations

from collections.abc import Sequence

from .formats.chat_templates import encode_chat
from .formats.tokenizers import end_tokens
from .protocols import Tokenizer

__all__ = ["END_OF_RESPONSE", "end_token", "refuse_special_tokens", "special_ids"]

# The special token that ends a response in each format.
END_OF_RESPONSE = {"alpaca": "<|endoftext|>", "chatml": "<|im_end|>", "plain": "<|endoftext|>"}


def refuse_special_tokens(texts: Sequence[str], tokenizer: Tokenizer, where: str) -> None:
    """Raise ValueError, which begins with `where`, for what is no text, and for a text that holds a special token."""
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{where} holds {text!r}: it must be text, \"\" if there is none")
        for token in sorted(tokenizer.special_tokens_set):
            if token in text:
                raise ValueError(f"{where} holds the special token {token!r}, which would end or begin a part: take it "
                                 "out")


def end_token(tokenizer: Tokenizer, style: str) -> int:
    """The id of the token that ends a response. Raises ValueError if the tokenizer has none."""
    ends = list(end_tokens(tokenizer))
    if style == "template":  # the last end in a turn of the assistant's
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        ends = [token for token in encode_chat(tokenizer, turns, False) if token in ends][-1:]
    elif style not in END_OF_RESPONSE:
        raise ValueError(f"style is {style!r}: it must be template or one of {', '.join(END_OF_RESPONSE)}")
    elif (end := END_OF_RESPONSE[style]) in tokenizer.special_tokens_set:
        ends = tokenizer.encode(end, allowed_special="all")
    if not ends or (style == "chatml" and end not in tokenizer.special_tokens_set):
        raise ValueError(f"the tokenizer has no token that ends a response in the style {style!r} "
                         f"({END_OF_RESPONSE.get(style, 'an end of turn')}): use another style, or the tokenizer of "
                         "the model")
    return ends[0]


def special_ids(tokenizer: Tokenizer) -> set[int]:
    """The ids of all special tokens. None of them is text, so a response ends at any."""
    special = {tokenizer.encode(token, allowed_special="all")[0] for token in tokenizer.special_tokens_set}
    return special.union(end_tokens(tokenizer))
