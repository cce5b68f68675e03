"""A folder to work in, the command in this process, and a tiny model to talk with."""

import pytest
import torch

from llmbook.cli.main import main
from llmbook.gpt import GPT, GPTConfig
from llmbook.text import save_tokenizer, train_bpe
from llmbook.training import save_model
from tests.cli.helpers import STORY, TINY


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(STORY, 300)


@pytest.fixture
def place(tmp_path, monkeypatch, tokenizer):
    """A folder to work in: run.toml, a text and a tokenizer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.txt").write_text(STORY, encoding="utf-8")
    (tmp_path / "run.toml").write_text(TINY)
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    return tmp_path


@pytest.fixture
def call(capsys):
    """Run a command in this process; returns (exit code, stdout, stderr)."""
    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def chat_model(tmp_path):
    """The folder of a tiny model whose tokenizer has the special tokens of a chat."""
    torch.manual_seed(0)
    save_model(GPT(GPTConfig(310, 128, 16, 2, 1, dropout=0.0)), tmp_path / "chat")
    save_tokenizer(train_bpe(STORY, 310, ("<|im_start|>", "<|im_end|>", "<|endoftext|>")), tmp_path / "chat" /
                   "tokenizer.json")
    return tmp_path / "chat"
