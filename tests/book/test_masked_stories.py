"""llmbook.book.masked_stories: what is hidden, and how naming it is counted."""

from __future__ import annotations

import torch

from llmbook.book.masked_stories import MOST_TOKENS, masked_story_batches, named_shares
from llmbook.book.storytelling import Share
from llmbook.storyworld import stories


class Letters:
    """One id for each character: 2 and up, so that 0 pads and 1 hides."""

    n_vocab = 200

    def encode(self, text: str) -> list[int]:
        return [2 + min(ord(letter), 190) for letter in text]


def batches(seed: int = 3):
    return masked_story_batches(Letters(), seed, 5, "train", 2, mask_id=1, pad_id=0)


def test_stories_come_in_batches_cut_to_the_length_and_the_seed_decides_all():
    found = batches()
    assert [len(inputs) for inputs, _ in found] == [2, 2, 1]
    assert all(inputs.shape == targets.shape and inputs.shape[1] <= MOST_TOKENS for inputs, targets in found)
    assert all(torch.equal(one, other) for pair, again in zip(found, batches()) for one, other in zip(pair, again))
    assert not torch.equal(found[0][1], batches(4)[0][1])


def test_the_targets_are_the_stories_own_tokens_and_padding_is_never_asked_for():
    inputs = torch.cat([inputs for inputs, _ in batches()])
    targets = torch.cat([targets for _, targets in batches()])
    asked = targets != -100
    whole = torch.where(asked, targets, inputs)
    for row, story in zip(whole, stories(3, 5, split="train", short=True), strict=True):
        ids = Letters().encode(story.text)[:MOST_TOKENS]
        assert row[: len(ids)].tolist() == ids and not row[len(ids):].any()
    assert 0.1 < asked.float().mean() < 0.2 and (inputs[asked] == 1).float().mean() > 0.6


class Reader:
    """Knows the token at each place, but for the first place of each row, where it says 7."""

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([[7, 5, 6], [7, 5, 5]]), 9).float()

    def lm_head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def test_what_is_named_is_counted_beside_the_most_frequent_token():
    targets = torch.tensor([[4, 5, -100], [-100, 5, 5]])
    found = named_shares(Reader(), torch.zeros(2, 3, dtype=torch.long), targets)
    assert found == {"encoder": Share(3, 4), "most frequent token": Share(3, 4)}  # 5, three times of four
