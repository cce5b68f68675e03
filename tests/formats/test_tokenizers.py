"""llmbook.formats.tokenizers: ids, BOS and ends are those of transformers, for folders and for GGUF files."""

import json
import pickle
import threading

import pytest
import tiktoken
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmbook.assets import fetch
from llmbook.formats.pretrained_tokenizer import PretrainedTokenizer
from llmbook.formats.tokenizer_descriptions import Description
from llmbook.formats.tokenizers import (
    adapt,
    bos_token,
    encode_prompt,
    end_tokens,
    save_tokenizer_files,
    tokenizer_of,
    tokenizer_of_folder,
)
from llmbook.text import load_tokenizer
from tests.support.pretrained import STORY
from tests.support.tokenizer_files import random_texts
from tests.support.tokenizer_kinds import KINDS, SPECIAL, USER_DEFINED, folder_of, gguf_of, hard_texts, trained

transformers = pytest.importorskip("transformers")

BOS = {"llama3": "<|begin_of_text|>", "llama2": "<s>", "mistral": "<s>", "gemma": "<bos>"}
ENDS = {"gpt2": {"<|endoftext|>"}, "smollm": {"<|endoftext|>", "<|im_end|>"}, "gemma": {"<eos>", "<end_of_turn>"},
        "llama3": {"<|eot_id|>", "<|end_of_text|>"}, "qwen2": {"<|endoftext|>", "<|im_end|>"}}
GGUF_KINDS = [kind for kind in KINDS if kind != "unigram"]


def compare(ours, theirs, texts: list[str]) -> None:
    for text, expected in zip(texts, theirs(texts).input_ids):
        assert ours.encode_prompt(text) == expected, repr(text)


# --- the ids ---

@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_s_ids_equal_transformers(kind, tmp_path):
    folder_of(kind, tmp_path)
    ours, theirs = tokenizer_of_folder(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    compare(ours, theirs, hard_texts(kind))
    assert ours.special_tokens_set == set(SPECIAL[kind])
    assert ours.bos_id == theirs.bos_token_id
    assert ours.prefix == ((theirs.bos_token_id,) if kind in BOS else ())
    assert {ours.decode([end]) for end in ours.end_ids} == ENDS.get(kind, {"</s>"})


@pytest.mark.slow
@pytest.mark.parametrize("kind", GGUF_KINDS)
def test_a_gguf_s_ids_equal_transformers(kind, tmp_path):
    ours = tokenizer_of(gguf_of(kind, tmp_path / "x.gguf"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="x.gguf")
    if kind == "smollm":  # transformers leaves the step out that takes digits one by one: see the model's own files
        backend = theirs.backend_tokenizer
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
            tokenizers.pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer])
    compare(ours, theirs, hard_texts(kind))
    assert ours.bos_id == theirs.bos_token_id
    assert {ours.decode([end]) for end in ours.end_ids} == ENDS.get(kind, {"</s>"})


@pytest.mark.parametrize("kind", ["gpt2", "smollm", "llama3", "llama2", "mistral"])
def test_folder_and_gguf_of_one_model_give_the_same_ids(kind, tmp_path):
    folder = tokenizer_of(folder_of(kind, tmp_path / "folder"))
    file = tokenizer_of(gguf_of(kind, tmp_path / "x.gguf"))
    texts = [text for text in hard_texts(kind, 500, seed=1) if not text.startswith((" ", "\u2581"))
             and not any(token in text for token in SPECIAL[kind])]  # where SentencePiece's kinds put spaces differs
    for text in texts:
        assert folder.encode_prompt(text) == file.encode_prompt(text), repr(text)
    assert (folder.bos_id, set(folder.end_ids), folder.prefix) == (file.bos_id, set(file.end_ids), file.prefix)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("smollm", "qwen2", "unigram")])
def test_texts_come_back_whole(kind, tmp_path):
    """Not where bytes have no token, or a text is normalised first."""
    ours = tokenizer_of(folder_of(kind, tmp_path))
    for text in hard_texts(kind, 600, seed=2):
        if kind in ("llama2", "mistral", "gemma") and ("\u2581" in text or "<0x41>" in text):
            continue  # its sign for a space becomes one
        assert ours.decode(ours.encode(text, disallowed_special=())) == text, repr(text)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_equals_transformers(kind, tmp_path):
    folder_of(kind, tmp_path)
    ours, theirs = tokenizer_of(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*random_texts(200), "Hello", " Hello", "a  b"]:
        ids = ours.encode(text)
        assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False), repr(text)


