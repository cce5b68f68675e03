"""A local model as judge: what it is asked, what counts as a mark, and one line for whatever else comes back."""

import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llmbook.judges import OllamaJudge


class StandIn:
    """Ollama's /api/chat as far as the judge needs it: notes requests, answers what `status` and `body` say."""

    def __init__(self):
        self.requests, self.status, self.body, self.waits = [], 200, b"", threading.Event()
        self.waits.set()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                content = self.rfile.read(int(self.headers["Content-Length"]))
                stand_in.requests.append((self.path, self.headers["Content-Type"], json.loads(content)))
                stand_in.waits.wait(10)
                try:
                    self.send_response(stand_in.status)
                    self.send_header("Content-Length", str(len(stand_in.body)))
                    self.end_headers()
                    self.wfile.write(stand_in.body)
                except OSError:  # nobody waits for the answer any more
                    pass

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def says(self, content, status: int = 200) -> None:
        message = {"model": "judge:1b", "message": {"role": "assistant", "content": content}, "done": True}
        self.status, self.body = status, json.dumps(message).encode()


@pytest.fixture
def ollama(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    stand_in = StandIn()
    thread = threading.Thread(target=stand_in.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield stand_in
    stand_in.waits.set()
    stand_in.server.shutdown()
    stand_in.server.server_close()
    thread.join()


ENTRY = {"instruction": "Name the colour.", "input": "A ripe tomato.", "output": "Red, as a rule."}


def test_the_judge_asks_for_one_mark_of_one_response(ollama):
    ollama.says("85")
    assert OllamaJudge("judge:1b", ollama.url).mark(ENTRY, "It is blüe.") == 85
    [(path, kind, body)] = ollama.requests
    assert (path, kind) == ("/api/chat", "application/json")
    assert body["model"] == "judge:1b" and body["stream"] is False and body["options"]["temperature"] == 0
    [message] = body["messages"]
    places = [message["content"].index(part) for part in (
        "Task:\nName the colour.\n\nA ripe tomato.\n", "Model answer:\nRed, as a rule.\n",
        "Answer to mark:\nIt is blüe.\n", "100")]
    assert message["role"] == "user" and places == sorted(places)
    OllamaJudge("judge:1b", ollama.url + "/").mark({**ENTRY, "input": ""}, "Red")
    assert ollama.requests[1][0] == "/api/chat"
    assert ollama.requests[1][2]["messages"][0]["content"].startswith("Task:\nName the colour.\n\nModel answer:\n")


@pytest.mark.parametrize("content, mark", [("0", 0), ("100", 100), (" 7\n", 7), ("I give it 62.", 62),
                                           ("85/100", 85), ("**90**", 90), (30, 30)])
def test_the_first_number_is_the_mark(ollama, content, mark):
    ollama.says(content)
    found = OllamaJudge("judge:1b", ollama.url).mark(ENTRY, "Red")
    assert found == mark and type(found) is int


@pytest.mark.parametrize("content", ["very good", "", "101", "1000 of 100", "first 50, then 60", "100.5", None])
def test_an_answer_without_a_mark_is_named(ollama, content):
    ollama.says(content)
    message = f"judge:1b answered {str(content)!r} instead of one number from 0 to 100: try a larger model"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        OllamaJudge("judge:1b", ollama.url).mark(ENTRY, "Red")


def test_a_negative_number_is_no_mark(ollama):
    ollama.says("-5")
    with pytest.raises(ValueError, match="instead of one number from 0 to 100"):
        OllamaJudge("judge:1b", ollama.url).mark(ENTRY, "Red")


@pytest.mark.parametrize("status", [404, 400, 500])
def test_ollama_s_own_reason_is_shown(ollama, status):
    ollama.status, ollama.body = status, json.dumps({"error": 'model "judge:1b" not found'}).encode()
    with pytest.raises(ConnectionError) as caught:
        OllamaJudge("judge:1b", ollama.url).mark(ENTRY, "Red")
    found = str(caught.value)
    assert f"Ollama refused ({status})" in found and "not found" in found and "ollama pull judge:1b" in found
    assert "\n" not in found


@pytest.mark.parametrize("body", [b"", b'{"message": ', b"<html>hello</html>", b"\xff\xfe", b"[]", b"3", b"{}",
                                  b'{"message": "50"}', b'{"message": {}}', b'{"response": "50"}'])
def test_a_reply_that_is_not_ollama_s_is_an_error(ollama, body):
    ollama.body = body
    with pytest.raises(ConnectionError, match=f"^no answer from Ollama at {ollama.url} "):
        OllamaJudge("judge:1b", ollama.url).mark(ENTRY, "Red")


def test_a_server_that_is_too_slow_is_an_error(ollama):
    ollama.says("85")
    ollama.waits.clear()
    with pytest.raises(ConnectionError, match=f"^no answer from Ollama at {ollama.url} .*timed out"):
        OllamaJudge("judge:1b", ollama.url, timeout=0.2).mark(ENTRY, "Red")


def test_no_server_is_an_error(monkeypatch):
    monkeypatch.delenv("http_proxy", raising=False)
    with socket.socket() as free:  # bound, but not listening
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"^no answer from Ollama at {url} .*: start it with `ollama serve`"):
            OllamaJudge("judge:1b", url).mark(ENTRY, "Red")


@pytest.mark.parametrize("url", ["localhost:11434", "", "file:///etc/passwd", "ftp://localhost"])
def test_a_judge_s_url_must_be_one_of_http(url):
    with pytest.raises(ValueError, match=f"^url is {url!r}: it must begin with http:// or https://$"):
        OllamaJudge("judge:1b", url)
    assert OllamaJudge("judge:1b").url == "http://localhost:11434" and OllamaJudge("j", "https://a/").url == "https://a"
