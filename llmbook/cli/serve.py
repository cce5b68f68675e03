"""`llmbook serve`: let programs and browsers talk with a model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .errors import UsageError

if TYPE_CHECKING:
    from ..serve.tools import TaughtCalls

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Serve until the process is interrupted; returns the exit code."""
    from ..extras import load_extra

    for package in ("starlette", "uvicorn"):
        load_extra(package, "serve")
    origins = tuple(arguments.allow_origin or ())
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
            raise UsageError(f"--allow-origin is {origin!r}: give the beginning of an address, such as "
                             "https://example.org, and nothing after it")
    key = os.environ.get("LLMBOOK_API_KEY") if arguments.api_key is None else arguments.api_key
    if key is not None and (not key.strip() or not key.isascii() or not key.isprintable()):
        raise UsageError("the API key is empty, or not plain letters and digits: give another --api-key or "
                         "LLMBOOK_API_KEY, or none")
    from .models import begins_with_end
    from .writers import open_writer

    model, tokenizer = open_writer(arguments)
    from ..serve.server import Server
    from ..text import END_OF_TEXT

    begin = ()
    if begins_with_end(arguments.model) and END_OF_TEXT in tokenizer.special_tokens_set:
        begin = tuple(tokenizer.encode(END_OF_TEXT, allowed_special="all")[-1:])
    name = Path(arguments.model).name or arguments.model
    tools = _tools(arguments.tools, tokenizer, name)
    try:
        server = Server(model, tokenizer, name, arguments.host, arguments.port, arguments.rows, arguments.waiting,
                        context=arguments.context, allow_hosts=arguments.allow_host or (),
                        max_tokens=arguments.max_tokens, seconds=arguments.seconds, origins=origins, api_key=key,
                        begin=begin, tools=tools)
    except ValueError as error:
        raise UsageError(str(error).replace("context is", "--context is")) from None
    print(f"{name} is served at {server.url} (open it in a browser) and {server.url}/v1 (OpenAI's protocol). "
          "Ctrl-C ends it.", flush=True)
    if not server.loopback and key is None:
        print("Whoever can reach this machine may ask: --api-key, or LLMBOOK_API_KEY, lets in only those who know it.",
              flush=True)
    server.run()
    return 0


def _tools(names: Sequence[str] | None, tokenizer: Any, model: str) -> TaughtCalls | None:
    """How the model calls the tools of these names, None if there are none."""
    if not names:
        return None
    from ..formats.chat_templates import chat_template
    from ..serve.tools import KNOWN_TOOLS, TaughtCalls

    for name in names:
        if name not in KNOWN_TOOLS:
            raise UsageError(f"--tools is {name!r}: it must be {' or '.join(KNOWN_TOOLS)}")
    try:
        chat_template(tokenizer)
    except ValueError:
        raise UsageError(f"--tools needs a model that converses, and {model} only goes on with texts: leave it out, or "
                         "serve another model") from None
    return TaughtCalls([KNOWN_TOOLS[name] for name in dict.fromkeys(names)])
