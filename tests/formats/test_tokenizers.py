"""llmbook.formats.tokenizers: the ids are those of the tokenizer's own package."""

import json

import pytest
import tiktoken
import tokenizers

from llmbook.formats.tokenizers import HubTokenizer
from llmbook.open_weights import load_pretrained
from tests.support.gguf_files import IN_GGUF, write_gguf
from tests.support.pretrained import STORY, reference
from tests.support.tokenizer_files import SPECIAL, TEXTS, random_texts, trained_tokenizer, with_tokenizer

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("style", ["gpt-2", "llama-bpe", "smollm"])
def test_byte_level_tokenizers_are_run_by_tiktoken(style, tmp_path):
    theirs, (_, ours) = trained_tokenizer(style), load_pretrained(with_tokenizer(tmp_path, style))
    assert isinstance(ours, tiktoken.Encoding) and ours.n_vocab == 400
    assert ours.special_tokens_set == set(SPECIAL)
    for text in [*TEXTS, *random_texts(100), STORY[:5000]]:
        ids = ours.encode(text, disallowed_special=())
        assert ids == theirs.encode(text, add_special_tokens=False).ids, repr(text)
        assert ours.decode(ids) == text
    chat = "<|im_start|>hi<|im_end|>"
    assert ours.encode(chat, allowed_special="all") == theirs.encode(chat).ids
    with pytest.raises(ValueError, match="im_end"):
        ours.encode("hi<|im_end|>")


@pytest.mark.parametrize("style", ["sentencepiece", "nfc", "prefix space"])
def test_others_are_run_by_their_own_package(style, tmp_path):
    theirs = trained_tokenizer(style)
    _, ours = load_pretrained(with_tokenizer(tmp_path, style, vocab_size=theirs.get_vocab_size()))
    assert isinstance(ours, HubTokenizer) and ours.n_vocab == theirs.get_vocab_size()
    for text in [*TEXTS, *random_texts(100), STORY[:5000]]:
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == expected, repr(text)
        assert ours.decode(expected) == theirs.decode(expected, skip_special_tokens=False)


def test_special_tokens_of_the_other_tokenizer_as_in_tiktoken(tmp_path):
    """They are an error unless allowed; where they are neither, they are spelled like any text."""
    _, ours = load_pretrained(with_tokenizer(tmp_path / "hub", "nfc"))
    _, tik = load_pretrained(with_tokenizer(tmp_path / "tik", "gpt-2"))
    assert isinstance(ours, HubTokenizer) and isinstance(tik, tiktoken.Encoding)
    text = "one<|im_end|>two"
    assert ours.special_tokens_set == tik.special_tokens_set == set(SPECIAL)
    for tokenizer in (ours, tik):
        with pytest.raises(ValueError, match="im_end"):
            tokenizer.encode(text)
    for options in ({"allowed_special": "all"}, {"disallowed_special": ()}, {"allowed_special": {"<|im_end|>"}}):
        assert ours.encode(text, **options) == tik.encode(text, **options), options
    with pytest.raises(ValueError, match="allow all of them or none"):
        ours.encode(text, allowed_special={"<|im_start|>"}, disallowed_special=())
    ids = ours.encode(text, allowed_special="all")
    assert 2 in ids and ours.decode(ids) == text


def test_padding_and_truncation_in_the_file_are_left_out(tmp_path):
    tokenizer = tokenizers.Tokenizer.from_str(trained_tokenizer("nfc").to_str())
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(3)
    with_tokenizer(tmp_path, "nfc")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = "a sentence of more than three tokens"
    assert load_pretrained(tmp_path)[1].encode(text) == trained_tokenizer("nfc").encode(text).ids


def test_merges_may_be_pairs_or_strings(tmp_path):
    with_tokenizer(tmp_path, "gpt-2")
    path = tmp_path / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in data["model"]["merges"]]
    for merges in (pairs, [" ".join(pair) for pair in pairs]):
        data["model"]["merges"] = merges
        path.write_text(json.dumps(data), encoding="utf-8")
        tokenizer = load_pretrained(tmp_path)[1]
        assert isinstance(tokenizer, tiktoken.Encoding)
        assert tokenizer.encode(STORY[:500]) == trained_tokenizer("gpt-2").encode(STORY[:500]).ids


def test_merges_out_of_order_are_left_to_the_other_package(tmp_path):
    with_tokenizer(tmp_path, "gpt-2")
    path = tmp_path / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["model"]["merges"] = data["model"]["merges"][:1] + data["model"]["merges"][:0:-1]
    path.write_text(json.dumps(data), encoding="utf-8")
    tokenizer = load_pretrained(tmp_path)[1]
    assert isinstance(tokenizer, HubTokenizer)
    assert tokenizer.encode(STORY[:500]) == tokenizers.Tokenizer.from_file(str(path)).encode(STORY[:500]).ids


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer(text, tmp_path):
    with_tokenizer(tmp_path, "gpt-2")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match="tokenizer.json is not a tokenizer: "):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("vocab_size, fits", [(399, False), (400, True), (1424, True), (1425, False)])
def test_a_tokenizer_of_another_size(vocab_size, fits, tmp_path):
    with_tokenizer(tmp_path, "gpt-2", vocab_size)
    if fits:
        assert load_pretrained(tmp_path)[1].n_vocab == 400
        return
    with pytest.raises(ValueError, match=f"the tokenizer has 400 tokens, the embedding {vocab_size:,}: they belong to"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("style", ["smollm", "llama-bpe"])
def test_tokenizers_inside_a_gguf(style, tmp_path):
    write_gguf(tmp_path / "tiny.gguf", reference(**IN_GGUF), pre=style)
    _, ours = load_pretrained(tmp_path / "tiny.gguf")
    assert isinstance(ours, tiktoken.Encoding) and ours.special_tokens_set == set(SPECIAL) and ours.name == "tiny"
    for text in [*TEXTS, *random_texts(50)]:
        ids = ours.encode(text)
        assert ids == trained_tokenizer(style).encode(text, add_special_tokens=False).ids, repr(text)
        assert ours.decode(ids) == text


def test_a_gguf_s_tokenizer_of_another_size(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", reference(vocab_size=390))
    with pytest.raises(ValueError, match="the tokenizer has 400 tokens, the embedding 390"):
        load_pretrained(tmp_path / "tiny.gguf")
