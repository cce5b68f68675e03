"""llmbook.formats.decoding: streaming gives what whole decoding gives, with each id decoded once."""

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook.formats.decoding import TextStream
from llmbook.formats.tokenizers import tokenizer_of
from tests.support.tokenizer_kinds import KINDS, folder_of, hard_texts

pytest.importorskip("transformers")
PLAIN = tiktoken.Encoding("plain", pat_str=r"\S+|\s+", mergeable_ranks={bytes([byte]): byte for byte in range(256)},
                          special_tokens={"<|endoftext|>": 256})
TEXTS = ["😀", "👩\u200d👩\u200d👧 family 👍🏽", "你好,世界。日本語のテキスト", "Grüße aus Köln", " Hello  world ",
         "नमस्ते"]


@pytest.fixture(scope="module")
def of_kind(tmp_path_factory):
    return {kind: tokenizer_of(folder_of(kind, tmp_path_factory.mktemp(kind))) for kind in KINDS}


def streamed(tokenizer, ids, **options) -> list[str]:
    text = TextStream(tokenizer, **options)
    return [*(text.push(number) for number in ids), text.finish()]


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_join_to_the_whole_text(of_kind, kind):
    ours = of_kind[kind]
    for text in [*TEXTS, *hard_texts(kind, 400, seed=7)]:
        ids = ours.encode(text, disallowed_special=())
        pieces = streamed(ours, ids, continues=False)
        assert "".join(pieces) == ours.decode(ids), repr(text)
        if "\ufffd" not in ours.decode(ids):
            assert not any("\ufffd" in piece for piece in pieces)  # no half character is shown


@pytest.mark.parametrize("kind", KINDS)
def test_a_continuation_keeps_its_first_space(of_kind, kind):  # "Helloworld"
    ours = of_kind[kind]
    prompt, whole = ours.encode("Twenty minutes"), ours.encode("Twenty minutes in the morning")
    common = next(place for place, pair in enumerate(zip(prompt + [-1], whole)) if pair[0] != pair[1])
    assert "Twenty minutes"[: len(ours.decode(whole[:common]))] + "".join(streamed(ours, whole[common:])) \
        == "Twenty minutes in the morning"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 255), max_size=12))
def test_bytes_that_are_no_text_as_in_whole_decoding(ids):
    assert "".join(streamed(PLAIN, ids)) == PLAIN.decode(ids)


def test_a_character_that_was_cut():
    text = TextStream(PLAIN)
    assert [text.push(byte) for byte in "a€".encode()[:-1]] == ["a", "", ""] and text.unfinished
    assert text.finish() == "\ufffd" and not text.unfinished and text.finish() == ""


def test_special_tokens_can_be_left_out():
    assert streamed(PLAIN, [97, 256, 98], skip_special=True) == ["a", "", "b", ""]
    assert "".join(streamed(PLAIN, [97, 256, 98])) == "a<|endoftext|>b"


def test_a_spare_id_is_no_crash():
    assert "".join(streamed(PLAIN, [97, 999, 98])) == "a\ufffdb"


class Counting:
    """A tokenizer that counts the ids it is asked to decode."""

    n_vocab, special_tokens_set = 256, set()

    def __init__(self, one_by_one: bool):
        self.decoded = 0
        if one_by_one:
            self.decode_single_token_bytes = self._one

    def _one(self, number: int) -> bytes:
        self.decoded += 1
        return bytes([number])

    def decode(self, ids: list[int]) -> str:
        self.decoded += len(ids)
        return bytes(ids).decode("utf-8", "replace")


@pytest.mark.parametrize("one_by_one, most", [(True, 1), (False, 12)])
def test_the_work_is_linear_in_the_length(one_by_one, most):
    counts = []
    for repeats in (50, 500):
        tokenizer = Counting(one_by_one)
        ids = list("Grüße, 你好 😀. ".encode() * repeats)
        assert "".join(streamed(tokenizer, ids)).encode() == bytes(ids)
        counts.append(tokenizer.decoded / len(ids))
    assert counts[1] <= most and counts[1] == pytest.approx(counts[0], rel=0.05)
