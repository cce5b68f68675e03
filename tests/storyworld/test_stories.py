"""Stories: the same everywhere, of the right length, varied, and held out by a rule."""

import hashlib
import os
import pickle
import subprocess
import sys
from collections import Counter

import pytest

from llmbook.storyworld import World, check, stories
from llmbook.storyworld.corpus import HELD_OUT_ONE_IN, SHORT_PLOTS, has_held_out, held_out, one_story
from llmbook.storyworld.grammar import all_kinds
from llmbook.storyworld.plots import all_plots
from llmbook.storyworld.scenes import aside, hero, opening
from llmbook.storyworld.variety import measure, read_collection
from llmbook.storyworld.words import lexicon
from llmbook.storyworld.world import FEW_PHRASINGS, SHORT_WORDS, WORDS


@pytest.fixture(scope="module")
def many():
    return list(stories(11, 1500))


def test_stories_have_100_to_250_words_and_an_ending(many):
    for story in many:
        assert WORDS[0] <= len(story.text.split()) <= WORDS[1]
        assert story.ending == story.facts[-1].kind
        assert story.ending.startswith("end_")


def test_side_scenes_are_rare_and_come_in_calm_moments(many):
    for story in many[:600]:
        told, here = set(), 0
        for event, gap in zip(story.facts, story.gaps):
            here = 0 if gap == "\n\n" else here
            if event.kind.startswith("aside_"):
                here += 1
                assert here == 1, story.text
                assert event.kind not in told, story.text
                told.add(event.kind)


def test_no_side_scene_is_told_while_somebody_is_sad():
    w = World(3)
    a = hero(w)
    opening(w, a)
    w.tell("feel_sad", a)
    w.paragraph()
    events = len(w.events)
    for _ in range(30):
        aside(w, a, share=1)
    assert len(w.events) == events
    w.tell("feel_glad", a)
    w.paragraph()
    for _ in range(30):
        aside(w, a, share=1)
    assert len(w.events) == events + 2


def test_a_place_has_one_tree_in_a_story():
    w = World(3)
    a = hero(w)
    opening(w, a, next(place for place in lexicon().places if place.key == "orchard"))
    assert len({w._word("tree") for _ in range(20)}) == 1


def test_the_facts_say_in_which_sentence_they_are_told(many):
    for story in many[:200]:
        assert [event.sentence for event in story.facts] == list(range(len(story.sentences)))
        position = 0
        for sentence in story.sentences:
            position = story.text.index(sentence, position) + len(sentence)
        assert position == len(story.text)
        assert story.hero in story.cast
        assert story.hero in story.facts[0].roles.values()


def test_a_story_depends_on_its_seed_and_number_alone():
    assert [s.text for s in stories(5, 3)] == [s.text for s in stories(5, 9)][:3]
    assert [s.text for s in stories(5, 3)] != [s.text for s in stories(6, 3)]
    assert one_story(5, 2).text == list(stories(5, 3))[2].text


def test_another_process_with_another_hash_seed_tells_the_same():
    code = ("from llmbook.storyworld import stories\nimport hashlib\n"
            "print(hashlib.sha256(chr(10).join(s.text for s in stories(3, 60)).encode()).hexdigest())")
    found = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                            env={**os.environ, "PYTHONHASHSEED": seed}).stdout.strip()
             for seed in ("1", "2")}
    here = hashlib.sha256("\n".join(s.text for s in stories(3, 60)).encode()).hexdigest()
    assert found == {here}


def test_no_two_stories_are_equal(many):
    assert len({story.text for story in many}) == len(many)


@pytest.mark.slow
def test_no_two_of_a_hundred_thousand_stories_are_equal():
    seen = {hashlib.md5(story.text.encode()).digest() for story in stories(1, 100_000)}
    assert len(seen) == 100_000


def test_no_opening_and_no_name_is_everywhere(many):
    words = lexicon()
    names = [agent.key for agent in words.children] + [name for name, _ in words.animal_names]
    found = measure([story.text for story in many], names)
    assert found.commonest_opening_share < 0.03, found.commonest_opening
    assert found.commonest_name_share < 0.04, found.commonest_name
    assert found.once_upon_a_time_share == 0
    assert found.equal_stories == 0


def test_measure_sees_formulas():
    found = measure(["Once upon a time, Lily ran."] * 3 + ["One day Tim sat down by a river."])
    assert found.commonest_opening == "Once upon a"
    assert found.commonest_opening_share == found.commonest_name_share == 0.75
    assert found.commonest_name in ("Lily", "Once")
    assert found.equal_stories == 2
    assert found.distinct_1 < 1
    assert measure(["One day Tim sat down by a river."]).distinct_1 == 1
    with pytest.raises(ValueError, match="no stories"):
        measure([])


