"""A model at an address: the engine, the application and uvicorn, from the first request to the end.

    with Server(*load_pretrained("storyteller"), name="storyteller", port=0) as server:
        print(server.url)  # any client of OpenAI's protocol, or a browser
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import uvicorn
from torch import nn

from .app import ServerSettings, make_app
from .engine import Engine

__all__ = ["LOOPBACK", "Server"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEADER_BYTES = 65536
_GRACE = 5  # seconds for what is still being sent at the end


class Server:
    """Serves a model over HTTP. A context manager: it answers in the background until the `with` ends; `run` answers in
    the foreground until Ctrl-C.

    Args:
        model, tokenizer: as `load_pretrained` gives them. name: what clients call the model.
        host: an address or name of this machine. Only programs on it can reach the loopback, 127.0.0.1; with others,
            everybody who can reach this machine may ask, so give an api_key.
        port: 0 takes any that is free.
        rows, waiting, prefix_bytes, context: see `llmbook.serve.engine.Engine`.
        allow_hosts: further names under which the server is called. On the loopback no other name is taken for it.
        settings: further ones of `llmbook.serve.app.ServerSettings`.

    Attributes:
        url: "http://127.0.0.1:8000". engine: the thread that decodes.

    Raises ValueError for a place where no server can be, with the reason, and as `Engine`.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, name: str = "llmbook", host: str = "127.0.0.1",
                 port: int = 8000, rows: int = 8, waiting: int = 64, prefix_bytes: int = 2**28,
                 context: int | None = None, allow_hosts: Sequence[str] = (), **settings: Any):
        self.engine = Engine(model, tokenizer, rows, waiting, prefix_bytes, context)
        self._socket = open_socket(host, port)
        address, port = self._socket.getsockname()[:2]
        self.loopback = ipaddress.ip_address(address).is_loopback
        self.url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
        hosts = (*LOOPBACK, host, address, *allow_hosts) if self.loopback else None
        app = make_app(self.engine, ServerSettings(name, hosts=hosts, **settings))
        config = uvicorn.Config(app, http="h11", ws="none", loop="asyncio", lifespan="off", log_config=None,
                                access_log=False, server_header=False, proxy_headers=False,
                                timeout_graceful_shutdown=_GRACE, h11_max_incomplete_event_size=_HEADER_BYTES)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what a reader must know, the command says
        self._uvicorn = _Uvicorn(config, self.engine)
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Answer until the process is interrupted (Ctrl-C, which ends it cleanly) or told to end."""
        with self.engine, closing(self._socket):
            try:
                self._uvicorn.run(sockets=[self._socket])
            except KeyboardInterrupt:
                pass

    def __enter__(self) -> Server:
        self.engine.__enter__()
        self._thread = threading.Thread(target=self._uvicorn.run, kwargs={"sockets": [self._socket]},
                                        name="llmbook-server", daemon=True)
        self._thread.start()
        while not self._uvicorn.started and self._thread.is_alive():
            time.sleep(0.005)
        return self

    def __exit__(self, *_: Any) -> None:
        self.engine.close()  # streams end, and so do their connections
        self._uvicorn.should_exit = True
        if self._thread is not None:
            self._thread.join()
        self._socket.close()
        self.engine.__exit__()


class _Uvicorn(uvicorn.Server):
    """A uvicorn that tells the engine when the process is to end: else it would wait for all answers."""

    def __init__(self, config: uvicorn.Config, engine: Engine):
        super().__init__(config)
        self.engine = engine

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.engine.close()
        super().handle_exit(sig, frame)


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ValueError with what to change."""
    if not 0 <= port <= 65535:
        raise ValueError(f"the port is {port}: it must be 0 (any that is free) to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise ValueError(f"the host {host!r} is not known here: give 127.0.0.1, or 0.0.0.0 for all addresses of this "
                         "machine") from None
    try:
        return socket.create_server(address[:2], family=family)
    except PermissionError:
        raise ValueError(f"the port {port} is for the system alone: take one from 1024 on") from None
    except OSError as error:
        remedy = "another host: 127.0.0.1 always is" if "assign" in str(error) else "another port, or 0 for any"
        raise ValueError(f"{host}:{port} cannot be listened on ({error.strerror}): give {remedy}") from None
