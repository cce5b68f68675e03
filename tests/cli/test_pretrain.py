"""The command: pretrain."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from llmbook.cli.logs import CsvLog
from llmbook.gpt import GPT
from llmbook.training import load_model
from tests.cli.helpers import pretrain, rows, start, weights
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


@pytest.mark.slow
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
