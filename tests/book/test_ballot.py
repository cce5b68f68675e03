"""A reader's votes: by buttons, or as a list of answers."""

import sys

import pytest

from llmbook.book.ballot import Ballot

PAIRS = [("one <b>", "two\n\nnew"), ("three", "four"), ("five", "six")]


def press(box, place: int) -> None:
    box.children[1].children[place].click()


def test_answers_become_votes_and_passing_is_none():
    ballot = Ballot(PAIRS)
    assert ballot.votes == []
    ballot.answer([2, 0, 1])
    assert ballot.votes == [{"prompt": "", "chosen": "two\n\nnew", "rejected": "one <b>"},
                            {"prompt": "", "chosen": "five", "rejected": "six"}]


def test_the_buttons_vote_and_show_the_next_pair():
    ballot = Ballot(PAIRS)
    box = ballot.box()
    assert "one &lt;b&gt;" in box.children[0].value and "two<br><br>new" in box.children[0].value
    press(box, 0)
    assert "three" in box.children[0].value and "votes: 1, pair 2 of 3" in box.children[2].value
    press(box, 1)
    press(box, 2)
    assert ballot.answers == [1, 2, 0] and [vote["chosen"] for vote in ballot.votes] == ["one <b>", "four"]
    assert "2 votes: you have seen all pairs" in box.children[2].value and box.children[1].children[0].disabled
    press(box, 0)


def test_a_box_goes_on_after_answers_that_were_typed():
    ballot = Ballot(PAIRS)
    ballot.answer([1])
    assert "three" in ballot.box().children[0].value


@pytest.mark.parametrize("answers, message", [
    ([1, 3], "answer 1 is 3: it must be 1 or 2, or 0 to pass"), (["1"], "answer 0 is '1': it must be"),
    ([1, 1, 1, 1], "4 answers to 3 pairs: leave out the last ones"),
])
def test_answers_that_are_none_are_refused(answers, message):
    with pytest.raises(ValueError, match=message):
        Ballot(PAIRS).answer(answers)


def test_without_widgets_a_line_says_what_to_do(monkeypatch, capsys):
    ballot = Ballot(PAIRS)
    assert repr(ballot.box()) == ("No box is shown here. Read ballot.show(0), ballot.show(1), ... and call "
                                  "ballot.answer([1, 2, ...]).")
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert repr(ballot.box()) == repr(Ballot(PAIRS).box())
    ballot.show(1)
    assert capsys.readouterr().out == "--- 1\nthree\n\n--- 2\nfour\n\n"
