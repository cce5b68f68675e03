"""What every chapter's exercises are tested for, given right and wrong answers: `test_... = exercise_tests(...)`."""

from types import ModuleType

import pytest

from llmbook.book.exercises import Wrong


def exercise_tests(check: ModuleType, right: dict[str, list], wrong: list[tuple]) -> tuple:
    """Three test functions.

    Args:
        check: the chapter's checks.
        right: answers to accept, by the name of the exercise.
        wrong: (exercise, answer, part of the message that it should get).
    """

    @pytest.mark.parametrize("name, answer", [(name, answer) for name, answers in right.items() for answer in answers])
    def right_answers_pass(name, answer, capsys):
        getattr(check, name).verify(answer)
        getattr(check, name)(answer)
        assert ": solved." in capsys.readouterr().out

    @pytest.mark.parametrize("name, answer, message", wrong)
    def wrong_answers_are_told_why(name, answer, message):
        with pytest.raises(Wrong, match=message):
            getattr(check, name).verify(answer)

    @pytest.mark.parametrize("name", right)
    def a_stub_is_not_started_and_a_crash_is_reported(name, capsys):
        getattr(check, name)(lambda *arguments: None)
        assert "not started" in capsys.readouterr().out
        getattr(check, name)(lambda *arguments: 1 / 0)
        assert "not yet. Your code stopped with ZeroDivisionError" in capsys.readouterr().out

    return right_answers_pass, wrong_answers_are_told_why, a_stub_is_not_started_and_a_crash_is_reported
