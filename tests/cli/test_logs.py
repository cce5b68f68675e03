"""The command: logs."""

import sys
import types

import pandas as pd
import pytest

from llmbook.cli.logs import CsvLog
from tests.cli.helpers import pretrain, rows, tree


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
