"""`llmbook serve` as a program: it says where it is, answers, and ends cleanly with Ctrl-C."""

import json
import os
import re
import signal
import socket
import sys
import urllib.request

import pytest

from llmbook.cli.main import main
from tests.cli.helpers import start
from tests.cli.test_chat import Terminal


@pytest.fixture
def quiet(monkeypatch):
    """`Server.run` returns at once; returns what servers were made with."""
    from llmbook.serve import server

    made = []
    real = server.Server.__init__

    def make(self, *arguments, **settings):
        made.append((arguments, settings))
        real(self, *arguments, **settings)

    monkeypatch.setattr(server.Server, "__init__", make)
    monkeypatch.setattr(server.Server, "run", lambda self: self._socket.close())
    return made


def ask(url: str, body: object, **headers: str) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_and_a_signal_ends_it(chat_model, number):
    process = start("serve", "--model", str(chat_model), "--port", "0", LLMBOOK_API_KEY="s3cret")
    try:
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+(?=/v1)", line).group()
        assert line == (f"chat is served at {url} (open it in a browser) and {url}/v1 (OpenAI's protocol). "
                        "Ctrl-C ends it.\n")
        answer = ask(f"{url}/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}],
                                                    "max_tokens": 4}, Authorization="Bearer s3cret")
        assert answer["model"] == "chat" and answer["usage"]["completion_tokens"] <= 4
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert (out, err) == ("", "")
        assert process.returncode == (0 if number == signal.SIGINT else -number)
    finally:
        process.kill()
        process.wait()
    with socket.create_server(("127.0.0.1", int(url.rsplit(":", 1)[1]))):
        pass


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_ends_it_while_it_answers(chat_model):
    terminal = Terminal(sys.executable, "-m", "llmbook", "serve", "--model", str(chat_model), "--port", "0")
    url = re.search(r"http://127\.0\.0\.1:\d+", terminal.wait_for(r"Ctrl-C ends it\.")).group()
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps({
        "prompt": "the", "stream": True, "max_tokens": 100}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.readline().startswith(b"data: ")
        terminal.type("\x03")
        assert terminal.end() == 0


def test_flags_reach_the_server(chat_model, call, quiet):
    code, out, err = call("serve", "--model", chat_model, "--port", 0, "--rows", 3, "--waiting", 5, "--max-tokens", 70,
                          "--context", 90, "--seconds", 9, "--api-key", "k", "--allow-origin", "https://a.example",
                          "--allow-host", "b.example")
    [(arguments, settings)] = quiet
    assert (code, err) == (0, "") and "is served at http://127.0.0.1:" in out and "may ask" not in out
    assert arguments[2:] == ("chat", "127.0.0.1", 0, 3, 5)
    assert settings == {"context": 90, "allow_hosts": ["b.example"], "max_tokens": 70, "seconds": 9.0,
                        "origins": ("https://a.example",), "api_key": "k", "begin": (), "tools": None}


def test_tools_are_offered_by_their_names(chat_model, call, quiet):
    assert call("serve", "--model", chat_model, "--port", 0, "--tools", "calculator", "--tools", "calculator")[0] == 0
    assert list(quiet[0][1]["tools"].tools) == ["calculator"]


@pytest.mark.parametrize("model, tool, message", [
    (None, "browser", "--tools is 'browser': it must be calculator"),
    ("storyteller", "calculator", "--tools needs a model that converses, and storyteller only goes on with texts"),
])
def test_tools_that_cannot_be_are_refused_in_one_line(chat_model, call, quiet, model, tool, message):
    code, out, err = call("serve", "--model", model or chat_model, "--port", 0, "--tools", tool)
    assert (code, out, quiet) == (2, "", []) and err.count("\n") == 1 and message in err


def test_whoever_serves_everybody_is_told_so(chat_model, call, quiet):
    out = call("serve", "--model", chat_model, "--port", 0, "--host", "0.0.0.0")[1]
    assert "Whoever can reach this machine may ask: --api-key" in out
    assert "may ask" not in call("serve", "--model", chat_model, "--port", 0, "--host", "0.0.0.0", "--api-key", "k")[1]


def test_texts_of_the_storyteller_begin_as_it_was_trained(call, quiet):
    assert call("serve", "--model", "storyteller", "--port", 0)[0] == 0
    assert quiet[0][1]["begin"] == (quiet[0][0][1].eot_token,) and quiet[0][0][2] == "storyteller"


def test_a_port_that_is_taken_is_said_in_one_line(chat_model, call):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = call("serve", "--model", chat_model, "--port", port)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert f"127.0.0.1:{port} cannot be listened on" in err and "give another port, or 0 for any" in err


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_the_extra_one_line_says_how_to_install_it(monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["serve"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"needs the package {package}" in err and 'pip install "llmbook[serve]"' in err


def test_a_key_in_the_environment_is_taken_unless_one_is_given(chat_model, call, quiet, monkeypatch):
    monkeypatch.setitem(os.environ, "LLMBOOK_API_KEY", "env")
    call("serve", "--model", chat_model, "--port", 0)
    call("serve", "--model", chat_model, "--port", 0, "--api-key", "flag")
    assert [settings["api_key"] for _, settings in quiet] == ["env", "flag"]
