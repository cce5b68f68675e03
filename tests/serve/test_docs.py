"""docs/serve.md: its flags exist, and its programs run."""

import json
import re

import pytest

from llmbook.cli.main import main
from llmbook.serve.bodies import ChatBody, CompletionBody
from llmbook.serve.server import Server
from tests.serve.served import Caller, tiny_chat, tool_server
from tests.support.repository import ROOT

PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_its_flags_are_those_of_the_command(capsys):
    assert main(["serve", "--help"]) == 0
    told = capsys.readouterr().out
    own = re.sub("`python -m [^`]*`", "", PAGE)  # other programs have flags of their own
    flags = set(re.findall(r"--[a-z][a-z-]+", own))
    assert len(flags) >= 10 and all(f"{flag} " in told for flag in flags), flags - set(told.split())
    for number in ("(8)", "(64)", "(1024)", "(600)", "(8000)"):
        assert number in told


def test_what_a_body_may_say_is_what_bodies_have():
    [sentence] = re.findall(r"What a body may say: (.*?)\. What would", PAGE)
    named = {name for name in re.findall(r"`([a-z_]+)(?:\.[a-z_]+)?`", sentence)}
    assert named | {"tools", "tool_choice"} == set(ChatBody.model_fields) | set(CompletionBody.model_fields)


def test_its_programs_run(capsys):
    pytest.importorskip("openai")
    with Server(*tiny_chat(), name="smollm2-135m-instruct", port=0, max_tokens=5) as server:
        exec(PROGRAMS[0].replace("http://127.0.0.1:8000", server.url), {})
        assert capsys.readouterr().out
        body = json.loads(re.search(r"-d '(.*?)'", PAGE).group(1))
        assert Caller(server).complete(**body)[0] == 200
    exec(PROGRAMS[1], {})
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")
    with tool_server() as server:
        exec(PROGRAMS[2].replace("http://127.0.0.1:8000", server.url), {})
    assert capsys.readouterr().out == "I count:  shells. I asked 347*28."
