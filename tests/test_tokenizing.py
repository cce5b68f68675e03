"""llmbook.tokenizing: text of any size and content to ids and back, tokenizers from merges and from files."""

import base64
import json
import os
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook import tokenizing
from llmbook.book.corpora import data_folder
from llmbook.text import END_OF_TEXT, GPT2_PATTERN, load_tokenizer, read_text, save_tokenizer, train_bpe
from llmbook.tokenizing import decode_text, encode_array, encode_iterable, encode_text, tokenizer_from_merges

STORY = read_text(data_folder() / "twenty_in_hand.txt")


@pytest.fixture(scope="module")
def story_encoding():
    return train_bpe(STORY, 500)


@pytest.fixture(scope="module")
def gpt2():
    return load_tokenizer("gpt2")


# --- text to ids and back --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", [" " * 1_000_000 + "late", "ab" + "\n" * 1_000_000 + "x", "\u3000" * 700_000 + "x"],
                         ids=["spaces", "lines", "wide spaces"])
def test_white_space_of_any_length_is_encoded(gpt2, story_encoding, text):
    """Tiktoken alone ends the process here."""
    for tokenizer in (gpt2, story_encoding):
        assert tokenizer.decode(encode_text(text, tokenizer)) == text


def test_the_way_around_tiktoken_s_limit_gives_the_same_ids(gpt2, story_encoding, monkeypatch):
    rng = random.Random(3)
    space = [" ", "\n", "\t", "\r", "\u3000", "\x1c"]
    texts = [STORY, "", "a", " ", "\n\n"]
    texts += ["".join(rng.choice(["ab", "é", "7", "'s", "潮", *space]) * rng.randint(1, 9) for _ in range(20))
              for _ in range(300)]
    usual = [[encode_text(text, tokenizer) for text in texts] for tokenizer in (gpt2, story_encoding)]
    monkeypatch.setattr(tokenizing, "_has_long_space", lambda text: True)
    assert [[encode_text(text, tokenizer) for text in texts] for tokenizer in (gpt2, story_encoding)] == usual


@pytest.mark.parametrize("text, found", [
    (" " * 200_000, True), ("a" * 99_999 + " " * 199_999 + "a", True), ("a " * 300_000, False), ("", False),
    ("a" * 50_000 + " " * 99_000 + "a" * 99_000, False), ("a" * 1000 + " " * 450_000 + "b", True)])
def test_every_long_space_is_found(text, found):
    assert tokenizing._has_long_space(text) == found


def test_half_of_a_pair_is_named(story_encoding):
    """Tiktoken alone takes U+FFFD for it, silently."""
    with pytest.raises(ValueError, match=r"character 2 \('\\ud83d'\) has no UTF-8: .* take it out"):
        encode_text("ab\ud83d", story_encoding)


def test_special_tokens_are_plain_text(gpt2):
    assert encode_text(f"a{END_OF_TEXT}", gpt2) == gpt2.encode_ordinary(f"a{END_OF_TEXT}")


class Plain:
    """A tokenizer of which only the protocol is known."""

    def encode(self, text, *, allowed_special=(), disallowed_special="all"):
        assert not allowed_special and not disallowed_special
        return [*text.encode()]


@pytest.mark.parametrize("text", [STORY, "", "a", f"Be kind.{END_OF_TEXT}New", "潮 \N{OCTOPUS}", "x" + " " * 600_000])
def test_ids_as_an_array_are_the_ids(gpt2, story_encoding, text):
    for tokenizer in (gpt2, story_encoding, Plain()):
        ids = encode_array(text, tokenizer)
        assert ids.ndim == 1 and np.issubdtype(ids.dtype, np.integer)
        assert ids.tolist() == encode_text(text, tokenizer)


def test_half_of_a_pair_is_no_id_of_an_array(story_encoding):
    with pytest.raises(ValueError, match=r"character 2 \('\\ud83d'\) has no UTF-8"):
        encode_array("ab\ud83d", story_encoding)


