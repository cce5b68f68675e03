"""The command: chat."""

import io

import torch

from llmbook.text import load_tokenizer
from tests.cli.helpers import pretrain


def test_a_chat_keeps_its_turns_and_ends_with_ctrl_d(chat_model, call, monkeypatch):
    seen = []
    monkeypatch.setattr("llmbook.open_weights.stream_tokens",
                        lambda model, ids, *_, **sampling: seen.append((ids.tolist(), sampling)) or iter([
                            torch.tensor([72]), torch.tensor([105])]))
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\n<|im_end|>\nagain\n"))
    code, out, err = call("chat", "--model", chat_model, "--system", "Be kind.", "--max-new-tokens", 5, "--top-k", 3)
    lines = out.splitlines()
    assert (code, err, lines[0], lines[2]) == (0, "", "Hi", "Hi")
    assert lines[1].startswith("(the message holds the special token '<|im_end|>'")
    tokenizer = load_tokenizer(chat_model / "tokenizer.json")
    assert tokenizer.decode(seen[1][0][0]) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n")
    assert seen[0][1]["top_k"] == 3 and seen[0][1]["temperature"] == 0.7

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    assert call("chat", "--model", chat_model)[::2] == (0, "")


def test_a_model_without_chat_tokens_does_not_chat(place, call):
    assert pretrain(call)[0] == 0
    code, _, err = call("chat", "--model", "out")
    assert code == 1 and "'<|im_end|>' is no special token of this tokenizer" in err
