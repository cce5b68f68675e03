"""More than 300 bad inputs, from fixed seeds: each gets one line with the value and what to do, and no false success.

Settings, arguments, damaged files of every kind, streams, a full disk and too little memory.
"""

import errno
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch

from llmbook.cli.main import main
from llmbook.gpt import GPT, GPTConfig
from llmbook.text import save_tokenizer, train_bpe
from llmbook.training import save_model
from tests.cli.helpers import COMMANDS, FOUR, STORY, TINY
from tests.cli.test_models import pretrained_folder
from tests.support.repository import ROOT

# What a line says that helps: a verb of what to do, or what a value must be.
REMEDY = re.compile(
    r"\b(give|gave|set|choose|use|add|raise|lower|write|save|download|copy|leave|take|put|check|free|remove|run|install|"
    r"must be|must have|must not|did you mean|it belongs|it goes with|load|mend|convert|change|name|make|try|end|fetch|"
    r"shorten|wait|see llmbook|has one|encode|writes one|needs? at least|instead of)\b", re.IGNORECASE)


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    def is_one_helpful_line(self, *named: str) -> str | None:
        """None, or what is wrong with how an error was told."""
        lines = self.err.splitlines()
        if self.code not in (1, 2):
            return f"exit code {self.code}"
        if self.out:
            return f"output before the error: {self.out[:80]!r}"
        if len(lines) != 1 or not self.err.startswith("llmbook: "):
            return f"{len(lines)} lines"
        if "Traceback" in self.err or re.search(r"\b(Type|Attribute|Key|Index|Runtime|Assertion)Error\b", self.err):
            return "the name of an exception"
        if named and not any(name in self.err for name in named):
            return f"none of {named} in it"
        return None if REMEDY.search(self.err) else "no remedy"


def told(capsys, *arguments: object) -> Outcome:
    """Run a command in this process."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    return Outcome(code, *capsys.readouterr())


def complain(problems: list[str], label: object, outcome: Outcome, *named: str) -> None:
    if problem := outcome.is_one_helpful_line(*named):
        problems.append(f"{label}: {problem}: {outcome.err.strip()[:300]!r}")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    """A folder with one good file of each kind."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "story.txt").write_text(STORY, encoding="utf-8")
    (folder / "run.toml").write_text(TINY)
    save_tokenizer(train_bpe(STORY, 300), folder / "tokenizer.json")
    torch.manual_seed(0)
    save_model(GPT(GPTConfig(310, 64, 16, 2, 1, dropout=0.0)), folder / "ours")
    save_tokenizer(train_bpe(STORY, 310, ("<|im_start|>", "<|im_end|>", "<|endoftext|>")),
                   folder / "ours" / "tokenizer.json")
    pretrained_folder(folder / "theirs")
    entries = pd.concat([FOUR] * 4, ignore_index=True)
    entries["instruction"] += [f" {number}" for number in range(len(entries))]
    entries.to_json(folder / "entries.json", orient="records")
    entries.to_json(folder / "entries.jsonl", orient="records", lines=True)
    pd.DataFrame({"text": [STORY[:400], STORY[400:900]]}).to_json(folder / "texts.jsonl", orient="records", lines=True)
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["pretrain", "run.toml", "--out", "done"]) == 0
        assert main(["tokenize", "story.txt", "tokens", "--tokenizer", "tokenizer.json"]) == 0
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def bench(workshop, tmp_path, monkeypatch) -> Path:
    """A copy of the workshop to break things in."""
    shutil.copytree(workshop, tmp_path / "bench")
    monkeypatch.chdir(tmp_path / "bench")
    return tmp_path / "bench"


# --- arguments -----------------------------------------------------------------------------------------------------

WRITING = ("--max-new-tokens", "--temperature", "--top-k", "--top-p", "--seed", "--device", "--dtype")
BAD_NUMBERS = ("x", "", "nan", "-inf", "-3", "1e400", "0x1g", "--")
ARGUMENTS = [(("generate", "--model", "ours", "x", f"{flag}={value}"), flag) for flag in WRITING
             for value in BAD_NUMBERS]
ARGUMENTS += [(("pretrain", "run.toml", "--out", "o", f"{flag}={value}"), flag) for value in BAD_NUMBERS
              for flag in ("--max-steps", "--batch-size", "--learning-rate", "--precision")]
ARGUMENTS += [(("finetune", "--data", "entries.json", "--out", "o", "--model", "ours", f"{flag}={value}"), flag)
              for value in ("", "x.json", "-2", "nan", "1.5") for flag in ("--validation", "--epochs", "--style")
              if (flag, value) != ("--validation", "x.json")]
