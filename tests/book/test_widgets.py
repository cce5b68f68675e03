"""The text box: what it answers, and what is shown where there are no widgets."""

import sys

import pytest

from llmbook.book.widgets import text_box


def answer(text: str):
    if text == "bad":
        raise ValueError("the message is bad: say something else")
    return iter([text.upper(), "!"])


def shown(box) -> str:
    return "".join(output["text"] for output in box.children[1].outputs)


def type_in(box, text: str) -> None:
    field, button = box.children[0].children
    field.value = text
    button.click()


def test_what_is_typed_is_answered_piece_by_piece():
    box = text_box(answer)
    type_in(box, "hello")
    assert shown(box) == "You: hello\nHELLO!\n\n"
    assert box.children[0].children[0].value == ""


def test_what_is_shown_stays_one_output_however_many_pieces_come():
    box = text_box(lambda text: iter("abc" * 100))
    for _ in range(3):
        type_in(box, "hello")
    assert len(box.children[1].outputs) == 1 and shown(box) == f"You: hello\n{'abc' * 100}\n\n" * 3


def test_a_plain_string_is_an_answer_and_nothing_typed_is_none():
    box = text_box(lambda text: text[::-1], label="Text")
    type_in(box, "  ")
    type_in(box, "abc")
    assert shown(box) == "Text: abc\ncba\n\n"


def test_an_error_is_shown_instead_of_an_answer():
    box = text_box(answer)
    type_in(box, "bad")
    assert "(the message is bad: say something else)" in shown(box)


def test_a_notice_comes_before_the_answer_it_is_about():
    notices = iter(["", "the oldest went"])
    box = text_box(answer, notice=lambda: next(notices))
    type_in(box, "one")
    type_in(box, "two")
    assert shown(box) == "You: one\nONE!\n\nYou: two\n[the oldest went]\nTWO!\n\n"


@pytest.mark.parametrize("without_package", [False, True])
def test_where_no_box_can_be_shown_a_line_says_what_to_call(monkeypatch, without_package):
    if without_package:
        monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert repr(text_box(answer)) == 'No box is shown here. Call answer("your text") instead.'
    assert repr(text_box(answer, instead="say(x)")) == "No box is shown here. Call say(x) instead."
