"""The command line: every command on tiny models, every wrong input, and runs that are killed and go on."""

import csv
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import types

import pandas as pd
import pytest
import torch

from llmbook.book.corpora import data_folder
from llmbook.classification import TextClassifier
from llmbook.cli import main as command
from llmbook.cli.main import EXAMPLE, CsvLog, Settings, UsageError, main
from llmbook.generation import generate
from llmbook.gpt import GPT, GPTConfig
from llmbook.llama import Llama, LlamaConfig
from llmbook.scale.token_files import TokenFiles, write_token_files
from llmbook.text import load_tokenizer, read_text, save_tokenizer, train_bpe
from llmbook.training import load_model, save_model
from tests.support.repository import ROOT

COMMANDS = ("pretrain", "tokenize", "finetune", "generate", "chat")
STORY = read_text(data_folder() / "twenty_in_hand.txt")
TINY = """
[model]
context_length = 32
d_model = 16
n_heads = 2
n_layers = 1
dropout = 0.1

[data]
train = "story.txt"
validation = 0.1
tokenizer = "tokenizer.json"

[training]
max_steps = 4
batch_size = 4
learning_rate = 5e-3
eval_every = 2
eval_batches = 2
device = "cpu"
precision = "float32"
"""
FOUR = pd.DataFrame([("say the sea", "", "the sea"), ("say gold", "", "gold"), ("say a map", "", "a map"),
                     ("who", "the captain sails", "the captain")], columns=["instruction", "input", "output"])


@pytest.fixture(scope="module")
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


def pretrain(call, *arguments: str, out: str = "out") -> tuple[int, str, str]:
    return call("pretrain", "run.toml", "--out", out, *arguments)


def weights(folder) -> str:
    """The name of a saved model's file, which holds the hash of its content."""
    return json.loads((folder / "model" / "config.json").read_text())["weights"]


def rows(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def tree(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "llmbook", *arguments], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), **environment})


# --- help and the example ----------------------------------------------------------------------------------------

def test_help_is_instant_and_shows_an_example():
    code = ("import sys, llmbook.cli.main as c\n"
            f"for name in {COMMANDS}: print(c.main([name, '--help']))\n"
            "print(c.main(['--help']), c.main(['frob']), c.main(['pretrain', '--example']))\n"
            "assert not {'torch', 'numpy', 'tiktoken', 'tqdm'} & set(sys.modules), 'slow imports'")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"example: llmbook {name} " in done.stdout
    assert EXAMPLE in done.stdout


def test_the_example_and_each_of_its_options_is_known(tmp_path):
    path = tmp_path / "example.toml"
    path.write_text(EXAMPLE)
    plain = Settings(str(path)).values
    assert plain["training"]["max_steps"] == 500 and plain["data"]["train"] == "python-documentation"
    full, options = re.subn(r"(?m)^# (?=[a-z_]+ = )", "", EXAMPLE)
    assert options >= 7
    path.write_text(full)
    values = Settings(str(path)).values
    assert values["model"]["preset"] == "gpt2" and values["checkpoints"]["allow"] == ["max_steps"]


