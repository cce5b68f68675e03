"""What a request may say: the bodies of OpenAI's chat completions and completions, checked by pydantic."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

__all__ = ["ApiError", "ChatBody", "CompletionBody", "read_body", "terse"]

MOST_STOPS, MOST_TOP = 4, 20
# What changes nothing here, and is taken without a word.
_IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
            "prompt_cache_retention", "parallel_tool_calls", "reasoning_effort", "verbosity"}
# What would change the answer and is not done here: the values that ask for nothing.
_ONLY = {"n": (1,), "best_of": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},),
         "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (), "prediction": (),
         "functions": ([],), "function_call": ("none",), "web_search_options": (), "suffix": ("",), "echo": (False,)}


class ApiError(Exception):
    """An answer with an error, as OpenAI words them.

    Args:
        status: of HTTP. message: one line with what is wrong and what to do.
        param: the part of the body that it is about. code: a word for programs. headers: further ones.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None,
                 headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        kind = ("rate_limit_error" if status == 429 else "server_error" if status >= 500 else
                "authentication_error" if status == 401 else "invalid_request_error")
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _whole_characters(text: str) -> str:
    """JSON can spell half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds {text[error.start]!r}, half of a character: take it out") from None
    return text


Text = Annotated[str, AfterValidator(_whole_characters)]


class _Part(BaseModel):
    type: Literal["text"]
    text: Text


def _joined(content: Any) -> Any:
    """Content in parts, as one text."""
    if isinstance(content, list):
        return "".join(_Part.model_validate(part).text for part in content)
    return "" if content is None else content


class Message(BaseModel):
    """One turn. What else stands in it is for tools, and otherwise ignored."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[Text, BeforeValidator(_joined)] = ""


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


def _listed(stop: Any) -> Any:
    return [] if stop is None else [stop] if isinstance(stop, str) else stop


class Body(BaseModel):
    """What both kinds of request have."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None  # not OpenAI's, but common
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[list[Annotated[Text, Field(min_length=1)]], BeforeValidator(_listed),
                    Field(max_length=MOST_STOPS)] = []
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def counts(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens


class ChatBody(Body):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def top_scores(self) -> int | None:
        """How many of the likeliest tokens to tell of; None for no scores at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(Body):
    """POST /v1/completions."""

    prompt: Text | list[int]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def top_scores(self) -> int | None:
        return self.logprobs


def read_body(kind: type[Body], content: bytes) -> Any:
    """A body from bytes. Raises ApiError in one line that names the first part that is wrong."""
    try:
        given = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body is not JSON ({reason}): send an object in JSON") from None
    if not isinstance(given, dict):
        raise ApiError(400, f"the body is {terse(given)}: send an object in JSON")
    for name, allowed in _ONLY.items():
        value = given.pop(name, None)
        if value is not None and value not in allowed:
            remedy = f"send {json.dumps(allowed[0])}, or leave it out" if allowed else "leave it out"
            raise ApiError(400, f"{name} is {terse(value)}, which this server does not do: {remedy}", name,
                           "unsupported_parameter")
    given = {name: value for name, value in given.items() if name not in _IGNORED}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _explain(kind, error) from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply: send less") from None


def _explain(kind: type[Body], error: ValidationError) -> ApiError:
    problem = error.errors(include_url=False)[0]
    first, *inside = problem["loc"]
    place = first + "".join(_steps(inside))
    message = problem["msg"]
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(first), list(kind.model_fields), 1, 0.6)
        hint = f"did you mean {close[0]}?" if close else "leave it out"
        return ApiError(400, f"{first} is not known: {hint}", str(first), "unknown_parameter")
    if problem["type"] == "missing":
        return ApiError(400, f"{place} is missing: add it", place, "missing_required_parameter")
    if problem["type"] == "value_error":
        return ApiError(400, f"{place} {message.removeprefix('Value error, ')}", place)
    wanted = re.sub(r"^\w+ should", "it must", message).partition(" after validation")[0]
    return ApiError(400, f"{place} is {terse(problem['input'])}: {wanted}", place, "invalid_value")


def _steps(inside: list[Any]) -> Iterator[str]:
    """The rest of a place in a body, without the names of types that pydantic puts in."""
    for step in inside:
        if isinstance(step, int):
            yield f"[{step}]"
        elif str(step).isidentifier() and step not in ("str", "int", "list", "dict", "bool", "float"):
            yield f".{step}"


def terse(value: Any) -> str:
    """A part of a body for a message about it: 60 characters of its JSON at most."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