ARGUMENTS += [(("serve", "--model", "ours", f"{flag}={value}"), flag) for value in BAD_NUMBERS for flag in (
    "--port", "--rows", "--waiting", "--max-tokens", "--context", "--seconds")]
ARGUMENTS += [(("serve", "--model", "ours", flag, value), flag) for flag, value in (
    ("--port", "65536"), ("--context", "65"), ("--device", "gpu"), ("--dtype", "int4"), ("--bits", "3"),
    ("--allow-origin", "example.org"), ("--allow-origin", "https://example.org/page"), ("--api-key", " "),
    ("--api-key", "na\u00efve"), ("--compile", "x"))]
ARGUMENTS += [(arguments, arguments[-1]) for arguments in (
    ("serve", "--model", "gone"), ("serve", "--model", "ours", "--port", "0", "--host", "no.such.host.invalid"),
    ("serve", "--model", "ours", "--port", "0", "--host", "192.0.2.7"),
    ("generate", "--model", "", "x"), ("generate", "--model", "gone", "x"), ("generate", "--model", "story.txt", "x"),
    ("generate", "--model", "tokens", "x"), ("chat", "--model", "gone"),
    ("chat", "--model", "done"), ("tokenize", "gone", "t"), ("tokenize", "", "t"), ("tokenize", "story.txt", ""),
    ("tokenize", "story.txt", "t", "--tokenizer", "gone"), ("tokenize", "story.txt", "t", "--tokenizer", "3"),
    ("tokenize", "story.txt", "t", "--processes", "0"), ("tokenize", "story.txt", "t", "--tokenizer", ""),
    ("tokenize", "texts.jsonl", "t", "--tokenizer", "tokenizer.json", "--text-column", "words"),
    ("tokenize", "gone/", "t"), ("tokenize", "story.txt", "ours"),
    ("finetune", "--data", "", "--out", "o"), ("finetune", "--data", "gone", "--out", "o"),
    ("finetune", "--data", "story.txt", "--out", "o"), ("finetune", "--data", "entries.json", "--out", ""),
    ("finetune", "--data", "entries.json", "--out", "ours"), ("frob",), ("pretrain", "ours"), ("pretrain", "gone.toml"),
    ("pretrain", "run.toml", "--out", ""), ("pretrain", "run.toml", "--out", "story.txt"),
    ("pretrain", "run.toml", "--out", "story.txt/x"), ("pretrain", "run.toml", "--out", "ours"),
    ("pretrain", "run.toml", "--out", "o", "--set", "x"), ("pretrain", "run.toml", "--out", "o", "--set", "=3"),
    ("pretrain", "run.toml", "--out", "o", "--set", "model="), ("pretrain", "run.toml", "--out", "o", "--frob"),
    ("pretrain", "run.toml", "--out", "o", "--device", "gpu"), ("pretrain", "run.toml", "--out", "a" * 300),
)]
ARGUMENTS += [(("export", *arguments), named) for arguments, named in (
    (("--model", "ours", ""), "empty"), (("--model", "gone", "new"), "gone"), (("--model", "ours", "tokens"), "tokens"),
    (("--model", "ours", "story.txt"), "story.txt"), (("--model", "ours", "story.txt/new"), "story.txt"),
    (("new", "--to=onnx"), "--to"), (("new", "--quantization", "Q8_0"), "--to gguf"), (("new", "--dtype=int8"), "int8"),
    (("new", "--adapter", ""), "empty"), (("--model", "ours", "new", "--adapter", "tokens"), "tokens"),
    (("new.gguf", "--model", "ours", "--to", "gguf", "--quantization", "Q4_K"), "Q4_K"),
    (("new.gguf", "--model", "ours", "--to", "gguf", "--quantization", "Q4_0"), "Q4_0"),
)]


def test_bad_arguments(bench, capsys):
    problems = []
    for arguments, named in ARGUMENTS:
        complain(problems, arguments, told(capsys, *arguments), named, named[:60], named.rstrip("="), "empty",
                 "COMMAND", "--model", "--out", "prompt")
        assert not (bench / "o").exists() or not any((bench / "o").iterdir()), arguments
    assert len(ARGUMENTS) >= 130 and not problems, "\n".join(problems)


# --- settings ------------------------------------------------------------------------------------------------------

