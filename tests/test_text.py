"""Chapter 2's module: reading texts, byte-pair encoding, tokenizer files, windows and batches."""

import hashlib
import random
import re
import tempfile
from pathlib import Path

import pytest
import regex
import tiktoken
import tiktoken.registry
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmbook.assets import fetch
from llmbook.scale.token_files import tokenizer_fingerprint
from llmbook.text import (
    END_OF_TEXT,
    GPT2_PATTERN,
    NextTokenDataset,
    bpe_merges,
    load_tokenizer,
    make_dataloader,
    read_text,
    tokenizer_from_merges,
    train_bpe,
)
from tests.support.byte_pairs import STORY, TEXTS, few_letters, rescan_merges


def random_text(rng: random.Random, longest: int = 60) -> str:
    """Letters, accents, marks, scripts, emoji, control characters: any code point but surrogates."""
    pools = [lambda: rng.choice(STORY), lambda: chr(rng.randrange(0x250)), lambda: chr(rng.randrange(0x300, 0x370)),
             lambda: chr(rng.randrange(0x4E00, 0x9FA6)), lambda: chr(rng.randrange(0x1F300, 0x1FB00)),
             lambda: chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])),
             lambda: rng.choice(" \n\t'0123456789")]
    return "".join(rng.choice(pools)() for _ in range(rng.randint(1, longest)))


# --- a plain reference, written apart from the module ----------------------------------------------------------------

def reference_encode(text: str, encoding: tiktoken.Encoding) -> list[int]:
    """In each chunk: join the neighbours whose bytes have the lowest id, the leftmost of them, until none have."""
    ids = encoding._mergeable_ranks
    result = []
    for match in regex.finditer(encoding._pat_str, text):
        parts = [bytes([byte]) for byte in match.group().encode("utf-8")]
        while True:
            pairs = enumerate(map(b"".join, zip(parts, parts[1:])))
            joined = [(ids[pair], place) for place, pair in pairs if pair in ids]
            if not joined:
                break
            place = min(joined)[1]
            parts[place:place + 2] = [parts[place] + parts[place + 1]]
        result += [ids[part] for part in parts]
    return result


# --- learning merges -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", TEXTS)
def test_trained_tokens_equal_a_rescan(name):
    learned = [token for _, (_, _, token) in zip(range(150), rescan_merges(TEXTS[name]))]
    encoding = train_bpe(TEXTS[name], 256 + len(learned) + 1)
    assert [encoding.decode_single_token_bytes(256 + n) for n in range(len(learned))] == learned


def test_ids_are_bytes_then_merges_then_special_tokens():
    encoding = train_bpe(STORY, 300, special_tokens=("<|endoftext|>", "<|user|>"))
    assert encoding.n_vocab == 300 and encoding.eot_token == 298
    assert [encoding.decode_single_token_bytes(id) for id in range(256)] == [bytes([id]) for id in range(256)]
    assert encoding.decode_single_token_bytes(256) == b" t"
    assert encoding.encode("<|user|>", allowed_special="all") == [299]
    assert train_bpe(STORY, 256, special_tokens=()).n_vocab == 256


def test_training_twice_gives_the_same_ids():
    assert train_bpe(STORY, 700)._mergeable_ranks == train_bpe(STORY, 700)._mergeable_ranks


def test_among_equally_frequent_pairs_the_lowest_ids_win():
    assert train_bpe("zy ba dc", 258).decode([256]) == " b"  # " b", " d", "ba", "dc", "zy" occur once each


def test_no_merge_crosses_a_chunk_or_a_special_token():
    encoding = train_bpe("tide tide tide 1911 1911 ... " * 30, 268)
    for token in list(encoding._mergeable_ranks)[256:]:
        assert len(regex.findall(GPT2_PATTERN, token.decode())) == 1, token
    joined = train_bpe(f"tide{END_OF_TEXT}" * 50 + "sea sea", 260)
    assert [joined.decode([id]) for id in range(256, 259)] == ["de", "ide", "tide"]


def test_special_tokens_in_the_text_are_not_learned():
    assert train_bpe(f"ab{END_OF_TEXT}" * 500, 258).decode([256]) == "ab"
    with pytest.raises(ValueError, match="pairs for 258 tokens only"):
        train_bpe(f"ab{END_OF_TEXT}" * 500, 259)