def test_the_example_trains_saves_and_generates(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    code, example, _ = call("pretrain", "--example")
    assert code == 0
    (tmp_path / "run.toml").write_text(example)
    small = ("model.d_model=16", "model.n_layers=1", "model.context_length=32", "data.train=twenty-in-hand",
             "data.tokenizer=300", "training.eval_batches=1")
    changes = [part for text in small for part in ("--set", text)]
    code, out, err = call("pretrain", "run.toml", "--max-steps", 3, *changes)
    assert code == 0, err
    assert "the model is in runs/example/model" in out and "step 3: loss" in out
    assert len(rows("runs/example/log.csv")) == 3
    code, out, _ = call("generate", "--model", "runs/example", "The clock", "--max-new-tokens", 5, "--seed", 1)
    assert code == 0 and out.startswith("The clock") and len(out) > len("The clock\n")


# --- pretraining -------------------------------------------------------------------------------------------------

def test_a_finished_run_is_left_alone(place, call):
    code, out, err = pretrain(call)
    assert code == 0, err
    losses = [float(row["val_loss"]) for row in rows("out/log.csv") if row["val_loss"]]
    assert len(losses) == 2 and losses[1] < losses[0]
    before = tree(place)
    code, out, _ = pretrain(call)
    assert (code, out) == (0, "out is complete: 4 steps; the model is in out/model\n")
    assert tree(place) == before
    code, out, err = pretrain(call, "--learning-rate", 1e-3)
    assert (code, out) == (1, "")
    assert "out holds a run whose training.learning_rate is 0.005, not 0.001: choose another --out" in err
    assert tree(place) == before
    assert pretrain(call, "--device", "cuda", "--set", "training.progress=false")[1].startswith("out is complete")


def test_what_may_change_lets_a_run_go_on(place, call):
    assert pretrain(call, "--set", 'checkpoints.allow=["max_steps"]')[0] == 0
    code, out, err = pretrain(call, "--set", 'checkpoints.allow=["max_steps"]', "--max-steps", 6)
    assert code == 0, err
    assert "going on after step 4, from a checkpoint" in out
    assert [row["step"] for row in rows("out/log.csv")] == list("123456")
    assert pretrain(call, "--max-steps", 6)[1].startswith("out is complete: 6 steps")


def test_stopped_and_killed_runs_end_as_an_unbroken_one_does(place, call, monkeypatch):
    steps = ("--max-steps", "60", "--set", "training.eval_every=20", "--set", "checkpoints.every_steps=10")
    assert pretrain(call, *steps, out="whole")[0] == 0
    write = CsvLog.__call__

    def stop_at_13(log, record):
        write(log, record)
        if record["step"] == 13:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(CsvLog, "__call__", stop_at_13)
        code, out, _ = pretrain(call, *steps, out="broken")
    assert code == 130 and out.endswith("interrupted after step 13: the same command goes on from there\n")
    kill_at_47 = """
import os, sys, time
from llmbook.cli.main import CsvLog, main
write = CsvLog.__call__
def write_and_die(log, record):
    write(log, record)
    if record["step"] == 47:
        for _ in range(1000):  # another thread writes them
            if os.path.isdir("broken/checkpoints/step-00000040"):
                break
            time.sleep(0.01)
        os.kill(os.getpid(), 9)
CsvLog.__call__ = write_and_die
main(sys.argv[1:])
"""
    killed = subprocess.run([sys.executable, "-c", kill_at_47, "pretrain", "run.toml", "--out", "broken", *steps],
                            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "going on after step 13, from a checkpoint" in killed.stdout
    assert len(rows("broken/log.csv")) == 47
    with open("broken/log.csv", "a") as file:
        file.write("7,0.1")  # half a row
    code, out, err = pretrain(call, *steps, out="broken")
    assert code == 0, err
    assert "going on after step 40, from a checkpoint" in out
    assert weights(place / "broken") == weights(place / "whole")
    unbroken, mended = rows("whole/log.csv"), rows("broken/log.csv")
    for name in ("step", "loss", "val_loss", "learning_rate", "gradient_norm", "examples"):
        assert [row[name] for row in mended] == [row[name] for row in unbroken]


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
    windows = command._held_out([files], 0.2, 16, 1000)
    assert len(sizes) > 2 and windows.shape[1] == 17
    assert (files.sizes == (sizes * 0.8).astype(int)).all()
    whole = [files.shards[i][files.sizes[i] :] for i in range(len(sizes))]
    wanted = [torch.from_numpy(tail[i : i + 17].astype("int64")) for tail in whole
              for i in range(0, len(tail) - 16, 16)]
    assert torch.equal(windows, torch.stack(wanted))
    assert len(command._held_out([TokenFiles(tmp_path / "tokens")], 0.2, 16, 3)) == 3
    with pytest.raises(ValueError, match="has no window of 901 tokens: raise"):
        command._held_out([TokenFiles(tmp_path / "tokens")], 0.01, 900, 3)


def test_a_folder_with_other_files_is_refused(place, call):
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("years of work")
    before = tree(place)
    for arguments in (["pretrain", "run.toml"], ["finetune", "--data", data_folder() / "instructions.json"]):
        code, _, err = call(*arguments, "--out", "mine")
        assert (code, err) == (1, "llmbook: mine exists and is no run of llmbook: choose another --out\n")
    assert tree(place) == before


def test_a_damaged_note_is_named(place, call):
    (place / "out").mkdir()
    (place / "out" / "run.json").write_text('{"settings": ')
    assert "llmbook: out/run.json is damaged (" in pretrain(call)[2]


def test_several_processes_print_and_write_once(place):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    team = [start("pretrain", "run.toml", "--out", "out", "--set", "data.tokenizer=300",  # as torchrun starts them
                  RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port))
            for rank in (1, 0)]
    (silent, errors), (out, more) = (process.communicate(timeout=200) for process in team)
    assert [process.returncode for process in team] == [0, 0], errors + more
    assert silent == ""
    assert [line.split(":")[0] for line in out.splitlines()[1:]] == ["step 2", "step 4", "the model is in out/model"]
    assert [row["step"] for row in rows("out/log.csv")] == list("1234")
    assert isinstance(load_model(place / "out" / "model"), GPT)


def test_a_changed_text_is_noticed(place, call):
    assert pretrain(call, "--set", 'checkpoints.allow=["max_steps"]')[0] == 0
    (place / "story.txt").write_text(STORY + "The end.")
    code, _, err = pretrain(call, "--set", 'checkpoints.allow=["max_steps"]', "--max-steps", 5)
    assert code == 1 and "the source is not what out/tokens/train-0 was begun with" in err


# --- dry run -----------------------------------------------------------------------------------------------------

def test_a_dry_run_counts_and_writes_nothing(place, call):
    before = tree(place)
    code, out, err = pretrain(call, "--dry-run", "--max-steps", 10, "--set", "training.accumulation_steps=3")
    assert code == 0, err
    assert tree(place) == before and not (place / "out").exists()
    table = {line[:22].strip(): line[22:].split() for line in out.splitlines()}
    parameters = sum(p.numel() for p in GPT(GPTConfig(300, 32, 16, 2, 1)).parameters())
    assert table["parameters"] == [f"{parameters:,}"]
    assert table["tokens a step"][0] == "384" and table["tokens in total"] == ["3,840"]
    assert table["FLOPs a step"][0] == f"{6 * parameters * 384:.2e}"
    assert table["FLOPs in total"][0] == f"{6 * parameters * 3840:.2e}"
    n_tokens = int((len(load_tokenizer("tokenizer.json").encode(STORY)) + 1) * 0.9)
    assert table["passes over the data"] == [f"{3840 / n_tokens:.2f}", "of", f"{n_tokens:,}", "tokens"]
    assert "measured: 19 steps on cpu" in out and float(table["tokens a second"][0].replace(",", "")) > 100


def test_a_dry_run_of_what_is_too_large_estimates(place, call):
    (place / "run.toml").write_text(TINY.replace("d_model = 16\nn_heads = 2\nn_layers = 1", 'preset = "gpt2-xl"'))
    code, out, err = pretrain(call, "--dry-run", "--batch-size", 100_000)
    assert code == 0, err
    assert "estimated from the speed of a matrix product" in out and "TOO LITTLE" in out and " days " in out


@pytest.mark.parametrize("model", [
    GPT(GPTConfig(500, 64, 64, 4, 4, dropout=0.0)), Llama(LlamaConfig(500, 64, 64, 4, 2, 4, 128))],
    ids=["gpt", "llama"])
def test_the_estimate_of_activations_is_near_what_autograd_keeps(model):
    ids, kept, own = torch.randint(500, (8, 64)), {}, {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), tensor  # alive, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
    estimate = command._activation_bytes(model, ids.numel(), 500, half=False)
    assert 0.8 < estimate / sum(size for size, _ in kept.values()) < 1.6


# --- logs --------------------------------------------------------------------------------------------------------

def record(step: int) -> dict[str, float]:
    return {"step": step, "loss": 1 / step, "learning_rate": 0.1, "gradient_norm": 1.0, "examples": step, "seconds": 1}


def test_a_log_that_goes_on_reads_as_one_run(tmp_path):
    path = tmp_path / "logs" / "log.csv"
    log = CsvLog(path, new=True)
    for step in (1, 2, 3, 4):
        log({**record(step), "val_loss": 2.0} if step == 2 else record(step))
        assert path.read_text().count("\n") == step + 1  # on the disk at once
    path.write_text(path.read_text() + "5,0.2,")
    log = CsvLog(path, new=False)
    for step in (3, 4, 5):
        log(record(step))
    table = pd.read_csv(path)
    assert list(table["step"]) == [1, 2, 3, 4, 5] and list(table["val_loss"].notna()) == [False, True] + [False] * 3


def test_a_log_of_something_else_is_refused(place, call):
    (place / "mine.csv").write_text("a,b\n1,2\n")
    other = CsvLog(place / "other.csv", new=True)
    other(record(1))
    before = tree(place)
    for name in ("mine.csv", "other.csv"):
        code, _, err = pretrain(call, "--set", f"log.csv={name}")
        assert code == 1
        assert err == f"llmbook: {name} is there and is not the log of this run: name another file in [log] csv\n"
    assert tree(place) == before
    with pytest.raises(ValueError, match="mine.csv is there and is not the log of this run"):
        CsvLog("mine.csv", new=False)


def test_tensorboard_gets_each_number_or_says_what_to_install(place, call, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, _, err = pretrain(call, "--set", "log.tensorboard=board")
    assert (code, err) == (1, "llmbook: [log] tensorboard needs another package: pip install tensorboard\n")
    seen = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            seen.append((folder, purge_step))

        def add_scalar(self, *arguments):
            seen.append(arguments)

        def flush(self):
            pass

    fake = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    assert pretrain(call, "--set", "log.tensorboard=board")[0] == 0
    assert seen[0] == ("board", 1)
    first, *_, last = rows("out/log.csv")
    assert ("loss", float(first["loss"]), 1) in seen and ("val_loss", float(last["val_loss"]), 4) in seen


# --- wrong input -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("old, new, message", [
    ("max_steps", "max_stps", "run.toml: [training] max_stps is not known: did you mean 'max_steps'?"),
    ("[training]", "[trainin]", "run.toml: no section [trainin]: did you mean 'training'?"),
    ("[training]", "[zzz]", "run.toml: no section [zzz]: choose one of model, data, training, checkpoints, log"),
    ("[model]", "learning_rate = 1.0\n[model]", "run.toml: learning_rate is not known: it belongs in [training]"),
    ("[model]", "outt = 'x'\n[model]", "run.toml: outt is not known: did you mean 'out'?"),
    ("d_model = 16", "batch_size = 16", "run.toml: [model] batch_size is not known: it belongs in [training]"),
    ("d_model = 16", "kind = 'lama'", "run.toml: [model] kind is 'lama': did you mean 'llama'?"),
    ("d_model = 16", "kind = 3", "run.toml: [model] kind is 3: choose one of gpt, llama"),
    ("d_model = 16", "n_kv_heads = 2", "run.toml: [model] n_kv_heads is not known: did you mean 'n_heads'?"),
    ("d_model = 16", "d_model = 17", "run.toml: [model] d_model (17) must be divisible by n_heads (2)"),
    ("d_model = 16", "d_model = '16'", "run.toml: [model] d_model is '16': it must be a whole number"),
    ("d_model = 16", "vocab_size = 299", "run.toml: [model] vocab_size is 299, the tokenizer has 300 tokens"),
    ("d_model = 16", "preset = 'gpt3'", "run.toml: [model] no preset 'gpt3': choose one of gpt2, gpt2-medium"),
    ("dropout = 0.1", "kind = 'llama'\npreset = 'gpt2'", "run.toml: [model] preset goes with kind = \"gpt\" only"),
    ("max_steps = 4", "max_steps = 4.5", "run.toml: [training] max_steps is 4.5: it must be a whole number"),
    ("max_steps = 4", "max_steps = true", "run.toml: [training] max_steps is True: it must be a whole number"),
    ("max_steps = 4", "max_steps = 0", "run.toml: [training] max_steps is 0: it must be at least 1"),
    ("max_steps = 4", "", "run.toml: [training] max_steps is missing: add it"),
    ("batch_size = 4", "batch_size = 0", "run.toml: [training] batch_size is 0: it must be at least 1"),
    ("batch_size = 4", "betas = [0.9, 'x']", "run.toml: [training] betas is 'x': it must be a number"),
    ("batch_size = 4", "betas = [0.9]", "run.toml: [training] betas is [0.9]: it must be a list of two"),
    ("batch_size = 4", "progress = 1", "run.toml: [training] progress is 1: it must be true or false"),
    ('"story.txt"', "3", "run.toml: [data] train is 3: it must be text in quotation marks or a list"),
    ('"story.txt"', "[]", "run.toml: [data] train: give at least one text"),
    ('"story.txt"', "[{path = 'a', shar = 1}]", "run.toml: [data] train has {'path': 'a', 'shar': 1}: write {path ="),
    ('"story.txt"', "[{path = 'a', share = 1}, 'b']", "a share to each or to none"),
    ('"story.txt"', "[{path = 'a', share = 'x'}]", "run.toml: [data] train, share is 'x': it must be a number"),
    ('train = "story.txt"', "", "run.toml: [data] train is missing"),
    ("validation = 0.1", "validation = 1.5", "run.toml: [data] validation is 1.5: a share must be above 0 and below 1"),
    ("[data]", "[data", "run.toml cannot be read: "),
    ("[data]", "[checkpoints]\nkeep = 0\n[data]", "run.toml: [checkpoints] keep is 0: it must be above 0"),
])
def test_a_wrong_setting_is_named_in_one_line(place, call, old, new, message):
    assert old in TINY
    (place / "run.toml").write_text(TINY.replace(old, new))
    before = tree(place)
    code, out, err = pretrain(call)
    assert (code, out) == (2, "")
    assert err.startswith("llmbook: ") and err.count("\n") == 1 and message in err
    assert tree(place) == before