def test_encode_iterable_gives_one_row_of_ids_at_a_time(story_encoding):
    read = []

    def texts():
        for text in STORY.split("\n\n"):
            read.append(text)
            yield text

    rows = encode_iterable(texts(), story_encoding)
    first = next(rows)
    assert len(read) == 1, "nothing is read ahead"
    assert first.dtype == np.int64 and first.tolist() == [*story_encoding.encode_ordinary(read[0]), 499]
    assert sum(1 for _ in rows) == len(read) - 1 == STORY.count("\n\n")
    assert [row.tolist() for row in encode_iterable([""], story_encoding)] == [[499]]
    assert [row.tolist() for row in encode_iterable(["ab", ""], story_encoding, None)] == [[97, 98], []]
    assert len(list(encode_iterable("one text", story_encoding))) == 1


@pytest.mark.parametrize("texts, settings, message", [
    (["a", 7], {}, "text 2 is 7, of type int: it must be a string"),
    (["a", "b\udc00"], {}, r"text 2: character 1 \('\\udc00'\)"),
    (["a"], {"end_of_text": "<|end|>"}, r"no special token '<\|end\|>': name one of its own by end_of_text, or pass"),
])
def test_bad_iterables(story_encoding, texts, settings, message):
    with pytest.raises(ValueError, match=message):
        list(encode_iterable(texts, story_encoding, **settings))


@pytest.mark.parametrize("ids", [[97, 500, 98], [97, 10**12, 98], [97, -1, 98], [97, 2**32 - 1, 98]])
def test_an_id_outside_the_vocabulary_is_a_replacement_character(story_encoding, ids):
    """It was a KeyError."""
    assert decode_text(ids, story_encoding) == "a\ufffdb"
    assert decode_text(np.array([97, 98]), story_encoding) == "ab"


# --- a tokenizer from merges -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("merges, message", [
    ([(b"a", b"b"), (b"x", b"yz")], r"merge 2, b'x' \+ b'yz', has a part that is no token: give the merges in"),
    ([(b"a", b"b"), (b"a", b"b")], r"merge 2, b'a' \+ b'b', is a token already: .* each once"),
    ([(b"ab", b"c"), (b"a", b"b")], r"merge 1, b'ab' \+ b'c', has a part"),
])
def test_bad_merges(merges, message):
    with pytest.raises(ValueError, match=message):
        tokenizer_from_merges(merges, [END_OF_TEXT], GPT2_PATTERN)


def test_a_tokenizer_of_own_merges():
    own = tokenizer_from_merges([(b"t", b"i"), (b"d", b"e"), (b"ti", b"de")], ["<a>", "<b>"], GPT2_PATTERN, "own")
    assert own.encode("tide<b>", allowed_special="all") == [258, 260] and own.name == "own" and own.n_vocab == 261


# --- tokenizer files -------------------------------------------------------------------------------------------------

def test_saved_tokenizers_load_unchanged(tmp_path, story_encoding, gpt2):
    pattern = train_bpe(STORY, 300, special_tokens=("<a>", "<b>"), pattern=r"\w+|\W")
    for encoding in (story_encoding, gpt2, pattern):
        path = tmp_path / "tokenizer.json"
        save_tokenizer(encoding, path)
        for again in (load_tokenizer(path), load_tokenizer(str(path))):
            assert again.name == encoding.name and again._pat_str == encoding._pat_str
            assert again._mergeable_ranks == encoding._mergeable_ranks
            assert again._special_tokens == encoding._special_tokens and again.n_vocab == encoding.n_vocab
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]


def test_an_interrupted_save_leaves_the_old_file(tmp_path, story_encoding, monkeypatch):
    path = tmp_path / "tokenizer.json"
    save_tokenizer(story_encoding, path)
    before = path.read_bytes()

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        save_tokenizer(train_bpe(STORY, 300), path)
    assert path.read_bytes() == before


