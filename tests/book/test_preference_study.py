"""Chapter 8's stored stories, votes and tables."""

import random

import pytest
import torch

from llmbook.book.preference_study import (
    calm_teller,
    draw_pairs,
    draw_votes,
    mean_with_error,
    preference_study,
    share_preferred,
    spread_table,
    study_text,
    told_by,
    told_stories,
)
from llmbook.files import data_folder
from llmbook.open_weights import load_pretrained
from llmbook.storyworld.tastes import taste


def test_the_stories_are_those_of_the_shipped_storyteller():
    weights = [path.name for path in data_folder().joinpath("storyteller").glob("model-*.safetensors")]
    assert weights == [told_by()], "the storyteller is a new one: run `python tools/preferences.py`"
    stories = told_stories()
    assert len(stories) == 1600 and len(set(stories)) > 1500
    assert all(30 < len(text.split()) < 400 for text in stories) and not any("endoftext" in text for text in stories)


def test_the_calm_teller_has_the_sharper_distribution_of_a_lower_temperature():
    calm, tokenizer = calm_teller(0.5)
    wild, _ = load_pretrained("storyteller", device="cpu")
    ids = torch.tensor([[tokenizer.eot_token, *tokenizer.encode_ordinary("Mira had a red")]])
    torch.testing.assert_close(calm(ids), 2 * wild(ids), rtol=1e-3, atol=1e-3)


def test_votes_follow_the_taste_and_are_repeatable():
    stories = told_stories()[:300]
    votes = draw_votes(stories, 400, seed=1)
    assert votes == draw_votes(stories, 400, seed=1) != draw_votes(stories, 400, seed=2)
    agree = sum(taste(vote["chosen"]).score > taste(vote["rejected"]).score for vote in votes)
    assert 300 < agree < 390  # some waver
    own = draw_votes(stories, 100, seed=1, score=lambda text: float(len(text)))
    assert all(len(vote["chosen"]) >= len(vote["rejected"]) for vote in own)
    tossed = draw_votes(stories, 200, seed=1, score=lambda text: 0.0)
    first = [vote["chosen"] == pair[0] for vote, pair in zip(tossed, draw_pairs(stories, 200, seed=1))]
    assert 70 < sum(first) < 130


def test_pairs_are_of_different_texts():
    assert all(a != b for a, b in draw_pairs(["x", "y", "x"], 50))
    with pytest.raises(ValueError, match="1 different text: give at least 2"):
        draw_pairs(["x", "x"], 1)


def test_the_share_that_is_preferred_leaves_out_equal_scores():
    share = share_preferred(["aaa", "a"], ["aa", "a"], n=3000, score=len)
    assert share.of == 3000 and abs(share.value - 2 / 3) < 0.03  # of aaa-aa, aaa-a and a-aa, the first two
    assert share_preferred(["aaa"], ["a"], score=len).right == 500
    with pytest.raises(ValueError, match="all texts have the same score"):
        share_preferred(["a"], ["b"], score=len)


def test_tables_join_the_seeds():
    rows = [{"votes": 5, "seed": seed, "right": [seed, 10], "loss": 0.5 + seed} for seed in (0, 1, 2)]
    rows += [{"votes": 50, "seed": 0, "right": [9, 10], "loss": 1.0}]
    table = spread_table(rows, "votes", {"share": "right", "the loss": "loss"})
    assert table.loc[5].tolist() == [3, "10.0 % (3.5 to 25.6), n = 30", "1.50 (0.50 to 2.50)"]
    assert list(table.index) == [5, 50]
    alone = spread_table(rows, ["votes", "seed"], {"the loss": "loss"})
    assert alone.index.nlevels == 2 and "(" not in alone["the loss"].iloc[0]  # one run has no spread
    assert "10.0 % (3.5 to 25.6)" in study_text(rows, "votes", {"share": "right"})
    assert study_text([], "votes", {"share": "right"}) == "not run yet"


def test_a_mean_has_its_standard_error():
    random.seed(0)
    assert mean_with_error(torch.tensor([1.0, 2.0, 3.0, 4.0])) == "2.50 ± 0.65"


def test_the_study_has_all_parts_whether_they_were_run_or_not():
    assert list(preference_study()) == ["rewards", "dpo", "few votes", "reinforce", "real"]
