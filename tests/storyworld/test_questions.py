"""Instructions about stories: each answer passes its own check, and wrong answers do not."""

from collections import Counter

import pytest

from llmbook.storyworld import Task, check, tasks
from llmbook.storyworld.corpus import one_story
from llmbook.storyworld.questions import KINDS, retell
from llmbook.storyworld.words import NUMBER_WORDS, lexicon

WORDS = lexicon()
EVERYTHING = " or ".join([*[a.key for a in WORDS.people + WORDS.creatures], *[n for n, _ in WORDS.animal_names],
                          *[p.key for p in WORDS.places], *[t[0].key for t in WORDS.things], *NUMBER_WORDS])


@pytest.fixture(scope="module")
def some() -> list[Task]:
    return list(tasks(7, 180))


def test_every_kind_occurs_and_each_answer_passes(some):
    assert set(Counter(task.kind for task in some)) == set(KINDS)
    for task in some:
        assert task.passes(task.answer), (task.instruction, task.answer)
        assert task.prompt.endswith(task.instruction)


def test_wrong_answers_do_not_pass(some):
    for task in some:
        assert not task.passes("")
        if task.kind in ("who_has", "whose"):
            assert not task.passes("I do not know.")
        if task.kind in ("who_has", "whose", "where", "how_many", "promised"):
            assert not task.passes(EVERYTHING)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_one_kind_can_be_asked_for(kind):
    assert {task.kind for task in tasks(8, 4, kinds=(kind,))} == {kind}


def test_tasks_are_the_same_each_time():
    assert list(tasks(9, 12)) == list(tasks(9, 12))
    assert list(tasks(9, 12)) != list(tasks(10, 12))


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="task 'sing' is not one of tell"):
        next(tasks(1, 1, kinds=("sing",)))


def test_a_continuation_must_fit(some):
    for task in [task for task in some if task.kind == "continue"][:5]:
        assert not task.passes("The end.")
        assert not task.passes(one_story(1).text)


def test_a_shortened_story_keeps_its_ending_and_is_shorter(some):
    for task in [task for task in some if task.kind == "shorten"][:5]:
        assert len(task.answer.split()) <= 0.9 * len(task.story.split())
        assert check(task.answer).ending == check(task.story).ending
        assert not task.passes(task.story)


def test_a_story_can_be_told_again_in_other_words():
    story = one_story(71)
    again = retell(story, list(story.facts), 5)
    assert again != story.text
    report = check(again)
    assert report.consistent
    assert [event.kind for event in report.events] == [event.kind for event in story.facts]
