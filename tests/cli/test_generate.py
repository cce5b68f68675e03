"""Continuing a text: what is printed, in which characters, and where it ends."""

import io
import json
import shutil

import pytest
import torch

from llmbook.cli.main import main
from llmbook.formats.tokenizers import tokenizer_of
from llmbook.generation import generate
from llmbook.gpt import GPT, GPTConfig
from llmbook.text import load_tokenizer, save_tokenizer, train_bpe
from llmbook.training import load_model, save_model
from tests.cli.helpers import STORY, pretrain
from tests.cli.test_models import pretrained_folder


def test_generate_writes_what_the_function_does(chat_model, call, monkeypatch):
    model, tokenizer = load_model(chat_model), load_tokenizer(chat_model / "tokenizer.json")
    prompt = "Tell me <|im_start|>"
    ids = torch.tensor([tokenizer.encode(prompt, allowed_special="all")])
    ends = tokenizer.encode("<|im_end|><|endoftext|>", allowed_special="all")
    wanted = generate(model, ids, 30, 0.9, 50, 0.95, ends, 7)[0].tolist()
    wanted = tokenizer.decode([token for token in wanted if token not in ends])
    sampling = ("--max-new-tokens", 30, "--temperature", 0.9, "--top-k", 50, "--top-p", 0.95, "--seed", 7)
    assert call("generate", "--model", chat_model, *sampling, "--device", "cpu", prompt) == (0, wanted + "\n", "")
    monkeypatch.setattr("sys.stdin", io.StringIO(prompt))
    assert call("generate", "--model", chat_model, *sampling, "-")[1] == wanted + "\n"


def test_a_terminal_that_knows_few_characters_shows_the_others_as_question_marks(chat_model, monkeypatch):
    monkeypatch.setattr("sys.stdout", narrow := io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main(["generate", "--model", str(chat_model), "caf\u00e9", "--max-new-tokens", "0"]) == 0
    narrow.flush()
    assert narrow.buffer.getvalue() == b"caf?\n"


def test_generation_ends_with_the_document(chat_model, call, monkeypatch):
    end = load_tokenizer(chat_model / "tokenizer.json").encode("<|endoftext|>", allowed_special="all")
    monkeypatch.setattr("llmbook.generation.stream", lambda *_, **__: iter([torch.tensor([65]), torch.tensor(end)]))
    assert call("generate", "--model", chat_model, "x") == (0, "xA\n", "")


def test_the_space_before_the_first_new_word_is_kept(tmp_path, call, monkeypatch):
    folder = pretrained_folder(tmp_path / "other")
    the = tokenizer_of(folder).encode("a the")[-1:]  # one token, " the"
    assert tokenizer_of(folder).decode(the) == "the"  # alone it has lost its space
    monkeypatch.setattr("llmbook.generation.stream", lambda *_, **__: iter([torch.tensor(the), torch.tensor(the)]))
    assert call("generate", "--model", folder, "Hello") == (0, "Hello the the\n", "")


def test_a_text_ends_at_any_end_token_and_begins_as_the_model_wants(tmp_path, call, monkeypatch):
    folder, seen = pretrained_folder(tmp_path / "other"), []
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "bos_token": "<s>",
                                                              "add_bos_token": True}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [70, 2]}))
    for end in (70, 2):
        monkeypatch.setattr("llmbook.generation.stream", lambda model, ids, *_, end=end, **__: seen.append(
            ids.tolist()) or iter([torch.tensor([68]), torch.tensor([end]), torch.tensor([69])]))
        assert call("generate", "--model", folder, "H") == (0, "HA\n", "")
    assert seen[0][0][0] == 1


def test_without_a_prompt_a_text_begins(chat_model, call, monkeypatch):
    [end] = load_tokenizer(chat_model / "tokenizer.json").encode("<|endoftext|>", allowed_special="all")
    seen = []
    monkeypatch.setattr("llmbook.generation.stream", lambda model, ids, *_, **__: seen.append(ids.tolist()) or iter(
        [torch.tensor([65]), torch.tensor([end]), torch.tensor([66])]))
    assert call("generate", "--model", chat_model, "") == (0, "A\n", "")
    assert call("generate", "--model", chat_model, "A") == (0, "AA\n", "")  # it was trained on windows
    assert seen == [[[end]], [[65]]]


def test_a_prompt_of_nothing_needs_a_token_to_begin_with(tmp_path, call):
    save_model(GPT(GPTConfig(300, 16, 8, 2, 1)), tmp_path / "plain")
    save_tokenizer(train_bpe(STORY, 300, ("<|end|>",)), tmp_path / "plain" / "tokenizer.json")
    code, out, err = call("generate", "--model", tmp_path / "plain", "")
    assert (code, out) == (2, "")
    assert err == "llmbook: the prompt '' has no tokens: give a few words to go on from\n"


@pytest.mark.parametrize("unfinished", [False, True])
def test_a_model_of_documents_reads_a_prompt_as_the_beginning_of_one(place, call, monkeypatch, unfinished):
    code, _, err = pretrain(call, "--max-steps", "2", "--set", "data.documents=true", "--set",
                            "checkpoints.every_steps=1", "--set", "data.validation=story.txt")
    assert code == 0, err
    if unfinished:
        shutil.rmtree("out/model")
    tokenizer, seen = load_tokenizer("tokenizer.json"), []
    [end] = tokenizer.encode("<|endoftext|>", allowed_special="all")
    monkeypatch.setattr("llmbook.generation.stream",
                        lambda model, ids, *_, **__: seen.append(ids.tolist()) or iter([torch.tensor([65])]))
    for prompt in ("The", "<|endoftext|>The"):
        assert call("generate", "--model", "out", prompt)[:2] == (0, f"{prompt}{tokenizer.decode([65])}\n")
    assert seen == [[[end, *tokenizer.encode("The")]]] * 2
