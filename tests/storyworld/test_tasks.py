"""Instructions about stories: each good answer passes its check, damaged ones do not, and no story is on two sides."""

from collections import Counter
from itertools import combinations
from random import Random

import pytest

from llmbook.storyworld import check_task, conversations, tasks
from llmbook.storyworld.corpus import has_held_out, one_story
from llmbook.storyworld.grammar import all_kinds
from llmbook.storyworld.task_checks import Wanted, says, words_of_the_world
from llmbook.storyworld.task_words import DEEDS, ENDINGS, FRAMES, LAST_WISHES, PLOT_PHRASES, SUMMARIES, WORDINGS
from llmbook.storyworld.tasks import KEPT_OUT, KINDS, Task
from llmbook.storyworld.words import lexicon

EVERY = (*KINDS, *KEPT_OUT)
ASKING = ("who_has", "where", "who_did", "felt", "how_many", "who_else")
WORDS = lexicon()
GROUPS = [[agent.key.removeprefix("the ") for agent in WORDS.people + WORDS.creatures] + [n for n, _ in
          WORDS.animal_names], [group[0].key for group in WORDS.things], [place.key for place in WORDS.places]]


@pytest.fixture(scope="module")
def some() -> list[Task]:
    return list(tasks(7, 200, kinds=EVERY))


def damaged(task: Task, seed: int) -> str | None:
    """The answer with another name, place or thing wherever one of them stands; None if it has none."""
    draw = Random(seed)
    groups = [group for group in GROUPS for word in group if word.lower() in words_of_the_world(task.answer)]
    present = [word for group in groups for word in group if word.lower() in
               [known.lower() for known in (*task.wanted.right, *task.wanted.allowed)] or task.wanted.how == "exact"
               and word.lower() in words_of_the_world(task.answer)]
    present = [word for word in dict.fromkeys(present) if word in task.answer]
    if not present:
        return None
    word = draw.choice(present)
    group = next(group for group in groups if word in group)
    other = draw.choice([other for other in group if other.lower() not in task.answer.lower() and
                         other.lower() not in task.story.lower() and not other.islower() ^ word.islower()])
    return task.answer.replace(word, other)


def test_every_kind_takes_its_turn_and_each_answer_passes(some):
    assert Counter(task.kind for task in some) == dict.fromkeys(EVERY, 20)
    for task in some:
        assert check_task(task, task.answer), (task.instruction, task.answer)
        assert task.prompt.endswith(task.instruction) and task.prompt.startswith(task.story)


@pytest.mark.parametrize("kind", EVERY)
def test_another_name_place_or_thing_is_noticed(kind):
    tried = [(task, text) for task in tasks(21, 40, kinds=(kind,)) if (text := damaged(task, 3)) is not None]
    missed = [(task.instruction, text) for task, text in tried if check_task(task, text)]
    assert len(tried) >= 35 and not missed, missed


def test_what_is_no_answer_does_not_pass(some):
    for task in some:
        for text in ("", "I do not know.", "Yes.", "Once upon a time there was a king."):
            assert not check_task(task, text), (task.instruction, text)
        if task.kind in ASKING:
            assert not check_task(task, task.answer.replace(".", ", or nobody."))
            assert not check_task(task, "It is not so that " + task.answer)
            assert not check_task(task, f"{task.answer} {task.answer}")
            assert not check_task(task, task.answer[:-1] + " and then" * 20 + ".")


def test_the_same_in_other_words_passes(some):
    for task in some:
        if task.kind in ("who_has", "who_else"):
            assert check_task(task, f"It is {task.wanted.right[0]}!")


def test_a_story_must_end_as_it_was_asked_and_have_what_was_asked_for(some):
    for task in [task for task in some if task.kind == "tell"][:10]:
        assert not check_task(task, task.answer.rpartition("\n\n")[0])
        assert not check_task(task, task.answer.replace(".", ", or so they said.", 1))
        wrong = Wanted("story", task.wanted.right, endings=("end_of_another_kind",))
        assert says(task.answer, Wanted("story", task.wanted.right)) and not says(task.answer, wrong)
        assert not says(task.answer, Wanted("story", (*task.wanted.right, "Rumpelstiltskin")))


