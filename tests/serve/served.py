"""What the tests of the server share: a tiny model that chats, and a client that sees everything."""

import http.client
import json
from contextlib import closing

import torch

from llmbook.llama import Llama, LlamaConfig
from llmbook.serve.server import Server
from llmbook.text import train_bpe
from tests.cli.helpers import STORY

VOCABULARY, CONTEXT = 310, 128


def tiny_chat():
    """A model of random weights, and a tokenizer with the special tokens of a chat."""
    torch.manual_seed(0)
    model = Llama(LlamaConfig(VOCABULARY, CONTEXT, 32, 4, 2, 2, 64)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model, train_bpe(STORY, VOCABULARY, ("<|im_start|>", "<|im_end|>", "<|endoftext|>"))


class Caller:
    """Requests to a server, each on a connection of its own."""

    def __init__(self, server: Server):
        self.url, (self.host, self.port) = server.url, server.url.removeprefix("http://").rsplit(":", 1)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, int(self.port), timeout=60)

    def ask(self, method: str, path: str, body=None, headers=None) -> tuple[int, object, http.client.HTTPMessage]:
        """(status, the JSON or text of the answer, headers). A body that is not bytes is sent as JSON."""
        content = body if isinstance(body, bytes | type(None)) else json.dumps(body).encode()
        given = {"Content-Type": "application/json", **(headers or {})}
        with closing(self.connect()) as connection:
            connection.request(method, path, content, {key: value for key, value in given.items() if value})
            response = connection.getresponse()
            text = response.read().decode()
        json_comes = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(text) if json_comes else text, response.headers

    def chat(self, **body) -> tuple[int, object]:
        return self.ask("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}],
                                                         "max_tokens": 8, **body})[:2]

    def complete(self, **body) -> tuple[int, object]:
        return self.ask("POST", "/v1/completions", {"prompt": "the sea", "max_tokens": 8, **body})[:2]


def events(text: str) -> list[object]:
    """The content of server-sent events; the last is the word that ends them."""
    parts = text.split("\n\n")
    assert parts.pop() == "" and all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [json.loads(part[6:]) if part != "data: [DONE]" else "[DONE]" for part in parts]