@pytest.mark.parametrize("arguments, message", [
    (["pretrain"], "give a file of settings: `llmbook pretrain --example > run.toml` writes one that runs"),
    (["pretrain", "none.toml"], "none.toml does not exist: `llmbook pretrain --example > none.toml` writes one"),
    (["pretrain", "run.toml"], "run.toml: out is missing: add it"),
    (["pretrain", "story.txt"], "story.txt cannot be read: "),
    (["pretrain", "run.toml", "--set", "training.max_step=3"],
     "--set training.max_step: [training] max_step is not known: did you mean 'max_steps'?"),
    (["pretrain", "run.toml", "--set", "max_steps"], "--set max_steps: write --set section.key=value"),
    (["pretrain", "run.toml", "--set", "training.max_steps=many"], "[training] max_steps is 'many': it must be a"),
    (["pretrain", "run.toml", "--max-steps", "0"], "--max-steps: [training] max_steps is 0: it must be at least 1"),
    (["pretrain", "run.toml", "--max-steps", "x"], "argument --max-steps: invalid int value: 'x' (see llmbook pre"),
    (["frob"], "invalid choice: 'frob'"),
    ([], "the following arguments are required: COMMAND (see llmbook --help)"),
    (["generate", "x"], "the following arguments are required: --model"),
    (["generate", "--model", "x", ""], "the prompt is empty"),
    (["finetune", "--data", "x"], "--out is missing: add it"),
    (["finetune", "--data", "x", "--out", "y", "--set", "model.d_model=3"], "--set model.d_model: no section [model]"),
    (["finetune", "--data", "x", "--out", "y", "--validation", "1.5"], "--validation is 1.5: a share must be above 0"),
    (["finetune", "--data", "x", "--out", "y", "--learning-rate", "-1"], "--learning-rate: [training] learning_rate"),
])
def test_wrong_usage_is_named_in_one_line(place, call, arguments, message):
    before = tree(place)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("llmbook: ") and err.count("\n") == 1 and message in err
    assert tree(place) == before


