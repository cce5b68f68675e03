"""The loss ladder: its common setting, and its stored numbers."""

import math

import pytest
import torch

from llmbook.book import ladder
from llmbook.text import END_OF_TEXT, train_bpe


@pytest.fixture(scope="module")
def data():
    return ladder.ladder_data()


def test_a_document_is_a_story_between_two_ends(data):
    end = data.tokenizer.eot_token
    assert data.tokenizer.n_vocab == 257 and end == 256
    for document in data.train[:20] + data.held_out[:20]:
        assert document[0] == document[-1] == end and end not in document[1:-1]
        assert bytes(document[1:-1]).decode() == data.tokenizer.decode(document[1:-1])  # an id is its byte
        assert data.tokenizer.decode(document[:1]) == END_OF_TEXT


def test_bytes_are_those_of_the_texts(data):
    assert len(data.train) == 2_000 and len(data.validation) == 100 and len(data.held_out) == 200
    assert data.held_out_bytes == sum(len(document) - 2 for document in data.held_out)
    assert data.validation_bytes == sum(len(document) - 2 for document in data.validation)


def test_no_story_is_in_two_parts(data):
    parts = [{tuple(document) for document in part} for part in (data.train, data.validation, data.held_out)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_bits_per_byte():
    assert ladder.bits_per_byte(10 * math.log(2), 5) == pytest.approx(2)
    with pytest.raises(ValueError, match="total_bytes is 0: give the bytes"):
        ladder.bits_per_byte(1.0, 0)


def test_a_model_that_knows_nothing_needs_the_same_for_each_token_and_the_end(data):
    nats = ladder.total_nats(lambda ids: torch.zeros(*ids.shape, 257), data.held_out[:3])
    tokens = sum(len(document) - 1 for document in data.held_out[:3])
    assert nats == pytest.approx(tokens * math.log(257), rel=1e-5)


def test_a_model_that_knows_the_text_needs_nothing(data):
    document = data.held_out[0]

    def knows(ids):
        assert ids.tolist() == [document[:-1]]
        return 100.0 * torch.nn.functional.one_hot(torch.tensor([document[1:]]), 257)

    assert ladder.total_nats(knows, [document]) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("size", (4, 10, 64, 5_000))
def test_windows_count_each_token_once_with_half_a_window_before_it(data, size):
    document, seen = data.held_out[1], []

    def model(ids):
        assert ids.shape[1] <= size
        seen.extend(ids[0].tolist())
        return torch.zeros(1, ids.shape[1], 257)

    nats = ladder.total_nats(model, [document], context_length=size)
    assert nats == pytest.approx((len(document) - 1) * math.log(257), rel=1e-4)
    assert len(seen) < 2.2 * len(document)


def test_windows_give_what_a_model_that_looks_back_a_little_gives_on_the_whole(data):
    table = torch.randn(257, 257, generator=torch.Generator().manual_seed(1))

    def model(ids):  # the last two ids decide
        before = torch.nn.functional.pad(ids, (1, 0), value=256)[:, :-1]
        return table[ids] + 2 * table[before]

    whole = ladder.total_nats(model, data.held_out[:2])
    assert ladder.total_nats(model, data.held_out[:2], context_length=8) == pytest.approx(whole, rel=1e-5)


def test_another_tokenizer_sees_the_same_stories(data):
    tokenizer = train_bpe("the kettle sang because it boiled, and the kettle boiled because it sang", 265)
    documents, n_bytes = ladder.held_out_documents(tokenizer)
    assert n_bytes == data.held_out_bytes
    assert tokenizer.decode(documents[5][1:-1]) == data.tokenizer.decode(data.held_out[5][1:-1])
    assert documents[5][0] == documents[5][-1] == tokenizer.eot_token
