"""The counts of pairs that a byte-pair encoding keeps while it learns: exact, and no more work than a merge needs."""

from collections import Counter

import pytest

from llmbook.pair_counts import PairCounts, count_chunks, merge_pair
from llmbook.text import GPT2_PATTERN, train_bpe
from tests.support.byte_pairs import STORY, TEXTS, few_letters, rescan_merges


@pytest.mark.parametrize("name", TEXTS)
def test_incremental_training_equals_a_rescan_merge_by_merge(name):
    pairs = PairCounts(count_chunks(TEXTS[name], GPT2_PATTERN))
    for new_id, (pair, counts, _) in enumerate(rescan_merges(TEXTS[name]), 256):
        assert {key: count for key, count in pairs.counts.items() if count} == counts, f"before merge {new_id}"
        assert pairs.most_common() == pair, f"merge {new_id}"
        pairs.merge(pair, new_id)
        if new_id == 450:
            return
    assert pairs.most_common() is None


def test_places_hold_exactly_the_words_with_the_pair():
    pairs = PairCounts(count_chunks(TEXTS["three letters"], GPT2_PATTERN))
    for new_id in range(256, 280):
        pairs.merge(pairs.most_common(), new_id)
        held = {pair: {i for i, word in enumerate(pairs.words) if pair in zip(word, word[1:])}
                for pair, count in pairs.counts.items()}
        assert {pair: places for pair, places in pairs.places.items() if places} == \
            {pair: places for pair, places in held.items() if places}


@pytest.mark.parametrize("name", TEXTS)
def test_the_heap_has_one_entry_a_pair_that_is_never_too_low(name):
    """A pair goes back only if it came out on top with a count that has changed: the heap does not fill up."""
    pairs = PairCounts(count_chunks(TEXTS[name], GPT2_PATTERN))
    for new_id in range(256, 400):
        if (pair := pairs.most_common()) is None:
            break
        pairs.merge(pair, new_id)
        entries, left = [entry for _, entry in pairs.heap], {key for key, count in pairs.counts.items() if count}
        assert len(entries) == len(set(entries)) and left <= set(entries)
        assert all(-count >= pairs.counts[entry] for count, entry in pairs.heap)


def test_a_merge_touches_only_the_words_that_hold_the_pair():
    pairs = PairCounts(Counter({b" the": 4, b" tide": 2, b" hen": 1}))
    hen = pairs.words[2]
    assert pairs.most_common() == (32, 116)
    pairs.merge((32, 116), 256)
    assert pairs.words == [[256, 104, 101], [256, 105, 100, 101], [32, 104, 101, 110]] and pairs.words[2] is hen


@pytest.mark.parametrize("ids, pair, merged", [
    ([1, 2, 3, 1, 2], (1, 2), [9, 3, 9]), ([7, 7, 7], (7, 7), [9, 7]), ([7] * 4, (7, 7), [9, 9]),
    ([1, 1, 2], (1, 2), [1, 9]), ([2, 1], (1, 2), [2, 1]), ([], (1, 2), []), ([1], (1, 2), [1])])
def test_merge_goes_left_to_right_without_overlap(ids, pair, merged):
    assert merge_pair(ids, pair, 9) == merged


def test_training_pieces_are_the_encoder_s_pieces():
    """The chunks of the training text, as the last merge leaves them, are what tiktoken encodes them to."""
    for text in (STORY, few_letters(7, "abc")):
        counts = count_chunks(text, GPT2_PATTERN)
        pairs, encoding = PairCounts(counts), train_bpe(text, 500)
        for new_id in range(256, 499):
            pairs.merge(pairs.most_common(), new_id)
        for chunk, word in zip(counts, pairs.words):
            assert encoding.encode_ordinary(chunk.decode()) == word