def test_a_continuation_continues(some):
    for task in [task for task in some if task.kind == "continue"][:5]:
        assert not check_task(task, one_story(1, short=True).text)
        assert not check_task(task, task.answer.rpartition(". ")[0] + ".")


def test_an_answer_is_a_few_whole_sentences(some):
    for task in some:
        assert task.answer.lstrip('"')[0].isupper() and task.answer.rstrip('"')[-1] in ".!?"
        if task.kind in ASKING:
            assert 3 <= len(task.answer.split()) <= 12 and task.answer.count(".") == 1
        if task.kind == "shorten":
            assert task.answer.count(". ") == 1


def test_no_held_out_combination_is_on_the_training_side():
    for side in ("train", "test"):
        for index in range(30):
            assert has_held_out(one_story(11, index, split=side, short=True)) == (side == "test")
    told = [task.answer for task in tasks(11, 6, "train", kinds=("tell",))]
    assert told == [one_story(11, index, split="train", short=True).text for index in range(6)]
    assert not set(told) & {task.answer for task in tasks(11, 6, "test", kinds=("tell",))}


def test_tasks_are_the_same_each_time_and_do_not_depend_on_how_many():
    assert list(tasks(9, 12)) == list(tasks(9, 14))[:12]
    assert list(tasks(9, 12)) != list(tasks(10, 12))


def test_kinds_kept_out_come_only_when_they_are_named():
    assert {task.kind for task in tasks(8, 30)} == set(KINDS)
    assert not {task.kind for talk in conversations(8, 30) for task in talk} & set(KEPT_OUT)
    assert {task.kind for task in tasks(8, 6, kinds=tuple(KEPT_OUT))} == set(KEPT_OUT)


def test_an_unknown_kind_is_named():
    for ask in (tasks, conversations):
        with pytest.raises(ValueError, match="task 'sing' is not one of who_has"):
            next(ask(1, 1, kinds=("sing",)))


def test_a_conversation_is_about_one_story_and_asks_nothing_twice():
    begins = Counter()
    for talk in conversations(13, 60, "train", turns=3):
        first = talk[0]
        begins[first.kind if first.kind in ("tell", "continue") else "asked"] += 1
        assert 2 <= len(talk) <= 3 and all(task.story == "" for task in talk[1:])
        assert (first.story == "") == (first.kind == "tell")
        story = f"{first.story} {first.answer if first.kind in ('tell', 'continue') else ''}".lower()
        assert len({task.answer for task in talk}) == len(talk)
        for task in talk:
            assert task is first and task.kind == "continue" or check_task(task, task.answer)
            if task.kind in ("who_has", "where", "who_did"):
                assert all(word.lower() in story for word in task.wanted.right)
    assert begins["tell"] >= 4 and begins["continue"] >= 4 and begins["asked"] >= 30


def test_there_are_many_wordings_and_they_differ():
    for kind, wordings in WORDINGS.items():
        assert len(set(wordings)) == len(wordings) >= 6, kind
    assert len(FRAMES) >= 6 and set(WORDINGS) | {"who_did"} == set(EVERY)
    for one, other in combinations([w for ways in WORDINGS.values() for w in ways], 2):
        assert one != other


def test_the_tables_name_kinds_that_there_are():
    kinds = all_kinds()
    assert set(DEEDS) <= set(kinds)
    for kind, (role, deed) in DEEDS.items():
        assert {role, *[part[0] for part in deed.split("{")[1:]]} <= set(kinds[kind].roles), kind
    endings = {ending for plot in ENDINGS.values() for ending in plot}
    assert endings == set(SUMMARIES) <= set(kinds) and set(ENDINGS) == set(PLOT_PHRASES)
    assert len({told for _, told in LAST_WISHES}) == len(LAST_WISHES) >= 10


def test_short_stories_have_no_ending_that_the_tables_forget():
    for index in range(300):
        story = one_story(31, index, short=True)
        assert story.ending in ENDINGS[story.plots[0]]


def test_words_of_the_world_are_found_whole():
    assert words_of_the_world("Mira's rag doll lay under the old oak, in the snow.") == ["mira", "rag doll", "old oak"]
    assert words_of_the_world("Nobody has twenty-one pies!") == ["nobody", "twenty-one", "pies"]