@pytest.mark.parametrize("arguments, message", [
    (["pretrain", "run.toml", "--out", "o", "--set", "data.train=gone"], "--set data.train: [data] train: gone does "
     "not exist: give a text file, a folder, or python-documentation or twenty-in-hand"),
    (["pretrain", "run.toml", "--out", "o", "--set", "data.tokenizer=gpt5"], "no tokenizer named 'gpt5'"),
    (["pretrain", "run.toml", "--out", "o", "--set", "data.tokenizer=30"], "vocab_size (30) is too small"),
    (["tokenize", "run.toml", "t", "--tokenizer", "tokenizer.json"], "run.toml is not of a known kind"),
    (["tokenize", "gone", "t"], "gone does not exist"),
    (["generate", "--model", "gone", "x"], "gone does not exist: give a .gguf file, a Hugging Face folder"),
    (["finetune", "--data", "gone.json", "--out", "o"], "gone.json: No such file or directory"),
    (["finetune", "--data", "story.txt", "--out", "o"], "story.txt, line 1 is not JSON"),
])
def test_work_that_fails_says_why_in_one_line(place, call, arguments, message):
    code, out, err = call(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("llmbook: ") and err.count("\n") == 1 and message in err
    assert not (place / "o").exists()


def test_debug_shows_where_an_error_comes_from_and_a_surprise_its_type(place, call, monkeypatch):
    code, _, err = call("generate", "--model", "gone", "x", "--debug")
    assert code == 1 and "Traceback" in err and err.splitlines()[-1].startswith("llmbook: gone does not exist")
    monkeypatch.setattr(command, "_find_model", lambda name: 1 / 0 if name == "a" else {}["key"])
    assert call("generate", "--model", "b", "x")[2] == "llmbook: KeyError: 'key'\n"


def test_interruptions_and_closed_pipes_end_quietly(place, call, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_find_model", interrupt)
    assert call("generate", "--model", "x", "x") == (130, "", "llmbook: interrupted\n")


def test_the_settings_of_another_kind_of_model(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[model]\nkind = 'llama'\nn_kv_heads = 1\nrope_scaling = {rope_type = 'linear', factor = 2}\n"
                    "[training]\nlearning_rate = 1\nbetas = [0, 0.5]\nmax_norm = inf")
    values = Settings(str(path)).values
    assert values["model"]["rope_scaling"] == {"rope_type": "linear", "factor": 2}
    assert values["training"] == {"learning_rate": 1.0, "betas": (0.0, 0.5), "max_norm": float("inf")}
    with pytest.raises(UsageError, match="rope_scaling is 3: it must be a table"):
        Settings(str(path), [("model", "rope_scaling", 3, "--set")])


# --- writing, talking, following instructions --------------------------------------------------------------------

@pytest.fixture
def chat_model(tmp_path):
    """The folder of a tiny model whose tokenizer has the special tokens of a chat."""
    torch.manual_seed(0)
    save_model(GPT(GPTConfig(310, 128, 16, 2, 1, dropout=0.0)), tmp_path / "chat")
    save_tokenizer(train_bpe(STORY, 310, ("<|im_start|>", "<|im_end|>", "<|endoftext|>")), tmp_path / "chat" /
                   "tokenizer.json")
    return tmp_path / "chat"


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
    monkeypatch.setattr("llmbook.generation.stream", lambda *_: iter([torch.tensor([65]), torch.tensor(end)]))
    assert call("generate", "--model", chat_model, "x") == (0, "xA\n", "")


def test_models_that_cannot_write_are_refused(chat_model, call, tmp_path):
    model = load_model(chat_model)
    save_model(TextClassifier(model, 2), tmp_path / "classifier")
    assert "is a TextClassifier, which writes no text" in call("generate", "--model", tmp_path / "classifier", "x")[2]
    save_model(model, tmp_path / "alone")
    assert "alone has no tokenizer: give --tokenizer" in call("generate", "--model", tmp_path / "alone", "x")[2]
    given = ("--tokenizer", chat_model / "tokenizer.json", "--max-new-tokens", 2)
    assert call("generate", "--model", tmp_path / "alone", *given, "x")[0] == 0
    save_tokenizer(train_bpe(STORY, 400), tmp_path / "large.json")
    code, _, err = call("generate", "--model", tmp_path / "alone", "--tokenizer", tmp_path / "large.json", "x")
    assert code == 1 and "the tokenizer has 400 tokens" in err


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


def test_finetune_lowers_the_held_out_loss_and_goes_on(chat_model, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entries = pd.concat([FOUR] * 3, ignore_index=True)
    entries.to_json("train.jsonl", orient="records", lines=True)
    FOUR.to_json("held.jsonl", orient="records", lines=True)
    arguments = ("finetune", "--data", "train.jsonl", "--model", "chat", "--validation", "held.jsonl", "--epochs", "3",
                 "--batch-size", "4", "--learning-rate", "0.01", "--out", "tuned", "--device", "cpu")
    code, out, err = call(*arguments)
    assert code == 0, err
    assert "12 entries to train on, 4 held out, in the style 'chatml'" in out
    before, again = re.search(r"loss before: ([\d.]+)", out)[1], re.search(r"\(before: ([\d.]+)\)", out)[1]
    after = float(re.search(r"loss after: ([\d.]+)", out)[1])
    assert before == again and after < float(before) - 0.3
    assert len(rows("tuned/log.csv")) == 9
    assert call(*arguments)[1].startswith("tuned is complete: 9 steps")
    assert call("generate", "--model", "tuned", "x", "--max-new-tokens", 2)[0] == 0
    code, _, err = call(*arguments, "--epochs", "4")
    assert code == 1 and "tuned holds a run whose epochs is 3, not 4" in err
    code, _, err = call(*arguments, "--validation", "0.000001", "--out", "new")
    assert code == 1 and "leaves 12 entries to train on and 0 held out" in err


def test_a_tokenizer_that_cannot_be_copied_is_found_again(chat_model, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FOUR.to_json("train.json", orient="records")

    def refuse(*_):
        raise ValueError("the ids of tokenizer have gaps: it cannot be saved")

    monkeypatch.setattr("llmbook.text.save_tokenizer", refuse)
    arguments = ("--data", "train.json", "--validation", "train.json", "--max-steps", "1")
    assert call("finetune", *arguments, "--model", "chat", "--out", "one")[0] == 0
    assert call("finetune", *arguments, "--model", "one", "--out", "two")[0] == 0
    assert not (tmp_path / "two" / "model" / "tokenizer.json").exists()
    code, out, _ = call("generate", "--model", "two", "The sea", "--max-new-tokens", 3)
    assert code == 0 and out.startswith("The sea")


# --- as a program ------------------------------------------------------------------------------------------------

def test_as_a_program_it_ends_with_the_exit_code_and_bears_a_closed_pipe(chat_model):
    wrong = start("pretrain", "none.toml")
    out, err = wrong.communicate()
    assert (wrong.returncode, out) == (2, "") and err.startswith("llmbook: none.toml does not exist")
    long = start("generate", "--model", str(chat_model), "x", "--max-new-tokens", "100000", "--temperature", "2")
    assert long.stdout.read(1) == "x"
    long.stdout.close()
    assert long.stderr.read() == "" and long.wait(30) == 1
