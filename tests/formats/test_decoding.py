"""llmbook.formats.decoding: streaming gives what whole decoding gives, with each id decoded once."""

import json

import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook.formats.decoding import TextStream
from llmbook.formats.pretrained_tokenizer import PretrainedTokenizer
from llmbook.formats.tokenizer_descriptions import Description
from llmbook.formats.tokenizers import tokenizer_of
from tests.support.pretrained import STORY
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


class Watched:
    """A runner's decoding, counted: calls, and the ids that they were given."""

    def __init__(self, runner, monkeypatch):
        self.calls, self.ids = 0, 0
        one, several = runner.token_bytes, runner.decode
        monkeypatch.setattr(runner, "token_bytes", lambda number: self._note([number]) or one(number))
        monkeypatch.setattr(runner, "decode", lambda ids: self._note(ids) or several(ids))

    def _note(self, ids) -> None:
        self.calls, self.ids = self.calls + 1, self.ids + len(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_4000_tokens_is_decoded_once(of_kind, kind, monkeypatch):
    ours = of_kind[kind]
    ids = (ours.encode(" ".join(TEXTS * 120), disallowed_special=()))[:4000]
    whole, seen = ours.decode(ids), Watched(ours.runner, monkeypatch)
    assert "".join(streamed(ours, ids, continues=False)) == whole
    assert (len(ids), seen.calls, seen.ids) == (4000, 4000, 4000)


def described(kind: str) -> Description:
    """A tokenizer whose tokens' texts depend on their neighbours."""
    if kind == "bert":
        theirs = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
        theirs.decoder = tokenizers.decoders.WordPiece()
        trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False)
    else:
        theirs = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        theirs.decoder = tokenizers.decoders.BPEDecoder("</w>")
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], end_of_word_suffix="</w>",
                                                 show_progress=False)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    theirs.train_from_iterator([STORY], trainer)
    return Description(json.loads(theirs.to_str()))


@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_where_neighbours_decide_4000_tokens_are_decoded_in_a_short_window(kind, monkeypatch):
    """The package `tokenizers` decodes: WordPiece sets spaces between words, CLIP's BPE at their ends."""
    ours = PretrainedTokenizer(described(kind))
    ids = ours.encode("the clock said so , and the sea is never in a hurry . " * 400)[:4000]
    whole, seen = ours.decode(ids), Watched(ours.runner, monkeypatch)
    assert "".join(streamed(ours, ids, continues=False)) == whole
    assert len(ids) == 4000 and len(whole) > 6000 and seen.ids <= 7 * 4000


@pytest.mark.parametrize("unit", [b"\xff", b"\xe4\xbd", "\ufffd".encode(), b"\xf0\x9f\x98"])
def test_a_window_stays_short_where_no_text_ever_comes(unit):
    """Bytes that are none, or U+FFFD itself: the end of a character could always be still to come."""
    counts = []
    for repeats in (400, 4000):
        tokenizer = Counting(one_by_one=False)
        ids = list(unit * repeats)[:repeats]
        pieces = streamed(tokenizer, ids)
        assert "".join(pieces) == bytes(ids).decode("utf-8", "replace")
        assert sum(map(bool, pieces)) > repeats / 20  # it is shown as it comes
        counts.append(tokenizer.decoded / len(ids))
    assert counts[1] <= 40 and counts[1] == pytest.approx(counts[0], rel=0.1)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([*"aé你😀\ufffd ".encode(), 0xff, 0xed]), max_size=60))
def test_windows_of_any_bytes_as_in_whole_decoding(ids):
    assert "".join(streamed(Counting(one_by_one=False), ids)) == bytes(ids).decode("utf-8", "replace")
