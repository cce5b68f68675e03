"""The command: pretrain."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from llmbook.cli.logs import CsvLog
from llmbook.experts import ExpertLoss, ExpertsLlama
from llmbook.generation import Sampling, generate
from llmbook.gpt import GPT
from llmbook.sequence_mixers import HybridLlama
from llmbook.serve.engine import Engine, Request
from llmbook.text import load_tokenizer
from llmbook.training import load_model, next_token_loss
from tests.cli.helpers import TINY, pretrain, rows, start, weights
from tests.support.repository import ROOT


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


MIXED = ("model.kind=hybrid", "model.mixers=['gated delta', 'linear', 'window', 'attention']", "model.window=5",
         "model.n_layers=4", "model.n_kv_heads=1", "model.d_hidden=24")
EXPERTS = ("model.kind=experts", "model.mixers=['delta', 'attention']", "model.n_layers=2", "model.n_kv_heads=2",
           "model.n_experts=4", "model.d_expert=12")
WITHOUT_DROPOUT = TINY.replace("dropout = 0.1\n", "")


@contextmanager
def interrupted_after(monkeypatch, step):
    """Ctrl-C as soon as a run has noted this step."""
    write = CsvLog.__call__

    def stop(log, record):
        write(log, record)
        if record["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(CsvLog, "__call__", stop)
        yield


@pytest.mark.parametrize("changes, kind", [(MIXED, HybridLlama), (EXPERTS, ExpertsLlama)], ids=["hybrid", "experts"])
def test_models_beyond_attention_train_go_on_write_and_serve(place, call, monkeypatch, changes, kind):
    """An interrupted run ends as an unbroken one does; its checkpoint and its model write; no other program's do."""
    (place / "run.toml").write_text(WITHOUT_DROPOUT)
    steps = ("--max-steps", "6", "--set", "checkpoints.every_steps=2",
             *(part for change in changes for part in ("--set", change)))
    code, out, err = pretrain(call, *steps, out="whole")
    assert code == 0, err
    with interrupted_after(monkeypatch, 3):
        assert pretrain(call, *steps, out="broken")[0] == 130
    words = ("generate", "The clock", "--temperature", 0, "--max-new-tokens", 8, "--device", "cpu", "--model")
    code, out, err = call(*words, "broken")
    assert code == 0 and out.startswith("The clock") and "the model after step 3, from a checkpoint" in err
    code, out, err = pretrain(call, *steps, out="broken")
    assert code == 0 and "going on after step 3, from a checkpoint" in out, err
    assert weights(place / "broken") == weights(place / "whole")
    assert rows("broken/log.csv")[-1]["val_loss"] == rows("whole/log.csv")[-1]["val_loss"]
    model = load_model(place / "broken" / "model", "cpu")
    assert type(model) is kind and isinstance(model.config.mixers, tuple) and len(model.config.mixers) in (2, 4)
    assert call(*words, "broken") == call(*words, "whole")
    for to in ("huggingface", "gguf"):
        code, out, err = call("export", "--model", "whole", "--to", to, "exported")
        assert code == 1 and err.count("\n") == 1
        assert f"no other program's format is known for the family {kind.__name__}: save it with" in err
    assert not (place / "exported").exists()
    tokenizer = load_tokenizer("tokenizer.json")
    alone = generate(model, torch.tensor([tokenizer.encode("The clock")]), 8, temperature=0)[0].tolist()
    with Engine(model, tokenizer, rows=2) as engine:
        events = list(engine.events(Request(tokenizer.encode("The clock"), 8, Sampling(0))))
    assert [*tokenizer.encode("The clock"), *events[-1].ids] == alone


def test_experts_are_balanced_as_they_train_and_not_as_they_are_tested(place, call, monkeypatch):
    (place / "run.toml").write_text(WITHOUT_DROPOUT)
    changes = [part for change in EXPERTS for part in ("--set", change)]
    assert pretrain(call, *changes)[0] == 0
    monkeypatch.setattr(ExpertLoss, "__call__", lambda self, *batch: next_token_loss(*batch))
    assert pretrain(call, *changes, out="without")[0] == 0
    first, other = rows("out/log.csv"), rows("without/log.csv")
    assert float(first[0]["loss"]) == pytest.approx(float(other[0]["loss"]) + 0.01, abs=2e-3)
    assert float(first[1]["val_loss"]) == pytest.approx(float(other[1]["val_loss"]), abs=2e-3)


@pytest.mark.slow
def test_stopped_and_killed_runs_end_as_an_unbroken_one_does(place, call, monkeypatch):
    steps = ("--max-steps", "60", "--set", "training.eval_every=20", "--set", "checkpoints.every_steps=10")
    assert pretrain(call, *steps, out="whole")[0] == 0
    with interrupted_after(monkeypatch, 13):
        code, out, _ = pretrain(call, *steps, out="broken")
    assert code == 130
    assert out.endswith("interrupted after step 13, which is saved: the same command goes on from there\n")
    kill_at_47 = """
import os, sys, time
from llmbook.cli.logs import CsvLog
from llmbook.cli.main import main
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


@pytest.mark.team
@pytest.mark.slow
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
