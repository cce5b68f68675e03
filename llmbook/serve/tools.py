"""Chapter 9's tools in OpenAI's protocol: what a model is told of them, the calls in what it says, and their results.

The model writes a call as a text between two marks, and the result behind it: `<calc>347*28</calc>9716`. In the
protocol the same call is the name of a function with arguments in JSON. The client carries it out and sends the result
as a message of the role "tool". That result becomes the text behind the second mark, and the model goes on from there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..reasoning import Calculator, Tool
from .bodies import terse

__all__ = ["KNOWN_TOOLS", "TaughtCalls", "TaughtTool"]


@dataclass(frozen=True)
class TaughtTool:
    """A tool under the name that requests give it.

    Args:
        name: of the function in the protocol.
        tool: its marks are what a model writes; the server never calls it, since that is the client's part.
        about: what the model is told of it, unless the request describes it. example: a text that it is asked.
    """

    name: str
    tool: Tool
    about: str
    example: str


KNOWN_TOOLS = {"calculator": TaughtTool("calculator", Calculator(), "works out arithmetic", "347*28")}
"""Name -> tool: those that this book teaches."""


class TaughtCalls:
    """A `llmbook.serve.protocol.ToolHook` for models that were taught to call as in chapter 9, one call at a time.

    A function in a request must have the name of one of the tools, and one parameter, a text.

    Args: tools: that the model knows. Raises ValueError if there is none, or two have the same name or marks.
    """

    def __init__(self, tools: Sequence[TaughtTool]):
        self.tools = {one.name: one for one in tools}
        marks = {mark for one in tools for mark in (one.tool.opening, one.tool.closing)}
        if not tools or len(self.tools) < len(tools) or len(marks) < 2 * len(tools) or "" in marks:
            raise ValueError(f"the tools are {[one.name for one in tools]}: give at least one, and each a name and two "
                             "marks of its own")

    def show(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]],
             choice: Any) -> list[dict[str, Any]]:
        """See `ToolHook`. The tools are described at the end of the system message; a call that `choice` demands is
        begun for the model."""
        offered = self._offered(tools)
        forced = self._forced(offered, choice)
        told = self._as_taught(messages)
        if offered:
            told = _with_system(told, self._description(offered, tools))
        if forced is not None:
            if told[-1]["role"] != "assistant":
                told.append({"role": "assistant", "content": ""})
            told[-1]["content"] += forced.tool.opening
        return told

    def begins(self, tools: Sequence[Mapping[str, Any]], choice: Any) -> tuple[str, ...]:
        """See `ToolHook`: the marks that open a call."""
        offered = self._offered(tools)
        if self._forced(offered, choice) is not None:
            return ("",)  # the answer goes on within a call
        return tuple(self.tools[name].tool.opening for name in offered)

    def ends(self, tools: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        """See `ToolHook`: the marks that close a call."""
        return tuple(self.tools[name].tool.closing for name in self._offered(tools))

    def find(self, text: str, tools: Sequence[Mapping[str, Any]], choice: Any) -> tuple[str, list[dict[str, Any]]]:
        """See `ToolHook`. A call ends the text; an unfinished one is no call."""
        offered = self._offered(tools)
        forced = self._forced(offered, choice)
        whole = text if forced is None else forced.tool.opening + text
        for name, argument in offered.items():
            tool = self.tools[name].tool
            if whole.endswith(tool.closing):
                before, opening, asked = whole.removesuffix(tool.closing).rpartition(tool.opening)
                if opening:
                    return before, [{"name": name, "arguments": {argument: asked}}]
        return text, []

    # --- what a request offers ---------------------------------------------------------------------------------------

    def _offered(self, tools: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """The names of a request's functions, each with the name of its parameter."""
        offered: dict[str, str] = {}
        for number, one in enumerate(tools):
            place, function = f"tools[{number}]", one.get("function")
            if one.get("type") != "function" or not isinstance(function, Mapping):
                raise ValueError(f"{place} is no function: give it the type \"function\" and a function with a name")
            name = self._known(f"{place}.function.name", function.get("name"))
            if name in offered:
                raise ValueError(f"{place}.function.name is {name!r} for the second time: leave it out")
            offered[name] = _parameter(f"{place}.function.parameters", function.get("parameters"))
        return offered

    def _known(self, place: str, name: Any) -> str:
        if not isinstance(name, str) or name not in self.tools:
            raise ValueError(f"{place} is {terse(name)}, which is not served here: this server knows "
                             f"{', '.join(self.tools)}")
        return name

    def _forced(self, offered: Mapping[str, str], choice: Any) -> TaughtTool | None:
        """The tool that the answer must call."""
        if choice in (None, "auto", "none"):
            return None
        names = ", ".join(offered) or "none"
        if choice == "required":
            if len(offered) != 1:
                raise ValueError(f"tool_choice is \"required\" and the tools are {names}: offer one, or choose one by "
                                 "its name")
            return self.tools[next(iter(offered))]
        function = choice.get("function") if isinstance(choice, Mapping) and choice.get("type") == "function" else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if name is None:
            raise ValueError(f"tool_choice is {terse(choice)}: it must be none, auto, required, or a function with a "
                             "name")
        if name not in offered:
            raise ValueError(f"tool_choice is the function {terse(name)} and the tools are {names}: offer it in tools,"
                             " or choose another")
        return self.tools[name]

    def _description(self, offered: Mapping[str, str], tools: Sequence[Mapping[str, Any]]) -> str:
        lines = ["You can call a tool: write what you ask it between its marks, and the result follows."]
        for one in tools:
            known = self.tools[one["function"]["name"]]
            about = one["function"].get("description") or known.about
            lines.append(f"{known.name}: {about}. For example {known.tool.opening}{known.example}{known.tool.closing}")
        return "\n".join(lines)

    # --- what was said before ----------------------------------------------------------------------------------------

    def _as_taught(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The messages with each call, its result and what followed in one turn of the assistant."""
        told: list[dict[str, Any]] = []
        waiting: str | None = None  # the id of a call whose result must come next
        after_result = False
        for number, message in enumerate(messages):
            place, role, text = f"messages[{number}]", message["role"], message["content"]
            if (role == "tool") != (waiting is not None):
                raise ValueError(_out_of_order(place, number, waiting))
            if role == "tool":
                if message.get("tool_call_id") != waiting:
                    raise ValueError(f"{place}.tool_call_id is {terse(message.get('tool_call_id'))}, and the call "
                                     f"before it has {terse(waiting)}: send the result of that one")
                told[-1]["content"] += text
                waiting, after_result = None, True
                continue
            if role == "assistant" and message.get("tool_calls"):
                call, waiting = self._call(place, message["tool_calls"])
                text += call
            if role == "assistant" and after_result:
                told[-1]["content"] += text
            else:
                told.append({"role": role, "content": text})
            after_result = False
        if waiting is not None:
            raise ValueError(_out_of_order("the end", len(messages), waiting))
        return told

    def _call(self, place: str, calls: Any) -> tuple[str, str]:
        """A message's call as the model would write it, and its id."""
        if not isinstance(calls, list) or not all(isinstance(one, Mapping) for one in calls):
            raise ValueError(f"{place}.tool_calls is {terse(calls)}: send it as the server gave it")
        if len(calls) > 1:
            raise ValueError(f"{place}.tool_calls has {len(calls)} calls, and this model makes one at a time: give "
                             "each a message of its own, with its result after it")
        place, call = f"{place}.tool_calls[0]", calls[0]
        function = call.get("function")
        if not isinstance(call.get("id"), str) or not isinstance(function, Mapping):
            raise ValueError(f"{place} is {terse(call)}: send it as the server gave it, with an id and a function")
        tool = self.tools[self._known(f"{place}.function.name", function.get("name"))].tool
        asked = _only_text(function.get("arguments"))
        if asked is None:
            raise ValueError(f"{place}.function.arguments is {terse(function.get('arguments'))}: send an object of "
                             "one text in JSON, as the server gave it")
        return f"{tool.opening}{asked}{tool.closing}", call["id"]


def _parameter(place: str, parameters: Any) -> str:
    """The name of a function's only parameter, by its JSON schema."""
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    wanted = list(properties) if isinstance(properties, Mapping) else []
    if len(wanted) != 1:
        raise ValueError(f"{place} has the properties {terse(wanted)}: give one, a text, since the model writes one "
                         "text for each call")
    schema = properties[wanted[0]]
    kind = schema.get("type", "string") if isinstance(schema, Mapping) else None
    if kind != "string":
        raise ValueError(f"{place}.properties.{wanted[0]} has the type {terse(kind)}: give \"string\", since the "
                         "model writes a text")
    return wanted[0]


def _only_text(arguments: Any) -> str | None:
    """The only value of an object in JSON, if it is a text."""
    try:
        given = json.loads(arguments) if isinstance(arguments, str) else None
    except (ValueError, RecursionError):
        return None
    values = list(given.values()) if isinstance(given, dict) else []
    return values[0] if len(values) == 1 and isinstance(values[0], str) else None


def _out_of_order(place: str, number: int, waiting: str | None) -> str:
    if waiting is None:
        return (f"{place} is a result, and no call stands before it: send the assistant's message with its tool_calls "
                "first")
    return (f"{place} comes where the result of the call {terse(waiting)} of messages[{number - 1}] must stand: send a "
            "message of the role tool with that tool_call_id")


def _with_system(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{text}".lstrip("\n")}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
