"""The application: which address does what, and how an answer travels from the engine's thread to a client.

No path and no name from a request is ever opened: the page is one file that is read when the application is made.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..formats.chat_templates import Template, chat_template, encode_chat
from ..formats.conversations import answer_ends
from ..formats.pretrained_tokenizer import adapt
from ..formats.tokenizers import encode_prompt, end_tokens
from ..generation import Sampling
from .answers import Ended, Kept, Piece
from .bodies import ApiError, ChatBody, CompletionBody, read_body
from .engine import Busy, Closed, Engine, Job, Request
from .gate import Gate
from .page import page_response
from .protocol import ChatFormat, CompletionFormat, Format, ToolHook, event, failure

__all__ = ["ServerSettings", "make_app"]

_BODY_SECONDS = 30  # to send a body
_SEND_SECONDS = 60  # beyond the time limit, for a client that reads slowly


@dataclass(frozen=True)
class ServerSettings:
    """How a model is served.

    Args:
        name: what clients call the model.
        max_tokens: of an answer, where a request asks for none or for more.
        seconds: of a request, the queue included; the answer is cut there.
        body_bytes: of a request at most.
        temperature, top_p: where a request gives none. (top_p holds only if it gives no temperature either.)
        begin: tokens that stand before each text to be continued, as the model was trained.
        template: how the model reads a conversation; None: as its files say.
        hosts, origins, api_key: see `llmbook.serve.gate.Gate`.
        tools: how the model calls tools; None: it cannot.
    """

    name: str
    max_tokens: int = 1024
    seconds: float = 600.0
    body_bytes: int = 2**20
    temperature: float = 0.7
    top_p: float = 0.9
    begin: Sequence[int] = ()
    template: Template | None = None
    hosts: tuple[str, ...] | None = None
    origins: tuple[str, ...] = ()
    api_key: str | None = None
    tools: ToolHook | None = None


def make_app(engine: Engine, settings: ServerSettings) -> Any:
    """The ASGI application that serves an engine's model."""
    service = _Service(engine, settings)
    routes = [Route("/", page_response), Route("/health", service.health), Route("/v1/models", service.models),
              Route("/v1/models/{name}", service.models),
              Route("/v1/chat/completions", service.chat, methods=["POST"]),
              Route("/v1/completions", service.complete, methods=["POST"])]
    app: Any = Starlette(routes=routes, exception_handlers={
        ApiError: _on_error, HTTPException: _on_http_error, Exception: _on_fault})
    if settings.origins:
        app = CORSMiddleware(app, settings.origins, allow_methods=["GET", "POST"],
                             allow_headers=["Authorization", "Content-Type"])
    return Gate(app, _error_response, settings.hosts, settings.origins, settings.api_key)


def _error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, error.status, error.headers)


