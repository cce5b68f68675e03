"""What the tests of the server share: a tiny model that chats, and a client that sees everything."""

import http.client
import json
from contextlib import closing

import torch

from llmbook.llama import Llama, LlamaConfig
from llmbook.serve.server import Server
from llmbook.serve.tools import KNOWN_TOOLS, TaughtCalls
from llmbook.text import train_bpe
from tests.cli.helpers import STORY
from tests.support.scripted import Scripted

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


class ToldToCall(Scripted):
    """Says what `answer` makes of the text that it read. It knows no prefix that was read before."""

    def __init__(self, answer, context_length: int = 700):
        self.tokenizer = train_bpe(STORY, VOCABULARY, ("<|im_start|>", "<|im_end|>", "<|endoftext|>"))
        super().__init__(context_length, VOCABULARY)
        self.answer = answer

    def hidden_states(self, token_ids, cache=None):
        hidden = super().hidden_states(token_ids, cache)
        if token_ids.shape[1] > 1:
            text = self.tokenizer.decode(self.held)
            said = self.answer(text) + "<|im_end|>"
            self.says = self.tokenizer.encode(said, allowed_special="all")
        return hidden

    def lm_head(self, hidden):
        return 100 * super().lm_head(hidden)  # sure of it, at any temperature


def calls_once(text: str) -> str:
    """A model that asks the calculator, and then says what came back."""
    *_, turn = text.split("<|im_start|>assistant\n")
    before, mark, result = turn.partition("</calc>")
    if mark:
        return f" shells. I asked {before.rpartition('<calc>')[2]}."
    opened = "" if turn.endswith("<calc>") else "I count: <calc>"
    return f"{opened}347*28</calc>1, which nobody computed"


def tool_server(answer=calls_once, **settings) -> Server:
    model = ToldToCall(answer)
    return Server(model, model.tokenizer, name="caller", port=0, prefix_bytes=0,
                  **{"tools": TaughtCalls([*KNOWN_TOOLS.values()]), **settings})