BAD_SETTINGS = {
    "model": {"kind": ("3", "'lama'", "[]"), "preset": ("'gpt9'", "3"), "context_length": ("0", "-5", "1.5", "'x'"),
              "d_model": ("17", "0", "true", "10000000000"), "n_heads": ("0", "3", "'2'"),
              "n_layers": ("0", "-1", "[1]"), "dropout": ("1.0", "-0.1", "nan", "'x'"), "qkv_bias": ("1", "'yes'"),
              "vocab_size": ("10", "0", "99999999999"), "d_modell": ("3",), "norm_eps": ("0.0",)},
    "data": {"train": ("''", "3", "[]", "'gone'", "[{}]", "[{path = 3}]", "[{path = 'story.txt', share = -1}]",
                       "[{path = 'story.txt', share = 0}]", "[{path = 'story.txt', share = nan}]", "[['story.txt']]"),
             "validation": ("0", "1.0", "-0.1", "'gone'", "true", "''", "nan", "1e-9"),
             "tokenizer": ("0", "3", "'gpt9'", "''", "1.5", "99999999999", "200000", "false"),
             "text_column": ("''", "3"), "separator": ("''", "3"),
             "stories": ("0", "-1", "1.5", "'x'", "5", "99999999999"), "documents": ("1", "'yes'"), "trian": ("'x'",)},
    "training": {"max_steps": ("0", "-1", "1.5", "'x'", "10000000000"), "batch_size": ("0", "-2", "2.5", "10000000000"),
                 "seed": ("-1", "1.5", "99999999999999999999"), "learning_rate": ("0", "-1.0", "nan", "inf", "'fast'"),
                 "warmup_steps": ("-1", "'x'"), "final_fraction": ("-0.5", "nan"), "weight_decay": ("-1.0", "inf"),
                 "betas": ("[0.9]", "[0.9, 1.0]", "[-1, 0.9]", "0.9", "[0.9, 'x']"), "max_norm": ("0", "-1.0", "nan"),
                 "accumulation_steps": ("0", "1.5"), "eval_every": ("0", "'x'"), "eval_batches": ("0", "-1"),
                 "precision": ("'float8'", "3"), "device": ("'gpu'", "3", "'cuda:77'"), "parallel": ("'dpd'", "3"),
                 "progress": ("1", "'no'"), "lr": ("1",)},
    "checkpoints": {"folder": ("''", "3"), "every_steps": ("0", "1.5"), "every_minutes": ("0", "-1", "'x'", "inf"),
                    "keep": ("0", "1.5"), "allow": ("'max_steps'", "[3]"), "keeep": ("2",)},
    "log": {"csv": ("''", "3", "'story.txt'"), "tensorboard": ("''", "3"), "cvs": ("'x'",)},
}
SETTINGS = [(section, key, value) for section, keys in BAD_SETTINGS.items() for key, values in keys.items()
            for value in values]


def test_bad_settings(bench, capsys):
    problems = []
    for section, key, value in SETTINGS:
        outcome = told(capsys, "pretrain", "run.toml", "--out", "o", "--set", f"{section}.{key}={value}")
        complain(problems, (section, key, value), outcome, key, value.strip("'"))
        if (bench / "o").exists():
            shutil.rmtree(bench / "o")
    assert len(SETTINGS) >= 110 and not problems, "\n".join(problems)


def test_settings_with_a_mark_of_byte_order_are_read(bench, capsys):
    (bench / "marked.toml").write_bytes(b"\xef\xbb\xbf" + TINY.encode())
    assert told(capsys, "pretrain", "marked.toml", "--out", "o").code == 0
    (bench / "other.toml").write_bytes("# \u00e9\n".encode("utf-16") + TINY.encode("utf-16"))
    outcome = told(capsys, "pretrain", "other.toml", "--out", "p")
    assert outcome.is_one_helpful_line("other.toml") is None, outcome


# --- damaged files -------------------------------------------------------------------------------------------------

WRITE = ("generate", "x y", "--max-new-tokens", "4", "--temperature", "0", "--model")
ONE_STEP = ("--max-steps", "1", "--validation", "0.3")
FILES = {  # a file, and a command that reads it
    "run.toml": ("pretrain", "run.toml", "--out", "new"),
    "tokenizer.json": ("tokenize", "story.txt", "new", "--tokenizer", "tokenizer.json"),
    "entries.json": ("finetune", "--data", "entries.json", "--model", "ours", "--out", "new", *ONE_STEP),
    "entries.jsonl": ("finetune", "--data", "entries.jsonl", "--model", "ours", "--out", "new", *ONE_STEP),
    "texts.jsonl": ("tokenize", "texts.jsonl", "new", "--tokenizer", "tokenizer.json"),
    "done/run.json": ("pretrain", "run.toml", "--out", "done"),
    "ours/config.json": (*WRITE, "ours"),
    "ours/tokenizer.json": (*WRITE, "ours"),
    "theirs/config.json": (*WRITE, "theirs"),
    "theirs/tokenizer.json": (*WRITE, "theirs"),
    "theirs/model.safetensors": (*WRITE, "theirs"),
    "tokens/tokens.json": ("pretrain", "run.toml", "--out", "new", "--set", "data.train=tokens"),
}
WHOLLY_WRONG = (b"", b"\x00" * 64, b"{", b"[1, 2", b'{"a": 1}', b"null", b"\xff\xfe\xff", b"3", b'"x"', b"[" * 100_000,
                "\ufeff{}".encode(), b"not at all what it should be\n" * 3)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if "safetensors" in name else name
                                  for name in FILES])
