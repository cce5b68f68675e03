"""What the server says: whole answers and chunks of streams, in the shapes of OpenAI's protocol."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .answers import Ended, Piece, Score, token_text
from .bodies import ApiError

__all__ = ["ChatFormat", "CompletionFormat", "DONE", "Format", "ToolHook", "event", "failure", "usage"]

DONE = b"data: [DONE]\n\n"


class ToolHook(Protocol):
    """How a model calls tools. The server knows none: whoever builds an `App` may hand one in.

    The server runs no tool itself. It shows the model which there are, and finds the calls in what it says; to carry
    them out, and to send the results as messages of the role "tool", is the client's part, as in OpenAI's protocol.
    """

    def show(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]],
             choice: Any) -> list[dict[str, Any]]:
        """The messages for the chat template, with what the model must know of the tools. What earlier calls and
        results there are (`tool_calls` of an assistant's message, messages of the role "tool") stands in `messages`
        as the client sent it. If the last message is the assistant's, the answer goes on from it.

        tools: those of the request, none if it wants no call. choice: `tool_choice`. Raises ValueError, in one line
        that begins with the part of the body, for what cannot be."""

    def begins(self, tools: Sequence[Mapping[str, Any]], choice: Any) -> Sequence[str]:
        """Strings with which a call may begin: a stream holds back what follows. ("",) holds back everything."""

    def ends(self, tools: Sequence[Mapping[str, Any]]) -> Sequence[str]:
        """Strings after which an answer ends, because its call is complete; they stay in the text."""

    def find(self, text: str, tools: Sequence[Mapping[str, Any]],
             choice: Any) -> tuple[str, list[dict[str, Any]]]:
        """What an answer says before its calls, and the calls, each {"name": ..., "arguments": an object}."""


def event(content: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def usage(ended: Ended) -> dict[str, Any]:
    """The tokens of a request."""
    return {"prompt_tokens": ended.prompt_tokens, "completion_tokens": len(ended.ids),
            "total_tokens": ended.prompt_tokens + len(ended.ids),
            "prompt_tokens_details": {"cached_tokens": ended.reused}}


def failure(ended: Ended) -> ApiError | None:
    """The error that an end means, None for an answer."""
    if ended.reason in ("stop", "length"):
        return None
    if ended.reason == "error":
        reason = " ".join(str(ended.error).split())[:300] or type(ended.error).__name__
        return ApiError(500, f"the model could not go on ({reason}): try again, or look at the server")
    return ApiError(503, "the server ends: try again when it runs")


class Format:
    """One answer in one of the protocol's shapes.

    Args:
        name: the model's. tokenizer: to spell tokens. counts: whether a stream ends with the usage.
    """

    prefix, whole_kind, chunk_kind = "", "", ""

    def __init__(self, name: str, tokenizer: Any, counts: bool):
        self.tokenizer, self.counts = tokenizer, counts
        self.base = {"id": f"{self.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": name}

    def _chunk(self, choices: list[dict[str, Any]]) -> bytes:
        return event({**self.base, "object": self.chunk_kind, "choices": choices,
                      **({"usage": None} if self.counts else {})})

    def _counted(self, ended: Ended) -> bytes:
        if not self.counts:
            return DONE
        return event({**self.base, "object": self.chunk_kind, "choices": [], "usage": usage(ended)}) + DONE

    def _whole(self, choice: dict[str, Any], ended: Ended) -> dict[str, Any]:
        return {**self.base, "object": self.whole_kind, "choices": [{"index": 0, **choice}], "usage": usage(ended)}

    def head(self) -> bytes:
        """What a stream begins with."""
        return b""

    def piece(self, piece: Piece) -> bytes:
        """The next part of a stream."""
        raise NotImplementedError

    def last(self, ended: Ended) -> bytes:
        """What a stream ends with."""
        raise NotImplementedError

    def whole(self, pieces: Sequence[Piece], ended: Ended) -> dict[str, Any]:
        """An answer that is sent at once."""
        raise NotImplementedError


class ChatFormat(Format):
    """Chat completions. With tools, a stream holds back what may be a call until it is known.

    Args: hook, tools, choice: of a request that may be answered by calls; None and nothing for others.
    """

    prefix, whole_kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, name: str, tokenizer: Any, counts: bool = False, hook: ToolHook | None = None,
                 tools: Sequence[Mapping[str, Any]] = (), choice: Any = None):
        super().__init__(name, tokenizer, counts)
        self.hook, self.tools, self.choice = hook if tools else None, tools, choice
        self._held: list[Piece] = []
        self._told = ""

    def head(self) -> bytes:
        return self._delta({"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> bytes:
        self._held.append(piece)
        text = "".join(held.text for held in self._held)
        if self._may_call(text):
            return b""
        told, self._held, self._told = self._held, [], self._told + text
        return self._delta({"content": text}, self._scores(told))

    def _may_call(self, text: str) -> bool:
        """Whether a text holds the beginning of a call, or ends with a part of one."""
        begins = () if self.hook is None else self.hook.begins(self.tools, self.choice)
        return any(mark in text or any(text.endswith(mark[:size]) for size in range(1, len(mark))) for mark in begins)

    def last(self, ended: Ended) -> bytes:
        held = "".join(piece.text for piece in self._held)
        message, reason = self._message(self._told + held, ended)
        calls = [{"index": place, **call} for place, call in enumerate(message.get("tool_calls", []))]
        delta: dict[str, Any] = {"tool_calls": calls} if calls else {}
        if rest := (message["content"] or "").removeprefix(self._told):
            delta["content"] = rest
        told = self._delta(delta, self._scores(self._held)) if delta else b""
        return told + self._delta({}, reason=reason) + self._counted(ended)

    def whole(self, pieces: Sequence[Piece], ended: Ended) -> dict[str, Any]:
        message, reason = self._message("".join(piece.text for piece in pieces), ended)
        return self._whole({"message": {**message, "refusal": None}, "logprobs": self._scores(pieces),
                            "finish_reason": reason}, ended)

    def _message(self, text: str, ended: Ended) -> tuple[dict[str, Any], str]:
        said, found = (text, []) if self.hook is None else self.hook.find(text, self.tools, self.choice)
        if not found:
            return {"role": "assistant", "content": said}, ended.reason
        calls = [{"id": f"call_{secrets.token_hex(8)}", "type": "function",
                  "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])}} for call in found]
        return {"role": "assistant", "content": said or None, "tool_calls": calls}, "tool_calls"

    def _delta(self, delta: dict[str, Any], scores: Any = None, reason: str | None = None) -> bytes:
        return self._chunk([{"index": 0, "delta": delta, "logprobs": scores, "finish_reason": reason}])

    def _scores(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        scores = [score for piece in pieces for score in piece.scores]
        if not scores:
            return None
        return {"content": [{**self._spelled(score.token, score.logprob),
                             "top_logprobs": [self._spelled(*one) for one in score.top]} for score in scores],
                "refusal": None}

    def _spelled(self, token: int, logprob: float) -> dict[str, Any]:
        text, parts = token_text(self.tokenizer, token)
        return {"token": text, "logprob": _finite(logprob), "bytes": [*parts]}


class CompletionFormat(Format):
    """Completions: a text that goes on."""

    prefix, whole_kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, name: str, tokenizer: Any, counts: bool = False):
        super().__init__(name, tokenizer, counts)
        self._told = 0  # characters

    def piece(self, piece: Piece) -> bytes:
        return self._chunk([{"index": 0, "text": piece.text, "logprobs": self._scores([piece]),
                             "finish_reason": None}])

    def last(self, ended: Ended) -> bytes:
        choice = {"index": 0, "text": "", "logprobs": None, "finish_reason": ended.reason}
        return self._chunk([choice]) + self._counted(ended)

    def whole(self, pieces: Sequence[Piece], ended: Ended) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        return self._whole({"text": text, "logprobs": self._scores(pieces), "finish_reason": ended.reason}, ended)

    def _scores(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        scores: list[Score] = [score for piece in pieces for score in piece.scores]
        if not scores:
            return None
        texts = [token_text(self.tokenizer, score.token)[0] for score in scores]
        offsets = []
        for text in texts:
            offsets.append(self._told)
            self._told += len(text)
        return {"tokens": texts, "token_logprobs": [_finite(score.logprob) for score in scores],
                "top_logprobs": [{token_text(self.tokenizer, token)[0]: _finite(logprob)
                                  for token, logprob in score.top} for score in scores],
                "text_offset": offsets}


def _finite(logprob: float) -> float:
    """JSON has no -inf; OpenAI writes this number for what cannot be."""
    return max(logprob, -9999.0)