async def _on_error(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _error_response(error)


async def _on_http_error(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = {404: f"{request.url.path} is not known: the API is under /v1, see /v1/models",
            405: f"{request.method} does not go with {request.url.path}: try the other of GET and POST"}
    return _error_response(ApiError(error.status_code, text.get(error.status_code, error.detail),
                                    headers=dict(error.headers or {})))


async def _on_fault(_: HttpRequest, error: Exception) -> Response:
    return _error_response(ApiError(500, f"a fault of the server ({type(error).__name__}): please report it"))


class _Service:
    """The answers to the addresses under /v1."""

    def __init__(self, engine: Engine, settings: ServerSettings):
        self.engine, self.settings, self.tokenizer = engine, settings, engine.tokenizer
        self.template, self.why_not = settings.template, ""
        try:
            self.template = self.template or chat_template(self.tokenizer)
            self.chat_ends = frozenset(answer_ends(self.tokenizer))
        except ValueError as error:
            self.template, self.why_not = None, str(error)

    async def health(self, _: HttpRequest) -> Response:
        answering, waiting = self.engine.load
        return JSONResponse({"status": "ok", "answering": answering, "waiting": waiting})

    async def models(self, request: HttpRequest) -> Response:
        settings = self.settings
        model = {"id": settings.name, "object": "model", "created": 0, "owned_by": "llmbook",
                 "context_length": self.engine.context, "max_tokens": settings.max_tokens,
                 "chat": self.template is not None}
        if "name" not in request.path_params:
            return JSONResponse({"object": "list", "data": [model]})
        self._check_model(request.path_params["name"])
        return JSONResponse(model)

    async def chat(self, http: HttpRequest) -> Response:
        body: ChatBody = read_body(ChatBody, await self._content(http))
        self._check_model(body.model)
        if self.template is None:
            raise ApiError(400, f"{self.settings.name} is a base model, which was never taught to answer "
                           f"({self.why_not}): send a text to /v1/completions, or serve another model",
                           "messages", "no_chat_template")
        if body.messages[-1].role == "assistant":
            raise ApiError(400, "the last message is the assistant's, so nobody asks: end with a user's", "messages")
        try:
            messages = [{**message.model_dump(exclude_unset=True), "content": message.content,
                         "role": "system" if message.role == "developer" else message.role}
                        for message in body.messages]
            tools = (body.tools or []) if body.tool_choice != "none" else []
            messages, ends = self._with_tools(messages, tools, body.tool_choice)
            begun = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
            ids = await asyncio.to_thread(encode_chat, self.tokenizer, messages, template=self.template)
        except ValueError as error:
            part = re.match("tools|tool_choice", str(error))
            raise ApiError(400, str(error), part[0] if part else "messages") from None
        ids += adapt(self.tokenizer).encode_ordinary(begun)
        shape = ChatFormat(self.settings.name, self.tokenizer, body.counts, self.settings.tools, tools,
                           body.tool_choice)
        return await self._answer(http, body, self._request(body, ids, self.chat_ends, bool(begun), ends), shape)

    def _with_tools(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]],
                    choice: Any) -> tuple[list[dict[str, Any]], list[Kept]]:
        """The messages as the model reads them, and what ends an answer beside the request's own stops."""
        used = tools or choice not in (None, "auto", "none")
        results = any(message["role"] == "tool" for message in messages)
        hook = self.settings.tools
        if hook is None and (used or results):
            raise ApiError(400, f"{self.settings.name} is served without tools: leave tools and messages of the role "
                           "tool out", "tools", "unsupported_parameter")
        if hook is None or not (used or results or any(message.get("tool_calls") for message in messages)):
            return [{"role": message["role"], "content": message["content"]} for message in messages], []
        return hook.show(messages, tools, choice), [Kept(mark) for mark in hook.ends(tools)]

    async def complete(self, http: HttpRequest) -> Response:
        body: CompletionBody = read_body(CompletionBody, await self._content(http))
        self._check_model(body.model)
        try:
            ids = body.prompt
            if isinstance(ids, str):
                ids = await asyncio.to_thread(encode_prompt, self.tokenizer, ids)
        except ValueError as error:
            raise ApiError(400, str(error), "prompt") from None
        begin = list(self.settings.begin)
        if ids[: len(begin)] != begin:
            ids = [*begin, *ids]
        request = self._request(body, ids, frozenset(end_tokens(self.tokenizer)), True)
        return await self._answer(http, body, request, CompletionFormat(self.settings.name, self.tokenizer,
                                                                        body.counts))

    def _check_model(self, name: str | None) -> None:
        if name not in (None, "", self.settings.name):
            raise ApiError(404, f"the model {name!r} is not served here: ask for {self.settings.name!r}", "model",
                           "model_not_found")

    def _request(self, body: ChatBody | CompletionBody, ids: list[int], ends: frozenset[int], continues: bool,
                 stops: Sequence[str] = ()) -> Request:
        settings = self.settings
        top_p = settings.top_p if body.temperature is None and body.top_p is None else body.top_p
        temperature = settings.temperature if body.temperature is None else body.temperature
        try:
            sampling = Sampling(temperature, body.top_k, top_p)
        except ValueError as error:
            raise ApiError(400, str(error), "temperature", "invalid_value") from None
        most = min(body.most_tokens or settings.max_tokens, settings.max_tokens)
        seed = None if body.seed is None else body.seed % 2**63
        return Request(ids, most, sampling, seed, ends, (*body.stop, *stops), continues,
                       body.top_scores, settings.seconds)

    async def _content(self, http: HttpRequest) -> bytes:
        """A request's body, if it is JSON, not too large and there in time."""
        kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, f"the body is {kind or 'of no known kind'}: send JSON, with Content-Type: "
                           "application/json")
        try:
            return await asyncio.wait_for(self._read(http), _BODY_SECONDS)
        except asyncio.TimeoutError:
            raise ApiError(408, f"the body did not come within {_BODY_SECONDS} s: send it at once",
                           headers={"Connection": "close"}) from None

    async def _read(self, http: HttpRequest) -> bytes:
        most, parts, size = self.settings.body_bytes, [], 0
        async for part in http.stream():
            parts.append(part)
            size += len(part)
            if size > most:
                raise ApiError(413, f"the body has more than {most:,} bytes: send less",
                               headers={"Connection": "close"})
        return b"".join(parts)

    async def _answer(self, http: HttpRequest, body: ChatBody | CompletionBody, request: Request,
                      shape: Format) -> Response:
        told: asyncio.Queue[Piece | Ended] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        try:
            job = self.engine.submit(request, lambda event: loop.call_soon_threadsafe(told.put_nowait, event))
        except Busy as error:
            raise ApiError(429, str(error), code="queue_full",
                           headers={"Retry-After": str(error.retry_after)}) from None
        except Closed as error:
            raise ApiError(503, str(error)) from None
        except ValueError as error:
            code = "context_length_exceeded" if "the context is" in str(error) else None
            raise ApiError(400, str(error), "messages" if isinstance(body, ChatBody) else "prompt", code) from None
        if body.stream:
            return _Stream(job, told, shape, self.settings.seconds + _SEND_SECONDS)
        watch = asyncio.create_task(_cancel_when_gone(http.receive, job))
        try:
            events = [event async for event in _events(told)]
        finally:
            job.cancel()
            watch.cancel()
        *pieces, ended = events
        if error := failure(ended):
            raise error
        return JSONResponse(shape.whole(pieces, ended))