def test_files_that_are_something_else(bench, capsys, name):
    """12 files in each of 12 places."""
    problems, path = [], bench / name
    for content in WHOLLY_WRONG:
        if (name, content) == ("texts.jsonl", b'"x"'):
            continue  # a text
        path.write_bytes(content)
        complain(problems, (name, content[:20]), told(capsys, *FILES[name]), path.name, path.parent.name,
                 "out is missing", "train is missing", "max_steps")
        shutil.rmtree(bench / "new", ignore_errors=True)
    assert len(WHOLLY_WRONG) == 12 and not problems, "\n".join(problems)


@pytest.mark.parametrize("name", [name for name in FILES if name != "theirs/model.safetensors"])
def test_files_with_a_change_here_and_there(bench, capsys, name):
    """Cut, flipped and doubled, 12 times each: noticed, or nothing comes out differently."""
    draw, path, problems = random.Random(name), bench / name, []
    good = path.read_bytes()
    whole = told(capsys, *FILES[name])
    assert whole.code == 0, whole
    for number in range(12):
        shutil.rmtree(bench / "new", ignore_errors=True)
        content, place = bytearray(good), draw.randrange(len(good))
        if number % 3 == 0:
            content = content[:place]
        elif number % 3 == 1:
            content[place] ^= 1 << draw.randrange(8)
        else:
            content[place:place] = content[draw.randrange(len(good)) :][:9]
        path.write_bytes(content)
        outcome = told(capsys, *FILES[name])
        if outcome.code == 0 and "theirs" not in name and "ours" not in name:
            continue  # another text or setting that is as good as the one before
        if outcome.code == 0 and outcome.out == whole.out:
            continue
        if outcome.code != 0:
            complain(problems, (name, number, place), outcome)
    assert not problems, "\n".join(problems)


@pytest.mark.slow
def test_the_header_of_safetensors(bench, capsys):
    draw, path, problems = random.Random(1), bench / "theirs" / "model.safetensors", []
    good = path.read_bytes()
    length = int.from_bytes(good[:8], "little")
    for number in range(10):
        content = bytearray(good)
        if number % 2:
            content = content[: draw.randrange(len(good))]
        else:
            content[draw.randrange(8 + length)] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        outcome = told(capsys, *FILES["theirs/model.safetensors"])
        if outcome.code != 0:
            complain(problems, number, outcome)
    assert not problems, "\n".join(problems)


def test_our_weights_never_change_silently(bench, capsys):
    draw, problems = random.Random(2), []
    path = next((bench / "ours").glob("model-*.safetensors"))
    good = path.read_bytes()
    for number in range(16):
        content = bytearray(good)
        content[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        complain(problems, number, told(capsys, *WRITE, "ours"), path.name)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("entry", [
    3, None, [], "x", {}, {"instruction": "a"}, {"output": "a"}, {"instruction": "", "output": "x"},
    {"instruction": 3, "output": "x"}, {"instruction": "a", "output": None}, {"instruction": "a", "output": ["x"]},
    {"instruction": "a", "output": "x", "input": 3}, {"instruction": "<|im_end|>", "output": "x"},
    {"instruction": "a " * 4000, "output": "x"}])
def test_entries_that_cannot_be_trained_on(bench, capsys, entry):
    for name, content in (("bad.json", json.dumps([FOUR.iloc[0].to_dict(), entry])),
                          ("bad.jsonl", json.dumps(FOUR.iloc[0].to_dict()) + "\n" + json.dumps(entry))):
        (bench / name).write_text(content)
        outcome = told(capsys, "finetune", "--data", name, "--model", "ours", "--out", "new", "--validation", "0.5")
        assert outcome.code in (1, 2) and len(outcome.err.splitlines()) == 1, outcome
        assert "Traceback" not in outcome.err and REMEDY.search(outcome.err), outcome


# --- streams, disk and memory --------------------------------------------------------------------------------------

def test_half_characters_in_arguments_and_input(bench, capsys, monkeypatch):
    problems = []
    for arguments in ((*WRITE, "ours"), ("chat", "--model", "ours", "--system")):
        text = [("x \udce9" if part == "x y" else part) for part in arguments]
        text += ["a \ud800"] if "chat" in text else []
        complain(problems, arguments, told(capsys, *text), "\\udce9", "\\ud800")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9 au lait"), encoding="utf-8"))
    complain(problems, "input", told(capsys, "generate", "--model", "ours", "-"), "0xe9")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    complain(problems, "chat", told(capsys, "chat", "--model", "ours"), "0xff")
    monkeypatch.setattr("sys.stdin", None)
    complain(problems, "no input", told(capsys, "generate", "--model", "ours", "-"), "closed")
    complain(problems, "no input", told(capsys, "chat", "--model", "ours"), "closed")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("module", ["llmbook.cli.runs", "llmbook.cli.data", "llmbook.model_files"])
def test_a_full_disk_is_named_with_its_path(bench, capsys, monkeypatch, module):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"{module}.replace_file", full)
    outcome = told(capsys, "pretrain", "run.toml", "--out", "new")
    assert outcome.code == 1 and "No space left on device" in outcome.err
    assert "new" in outcome.err and "free some space" in outcome.err, outcome


