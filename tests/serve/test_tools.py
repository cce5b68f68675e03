"""Calls of chapter 9's tools over HTTP: a whole round with OpenAI's client, and every request that cannot be."""

import json

import pytest

from llmbook.answer_checks import arithmetic
from llmbook.reasoning import Calculator
from llmbook.serve.answers import AnswerText, Kept
from llmbook.serve.tools import KNOWN_TOOLS, TaughtCalls, TaughtTool
from tests.serve.served import Caller, calls_once, events, tiny_chat, tool_server

ASK = [{"role": "user", "content": "How many shells are in 347 boxes of 28?"}]
CALCULATOR = {"type": "function", "function": {"name": "calculator", "description": "computes", "parameters": {
    "type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}}}
BY_NAME = {"type": "function", "function": {"name": "calculator"}}
CALL = {"role": "assistant", "content": "I count: ", "tool_calls": [
    {"id": "call_1", "type": "function", "function": {"name": "calculator", "arguments": '{"expression": "347*28"}'}}]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "9716"}


@pytest.fixture(scope="module")
def server():
    with tool_server() as running:
        yield running


@pytest.fixture(scope="module")
def caller(server):
    return Caller(server)


def hook(*tools) -> TaughtCalls:
    return TaughtCalls(tools or [*KNOWN_TOOLS.values()])


# --- a whole round -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", [None, "required", BY_NAME])
def test_a_whole_round_through_the_openai_client(server, stream, choice):
    openai = pytest.importorskip("openai")
    given = dict(model="caller", temperature=0, max_tokens=60, tools=[CALCULATOR])
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        def ask(messages, **more):
            if not stream:
                return client.chat.completions.create(messages=messages, **given, **more).choices[0]
            with client.chat.completions.stream(messages=messages, **given, **more) as events:
                return events.get_final_completion().choices[0]

        first = ask(ASK, **({"tool_choice": choice} if choice else {}))
        assert first.finish_reason == "tool_calls"
        assert (first.message.content or "") == ("" if choice else "I count: ")
        [call] = first.message.tool_calls
        assert (call.type, call.function.name) == ("function", "calculator") and call.id.startswith("call_")
        asked = json.loads(call.function.arguments)
        assert asked == {"expression": "347*28"}
        result = f"{arithmetic(asked['expression']):g}"
        said = {"role": "assistant", "content": first.message.content, "tool_calls": [
            {"id": call.id, "type": "function", "function": {"name": "calculator",
                                                             "arguments": call.function.arguments}}]}
        last = ask([*ASK, said, {"role": "tool", "tool_call_id": call.id, "content": result}])
    assert last.finish_reason == "stop" and last.message.content == " shells. I asked 347*28."
    begun = "" if choice else "I count: "
    read = server.engine.model.tokenizer.decode(server.engine.model.read[-1])
    assert read.endswith(f"<|im_start|>assistant\n{begun}<calc>347*28</calc>9716")


def test_the_model_is_told_which_tools_there_are(server, caller):
    system = {"role": "system", "content": "Be kind."}
    for messages, before in ((ASK, ""), ([system, *ASK], "Be kind.\n\n")):
        caller.chat(messages=messages, tools=[CALCULATOR])
        read = server.engine.model.tokenizer.decode(server.engine.model.read[-1])
        assert read.startswith(f"<|im_start|>system\n{before}You can call a tool")
        assert "calculator: computes. For example <calc>347*28</calc><|im_end|>" in read
    caller.chat(messages=ASK, tools=[{**CALCULATOR, "function": {**CALCULATOR["function"], "description": None}}])
    assert "calculator: works out arithmetic." in server.engine.model.tokenizer.decode(server.engine.model.read[-1])
    for free in (dict(tools=[CALCULATOR], tool_choice="none"), {}, dict(tools=[])):
        answer = caller.chat(messages=ASK, **free, max_tokens=100)[1]["choices"][0]
        assert answer["finish_reason"] == "stop" and answer["message"]["content"].endswith("which nobody computed")
        assert server.engine.model.tokenizer.decode(server.engine.model.read[-1]).startswith("<|im_start|>user")


def test_earlier_rounds_are_one_turn_each_as_the_model_was_taught(server, caller):
    answer = {"role": "assistant", "content": " shells."}
    again = [{**CALL, "content": "Again: "}, RESULT, answer, {"role": "user", "content": "And?"}]
    status, _ = caller.chat(messages=[*ASK, CALL, RESULT, *again], tools=[CALCULATOR])
    read = server.engine.model.tokenizer.decode(server.engine.model.read[-1])
    assert status == 200 and read.endswith(
        "<|im_start|>assistant\nI count: <calc>347*28</calc>9716Again: <calc>347*28</calc>9716 shells.<|im_end|>\n"
        "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n")
    assert caller.chat(messages=[*ASK, CALL, RESULT])[0] == 200  # without tools: what was called before is known
    assert "You can call" not in server.engine.model.tokenizer.decode(server.engine.model.read[-1])


@pytest.mark.parametrize("said, reason, pieces", [
    ("7 < 9 and <call me> " + "so it is " * 5 + "<calc>1+1</calc>", "tool_calls", 10), ("7 < 9 <cal", "stop", 3)])
def test_a_stream_tells_at_once_what_is_no_call(said, reason, pieces):
    body = {"messages": ASK, "tools": [CALCULATOR], "logprobs": True}
    with tool_server(lambda text: said) as server:
        text = Caller(server).ask("POST", "/v1/chat/completions", {**body, "stream": True})[1]
        whole = Caller(server).chat(**body, max_tokens=100)[1]["choices"][0]
    choices = [chunk["choices"][0] for chunk in events(text)[:-1]]
    parts = [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")]
    assert "".join(parts) == whole["message"]["content"] == said.partition("<calc>")[0] and len(parts) >= pieces
    assert choices[-1]["finish_reason"] == whole["finish_reason"] == reason
    scores = [token for choice in choices for token in (choice["logprobs"] or {}).get("content", [])]
    assert [one["token"] for one in scores] == [one["token"] for one in whole["logprobs"]["content"]]
    assert "".join(one["token"] for one in scores) == said


def test_an_unfinished_call_is_text():
    with tool_server(lambda text: "so <calc>1+1") as server:
        choice = Caller(server).chat(messages=ASK, tools=[CALCULATOR], max_tokens=50)[1]["choices"][0]
        assert choice["message"] == {"role": "assistant", "content": "so <calc>1+1", "refusal": None}
        assert choice["finish_reason"] == "stop"
    with tool_server() as server:
        choice = Caller(server).chat(messages=ASK, tools=[CALCULATOR], max_tokens=12)[1]["choices"][0]
        assert choice["finish_reason"] == "length" and "tool_calls" not in choice["message"]
        stopped = Caller(server).chat(messages=ASK, tools=[CALCULATOR], stop="347", max_tokens=50)[1]["choices"][0]
        assert stopped["message"]["content"] == "I count: <calc>" and stopped["finish_reason"] == "stop"


def test_a_mark_that_closes_nothing_is_text():
    assert hook().find("so 9</calc>", [CALCULATOR], None) == ("so 9</calc>", [])
    assert hook().find("<calc>1<calc>2</calc>", [CALCULATOR], None) == (
        "<calc>1", [{"name": "calculator", "arguments": {"expression": "2"}}])


# --- what is refused ---------------------------------------------------------------------------------------------

def function(**change) -> dict:
    return {"type": "function", "function": {**CALCULATOR["function"], **change}}


def called(**change) -> dict:
    [call] = CALL["tool_calls"]
    return {**CALL, "tool_calls": [{**call, "function": {**call["function"], **change}}]}


TOOL_ERRORS = [
    (dict(tools=[{"type": "retrieval"}]), "tools", "tools[0] is no function: give it the type"),
    (dict(tools=[{"type": "function", "function": "calculator"}]), "tools", "tools[0] is no function"),
    (dict(tools=[function(name="get_weather")]), "tools",
     'tools[0].function.name is "get_weather", which is not served here: this server knows calculator'),
    (dict(tools=[function(name=["x"])]), "tools", 'tools[0].function.name is ["x"], which'),
    (dict(tools=[CALCULATOR, CALCULATOR]), "tools", "tools[1].function.name is 'calculator' for the second time"),
    (dict(tools=[function(parameters=None)]), "tools", "tools[0].function.parameters has the properties []: give one"),
    (dict(tools=[function(parameters={"properties": {"a": {}, "b": {}}})]), "tools", 'has the properties ["a", "b"]'),
    (dict(tools=[function(parameters={"properties": {"a": {"type": "number"}}})]), "tools",
     'tools[0].function.parameters.properties.a has the type "number": give "string"'),
    (dict(tools=[function(parameters={"properties": {"a": 5}})]), "tools", "properties.a has the type null"),
    (dict(tool_choice="often"), "tool_choice", 'tool_choice is "often": it must be none, auto, required, or a'),
    (dict(tool_choice={"type": "function"}), "tool_choice", "it must be none, auto, required, or a function with"),
    (dict(tool_choice={"type": "function", "function": {"name": "other"}}), "tool_choice",
     'tool_choice is the function "other" and the tools are calculator: offer it in tools'),
    (dict(tool_choice=BY_NAME, tools=None), "tool_choice",
     'tool_choice is the function "calculator" and the tools are none: offer it in tools'),
    (dict(tool_choice="required", tools=[]), "tool_choice", 'tool_choice is "required" and the tools are none'),
    (dict(messages=[*ASK, {**CALL, "tool_calls": CALL["tool_calls"] * 2}, RESULT]), "messages",
     "messages[1].tool_calls has 2 calls, and this model makes one at a time: give each"),
    (dict(messages=[*ASK, {**CALL, "tool_calls": "x"}, RESULT]), "messages", 'messages[1].tool_calls is "x": send it'),
    (dict(messages=[*ASK, {**CALL, "tool_calls": [{"function": {}}]}, RESULT]), "messages",
     "messages[1].tool_calls[0] is {"),
    (dict(messages=[*ASK, called(name="other"), RESULT]), "messages",
     'messages[1].tool_calls[0].function.name is "other", which is not served here'),
    *((dict(messages=[*ASK, called(arguments=arguments), RESULT]), "messages",
       "messages[1].tool_calls[0].function.arguments is ") for arguments in (
           "347*28", '{"expression": 5}', '["347*28"]', "{}", '{"a": "1", "b": "2"}', {"expression": "1"}, None)),
    (dict(messages=[*ASK, RESULT]), "messages", "messages[1] is a result, and no call stands before it: send"),
    (dict(messages=[*ASK, CALL, {"role": "user", "content": "x"}]), "messages",
     'messages[2] comes where the result of the call "call_1" of messages[1] must stand'),
    (dict(messages=[*ASK, CALL, CALL, RESULT]), "messages", 'messages[2] comes where the result of the call "call_1"'),
    (dict(messages=[*ASK, CALL, {**RESULT, "tool_call_id": "call_2"}]), "messages",
     'messages[2].tool_call_id is "call_2", and the call before it has "call_1"'),
    (dict(messages=[*ASK, CALL, {"role": "tool", "content": "9716"}]), "messages",
     "messages[2].tool_call_id is null"),
    (dict(messages=[*ASK, CALL, RESULT, RESULT]), "messages", "messages[3] is a result, and no call stands before it"),
]


@pytest.mark.parametrize("body, param, message", TOOL_ERRORS, ids=range(len(TOOL_ERRORS)))
def test_what_cannot_be_is_said_in_one_line(caller, body, param, message):
    status, answer = caller.chat(**{"messages": ASK, "tools": [CALCULATOR], **body})
    error = answer["error"]
    assert status == 400 and message in error["message"] and "\n" not in error["message"]
    assert error["param"] == param and error["type"] == "invalid_request_error"


def test_two_tools_have_marks_of_their_own():
    class Clock(Calculator):
        opening, closing = "<time>", "</time>"

    calculator, clock = KNOWN_TOOLS["calculator"], TaughtTool("clock", Clock(), "tells the time", "in London")
    both = hook(calculator, clock)
    asked = [CALCULATOR, function(name="clock", parameters={"properties": {"place": {"type": "string"}}})]
    assert both.begins(asked, "auto") == ("<calc>", "<time>") and both.ends(asked) == ("</calc>", "</time>")
    assert both.find("<time>here</time>", asked, "auto") == ("", [{"name": "clock", "arguments": {"place": "here"}}])
    assert both.find("<time>here</time>", asked[:1], "auto") == ("<time>here</time>", [])
    with pytest.raises(ValueError, match='tool_choice is "required" and the tools are calculator, clock: offer one'):
        both.show(ASK, asked, "required")
    for tools in ([], [calculator, calculator], [calculator, TaughtTool("other", Calculator(), "", "")]):
        with pytest.raises(ValueError, match="give at least one, and each a name and two marks of its own"):
            TaughtCalls(tools)


def test_without_a_hook_a_choice_of_a_tool_is_refused_too():
    with tool_server(tools=None) as server:
        for body in (dict(tools=[CALCULATOR]), dict(tool_choice="required"), dict(messages=[*ASK, CALL, RESULT])):
            status, answer = Caller(server).chat(**body)
            assert status == 400 and "caller is served without tools: leave tools" in answer["error"]["message"]
        assert Caller(server).chat(tools=[CALCULATOR], tool_choice="none")[0] == 200


def test_a_string_that_is_kept_ends_an_answer_and_stays():
    tokenizer = tiny_chat()[1]
    for stops, said in (((Kept("</c>"),), "a <c>1</c>"), ((Kept("</c>"), "1"), "a <c>"), (("</c>",), "a <c>1")):
        text = AnswerText(tokenizer, stops=stops)
        pieces = [text.push(token) for token in tokenizer.encode("a <c>1</c> and more") if not text.stopped]
        assert "".join(piece.text for piece in pieces if piece) == said and text.stopped and text.finish() is None


def test_what_the_stub_says_is_what_the_tests_take_it_to_say():
    assert calls_once("<|im_start|>assistant\n").startswith("I count: <calc>347*28</calc>")
