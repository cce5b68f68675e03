"""The flags that make a model write faster, of `llmbook generate` and `llmbook chat`."""

import io
import sys

import pytest
import torch

from llmbook import compiled
from llmbook.cli.terminal import remark
from llmbook.formats.quantized import quantize
from llmbook.generation import generate
from llmbook.text import load_tokenizer
from llmbook.training import load_model

PROMPT = ("The", "--max-new-tokens", 12, "--temperature", 0, "--device", "cpu")


def written(folder, model) -> str:
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    ids = generate(model, torch.tensor([tokenizer.encode("The")]), 12, temperature=0)[0].tolist()
    return tokenizer.decode(ids) + "\n"


@pytest.fixture
def changed(chat_model, monkeypatch):
    """What becomes of the model: the bits that were asked for, and whether it was compiled."""
    seen = []
    monkeypatch.setattr("llmbook.formats.quantized.quantize", lambda model, bits: seen.append(
        (bits, next(model.parameters()).dtype)) or quantize(model, bits))
    make = compiled.compile_decoding
    monkeypatch.setattr("llmbook.compiled.compile_decoding", lambda model: seen.append("compiled") or make(
        model, backend="eager"))
    monkeypatch.setattr("llmbook.compiling.check_compiler", lambda device: seen.append(str(device)))
    return seen


@pytest.mark.parametrize("bits", [4, 8])
def test_fewer_bits_write_what_the_quantised_model_does(chat_model, changed, call, bits):
    wanted = written(chat_model, quantize(load_model(chat_model).eval(), bits))
    assert call("generate", "--model", chat_model, *PROMPT, "--bits", bits) == (0, wanted, "")
    assert changed == [(bits, torch.float32)]
    assert call("generate", "--model", chat_model, *PROMPT, "--bits", bits, "--dtype", "bfloat16")[0] == 0
    assert changed[1:] == [(bits, torch.bfloat16)]


def test_a_compiled_model_writes_the_same(chat_model, changed, call, monkeypatch):
    plain = call("generate", "--model", chat_model, *PROMPT, "--dtype", "float32")
    assert call("generate", "--model", chat_model, *PROMPT, "--dtype", "float32", "--compile") == plain
    assert changed == ["cpu", "compiled"] and plain[0] == 0
    texts = []
    for flags in ((), ("--compile",), ("--compile", "--bits", 8)):
        monkeypatch.setattr("sys.stdin", io.StringIO("Who?\nWhy?\nWhere?\n"))
        code, out, _ = call("chat", "--model", chat_model, "--max-new-tokens", 9, "--temperature", 0, "--dtype",
                            "float32", "--device", "cpu", *flags)
        assert code == 0 and out.count("\n") >= 3
        texts.append(out)
    assert texts[0] == texts[1]
    assert changed[-3:] == ["cpu", (8, torch.float32), "compiled"]


def test_four_bits_are_refused_elsewhere_than_on_a_cpu(chat_model, call, monkeypatch):
    monkeypatch.setattr("llmbook.cli.device.find_device", lambda *_: torch.device("cuda"))
    code, out, err = call("generate", "--model", chat_model, "The", "--bits", 4)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--bits 4 computes on the CPU and the device is cuda: add --device cpu, or give --bits 8" in err


def test_other_bits_are_wrong_usage(chat_model, call):
    code, _, err = call("chat", "--model", chat_model, "--bits", 3)
    assert code == 2 and "invalid choice: 3" in err and "4, 8" in err


def test_without_a_compiler_the_flag_is_refused(chat_model, call, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    code, out, err = call("generate", "--model", chat_model, *PROMPT, "--compile")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--compile needs a C++ compiler" in err and "or leave it out" in err and "compile=" not in err


def test_a_compiler_that_fails_is_told_in_one_line(chat_model, changed, call, monkeypatch):
    def failing(model):
        raise RuntimeError("ld returned\n1 exit status")

    monkeypatch.setattr("llmbook.compiled.compile_decoding", failing)
    code, out, err = call("generate", "--model", chat_model, *PROMPT, "--compile")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "--compile: the model cannot be compiled here (ld returned 1 exit status): leave it out" in err


@pytest.mark.parametrize("command", [("chat",), ("generate", "The")])
def test_what_is_waited_for_is_said_before_anything_large_is_imported(call, monkeypatch, command):
    def stop():
        raise ValueError("torch is imported")

    monkeypatch.setattr("llmbook.cli.writers.import_torch", stop)
    assert call(*command, "--model", "somewhere")[2] == "llmbook: torch is imported\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    said = []
    monkeypatch.setattr("llmbook.cli.writers.remark", said.append)
    call(*command, "--model", "somewhere")
    assert said == ["loading somewhere ..."]


def test_a_remark_is_for_a_person_alone(capsys, monkeypatch):
    remark("loading ...")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    remark("loading ...")
    assert capsys.readouterr() == ("", "loading ...\n")
