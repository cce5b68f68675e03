"""A known taste: each part of it counts as its table says, and readers vote by it, wavering as they should."""

import math
from random import Random

import pytest

from llmbook.storyworld import stories
from llmbook.storyworld.grammar import all_kinds
from llmbook.storyworld.tastes import (
    ENOUGH_WORDS,
    KIND_ENDINGS,
    MOST_PASSAGES,
    Taste,
    chance_to_prefer,
    prefers_first,
    taste,
)

SOME = list(stories(5, 60, short=True))


def test_the_points_are_those_of_the_table():
    plain = Taste(False, 0, 0, 100)
    assert plain.score == 0
    assert Taste(True, 0, 0, 100).score == 2
    assert [Taste(False, said, 0, 100).score for said in (1, 4, 9)] == [0.5, 2.0, 2.0] and MOST_PASSAGES == 4
    assert Taste(False, 0, 2, 100).score == -2
    assert [Taste(False, 0, 0, words).score for words in (120, 130, 150)] == [0, -0.5, -1.5] and ENOUGH_WORDS == 120


def test_kind_endings_are_endings_of_the_world_and_are_read_off_a_story():
    assert KIND_ENDINGS < {kind for kind in all_kinds() if kind.startswith("end_")}
    for story in SOME:
        assert taste(story.text).kind_ending == (story.ending in KIND_ENDINGS)
    assert 10 < sum(taste(story.text).kind_ending for story in SOME) < 50


def test_words_passages_and_feelings_are_counted():
    text = 'Mira sat by the pond. "Hello," said Bram to Mira. "Good morning," said Mira to Bram.'
    assert (taste(text).words, taste(text).spoken_passages) == (16, 2)
    for story in SOME:
        assert taste(story.text).words == len(story.text.split())
    sad = "Mira had a red kite. Mira felt sad."
    assert taste(sad).left_unhappy == 1 and taste("Mira had a red kite.").left_unhappy == 0
    assert taste("No sentence of this world at all").score == 0


def test_a_better_story_is_preferred_as_often_as_bradley_and_terry_say():
    better, worse = sorted((story.text for story in SOME), key=lambda text: taste(text).score)[-1:-31:-29]
    gap = taste(better).score - taste(worse).score
    assert gap > 0.5
    for wavering in (0.5, 2.0, 5.0):
        chance = chance_to_prefer(better, worse, wavering)
        assert math.isclose(chance, 1 / (1 + math.exp(-gap / wavering)))
        assert math.isclose(chance + chance_to_prefer(worse, better, wavering), 1)
        rng = Random(1)
        votes = sum(prefers_first(better, worse, rng, wavering) for _ in range(2000))
        assert abs(votes / 2000 - chance) < 4 * math.sqrt(chance * (1 - chance) / 2000) + 1e-9
    assert chance_to_prefer(worse, better, 1e-6) == 0 and chance_to_prefer(better, better) == 0.5


@pytest.mark.parametrize("wavering", [0, -1, math.nan])
def test_a_reader_who_wavers_not_at_all_is_refused(wavering):
    with pytest.raises(ValueError, match="wavering is .*: it must be above 0; 0.01 is"):
        chance_to_prefer("a", "b", wavering)
