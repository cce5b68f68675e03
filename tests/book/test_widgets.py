"""The text box: what it answers, how it is stopped, and what is shown where there are no widgets."""

import html
import re
import sys
import threading

import pytest
import torch

from llmbook.book import widgets
from llmbook.book.widgets import streamed_response, text_box
from llmbook.formats.shipped import load_shipped
from llmbook.instructions import respond


def answer(text: str):
    if text == "bad":
        raise ValueError("the message is bad: say something else")
    return iter([text.upper(), "!"])


def shown(box) -> list[str]:
    """The turns, without their tags."""
    return [html.unescape(re.sub(r"<[^>]+>", "", turn.value)) for turn in box.children[1].children]


def type_in(box, text: str, wait: bool = True) -> None:
    field, button = box.children[0].children
    field.value = text
    button.click()
    if wait:
        box.wait()


def test_a_long_label_is_shown_whole():
    box = text_box(answer, "Ask for a story", "Send", instead="x")
    field = box.children[0].children[0]
    assert (field.description, field.style.description_width) == ("Ask for a story", "initial")


class Held:
    """Pieces that come when they are let through."""

    def __init__(self):
        self.gate, self.told, self.closed = threading.Semaphore(0), threading.Semaphore(0), False

    def __call__(self, text):
        return self._pieces()

    def _pieces(self):
        try:
            for piece in "abcdef":
                yield piece
                self.told.release()
                assert self.gate.acquire(timeout=20)
        finally:
            self.closed = True


def test_what_is_typed_is_answered_piece_by_piece():
    box = text_box(answer)
    type_in(box, "hello")
    assert shown(box) == ["You: hello\nHELLO!"]
    assert box.children[0].children[0].value == ""


def test_each_turn_stands_alone_and_breaks_between_words():
    box = text_box(lambda text: iter("abc" * 100))
    for _ in range(3):
        type_in(box, "hello")
    assert shown(box) == [f"You: hello\n{'abc' * 100}"] * 3
    assert "white-space: pre-wrap; overflow-wrap: anywhere" in box.children[1].children[0].value


def test_what_is_said_is_text_and_never_markup():
    box = text_box(lambda text: "<b>x</b> & y", label="<Me>")
    type_in(box, "<img src=x>")
    assert shown(box) == ["<Me>: <img src=x>\n<b>x</b> & y"] and "<img" not in box.children[1].children[0].value


def test_a_plain_string_is_an_answer_and_nothing_typed_is_none():
    box = text_box(lambda text: text[::-1], label="Text")
    type_in(box, "  ")
    type_in(box, "abc")
    assert shown(box) == ["Text: abc\ncba"]


def test_an_error_is_shown_instead_of_an_answer_and_the_next_text_is_answered():
    box = text_box(answer)
    type_in(box, "bad")
    assert "(the message is bad: say something else)" in shown(box)[0]
    broken = text_box(lambda text: {}[text])
    type_in(broken, "x")
    assert "(KeyError: 'x')" in shown(broken)[0]
    type_in(box, "good")
    assert shown(box)[1] == "You: good\nGOOD!"


def test_a_notice_comes_before_the_answer_it_is_about():
    notices = iter(["", "the oldest went"])
    box = text_box(answer, notice=lambda: next(notices))
    type_in(box, "one")
    type_in(box, "two")
    assert shown(box) == ["You: one\nONE!", "You: two\n[the oldest went]\nTWO!"]


def test_an_answer_is_shown_as_it_grows_and_stopped_by_the_button(monkeypatch):
    monkeypatch.setattr(widgets, "_OFTEN", 0.0)
    held = Held()
    box = text_box(held)
    field, button = box.children[0].children
    type_in(box, "hello", wait=False)
    assert held.told.acquire(timeout=20)
    held.gate.release()
    assert held.told.acquire(timeout=20)  # "b" was taken, and the next one is asked for
    assert button.description == "Stop" and shown(box)[0].startswith("You: hello\nab")
    assert shown(box)[0].endswith("\u25cf")  # busy
    field.value = "next"
    field._handle_custom_msg({"event": "submit"}, [])
    button.click()
    held.gate.release()  # "c" was on its way
    box.wait()
    assert held.closed and button.description == "Send" and shown(box) == ["You: hello\nabc [stopped]"]
    assert field.value == "next"  # nothing was queued, nothing lost


def test_enter_sends_once_what_was_typed_last_has_come(monkeypatch):
    timers = []

    class Timer:
        def __init__(self, seconds, call):
            timers.append((seconds, call))

        def start(self):
            pass

    monkeypatch.setattr(widgets.threading, "Timer", Timer)
    box = text_box(answer)
    field = box.children[0].children[0]
    field._handle_custom_msg({"event": "focus"}, [])
    field._handle_custom_msg({"event": "submit"}, [])
    field.value = "hello"  # comes after the message, as in a browser
    assert shown(box) == []
    [(seconds, call)] = timers
    call()
    box.wait()
    assert seconds < 0.5 and shown(box) == ["You: hello\nHELLO!"]


@pytest.mark.parametrize("without_package", [False, True])
def test_where_no_box_can_be_shown_a_line_says_what_to_call(monkeypatch, without_package):
    if without_package:
        monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert repr(text_box(answer)) == 'No box is shown here. Call answer("your text") instead.'
    assert repr(text_box(answer, instead="say(x)")) == "No box is shown here. Call say(x) instead."


def test_a_response_that_is_streamed_is_the_response():
    model, tokenizer = load_shipped("storyteller", torch.float32, torch.device("cpu"))
    pieces = list(streamed_response(model, tokenizer, "Tell me about a kite.", "plain", 24))
    assert len(pieces) > 5
    assert "".join(pieces).strip() == respond(model, tokenizer, "Tell me about a kite.", style="plain",
                                              max_new_tokens=24)
    with pytest.raises(ValueError, match="the instruction is empty: say what to do"):
        streamed_response(model, tokenizer, " ")
