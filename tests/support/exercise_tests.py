"""What every chapter's exercises are tested for, given right and wrong answers: `test_... = exercise_tests(...)`."""

import re
from types import ModuleType

import pytest

from llmbook.book.exercises import Wrong


def exercise_tests(check: ModuleType, right: dict[str, list], wrong: list[tuple]) -> tuple:
    """Three test functions, each with one case an exercise: a hundred answers are tried in a few of them.

    Args:
        check: the chapter's checks.
        right: answers to accept, by the name of the exercise.
        wrong: (exercise, answer, part of the message that it should get).
    """

    assert {exercise for exercise, _, _ in wrong} <= set(right)

    @pytest.mark.parametrize("name", right)
    def right_answers_pass(name, capsys):
        for place, answer in enumerate(right[name]):
            try:
                getattr(check, name).verify(answer)
            except Exception as problem:
                pytest.fail(f"right answer {place} of {name} is refused: {problem}")
        getattr(check, name)(right[name][0])
        assert ": solved." in capsys.readouterr().out

    @pytest.mark.parametrize("name", right)
    def wrong_answers_are_told_why(name):
        told = []
        for exercise, answer, message in wrong:
            if exercise == name:
                try:
                    getattr(check, name).verify(answer)
                except Wrong as problem:
                    if not re.search(message, str(problem)):
                        told.append(f"{message!r} is not in: {problem}")
                else:
                    told.append(f"{message!r}: the answer is accepted")
        assert not told, "\n".join(told)

    @pytest.mark.parametrize("name", right)
    def a_stub_is_not_started_and_a_crash_is_reported(name, capsys):
        getattr(check, name)(lambda *arguments: None)
        assert "not started" in capsys.readouterr().out
        getattr(check, name)(lambda *arguments: 1 / 0)
        assert "not yet. Your code stopped with ZeroDivisionError" in capsys.readouterr().out

    return right_answers_pass, wrong_answers_are_told_why, a_stub_is_not_started_and_a_crash_is_reported