@pytest.mark.parametrize("error", [
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                 "to allocate 4294967296000 bytes. Error code 12 (Cannot allocate memory)"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.77 GiB"),
    MemoryError()])
def test_too_little_memory_says_what_to_lower(bench, capsys, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("llmbook.training.train", fail)
    outcome = told(capsys, "pretrain", "run.toml", "--out", "new")
    assert (outcome.code, len(outcome.err.splitlines())) == (1, 1)
    assert "memory ran out" in outcome.err and "lower batch_size" in outcome.err
    assert "enforce" not in outcome.err and "at once" in outcome.err or not error.args


@pytest.mark.parametrize("error", [KeyError("x"), AttributeError("no y"), IndexError(), NotImplementedError("no z")])
def test_a_fault_of_the_program_is_one_line_too(bench, capsys, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("llmbook.cli.models.find_model", fail)
    outcome = told(capsys, "generate", "--model", "ours", "x")
    assert outcome.code == 1 and len(outcome.err.splitlines()) == 1
    assert type(error).__name__ in outcome.err and "--debug shows where" in outcome.err


# --- as programs ---------------------------------------------------------------------------------------------------

SHELL = [
    ("{run} generate --model ours x >&-", "the standard output is closed"),
    ("{run} --help >&-", "the standard output is closed"),
    ("{run} pretrain --example >&-", "the standard output is closed"),
    ("{run} --version > /dev/full", "No space left on device"),
    ("{run} pretrain --example > /dev/full", "No space left on device"),
    ("{run} generate --model ours x > /dev/full", "No space left on device"),
    ("{run} generate --model ours - <&-", "the standard input is closed"),
    ("{run} chat --model ours <&-", "the standard input is closed"),
    ("printf '\\351' | {run} generate --model ours -", "not UTF-8"),
    ("{run} generate --model ours \"$(printf 'a\\351')\"", "not UTF-8"),
    ("{run} pretrain \"$(printf '\\351.toml')\"", "does not exist"),
    ("RANK=1 {run} pretrain run.toml --out new", "torchrun"),
    ("RANK=1 WORLD_SIZE=x {run} pretrain run.toml --out new", "torchrun"),
    ("(ulimit -f 8; {run} pretrain run.toml --out new)", "File too large"),
]


@pytest.mark.slow
@pytest.mark.parametrize("line, said", SHELL)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_streams_that_are_closed_or_full(bench, line, said):
    done = subprocess.run(["sh", "-c", line.format(run=f"'{sys.executable}' -m llmbook")], capture_output=True,
                          text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=100,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"})
    outcome = Outcome(done.returncode, "", done.stderr)
    assert outcome.is_one_helpful_line(said) is None, outcome


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(bench):
    long = f"'{sys.executable}' -m llmbook generate --model ours x --max-new-tokens 100000 | head -c 2"
    done = subprocess.run(["sh", "-c", long], capture_output=True, text=True, errors="replace", timeout=100,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("x")


def test_there_are_enough_inputs():
    assert len(ARGUMENTS) + len(SETTINGS) + len(FILES) * 24 + 10 + 16 + 28 + len(SHELL) >= 329
    assert {arguments[0] for arguments, _ in ARGUMENTS} >= set(COMMANDS)