def test_a_collection_is_read_between_its_marks(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text("One.\n<|endoftext|>\nTwo.\n\nThree.\n<|endoftext|>\n")
    assert read_collection(path) == ["One.", "Two.\n\nThree."]


# --- held out -------------------------------------------------------------------------------------------------------

def test_the_held_out_rule_is_fixed():
    triples = [(name, thing, plot) for name in ("Mira", "Omar", "Pip") for thing in ("kite", "drum", "map", "hat")
               for plot in ("lose_find", "promise", "share_out")]
    assert sum(held_out(*triple) for triple in triples) < 5
    assert held_out("Mira", "cart", "lose_find") and held_out("Amina", "ball", "lose_find")
    assert not held_out("Mira", "kite", "lose_find")
    every = [(a.key, t[0].key, p) for a in lexicon().children for t in lexicon().things for p in ("lose_find", "race")]
    share = sum(held_out(*triple) for triple in every) / len(every)
    assert abs(share - 1 / HELD_OUT_ONE_IN) < 0.003


def test_training_has_no_held_out_kind_and_test_stories_each_have_one():
    for story in stories(21, 120, split="train"):
        assert not has_held_out(story)
    for story in stories(21, 12, split="test"):
        assert any(held_out(name, thing, story.plots[0]) for name in story.cast for thing in story.things)


# --- short stories --------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def short():
    return list(stories(11, 600, short=True))


def test_short_stories_are_short_and_of_their_plots_only(short):
    assert {story.plots[0] for story in short} == set(SHORT_PLOTS)
    assert all(SHORT_WORDS[0] <= len(story.text.split()) <= SHORT_WORDS[1] for story in short)
    assert not any(event.kind.startswith("aside_") for story in short for event in story.facts)


def test_a_kind_of_event_is_told_in_few_ways_in_short_stories(short, many):
    def ways(told, kind):
        """How the sentences of a kind end, which differs between its phrasings."""
        return {story.sentences[event.sentence].split()[-1] for story in told for event in story.facts
                if event.kind == kind}

    assert all(check(story.text, story.facts).consistent for story in short[:200])
    assert 1 < len(ways(short, "end_paid")) <= FEW_PHRASINGS < len(ways(many, "end_paid"))
    assert len(ways(short, "feel_glad")) > 2 * FEW_PHRASINGS  # what happens in most stories is told in all its ways


def test_short_stories_have_splits_and_refuse_other_plots():
    assert not any(has_held_out(story) for story in stories(21, 60, split="train", short=True))
    assert all(has_held_out(story) for story in stories(21, 6, split="test", short=True))
    with pytest.raises(ValueError, match="plot 'w_egg' is not one of borrow_break_mend, debt"):
        next(stories(1, 1, plot="w_egg", short=True))


def test_no_opening_and_no_name_is_in_too_many_short_stories(short):
    openings = Counter(" ".join(story.text.split()[:3]) for story in short)
    assert max(openings.values()) <= 0.04 * len(short)  # 600 stories: 3 % and what chance adds
    heroes = Counter(story.hero for story in short)
    assert max(heroes.values()) <= 0.04 * len(short)


def test_unknown_split_and_plot_are_named():
    with pytest.raises(ValueError, match="split 'validation'"):
        next(stories(1, 1, split="validation"))
    with pytest.raises(ValueError, match="plot 'heist' is not one of"):
        next(stories(1, 1, plot="heist"))


# --- the simulator --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("plot", sorted(all_plots()))
def test_each_plot_obeys_the_needs_of_its_events(plot):
    found = [one_story(31, index, plot=plot, strict=True) for index in range(12)]
    assert all(story.plots[0] == plot for story in found)
    assert len({story.text for story in found}) == len(found)


def test_a_strict_world_tells_the_same():
    for index in range(150):
        loose, strict = one_story(32, index), one_story(32, index, strict=True)
        assert loose.text == strict.text
        assert loose.facts == strict.facts


def test_a_strict_world_refuses_what_it_does_not_allow():
    world = World(1, strict=True)
    mira, place = world.child(), world.place("open")
    world.tell("open_plain", mira, place)
    kite = world.thing("carry")
    with pytest.raises(ValueError, match="cannot happen now"):
        world.tell("lose", mira, kite, place)
    world.tell("own", mira, kite)
    world.tell("lose", mira, kite)
    assert world.get("holder", kite) == "nobody"
    assert world.get("lies", kite) is place


def test_nouns_of_one_world_share_no_word():
    for seed in range(60):
        world = World(seed)
        nouns = [word for _ in range(8) for word in world.thing("carry").key.split()]
        assert len(nouns) == len(set(nouns))


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="no kind 'lose_everything'"):
        World(1).tell("lose_everything")


def test_stories_survive_pickling_for_other_processes(many):
    for story in many[:60]:
        again = pickle.loads(pickle.dumps(story))
        assert again.text == story.text
        assert again.facts == story.facts
        assert all(again.entities[key] is word for key, word in story.entities.items())


def test_every_kind_is_told_by_some_plot(many):
    told = {event.kind for story in [*many, *stories(12, 5000)] for event in story.facts}
    assert set(all_kinds()) - told == set()