def test_user_defined_tokens_are_tokens(tmp_path):
    for path in (folder_of("qwen2", tmp_path / "folder"), gguf_of("qwen2", tmp_path / "x.gguf")):
        ours = tokenizer_of(path)
        ids = ours.encode("a<think>b</think>")
        assert [ours.decode([number]) for number in ids] == ["a", "<think>", "b", "</think>"]
        assert not set(USER_DEFINED["qwen2"]) & ours.special_tokens_set


def test_one_token_may_have_several_merges(tmp_path):
    merges = json.loads(trained("llama3"))["model"]["merges"]
    made = ["".join(merge) for merge in merges]
    assert len(made) > len(set(made)) + 100
    assert tokenizer_of(gguf_of("llama3", tmp_path / "x.gguf")).encode("Twenty")


def test_a_gguf_s_flags_for_bos_and_the_first_space(tmp_path):
    ours = tokenizer_of(gguf_of("llama2", tmp_path / "x.gguf", add_space_prefix=False))
    assert ours.decode(ours.encode_prompt("Hi")[1:]) == "Hi" and ours.decode(ours.encode(" Hi")) == " Hi"
    whole = tokenizer_of(gguf_of("llama2", tmp_path / "y.gguf"))
    assert whole.encode("Hi")[0] != ours.encode("Hi")[0] and whole.decode(whole.encode("Hi")) == "Hi"


@pytest.mark.parametrize("change, message", [
    ({"tokenizer.ggml.pre": "gpt-9"}, "'gpt-9'.*load the model's Hugging Face folder"),
    ({"tokenizer.ggml.model": "t5"}, "'t5'"),
    ({"tokenizer.ggml.tokens": ["a"] * 903}, "tokens 0 and 1 are both 'a'"),
    ({"tokenizer.ggml.tokens": []}, "tokenizer.ggml.tokens"),
    ({"tokenizer.ggml.tokens": [1, 2]}, "tokenizer.ggml.tokens"),
    ({"tokenizer.ggml.merges": 3}, "tokenizer.ggml.merges"),
    ({"tokenizer.ggml.merges": ["a"]}, "merge 0 is 'a'"),
    ({"tokenizer.ggml.merges": ["a \u2603"]}, "which is no token"),
    ({"tokenizer.ggml.token_type": [1]}, "tokenizer.ggml.token_type of 903 entries"),
    ({"tokenizer.ggml.bos_token_id": 10**10}, "bos_token_id is 10000000000: it has 903 tokens"),
    ({"tokenizer.chat_template": 5}, "chat_template is 5"),
])
def test_a_gguf_s_faults_are_named(change, message, tmp_path):
    from llmbook.formats.gguf import GGUFCheckpoint
    from llmbook.formats.gguf_tokenizers import tokenizer_of_gguf

    file = GGUFCheckpoint(gguf_of("smollm", tmp_path / "x.gguf"))
    file.metadata.update(change)
    with pytest.raises(ValueError, match=f"x.gguf: .*{message}") as caught:
        tokenizer_of_gguf(file)
    assert "\n" not in str(caught.value)


# --- the real vocabularies ---

def test_gpt2_s_own_vocabulary(tmp_path):
    """OpenAI's two files, as a folder: the ids are tiktoken's, which run them."""
    folder = fetch("gpt2-bpe")
    vocab = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    merges = (folder / "vocab.bpe").read_text(encoding="utf-8").strip("\n").split("\n")[1:]
    content = json.loads(trained("gpt2"))
    end = {**content["added_tokens"][0], "id": 50256}
    content |= {"model": {**content["model"], "vocab": vocab, "merges": merges}, "added_tokens": [end]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    ours, from_book = tokenizer_of(tmp_path), load_tokenizer("gpt2")
    texts = hard_texts("gpt2", 2000, seed=3)
    for text in texts:
        assert ours.encode_prompt(text) == from_book.encode(text, allowed_special="all"), repr(text)
    long = STORY * 5
    assert len(long) > 100_000 and ours.encode(long) == from_book.encode(long)
    assert ours.runner._quick  # from so much text on, tiktoken runs it
    for text in texts:
        assert ours.encode_prompt(text) == from_book.encode(text, allowed_special="all"), repr(text)


@pytest.mark.slow
def test_smollm2_s_own_vocabulary():
    path = fetch("smollm2-135m-instruct")
    ours, quick = tokenizer_of(path, 49152), tokenizer_of(path, 49152)
    assert quick.encode(STORY * 5) and quick.runner._quick  # by tiktoken, except for bytes without a token
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).backend_tokenizer
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True), theirs.pre_tokenizer])
    for text in hard_texts("smollm", 2000, seed=4):
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode_prompt(text) == quick.encode_prompt(text) == expected, repr(text)
    assert ours.end_ids == (2, 0) and ours.prefix == ()