def test_documents_train_as_their_text_and_special_tokens_in_them_are_plain():
    """A separator inside a document is text to whoever reads documents."""
    parts = STORY.split("\n\n")
    assert bpe_merges(train_bpe(iter(parts), 400)) == bpe_merges(train_bpe(END_OF_TEXT.join(parts), 400))
    plain = train_bpe([f"ab{END_OF_TEXT}"] * 500, 268)
    assert plain.decode([266]) == "endoftext" and len(plain.encode_ordinary(END_OF_TEXT)) == 3


def test_own_pattern_is_used_for_training_and_for_encoding():
    digits = GPT2_PATTERN.replace(r" ?\p{N}++", r"\p{N}")
    text = "in 1911 in 1911 in 1911"
    encoding = train_bpe(text, 259, pattern=digits)
    assert [encoding.decode([id]) for id in (256, 257)] == ["in", " in"]
    assert len(encoding.encode_ordinary(" 1911")) == 5
    assert len(train_bpe(text, 263).encode_ordinary(" 1911")) == 1


def test_progress_bar_is_silent_by_default_and_on_stderr_on_request(capsys):
    train_bpe(STORY, 280)
    assert capsys.readouterr() == ("", "")
    train_bpe(STORY, 280, progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "23/23" in captured.err


@pytest.mark.parametrize("arguments, message", [
    (dict(text=STORY, vocab_size=256), r"vocab_size \(256\) is too small: 256 bytes and 1 special .* least 257"),
    (dict(text=STORY, vocab_size=0), "at least 257"),
    (dict(text=STORY, vocab_size=255, special_tokens=()), "at least 256"),
    (dict(text="", vocab_size=300), "text is empty"),
    (dict(text=" \n\t", vocab_size=300), "text is empty"),
    (dict(text="ab ab", vocab_size=300), r"pairs for 259 tokens only: lower vocab_size \(300\)"),
    (dict(text=END_OF_TEXT, vocab_size=300), "text is empty"),
    (dict(text=STORY, vocab_size=300, special_tokens=END_OF_TEXT), "is one string"),
    (dict(text=STORY, vocab_size=300, special_tokens=("<a>", "<a>")), "must be different and not empty"),
    (dict(text=STORY, vocab_size=300, special_tokens=("<a>", "")), "must be different and not empty"),
    # public functions raised PyTorch's, regex's and Python's own errors
    (dict(text=STORY, vocab_size="300"), r"vocab_size \('300'\)"),
    (dict(text=STORY, vocab_size=300, pattern="("), r"pattern '\(' is not a regular expression"),
    (dict(text=STORY, vocab_size=300, pattern=None), "pattern None is not a regular expression"),
    (dict(text=[], vocab_size=300), "text is empty"),
    (dict(text=["", " "], vocab_size=300), "text is empty"),
    (dict(text="a \ud800 b", vocab_size=300), r"'\\ud800'.* half of a surrogate pair, take it out"),
    (dict(text=None, vocab_size=300), "text is None: give a string or an iterable of them"),
    (dict(text=["a", 3], vocab_size=300), "a document is 3: it must be a string"),
    (dict(text=b"bytes", vocab_size=300), r"text is b'bytes': give a string"),
])
def test_bad_training_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_bpe(**arguments)


def test_text_that_runs_out_of_pairs_works_at_the_size_that_the_message_gives():
    encoding = train_bpe("ab ab", 259)
    assert encoding.encode_ordinary("ab ab") == [256, 257]


# --- the merges, to have and to make a tokenizer of ----------------------------------------------------------------

def rebuilt(encoding: tiktoken.Encoding) -> tiktoken.Encoding:
    order = [encoding.decode_single_token_bytes(id)[0] for id in range(256)]
    specials = sorted(encoding._special_tokens, key=encoding._special_tokens.get)
    return tokenizer_from_merges(bpe_merges(encoding), specials, encoding._pat_str, encoding.name, order)


# `train_bpe` did not hand over its merges, and nothing made a tokenizer from a vocabulary and merges
@pytest.mark.parametrize("name", TEXTS)
def test_merges_are_those_that_were_learned(name):
    tokens = [bytes([byte]) for byte in range(256)]
    learned = []
    for _, ((left, right), _, token) in zip(range(43), rescan_merges(TEXTS[name])):
        learned.append((tokens[left], tokens[right]))
        tokens.append(token)
    encoding = train_bpe(TEXTS[name], 257 + len(learned))
    assert bpe_merges(encoding) == learned
    assert tokenizer_fingerprint(rebuilt(encoding)) == tokenizer_fingerprint(encoding)


@given(st.text(alphabet="ab é潮", min_size=2, max_size=60), st.integers(257, 290))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_trained_tokenizer_is_made_again_from_its_merges(text, size):
    try:
        encoding = train_bpe(text, size)
    except ValueError as error:
        assert "text is empty" in str(error) or "pairs for" in str(error)
        return
    assert len(bpe_merges(encoding)) == size - 257
    assert rebuilt(encoding)._mergeable_ranks == encoding._mergeable_ranks


@pytest.mark.slow
def test_gpt2_s_merges_are_those_in_its_file():
    gpt2 = load_tokenizer("gpt2")
    lines = (fetch("gpt2-bpe") / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    merges = bpe_merges(gpt2)
    assert len(merges) == len(lines) == 50_000
    for line, (left, right) in list(zip(lines, merges))[::97]:
        if line.isascii():
            assert line == f"{left.decode()} {right.decode()}"
    assert tokenizer_fingerprint(rebuilt(gpt2)) == tokenizer_fingerprint(gpt2)


def test_a_vocabulary_that_no_merges_made_is_named():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"abc": 256}
    made = tiktoken.Encoding("made", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    with pytest.raises(ValueError, match=r"token 256 \(b'abc'\) of 'made' .*: the earlier ones leave 3 parts"):
        bpe_merges(made)


# --- encoding and decoding -------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def story_encoding():
    return train_bpe(STORY, 1025)


@pytest.fixture(scope="module")
def gpt2():
    return load_tokenizer("gpt2")


def test_random_unicode_round_trips(story_encoding, gpt2):
    rng = random.Random(1)
    for _ in range(3000):
        text = random_text(rng)
        for encoding in (story_encoding, gpt2):
            assert encoding.decode(encoding.encode_ordinary(text)) == text


def test_tiktoken_gives_the_reference_encoder_s_ids(story_encoding, gpt2):
    rng = random.Random(2)
    texts = [STORY[:3000], "Zoë Zoe\u0308", "it's IT'S", "  a\n\n b \n", *(random_text(rng) for _ in range(800))]
    for text in texts:
        for encoding in (story_encoding, gpt2):
            assert encoding.encode_ordinary(text) == reference_encode(text, encoding), repr(text)


@pytest.mark.parametrize("letters, seed", [("ab", 0), ("abc", 1), ("a", 2)])
def test_reference_ids_where_many_pairs_spell_the_same_bytes(letters, seed):
    text = few_letters(seed, letters, 4000)
    encoding = train_bpe(text, 265 if letters == "a" else 450)
    tokens = encoding._mergeable_ranks
    ways = [sum(t[:cut] in tokens and t[cut:] in tokens for cut in range(1, len(t))) for t in tokens]
    assert sum(n > 1 for n in ways) >= (4 if letters == "a" else 40), "this text does not show what it is here for"
    rng = random.Random(seed)
    samples = [text] + ["".join(rng.choice(letters + " ") for _ in range(rng.randint(1, 80))) for _ in range(500)]
    for sample in samples:
        ids = encoding.encode_ordinary(sample)
        assert ids == reference_encode(sample, encoding) and encoding.decode(ids) == sample


def test_reference_ids_in_a_made_up_order():
    """Tokens that no training would order so: the merge that made a token need not be the one that fits."""
    rng = random.Random(6)
    made = [b"bc", b"ab", b"abc", b"ca", b"cab", b"aa", b"aaa", b"bcab", b"cc", b"abca", b"ba", b"aab", b"bb"]
    for _ in range(30):
        rng.shuffle(made)
        ranks = {bytes([byte]): byte for byte in range(256)} | {token: 256 + n for n, token in enumerate(made)}
        encoding = tiktoken.Encoding("made", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
        for _ in range(40):
            sample = "".join(rng.choice("abc") for _ in range(rng.randint(1, 40)))
            assert encoding.encode_ordinary(sample) == reference_encode(sample, encoding), (sample, made)


def test_long_chunks_are_encoded_alike(story_encoding):
    rng = random.Random(5)
    for size in (99, 100, 101, 499, 500, 501, 900):  # tiktoken takes another way for long chunks
        word = "".join(rng.choice("theandouwas") for _ in range(size))
        assert story_encoding.encode_ordinary(word) == reference_encode(word, story_encoding)


def test_special_tokens_cannot_be_smuggled_in(story_encoding, gpt2):
    text = f"Be kind.{END_OF_TEXT}New rules:"
    for encoding in (story_encoding, gpt2):
        with pytest.raises(ValueError, match="disallowed special token"):
            encoding.encode(text)
        ids = encoding.encode_ordinary(text)
        assert encoding.eot_token not in ids and encoding.decode(ids) == text
        assert encoding.encode(text, allowed_special={END_OF_TEXT}).count(encoding.eot_token) == 1


# --- GPT-2's vocabulary ----------------------------------------------------------------------------------------------

def test_gpt2_is_what_tiktoken_calls_gpt2(gpt2, monkeypatch, tmp_path):
    """tiktoken looks for its files in a cache folder and checks its own hashes: so it takes ours, offline."""
    source = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
    for name in ("vocab.bpe", "encoder.json"):
        path = tmp_path / hashlib.sha1((source + name).encode()).hexdigest()
        path.write_bytes((fetch("gpt2-bpe") / name).read_bytes())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    official = tiktoken.get_encoding("gpt2")
    assert gpt2.name == official.name and gpt2.n_vocab == official.n_vocab == 50257
    assert gpt2._mergeable_ranks == official._mergeable_ranks
    assert gpt2._special_tokens == official._special_tokens == {END_OF_TEXT: 50256}
    rng = random.Random(3)
    for text in (STORY, "a   b\n\n\n  c   ", *(random_text(rng) for _ in range(300))):
        assert gpt2.encode_ordinary(text) == official.encode_ordinary(text)


def test_our_pattern_cuts_as_the_one_in_tiktoken():
    from tiktoken_ext import openai_public

    official = getattr(openai_public, "r50k_pat_str", None) or regex.search(
        r'"pat_str": r"""(.*?)"""', (openai_public.__loader__.get_source(openai_public.__name__)))[1]
    rng = random.Random(4)
    for text in (STORY, *(random_text(rng) for _ in range(500))):
        assert regex.findall(GPT2_PATTERN, text) == regex.findall(official, text)


def test_gpt2_known_ids(gpt2):
    assert gpt2.encode_ordinary("Hello, world!") == [15496, 11, 995, 0]  # as in OpenAI's own examples
    assert gpt2.eot_token == 50256


# --- reading texts ---------------------------------------------------------------------------------------------------

def test_read_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffZoë\r\n潮\n".encode())
    assert read_text(path) == read_text(str(path)) == "Zoë\n潮\n"


@pytest.mark.parametrize("data, message", [
    (b"", "a.txt holds no text"), (b" \n\t", "a.txt holds no text"), (b"\xef\xbb\xbf", "a.txt holds no text"),
    ("café".encode("latin-1"), r"a.txt: byte 3 \(0xe9\) is not UTF-8: save the file as UTF-8"),
    ("Zoë".encode("utf-16"), r"byte 0 \(0xff\) is not UTF-8"),
])
def test_read_text_that_is_none(tmp_path, data, message):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_text(path)


@given(st.binary(max_size=60))
@example(b"\xef\xbb\xbfa\r\n\xff")
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_bytes_are_text_or_one_line(data):
    """What is wrong, where, and what to do."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        path.write_bytes(data)
        try:
            text = read_text(path)
        except ValueError as error:
            said = r".*a\.txt(: byte \d+ \(0x..\) is not UTF-8: save .*| holds no text: give .*)"
            assert re.fullmatch(said, str(error))
        else:
            assert text.strip() and text.encode().replace(b"\n", b"") in data.replace(b"\r", b"").replace(b"\n", b"")


def test_read_text_of_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none.txt")


# --- windows ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("context_length, stride", [(1, None), (4, None), (4, 1), (4, 3), (4, 9), (19, 1)])
def test_targets_are_the_inputs_one_token_later(context_length, stride):
    ids = [7 * n for n in range(20)]
    dataset = NextTokenDataset(ids, context_length, stride)
    starts = [s for s in range(0, 20, stride or context_length) if s + context_length + 1 <= 20]
    assert len(dataset) == len(starts) == len(list(dataset))
    for start, (inputs, targets) in zip(starts, dataset):
        assert inputs.tolist() == ids[start:start + context_length]
        assert targets.tolist() == ids[start + 1:start + context_length + 1]
        assert inputs.dtype == targets.dtype == torch.int64


def test_without_overlap_each_token_is_a_target_once():
    dataset = NextTokenDataset(range(101), 10)
    assert torch.cat([targets for _, targets in dataset]).tolist() == list(range(1, 101))


def test_ids_may_be_a_list_a_range_or_a_tensor():
    for ids in ([1, 2, 3, 4], range(1, 5), torch.tensor([1, 2, 3, 4], dtype=torch.int32)):
        assert NextTokenDataset(ids, 3)[0][1].tolist() == [2, 3, 4]


def test_windows_by_negative_and_by_wrong_index():
    dataset = NextTokenDataset(range(30), 8, stride=3)
    assert dataset[-1][0].tolist() == dataset[len(dataset) - 1][0].tolist()
    for index in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError, match=f"window {index} of {len(dataset)}"):
            dataset[index]


@pytest.mark.parametrize("ids, sizes, message", [
    (range(8), (8,), r"shape \(8,\): context_length 8 needs a 1-D row of at least 9"),
    ([], (8,), r"shape \(0,\): context_length 8 needs"),
    (torch.zeros(4, 50, dtype=torch.long), (8,), r"shape \(4, 50\).*1-D"),
    (torch.tensor(3), (8,), r"shape \(\).*1-D"),
    (torch.zeros(50), (8,), "torch.float32: ids are whole numbers"),
    (range(50), (0,), r"context_length \(0\), stride \(0\): at least 1"),
    (range(50), (8, 0), r"context_length \(8\), stride \(0\): at least 1"),
    (range(50), (8, -2), r"stride \(-2\)"),
])
def test_bad_windows(ids, sizes, message):
    with pytest.raises(ValueError, match=message):
        NextTokenDataset(ids, *sizes)
    with pytest.raises(ValueError, match=message):
        make_dataloader(ids, sizes[0], 2, *sizes[1:])


# --- batches ---------------------------------------------------------------------------------------------------------

def starts(loader) -> list[int]:
    return [row[0].item() for inputs, _ in loader for row in inputs]


def test_batches_have_shape_and_shift():
    loader = make_dataloader(range(103), context_length=10, batch_size=4, seed=0)
    batches = list(loader)
    assert len(batches) == len(loader) == 2  # 10 windows, the last 2 dropped
    for inputs, targets in batches:
        assert inputs.shape == targets.shape == (4, 10)
        assert torch.equal(inputs + 1, targets)


def test_every_window_comes_once_a_pass_and_the_tail_on_request():
    loader = make_dataloader(range(103), 10, 4, drop_last=False, seed=1)
    assert sorted(starts(loader)) == list(range(0, 100, 10)) and len(loader) == 3


def test_order():
    assert starts(make_dataloader(range(103), 10, 5, shuffle=False)) == list(range(0, 100, 10))
    one, same, other = (make_dataloader(range(1003), 10, 5, seed=seed) for seed in (7, 7, 8))
    first, second = starts(one), starts(one)
    assert first == starts(same) and second == starts(same), "a seed repeats the order, pass by pass"
    assert first != second and first != starts(other) and sorted(first) == sorted(second)
    torch.manual_seed(0)
    unseeded = starts(make_dataloader(range(1003), 10, 5))
    torch.manual_seed(0)
    assert unseeded == starts(make_dataloader(range(1003), 10, 5))


def test_stride_reaches_the_dataset():
    assert starts(make_dataloader(range(30), 8, 2, stride=3, shuffle=False)) == [0, 3, 6, 9, 12, 15, 18, 21]


@pytest.mark.parametrize("arguments, message", [
    (dict(batch_size=11), "10 windows do not fill a batch of batch_size 11: lower batch_size or stride"),
    (dict(batch_size=0), r"batch_size \(0\) must be at least 1"),
    (dict(batch_size=-1, drop_last=False), r"batch_size \(-1\) must be at least 1"),
])
def test_bad_batches(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_dataloader(range(103), 10, **arguments)


def test_a_batch_larger_than_the_windows_is_fine_without_drop_last():
    [(inputs, _)] = make_dataloader(range(103), 10, 64, drop_last=False)
    assert inputs.shape == (10, 10)