def test_a_tokenizer_with_gaps_in_its_ids_is_not_saved(tmp_path):
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 300}
    gaps = tiktoken.Encoding("gaps", pat_str=".", mergeable_ranks=ranks, special_tokens={})
    with pytest.raises(ValueError, match="'gaps' have gaps"):
        save_tokenizer(gaps, tmp_path / "gaps.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["gpt3", "", "no/such/file.json"])
def test_unknown_tokenizer_name(name):
    with pytest.raises(ValueError, match=f"no tokenizer named '{name}': use 'gpt2' or the path"):
        load_tokenizer(name)


def damaged(change) -> bytes:
    content = {"name": "x", "pattern": GPT2_PATTERN, "special_tokens": {END_OF_TEXT: 256},
               "tokens": [base64.b64encode(bytes([byte])).decode() for byte in range(256)]}
    change(content)
    return json.dumps(content).encode()


@pytest.mark.parametrize("data", [
    b"", b"not JSON", b"\xff\xfe", b"[1, 2]", b"7", b"null",
    damaged(lambda c: c.pop("tokens")), damaged(lambda c: c.pop("pattern")), damaged(lambda c: c.pop("name")),
    damaged(lambda c: c.pop("special_tokens")), damaged(lambda c: c.update(tokens=None)),
    damaged(lambda c: c["tokens"].pop()), damaged(lambda c: c["tokens"].append("!!")),
    damaged(lambda c: c["tokens"].__setitem__(65, "QQ!!==")),
    damaged(lambda c: c["tokens"].append(c["tokens"][0])), damaged(lambda c: c["tokens"].append(7)),
    damaged(lambda c: c.update(pattern="(")), damaged(lambda c: c.update(pattern=None)),
    damaged(lambda c: c.update(special_tokens=[END_OF_TEXT])),
    damaged(lambda c: c.update(special_tokens={"<a>": "x"})),
    damaged(lambda c: c.update(special_tokens={"<a>": 65})), damaged(lambda c: c.update(special_tokens={"<a>": -1})),
    damaged(lambda c: c.update(special_tokens={"<a>": 256, "<b>": 256})),
    damaged(lambda c: None)[:2000], b"[" * 100_000,
    # an id of 10**10 exhausts the memory, an empty token hangs
    *(damaged(lambda c, number=number: c.update(special_tokens={"<a>": number})) for number in (10**10, 1.0, 2**31)),
    damaged(lambda c: c.update(special_tokens={"": 256})),
    damaged(lambda c: c.update(name=None)), damaged(lambda c: c["tokens"].append("")),
])
def test_damaged_tokenizer_file(tmp_path, data):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"tokenizer.json is not a tokenizer file from save_tokenizer \(.*another, or"):
        load_tokenizer(path)


def test_the_undamaged_file_loads(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(damaged(lambda content: None))
    assert load_tokenizer(path).n_vocab == 257
    path.write_bytes(b"\xef\xbb\xbf" + damaged(lambda content: None))  # as some editors write it
    assert load_tokenizer(path).n_vocab == 257
    assert load_tokenizer(Path(__file__).parent / "fixtures" / "v0_1_0" / "tokenizer.json").n_vocab == 300


@given(st.integers(0, 2500), st.integers(0, 255))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_changed_byte_of_a_tokenizer_file_is_harmless_or_one_line(place, byte):
    content = bytearray(damaged(lambda content: None))
    content[place % len(content)] = byte
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_bytes(content)
        try:
            tokenizer = load_tokenizer(path)
        except ValueError as error:
            assert "is not a tokenizer file" in str(error) and "\n" not in str(error)
        else:
            assert 257 <= tokenizer.n_vocab <= 1000 and tokenizer.decode(tokenizer.encode_ordinary("a")) in "a"


def test_what_tiktoken_does_not_run_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="a str cannot be saved in this format: keep the files"):
        save_tokenizer("gpt2", tmp_path / "a.json")