async def _events(told: asyncio.Queue[Piece | Ended]) -> AsyncIterator[Any]:
    """A request's events, to its end."""
    while True:
        yield (event := await told.get())
        if isinstance(event, Ended):
            return


async def _cancel_when_gone(receive: Any, job: Job) -> None:
    """Give a request up when its client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    job.cancel()


class _Stream(Response):
    """Server-sent events, as they come. Those that have come meanwhile are sent together."""

    def __init__(self, job: Job, told: asyncio.Queue[Piece | Ended], shape: Format, seconds: float):
        self.job, self.told, self.shape, self.seconds = job, told, shape, seconds
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-store",
                                                                  "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        watch = asyncio.create_task(_cancel_when_gone(receive, self.job))
        try:
            await asyncio.wait_for(self._send_all(send), self.seconds)
        except asyncio.TimeoutError:
            pass  # the client does not read: what is open ends with its connection
        finally:
            self.job.cancel()
            watch.cancel()

    async def _send_all(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        part, ended = self.shape.head(), False
        while not ended:
            if part:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            events = [await self.told.get()]
            while not self.told.empty():
                events.append(self.told.get_nowait())
            ended = isinstance(events[-1], Ended)
            part = b"".join(map(self._bytes, events))
        await send({"type": "http.response.body", "body": part, "more_body": False})

    def _bytes(self, told: Piece | Ended) -> bytes:
        if isinstance(told, Piece):
            return self.shape.piece(told)
        error = failure(told)
        return self.shape.last(told) if error is None else event(error.body)
