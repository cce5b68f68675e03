"""The checker agrees with the simulator, and notices what was spoiled."""

import pytest

from llmbook.storyworld import Story, check, stories
from llmbook.storyworld.corpus import one_story
from llmbook.storyworld.damage import DAMAGES, damage
from llmbook.storyworld.plots import all_plots
from llmbook.storyworld.reading import read, tokenise


def agrees(story: Story) -> bool:
    report = check(story, story.facts)
    return report.consistent and tuple(report.events) == story.facts and report.ending == story.ending


@pytest.mark.parametrize("plot", sorted(all_plots()))
def test_a_story_of_each_plot_is_read_back_with_its_facts(plot):
    for index in range(6):
        story = one_story(41, index, plot=plot)
        assert agrees(story), (story.text, check(story, story.facts).problems)


@pytest.mark.slow
def test_the_checker_agrees_on_five_thousand_fresh_stories():
    agreed = sum(agrees(story) for story in stories(977, 5000))
    assert agreed >= 0.99 * 5000


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(DAMAGES))
def test_damage_is_noticed(kind):
    spoiled = [found for index in range(600) if (found := damage(one_story(55, index), index, kind))][:100]
    assert len(spoiled) == 100
    noticed = sum(not check(found.text).consistent for found in spoiled)
    assert noticed >= 95


def test_a_little_damage_of_each_kind_is_noticed():
    noticed = made = 0
    for index in range(60):
        spoiled = damage(one_story(56, index), index)
        if spoiled is not None:
            made += 1
            noticed += not check(spoiled.text).consistent
    assert made > 50
    assert noticed >= 0.9 * made


def test_unknown_damage_is_named():
    with pytest.raises(ValueError, match="damage 'burn' is not one of"):
        damage(one_story(1), 1, "burn")


def told(*sentences: str) -> str:
    return " ".join(sentences)


BEGIN = told("Nothing ever happened by the pond, or so Mira thought.", "Mira had a red kite.")
LOSE = "Nobody heard it when Mira dropped the kite by the pond."
NOTICE = "Mira needed the kite now, but it had vanished."
FIND = "Mira found the kite by the pond."
END = "From then on the kite had Mira's name on it, in big letters."


def kinds(text: str) -> list[str]:
    return [problem.kind for problem in check(text).problems]


def test_a_small_story_is_consistent():
    report = check(told(BEGIN, LOSE, NOTICE, FIND, END))
    assert report.problems == []
    assert [event.kind for event in report.events] == ["open_plain", "own", "lose", "notice_loss", "find", "end_found"]
    assert report.events[2].roles == {"A": "Mira", "T": "kite", "P": "pond"}
    assert report.state["holder", "kite"] == "Mira"


@pytest.mark.parametrize("text, kind, says", [
    (told(BEGIN, LOSE, NOTICE, END), "contradiction", "holder kite is nobody"),
    (told(BEGIN, LOSE, FIND.replace("pond", "mill"), END), "contradiction", "lies kite is pond"),
    (told(BEGIN, LOSE, FIND.replace("Mira", "Omar"), END), "contradiction", "known Omar is not so"),
    (told(BEGIN, LOSE.replace("kite", "drum"), NOTICE, FIND, END), "contradiction", "known drum is not so"),
    (told(BEGIN, FIND, END), "contradiction", "lost kite is not so"),
    (told(BEGIN, LOSE, NOTICE, FIND), "no ending", "ends no story"),
    (told(BEGIN, "Mira flew to the moon and ate it.", LOSE, FIND, END), "unknown sentence", "flew to the moon"),
    (told(BEGIN, LOSE, "He was as happy as a bee in a rose.", FIND, END), "unclear pronoun", "he cannot be Mira"),
    (told(BEGIN, LOSE, FIND, END, END), "contradiction", "had ended already"),
    (told(BEGIN.replace("Mira had a", "Mira had an"), LOSE, FIND, END), "unknown sentence", "an red kite"),
])
def test_what_is_wrong_is_said(text, kind, says):
    problems = check(text).problems
    assert any(problem.kind == kind and says in problem.message for problem in problems), problems


def test_wrong_sums_are_noticed():
    begin = told("Nothing ever happened by the pond, or so Mira thought.", "Mira had seven plums in her basket.",
                 "Along came Omar.")
    right = "Mira gave three plums to Omar and kept four."
    assert "contradiction" not in kinds(told(begin, right))
    assert "contradiction" in kinds(told(begin, right.replace("four", "five")))
    assert "contradiction" in kinds(told(begin.replace("seven", "eight"), right))


def test_two_in_different_places_cannot_talk():
    begin = told(BEGIN, "Along came Omar.", "Mira took the short cut to the market.")
    assert "contradiction" in kinds(told(begin, "Mira led the way down to the beach, and Omar followed."))


def test_small_letters_and_missing_quotes_make_no_sentence():
    good = told(BEGIN, LOSE, NOTICE, FIND, END)
    assert not check(good.replace("Nobody heard", "nobody heard")).grammatical
    assert not check(good.replace("vanished.", "vanished")).grammatical


def test_asked_for_elements():
    text = told(BEGIN, LOSE, NOTICE, FIND, END)
    assert check(text, prompt={"names": ["Mira"], "things": ["kite"], "places": ["pond"], "kinds": ["lose"],
                               "ending": "end_found"}).consistent
    for asked in ({"names": ["Omar"]}, {"things": ["drum"]}, {"places": ["mill"]}, {"kinds": ["go"]},
                  {"ending": "end_counted"}):
        assert [problem.kind for problem in check(text, prompt=asked).problems] == ["missing"]


def test_a_story_has_what_its_own_prompt_asks_for():
    first, other = one_story(62), one_story(63)
    assert check(first, prompt=first.prompt).consistent
    assert not check(other, prompt=first.prompt).consistent


def test_facts_that_are_not_told_are_missing():
    story = one_story(61)
    shorter = story.text.replace(story.sentences[-2], "")
    assert any(problem.kind == "missing" for problem in check(shorter, story.facts).problems)


def test_nothing_is_no_story():
    assert [problem.kind for problem in check("").problems] == ["no ending"]
    assert not check("Hello there. This is not ours.").grammatical


def test_reading_splits_quotes_and_names():
    assert tokenise('"Mira\'s kite," said the three-legged cat.') == [
        '"', "Mira's", "kite", ",", '"', "said", "the", "three-legged", "cat", "."]
    units = read(told(BEGIN, LOSE))
    assert [unit.readings[0].kind for unit in units] == ["open_plain", "own", "lose"]


def known(sentence: str) -> bool:
    return all(unit.readings for unit in read(sentence))


def test_a_sentence_that_begins_with_a_slot_needs_its_capital():
    assert known("The cobbler had a red kite.")
    assert not known("the cobbler had a red kite.")


def test_one_role_has_one_name_in_a_sentence():
    assert known("Mira wrote it down, to be sure: two plums for Mira, three for Omar.")
    assert not known("Mira wrote it down, to be sure: two plums for Zara, three for Omar.")