@pytest.mark.parametrize("kind", ["gpt2", "smollm", "qwen2", "llama3"])
def test_a_long_text_gets_the_ids_of_a_short_one(kind, tmp_path):
    path = folder_of(kind, tmp_path)
    slow, quick = tokenizer_of(path), tokenizer_of(path)
    quick.encode("a" * 100_001)
    assert bool(quick.runner._quick) == (kind != "llama3")  # which has several merges for a token
    for text in [*hard_texts(kind, 1000, seed=5), "e\u0301 n\u0303"]:
        assert slow.encode_prompt(text) == quick.encode_prompt(text), repr(text)


def test_merges_that_tiktoken_would_order_otherwise_are_left_to_the_other_package(tmp_path):
    content = json.loads(trained("gpt2"))
    content["model"]["merges"] = content["model"]["merges"][:1] + content["model"]["merges"][:0:-1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    ours = tokenizer_of(tmp_path)
    expected = tokenizers.Tokenizer.from_str(json.dumps(content)).encode(STORY * 5).ids
    assert ours.encode(STORY * 5) == expected and not ours.runner._quick


def test_white_space_without_end(tmp_path):
    ours = tokenizer_of(folder_of("gpt2", tmp_path))
    text = "a" + "\n" * 600_000
    assert ours.decode(ours.encode(text)) == text


# --- special tokens ---

@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_as_in_tiktoken(kind, tmp_path):
    ours, token = tokenizer_of(folder_of(kind, tmp_path)), SPECIAL[kind][-1]
    number = ours.encode(token, allowed_special="all")[-1]
    with pytest.raises(ValueError, match=f"{token.replace('|', '.').replace('[', '.')}.*allowed_special"):
        ours.encode(f"one{token}two")
    for options in ({"disallowed_special": ()}, {"allowed_special": set(), "disallowed_special": set()}):
        ids = ours.encode(f"one{token}two", **options)
        assert number not in ids and ours.decode(ids) == f"one{token}two"
    assert ours.encode_ordinary(f"one{token}two") == ids
    assert number in ours.encode(f"one{token}two", allowed_special={token})
    other = SPECIAL[kind][0]
    if other != token:  # one is a token, the other text: no call needs all or none
        mixed = ours.encode(f"{token}{other}", allowed_special={token}, disallowed_special=())
        assert number in mixed and ours.encode(other, allowed_special="all")[-1] not in mixed


@pytest.mark.parametrize("kind", ["qwen2", "llama2", "unigram"])
def test_threads_do_not_see_each_other_s_special_tokens(kind, tmp_path):
    ours, token = tokenizer_of(folder_of(kind, tmp_path)), SPECIAL[kind][-1]
    number = ours.encode(token, allowed_special="all")[-1]
    leaks, ended = [], threading.Event()

    def allowed() -> None:
        while not ended.is_set():
            ours.encode(f"x{token}" * 20, allowed_special="all")

    other = threading.Thread(target=allowed)
    other.start()
    try:
        for _ in range(300):
            leaks += [number in ours.encode(f"x{token}" * 20, disallowed_special=())]
    finally:
        ended.set()
        other.join()
    assert not any(leaks)


def test_it_travels_to_other_processes(tmp_path):
    ours = tokenizer_of(folder_of("llama2", tmp_path))
    again = pickle.loads(pickle.dumps(ours))
    assert again.encode_prompt("Hi <s>there") == ours.encode_prompt("Hi <s>there")
    assert again.fingerprint == ours.fingerprint != tokenizer_of(folder_of("gpt2", tmp_path / "g")).fingerprint


def test_the_book_s_own_tokenizers_have_ends_too():
    own = tiktoken.Encoding("own", pat_str=r"\S+|\s+", mergeable_ranks={bytes([byte]): byte for byte in range(256)},
                            special_tokens={"<|endoftext|>": 256})
    assert end_tokens(own) == (256,) and bos_token(own) is None and encode_prompt(own, "a<|endoftext|>") == [97, 256]
    assert adapt(own).decode([97, 300, 98]) == "a\ufffdb"  # a spare id is no crash
    assert adapt(adapt(own)) is not None


# --- files ---

@pytest.mark.parametrize("ends, expected", [(1, [1]), ([1, 2], [1, 2]), (None, [])])
def test_ends_of_the_generation_config(ends, expected, tmp_path):
    folder_of("gpt2", tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    assert set(tokenizer_of(tmp_path).end_ids) == {*expected, 900}


@pytest.mark.parametrize("name, content", [
    ("generation_config.json", '{"eos_token_id": "x"}'), ("config.json", '{"eos_token_id": [1, -2]}'),
    ("tokenizer_config.json", '{"chat_template": 5}'), ("tokenizer_config.json", "["), ("config.json", "[]"),
    ("special_tokens_map.json", '"x"'),
])
def test_files_beside_it_that_are_not_in_order(name, content, tmp_path):
    folder_of("gpt2", tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=name) as caught:
        tokenizer_of(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_reads_the_same(kind, tmp_path):
    ours = tokenizer_of(folder_of(kind, tmp_path / "a", chat_template="{{ bos_token }}{{ messages }}"))
    (tmp_path / "b").mkdir()
    save_tokenizer_files(ours, tmp_path / "b")
    again, theirs = tokenizer_of(tmp_path / "b"), transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
    texts = hard_texts(kind, 300, seed=6)
    for text in texts:
        assert again.encode_prompt(text) == ours.encode_prompt(text)
    compare(again, theirs, texts)
    assert (again.chat_template, again.bos_id, set(again.end_ids)) == (ours.chat_template, ours.bos_id,
                                                                       set(ours.end_ids))


def test_no_tokenizer_and_one_in_another_format(tmp_path):
    assert tokenizer_of(tmp_path) is None
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(ValueError, match="tokenizer.model only: write a tokenizer.json"):
        tokenizer_of(tmp_path)


@pytest.mark.parametrize("vocab_size, fits", [(900, False), (901, True), (1000, True), (1050, False)])
def test_a_tokenizer_of_another_size(vocab_size, fits, tmp_path):
    folder_of("gpt2", tmp_path)
    if fits:
        assert tokenizer_of(tmp_path, vocab_size).n_vocab == 901
        return
    with pytest.raises(ValueError, match=f"901 tokens, the embedding {vocab_size:,} rows: they belong"):
        tokenizer_of(tmp_path, vocab_size)


def damaged(**changes) -> dict:
    content = json.loads(trained("gpt2"))
    content["model"] |= changes.pop("model", {})
    return {**content, **changes}


@pytest.mark.parametrize("content, message", [
    (damaged(model={"vocab": {"a": 0, "b": 0}, "merges": []}), "'a' and 'b' have the same id, 0"),
    (damaged(model={"vocab": {"a": 0, "b": 10**10}, "merges": []}), "id of its token 'b' is 10000000000"),
    (damaged(model={"vocab": {"a": 0, "b": 10**8}, "merges": []}), "100,000,000, and it has only"),
    (damaged(model={"vocab": {"a": -1}, "merges": []}), "'a' is -1"),
    (damaged(model={"vocab": {"a": 1.5}, "merges": []}), "'a' is 1.5"),
    (damaged(model={"vocab": [], "merges": []}), "its vocab is no object"),
    (damaged(model={"merges": [["a", "b", "c"]]}), "merge 0"),
    (damaged(model={"merges": [["a", "\u2603"]]}), "which is no token"),
    (damaged(model={"type": "Other"}), "its model is 'Other'"),
    (damaged(added_tokens=[{"content": "x", "id": 0}]), "same id, 0"),
    (damaged(added_tokens=[{"content": "", "id": 0}]), "no content"),
    (damaged(added_tokens=5), "added_tokens"),
    (damaged(pre_tokenizer={"type": "Nonsense"}), "does not accept it"),
    ([], "no JSON object"),
    ({}, "no object with a model"),
])
def test_faults_of_a_tokenizer_json_are_named(content, message, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        tokenizer_of(tmp_path)
    assert "tokenizer.json" in str(caught.value) and "\n" not in str(caught.value)


def places(value, path=()):
    """The place of each value in a JSON content, of a large list or object the first few."""
    yield path
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else [])
    for name, part in items[:4]:
        yield from places(part, (*path, name))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama2", "unigram"])
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_tokenizer_json_is_one_line_or_works(kind, data):
    content = json.loads(trained(kind))
    path = data.draw(st.sampled_from([place for place in places(content) if place]))
    junk = st.one_of(st.none(), st.booleans(), st.integers(-2, 2**70), st.floats(), st.text(max_size=5),
                     st.just([]), st.just({}), st.just("delete"))
    value, parent = data.draw(junk), content
    for name in path[:-1]:
        parent = parent[name]
    if value == "delete":
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    try:
        ours = PretrainedTokenizer(Description(content))
        ours.decode(ours.encode("Hello, Wörld 12", disallowed_special=()))
    except ValueError as error:
        assert str(error) and "\n" not in str(error)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(place=st.integers(0, 40_000), byte=st.binary(min_size=1, max_size=3))
def test_a_flipped_byte_is_one_line_or_works(place, byte, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flipped")
    content = bytearray(trained("gpt2").encode())
    place %= len(content)
    content[place : place + len(byte)] = byte
    (folder / "tokenizer.json").write_bytes(content)
    try:
        tokenizer_of(folder).encode("Hello, Wörld 12", disallowed_special=())
    except ValueError as error:
        assert "tokenizer.json" in str(error) and "\n" not in str(error)
