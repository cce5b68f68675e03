"""Who may ask: the names under which the server is called, pages of other sites, and the key.

A page of any site can make its reader's browser send requests to 127.0.0.1. Three things keep it from using the server:
a request with a foreign `Origin` is refused; a body must say that it is JSON, which no page may send elsewhere without
asking first, and the server answers no such question; and a name that a stranger's DNS points here ("rebinding") is not
taken for the server's own.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from .bodies import ApiError

__all__ = ["Gate", "host_of"]

Scope = MutableMapping[str, Any]
Reject = Callable[[ApiError], Any]


class Gate:
    """An ASGI application around another one.

    Args:
        app: what is called for requests that may pass.
        reject: makes the ASGI response of an error.
        hosts: names that may stand in `Host`, without the port; None for any.
        origins: pages of other sites that may ask, such as "https://example.org".
        api_key: needed for everything under /v1, as `Authorization: Bearer KEY`; None for none.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], reject: Reject, hosts: Collection[str] | None = None,
                 origins: Collection[str] = (), api_key: str | None = None):
        self.app, self.reject = app, reject
        self.hosts = None if hosts is None else {name.lower() for name in hosts}
        self.origins, self._key = set(origins), None if api_key is None else _digest(api_key.encode())

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            self._check(scope)
        except ApiError as error:
            return await self.reject(error)(scope, receive, send)
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = {name: value for name, value in reversed(scope["headers"])}
        host = headers.get(b"host", b"").decode("latin-1")
        if self.hosts is not None and host_of(host) not in self.hosts:
            raise ApiError(403, f"the host {host!r} is not served: call {min(self.hosts)}, or start the server with "
                           "--allow-host", code="host_not_allowed")
        origin = headers.get(b"origin")
        if origin is not None:
            text = origin.decode("latin-1")
            if text not in self.origins and urlsplit(text).netloc.lower() != host.lower():
                raise ApiError(403, f"pages of {text!r} may not ask: start the server with --allow-origin",
                               code="origin_not_allowed")
        asks_before = scope["method"] == "OPTIONS"  # without the key: that is how browsers ask
        if self._key is not None and scope["path"].startswith("/v1") and not asks_before:
            given = headers.get(b"authorization", b"")
            right = hmac.compare_digest(_digest(given.removeprefix(b"Bearer ")), self._key)
            if not (right and given.startswith(b"Bearer ")):
                raise ApiError(401, "the API key is missing or wrong: send it as Authorization: Bearer KEY",
                               code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _digest(key: bytes) -> bytes:
    """Of equal length for all keys, so that comparing tells nothing of it."""
    return hashlib.sha256(key).digest()


def host_of(header: str) -> str:
    """The name in a `Host` header, without the port: "[::1]:8000" -> "::1"."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if header.count(":") == 1 else header.lower()
