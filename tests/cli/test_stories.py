"""The command: a model that learns from stories, each row from the beginning of one."""

import json

import pytest

from llmbook.book.corpora import story_documents
from llmbook.cli import corpora, data
from llmbook.cli.settings import Settings
from llmbook.scale.token_files import TokenFiles
from llmbook.storyworld import stories
from llmbook.text import load_tokenizer
from tests.cli.helpers import TINY, pretrain, rows, weights

OF_STORIES = TINY.replace('"story.txt"', '"stories"\nstories = 30\ndocuments = true').replace(
    "context_length = 32", "context_length = 1024").replace("validation = 0.1", 'validation = "stories"').replace(
    'tokenizer = "tokenizer.json"', "tokenizer = 400")


@pytest.fixture
def storied(place, monkeypatch):
    monkeypatch.setattr(data, "HELD_OUT_STORIES", 6)
    (place / "run.toml").write_text(OF_STORIES)
    return place


def test_a_model_learns_from_stories_and_is_measured_on_held_out_ones(storied, call):
    code, out, err = pretrain(call)
    assert code == 0, err
    assert "in 30 rows that begin with a document; 6 rows held out for evaluations" in out
    tokenizer = load_tokenizer("out/tokens/tokenizer.json")
    for folder, split, count in (("train-0", "train", 30), ("validation", "test", 6)):
        files = TokenFiles(f"out/tokens/{folder}")
        told = tokenizer.decode(files.shards[0].tolist()).split("<|endoftext|>")
        assert told == [*(story.text for story in stories(1, count, split=split)), ""]
    assert len(rows("out/log.csv")) == 4 and rows("out/log.csv")[-1]["val_loss"]


def test_batches_are_whole_stories(storied):
    settings = Settings("run.toml")
    texts = data.Data(settings)
    tokenizer = texts.tokenizer(storied / "tokens")
    loader, held_out = texts.loaders(storied / "tokens", tokenizer, 1024, 4, 0, 1)
    told = {tokenizer.decode(ids.tolist()) for inputs, targets in loader for ids in
            (row[mask] for row, mask in zip(targets, targets != -100))}
    assert told <= {text + "<|endoftext|>" for text in story_documents(30)} and len(told) == 28  # 7 batches of 4
    assert [len(inputs) for inputs, _ in held_out] == [4]  # eval_batches of them


def test_stories_that_are_tokenized_are_not_told_again(storied, call, monkeypatch):
    assert pretrain(call, "--max-steps", "2", "--set", "checkpoints.every_steps=1",
                    "--set", 'checkpoints.allow=["max_steps"]')[0] == 0
    monkeypatch.setattr("llmbook.storyworld.corpus.one_story", None)
    code, out, err = pretrain(call, "--set", 'checkpoints.allow=["max_steps"]')
    assert code == 0, err
    assert "going on after step 2, from a checkpoint" in out


def test_a_run_of_documents_goes_on_where_it_was(storied, call, monkeypatch):
    more = ("--max-steps", "9", "--set", "checkpoints.every_steps=1")  # a pass has 7 batches
    assert pretrain(call, *more, out="whole")[0] == 0
    from llmbook.cli.logs import CsvLog

    write = CsvLog.__call__

    def stop(log, record):
        write(log, record)
        if record["step"] == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CsvLog, "__call__", stop)
        assert pretrain(call, *more, out="broken")[0] == 130
    assert pretrain(call, *more, out="broken")[0] == 0
    assert weights(storied / "broken") == weights(storied / "whole")


def test_windows_over_stories_and_a_held_out_share_work_too(storied, call):
    (storied / "run.toml").write_text(OF_STORIES.replace("documents = true", "").replace(
        'validation = "stories"', "validation = 0.3"))
    code, out, err = pretrain(call, "--max-steps", "1")
    assert code == 0 and "tokens to train on, 4,096 held out" in out, (out, err)
    code, out, err = pretrain(call, "--max-steps", "1", "--set", "data.documents=true", out="other")
    assert code == 0 and "in 21 rows that begin with a document; 8 rows held out" in out, (out, err)


def test_other_texts_can_be_documents_too(place, call):
    lines = [json.dumps({"text": text}) for text in story_documents(6)]
    (place / "tales.jsonl").write_text("\n".join(lines))
    code, out, err = pretrain(call, "--set", "data.train=tales.jsonl", "--set", "data.documents=true",
                              "--set", "data.validation=0.3")
    assert code == 0, err
    assert "rows that begin with a document" in out


@pytest.mark.parametrize("changes, message", [
    (["data.train=story.txt"], "[data] stories is 30, but train does not name them: write train = \"stories\""),
    (['data.train=[{path = "stories", share = 0.5}]'], "has shares, and documents = true trains on every document"),
    (["data.stories=0"], "[data] stories is 0: it must be at least 1"),
    (["data.documents=1"], "[data] documents is 1: it must be true or false"),
    (["data.validation=0.999"], "[data] validation: a share of 0.999 of 30 rows leaves one side empty"),
    (["training.batch_size=31", "data.validation=stories"], "30 documents do not fill a batch of batch_size 31"),
])
def test_what_does_not_go_together_is_said_in_one_line(storied, call, changes, message):
    code, _, err = pretrain(call, *(part for text in changes for part in ("--set", text)))
    assert code in (1, 2) and message in err and err.count("\n") == 1, err


def test_a_folder_of_that_name_is_not_taken_for_the_stories(storied, call):
    (storied / "stories").mkdir()
    code, _, err = pretrain(call)
    assert code == 1 and err.count("\n") == 1
    assert "stories is a folder or file here and the name of a text of the book: give ./stories" in err


def test_a_dry_run_says_how_many_stories_it_looked_at(storied, call, monkeypatch):
    monkeypatch.setattr(data, "STORIES_SAMPLE", 3)
    code, out, err = pretrain(call, "--dry-run")
    assert code == 0 and "estimated from the first 3 stories" in out, err


def test_many_stories_are_counted_from_the_first_ones(monkeypatch):
    monkeypatch.setattr(data, "STORIES_SAMPLE", 3)
    monkeypatch.setattr(data, "VOCABULARY_STORIES", 4)
    reader, many = data.TextReader(), corpora.Stories(1_000_000)
    tokenizer = reader.tokenizer(300, [many])
    of_three = sum(len(tokenizer.encode(text)) + 1 for text in story_documents(3))
    assert reader.count(many, tokenizer) == (of_three * 1_000_000 // 3, False)
    assert reader.sample(many)[0] == story_documents(3) and reader.sample(many)[1] > 300_000_000
    assert reader.learned_from([many]) == "learned from 4 stories"
