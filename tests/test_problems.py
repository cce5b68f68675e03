"""Chapter 9's problems: true, of the size that was asked for, without numbers in common between the parts, checked."""

import random
import re

import pytest

from llmbook.answer_checks import arithmetic
from llmbook.problems import (
    PieceTokenizer,
    WorkedProblem,
    boxes,
    countdown,
    final_answer,
    is_right,
    is_worked_right,
    number_stories,
    true_steps,
)

MAKERS = {"story": number_stories, "boxes": boxes, "countdown": countdown}


@pytest.mark.parametrize("kind", MAKERS)
def test_parts_share_no_numbers(kind):
    parts = {part: {signed(problem) for problem in MAKERS[kind](1, 400, part)} for part in ("train", "val", "test")}
    assert all(len(found) > 100 for found in parts.values())
    assert not parts["train"] & parts["test"] and not parts["train"] & parts["val"] and not parts["val"] & parts["test"]


def signed(problem: WorkedProblem) -> tuple[str, ...]:
    if problem.kind != "story":
        return tuple(re.findall(r"\d+", problem.prompt))
    return problem.steps


@pytest.mark.parametrize("kind", MAKERS)
def test_each_response_is_right_and_its_steps_are_true(kind):
    for problem in MAKERS[kind](2, 60):
        for response in (problem.at_once(), problem.worked(), problem.with_calls()):
            assert is_right(problem, response), response
        assert is_worked_right(problem, problem.worked())


def test_a_story_is_what_it_says_and_stays_within_bounds():
    for problem in number_stories(3, 200, steps=(1, 2, 6)):
        assert problem.size == len(problem.steps) and problem.size in (1, 2, 6)
        now, *changes = re.findall(r"(has|finds|buys|gets|gives away|loses|sells) (\d+)", problem.prompt)
        total = int(now[1])
        for verb, by in changes:
            total += int(by) if verb in ("finds", "buys", "gets") else -int(by)
            assert 0 <= total <= 20 and 1 <= int(by) <= 9
        assert str(total) == problem.answer


def test_countdown_has_as_many_numbers_as_asked_and_none_too_large():
    for numbers, largest in ((3, 9), (4, 19)):
        for problem in countdown(0, 60, numbers=numbers, largest=largest):
            target, *given = map(int, re.findall(r"\d+", problem.prompt))
            assert len(given) == numbers and 1 <= min(given) <= max(given) <= largest and 1 <= target <= 99


def test_boxes_have_the_digits_asked_for():
    assert {len(problem.prompt.split()[0]) for problem in boxes(0, 60, digits=(2, 5))} == {2, 5}
    assert all(arithmetic(problem.steps[0].partition("=")[0]) == int(problem.answer) for problem in boxes(0, 20))


def test_the_same_seed_gives_the_same_and_another_gives_others():
    assert number_stories(5, 20) == number_stories(5, 20) != number_stories(6, 20)


def test_only_the_answer_at_the_end_counts():
    problem = WorkedProblem("story", "Mira has 7 shells, finds 8.", ("7+8=15",), "15", 1)
    assert is_right(problem, " think: 7+8=99 answer: 15\n")  # whatever the way there
    assert not is_worked_right(problem, " think: 7+8=99 answer: 15\n")
    for wrong in ("15", " think: 15\n", " answer: 15", " answer: 155\n", " answer: 1\n", "", " answer: 15 answer: 3\n"):
        assert not is_right(problem, wrong), wrong
    assert final_answer(" think: 1+1=2 answer: 2\n and more") == "2"


def test_true_steps_are_counted():
    assert true_steps(" think: 7+8=15; 15-3=11; 2*=3 answer: 11\n") == (1, 2)
    assert true_steps(" answer: 11\n") == (0, 0)


def test_countdown_takes_any_calculation_with_each_number_once():
    problem = WorkedProblem("countdown", "Make 24 from 3, 5, 9.", ("3*5+9=24",), "3*5+9", 2)
    for right in ("9+5*3", "(9+5*3)", "5*3+9", "9 + 5 * 3", "9-(-5)*3"):
        assert is_right(problem, f" answer: {right}\n")
    for wrong in ("24", "3*8", "3*5+9+0", "3*5+5+9-5", "9+5+3", "3**5-9", "__import__('os')", "3*5+", "((((9",
                  "03*5+9", "3*5+09", "3*5+9.0", "3*5+9=24", "3*5+9,", "3*5 9", "3(5)+9", "59-35", "3*\u0665+9"):
        assert not is_right(problem, f" answer: {wrong}\n"), wrong


@pytest.mark.parametrize("target, numbers, tricks", [
    (8, "2, 3", ("2**3", "2 ** 3", "2* *3", "(2)**(3)")), (23, "2, 3", ("23", "2 3", "(2)(3)", "2_3")),
    (12, "1, 2, 4", ("12+0*4", "12", "1*2*4+4", "12/1", "4//1*2+4", "14-2")),
    (7, "1, 2, 3", ("2**3-1", "21/3", "7", "2*3+1*1")),
    (5, "2, 3", ("2+3.", "2+3e0", "02+3"))])
def test_countdown_accepts_no_trick(target, numbers, tricks):
    """Powers, two numbers written as one, numbers used twice or not at all, and digits that are none."""
    problem = WorkedProblem("countdown", f"Make {target} from {numbers}.", (f"{target}={target}",), str(target), 1)
    for trick in tricks:
        assert not is_right(problem, f" answer: {trick}\n"), trick


def test_checking_takes_no_time_whatever_is_written():
    problem = WorkedProblem("countdown", "Make 24 from 3, 5, 9.", ("3*5+9=24",), "3*5+9", 2)
    pieces, draw = PieceTokenizer().pieces, random.Random(0)
    for _ in range(300):
        text = "".join(draw.choice(pieces) for _ in range(60))
        assert is_right(problem, text) in (True, False) and is_worked_right(problem, text) in (True, False)
    assert not is_right(problem, " answer: " + "(" * 10_000 + "\n")


def test_every_text_comes_back_from_its_tokens():
    tokenizer = PieceTokenizer()
    assert tokenizer.n_vocab <= 80 and len(set(tokenizer.pieces)) == tokenizer.n_vocab
    for problem in [*number_stories(0, 20), *boxes(0, 20), *countdown(0, 20)]:
        text = problem.prompt + problem.with_calls()
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and ids[-1] == tokenizer.end
        assert [len(tokenizer.encode(number)) for number in ("7", "20", "47", "1847")] == [1, 1, 2, 3]


@pytest.mark.parametrize("call, message", [
    (lambda: number_stories(0, 1, "tests"), "part is 'tests': it must be one of train, val, test"),
    (lambda: number_stories(0, 1, steps=(0,)), "at least 1 each"),
    (lambda: boxes(0, 1, digits=()), "at least 1 each"),
    (lambda: countdown(0, 1, numbers=9), "numbers is 9, largest 19: give 2 to 5"),
    (lambda: countdown(0, 1, largest=1), "largest 1: give 2 to 5 numbers, up to 2 to 19"),
    (lambda: PieceTokenizer().encode("Mira has seven"), "'seven' is in no problem")])
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)
