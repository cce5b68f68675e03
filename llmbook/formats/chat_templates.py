"""Conversations as a model was trained to read them: the template in its files, run by Jinja2's sandbox."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .pretrained_tokenizer import MARKS, PretrainedTokenizer, adapt
from .template_sandbox import render_template

__all__ = ["CHATML", "Template", "chat_template", "default_system", "encode_chat", "render_chat"]

Template = str | Callable[..., str]  # in Jinja2, or a function of the messages that returns one string

# The layout of `llmbook.open_weights.format_chat`, for models whose files have no template of their own.
CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>"
          "\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def chat_template(tokenizer: Any) -> str:
    """The template of a tokenizer's model; ChatML for one that has none but ChatML's two special tokens.

    Raises ValueError if there is none: a base model, which was not trained to converse.
    """
    known = adapt(tokenizer)
    if known.chat_template is not None:
        return known.chat_template
    if missing := {"<|im_start|>", "<|im_end|>"} - known.special_tokens_set:
        raise ValueError(f"the model's files have no chat template, and its tokenizer no {min(missing)!r}: it was not "
                         "trained to converse; give one that was, or a template that suits it")
    return CHATML


def render_chat(template: str, messages: Sequence[Mapping[str, Any]], open_answer: bool = True, **values: Any) -> str:
    """A conversation as one string.

    Args:
        template: in Jinja2, as chat models have it in their files.
        messages: each with "role" ("system", "user" or "assistant") and "content".
        open_answer: end with what begins the assistant's next turn.
        values: what else the template may read, such as bos_token.

    Raises ValueError in one line if the template is faulty, refuses the messages, or computes too much.
    """
    return render_template(template, messages=messages, add_generation_prompt=open_answer,
                           **{"tools": None, "documents": None, **values})


def encode_chat(tokenizer: Any, messages: Sequence[Mapping[str, Any]], open_answer: bool = True,
                template: Template | None = None, **values: Any) -> list[int]:
    """Ids of a conversation, as the model was trained to read it.

    Args:
        tokenizer: any tokenizer. messages, open_answer, values: as for `render_chat`.
        template: instead of the one that belongs to the tokenizer: in Jinja2, or a function of the messages that
            returns a string, and ends it with the answer's beginning unless it is called with open_answer=False.

    Special tokens come from the template alone. In a message they are spelled out like any text, so that nobody can
    end a turn, or speak as somebody else, by writing them. Raises ValueError as `render_chat` and `chat_template`.
    """
    known = adapt(tokenizer)
    template = chat_template(known) if template is None else template
    marked = _marked(messages, known)
    if callable(template):
        return known.encode_marked(template(marked) if open_answer else template(marked, open_answer=False))
    return known.encode_marked(render_chat(template, marked, open_answer, **{**known.named, **values}))


def default_system(tokenizer: Any, template: Template, text: str = "You are a helpful assistant.") -> str:
    """`text` as a system message, or "" if the template has no place for one, as some models' have not."""
    messages = [{"role": "system", "content": text}, {"role": "user", "content": "Hi"}]
    try:
        encode_chat(tokenizer, messages, template=template)
    except ValueError:
        return ""
    return text


def _marked(value: Any, tokenizer: PretrainedTokenizer) -> Any:
    """Messages in which each special token stands between marks."""
    if isinstance(value, str):
        opening, closing = MARKS
        text = value.replace(opening, "").replace(closing, "")
        if not tokenizer.special_tokens_set:
            return text
        longest_first = sorted(tokenizer.special_tokens_set, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, longest_first)), f"{opening}\\g<0>{closing}", text)
    if isinstance(value, Mapping):
        return {name: _marked(part, tokenizer) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_marked(part, tokenizer) for part in value]
    return value
