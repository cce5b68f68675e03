"""The command: data."""

import json
from pathlib import Path

import pytest
import torch

from llmbook.cli import data
from llmbook.scale.token_files import TokenFiles, tokenizer_fingerprint, write_token_files
from llmbook.text import load_tokenizer
from tests.cli.helpers import STORY, TINY, pretrain


def test_several_texts_token_folders_and_other_held_out_text(place, call, tokenizer):
    code, out, err = call("tokenize", "story.txt", "tokens", "--tokenizer", "tokenizer.json")
    assert code == 0, err
    n_tokens = len(tokenizer.encode(STORY)) + 1  # with the token that ends the document
    assert out == f"{n_tokens:,} tokens in 1 files in tokens\n"
    (place / "more").mkdir()
    (place / "more" / "a.jsonl").write_text("".join(json.dumps({"story": STORY[i : i + 500]}) + "\n"
                                                    for i in range(0, 5000, 500)))
    (place / "held.txt").write_text(STORY[-3000:])
    text = TINY.replace('"story.txt"', '[{path = "tokens", share = 3}, {path = "more", share = 1.0}]')
    text = text.replace("validation = 0.1", 'validation = "held.txt"\ntext_column = "story"')
    (place / "run.toml").write_text(text)
    code, out, err = pretrain(call)
    assert code == 0, err
    assert not (place / "out" / "tokens" / "train-0").exists()  # token files are used where they are
    more = len(TokenFiles("out/tokens/train-1"))
    assert f"{n_tokens + more:,} tokens to train on, 256 held out" in out
    code, _, err = pretrain(call, "--set", "data.tokenizer=301", out="other")
    assert code == 1 and "tokens was made with another tokenizer" in err
    (place / "run.toml").write_text(text.replace('tokenizer = "tokenizer.json"\n', ""))
    code, out, err = pretrain(call, "--dry-run", out="third")  # a token folder brings its tokenizer
    assert code == 0 and f"of {n_tokens + more:,} tokens" in out, err


def test_held_out_windows_are_not_trained_on(tmp_path, tokenizer):
    files = write_token_files([STORY], tmp_path / "tokens", tokenizer, processes=1, shard_bytes=9000)
    sizes = files.sizes.copy()
    windows = data.held_out_windows([files], 0.2, 16, 1000)
    assert len(sizes) > 2 and windows.shape[1] == 17
    assert (files.sizes == (sizes * 0.8).astype(int)).all()
    whole = [files.shards[i][files.sizes[i] :] for i in range(len(sizes))]
    wanted = [torch.from_numpy(tail[i : i + 17].astype("int64")) for tail in whole
              for i in range(0, len(tail) - 16, 16)]
    assert torch.equal(windows, torch.stack(wanted))
    assert len(data.held_out_windows([TokenFiles(tmp_path / "tokens")], 0.2, 16, 3)) == 3
    with pytest.raises(ValueError, match="has no window of 901 tokens: raise"):
        data.held_out_windows([TokenFiles(tmp_path / "tokens")], 0.01, 900, 3)


LANGUAGES = {"english": "the tide is late", "greek": "η παλίρροια αργεί", "hindi": "ज्वार देर से आता है"}


def test_a_vocabulary_is_learned_from_every_file(place, call, monkeypatch):
    """It was learned from the first megabytes, which one file filled."""
    monkeypatch.setattr(data, "VOCABULARY_SAMPLE", 100_000)
    (place / "texts").mkdir()
    for number, (name, text) in enumerate(LANGUAGES.items()):
        (place / "texts" / f"{number}_{name}.txt").write_text(f"{text}\n" * 5000, encoding="utf-8")
    code, out, err = call("tokenize", "texts", "tokens", "--tokenizer", 305, "--processes", 1)
    assert code == 0, err
    learned = load_tokenizer("tokens/tokenizer.json")
    for text in LANGUAGES.values():
        assert len(learned.encode(text)) <= len(text.encode()) / 3, "tokens of this alphabet"
    one_by_one = data.TextReader().tokenizer(305, sorted((place / "texts").iterdir()))
    assert tokenizer_fingerprint(one_by_one) == tokenizer_fingerprint(learned), "several texts are as one folder"
    before = (place / "tokens" / "tokenizer.json").read_bytes()
    assert call("tokenize", "texts", "again", "--tokenizer", 305, "--processes", 1)[0] == 0
    assert (place / "again" / "tokenizer.json").read_bytes() == before


def test_a_dry_run_says_what_the_vocabulary_is_learned_from(place, call, monkeypatch):
    learned = ("--set", "data.tokenizer=300", "--dry-run")
    assert "300  learned from all of the text\n" in pretrain(call, *learned)[1]
    monkeypatch.setattr(data, "VOCABULARY_SAMPLE", 20_000)
    assert "300  learned from 0 MB, taken from all over the 0 MB of text\n" in pretrain(call, *learned)[1]
    assert "learned" not in pretrain(call, "--dry-run")[1]
    (place / "out" / "tokens").mkdir(parents=True)
    (place / "out" / "tokens" / "tokenizer.json").write_bytes((place / "tokenizer.json").read_bytes())
    assert f"300  as in {Path('out', 'tokens', 'tokenizer.json')}\n" in pretrain(call, *learned)[1]
