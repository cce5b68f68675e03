"""Counting what a model's stories get right."""

import math

import pytest
import torch

from llmbook.book import storytelling
from llmbook.book.corpora import held_out_stories, story_documents
from llmbook.book.ladder import encode_documents, total_nats
from llmbook.book.storytelling import (
    Share,
    asked_endings,
    first_half,
    judge_stories,
    story_loss,
    story_skills,
    tell_stories,
)
from llmbook.gpt import GPT, GPTConfig
from llmbook.storyworld import stories
from llmbook.storyworld.damage import damage
from llmbook.storyworld.grammar import all_kinds
from llmbook.text import train_bpe


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(story_documents(50), 400)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return GPT(GPTConfig(400, 64, 16, 2, 1, dropout=0.0))


@pytest.mark.parametrize("right, of, low, high", [
    (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (45, 50, 0.7864, 0.9565), (250, 500, 0.4563, 0.5437)])
def test_wilson_s_interval_is_that_of_other_programs(right, of, low, high):
    found = Share(right, of).interval  # expected: statsmodels' proportion_confint(right, of, method="wilson")
    assert found == pytest.approx((low, high), abs=1e-4)


def test_a_share_says_its_number_and_its_interval():
    assert str(Share(45, 50)) == "90.0 % (78.6 to 95.7), n = 50"
    assert math.isnan(Share(0, 0).value) and Share(0, 0).interval == (0.0, 1.0)


def test_stories_begin_where_documents_do_and_end_at_the_next(model, tokenizer, monkeypatch):
    asked = []

    def generate(model, prompts, room, temperature, top_p, stop_tokens, seed, vocab_size):
        asked.append(([prompt.tolist() for prompt in prompts], room, temperature, top_p, seed))
        return [torch.cat([prompt, torch.tensor([65 + len(prompt), tokenizer.eot_token])]) for prompt in prompts]

    monkeypatch.setattr(storytelling, "generate", generate)
    monkeypatch.setattr(storytelling, "BATCH", 2)
    end, openings = tokenizer.eot_token, ["xyz", "", "x"]
    assert tell_stories(model, tokenizer, 3, 0.5, 7, openings, top_p=0.9) == [
        text + tokenizer.decode([66 + len(tokenizer.encode(text))]) for text in openings]
    assert asked == [([[end], [end, *tokenizer.encode("x")]], 62, 0.5, 0.9, 7), ([[end, *tokenizer.encode("xyz")]],
                     63 - len(tokenizer.encode("xyz")), 0.5, 0.9, 9)]


def test_a_seed_repeats_stories(model, tokenizer):
    once = tell_stories(model, tokenizer, 2, seed=1)
    assert once == tell_stories(model, tokenizer, 2, seed=1) != tell_stories(model, tokenizer, 2, seed=2)


def test_openings_that_do_not_fit_are_refused(model, tokenizer):
    with pytest.raises(ValueError, match="1 openings for 2 stories: give one for each"):
        tell_stories(model, tokenizer, 2, openings=["x"])
    with pytest.raises(ValueError, match="tokens, the context has 64: give a shorter one"):
        tell_stories(model, tokenizer, 1, openings=["x y " * 64])


def test_good_stories_have_no_problem_and_spoiled_ones_do():
    good = [story.text for story in stories(5, 20)]
    found = judge_stories(good)
    assert found.consistent == found.grammatical == Share(20, 20) and not found.problems
    cut = [text[: text.rindex(".", 0, -2) + 1] for text in good]  # without an ending
    found = judge_stories([*cut, "Fish the of."])
    assert found.consistent.right < 5 and found.problems["no ending"] > 15 and found.problems["unknown sentence"] >= 1


def test_an_opening_is_the_first_half():
    for story in stories(5, 5):
        half = first_half(story)
        assert story.text.startswith(half) and len(story.sentences) // 2 == sum(
            half.endswith(text) or text in half for text in story.sentences)


def test_an_ending_is_the_one_that_was_asked_for(monkeypatch):
    originals = list(stories(2, 4, split="test", short=True))
    def say(texts):
        monkeypatch.setattr(storytelling, "tell_stories", lambda *_: texts)
        return asked_endings(None, None, 4)

    assert say([story.text for story in originals]) == {"asked": Share(4, 4), "any": Share(4, 4)}
    assert say([first_half(story) for story in originals]) == {"asked": Share(0, 4), "any": Share(0, 4)}
    other = next(story for story in stories(3, 50) if story.ending not in {one.ending for one in originals})
    assert say([other.text] * 4) == {"asked": Share(0, 4), "any": Share(4, 4)}


def test_held_out_loss_is_that_of_the_ladder_s_stories(tokenizer):
    torch.manual_seed(0)
    model = GPT(GPTConfig(400, 1024, 16, 2, 1, dropout=0.0)).eval()
    nats, bits = story_loss(model, tokenizer, 3)
    told = encode_documents(held_out_stories(3, short=True), tokenizer)
    expected = total_nats(model, told)
    assert nats == pytest.approx(expected / sum(len(ids) - 1 for ids in told), rel=1e-4)
    size = sum(len(text.encode()) for text in held_out_stories(3, short=True))
    assert bits == pytest.approx(expected / math.log(2) / size, rel=1e-4)


# --- skills: each is seen to fail by a story that lacks it ---------------------------------------------------------

def test_the_simulator_s_own_stories_show_every_skill():
    found = story_skills([story.text for story in stories(6, 120)])
    assert found["grammar"] == Share(120, 120)
    for skill in ("names", "owners", "sums"):
        assert found[skill].of > 20 and found[skill].value > 0.97, skill


def test_a_sentence_of_no_story_lacks_grammar_only():
    story = next(stories(6, 1)).text
    found = story_skills([story.replace(". ", ". Fish the of. ", 1)])
    assert found["grammar"] == Share(0, 1) and found["names"].right == 1


def stories_with(relations: set[str]):
    return (story for story in stories(7, 400) if any(
        need.removeprefix("not ").split()[0] in relations for event in story.facts
        for need in all_kinds()[event.kind].needs_text))


def test_another_name_in_the_middle_is_a_lack_of_names():
    wrong = 0
    for story in list(stories(6, 10)):
        half = len(first_half(story))
        other = next(name for name in ("Mira", "Jun", "Kofi") if name not in story.text)
        wrong += story_skills([story.text[:half] + story.text[half:].replace(story.hero, other)])["names"].right == 0
    assert wrong >= 8


def test_wrong_hands_are_a_lack_of_owners():
    found = [damage(story, number, "swap owner") for number, story in enumerate(stories(8, 60))]
    texts = [spoiled.text for spoiled in found if spoiled is not None]
    assert len(texts) > 10 and story_skills(texts)["owners"].value < 0.5


def test_a_wrong_number_is_a_lack_of_sums():
    found = [damage(story, number, "change number") for number, story in enumerate(stories_with({"count"}))]
    texts = [spoiled.text for spoiled in found if spoiled is not None]
    assert len(texts) > 10 and story_skills(texts)["sums"].value < 0.5
