"""What a run leaves behind of each step: a CSV file, TensorBoard, and lines on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ..files import is_first, replace_file
from .runs import Run
from .terminal import say

__all__ = ["CsvLog", "Reports", "TensorBoardLog"]


class CsvLog:
    """One row for each step, written at once. When a run goes on, the rows from there on are dropped first, so that
    the file always reads as one unbroken run.

    new: whether the run is. Raises ValueError if the file is there and is not this run's.
    """

    COLUMNS = ("step", "loss", "val_loss", "learning_rate", "gradient_norm", "examples", "seconds")

    def __init__(self, path: str | Path, new: bool):
        self.path, self.file, self.header = Path(path), None, ",".join(self.COLUMNS) + "\n"
        if self.path.exists() and (new or self._lines()[:1] != [self.header]):
            raise ValueError(f"{self.path} is there and is not the log of this run: name another file in [log] csv")

    def _lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines(keepends=True)

    def __call__(self, record: Mapping[str, float]) -> None:
        if self.file is None:
            self._open(int(record["step"]))
        self.file.write(",".join(str(record.get(name, "")) for name in self.COLUMNS) + "\n")
        self.file.flush()

    def _open(self, first: int) -> None:
        rows = self._lines()[1:] if self.path.exists() else []
        whole = [row for row in rows if row.endswith("\n") and row.count(",") == len(self.COLUMNS) - 1]
        kept = [row for row in whole if int(row.split(",")[0]) < first]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.path, "".join([self.header, *kept]).encode())
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (open until the process ends)


class TensorBoardLog:
    """The numbers of each step, for `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: str):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("[log] tensorboard needs another package: pip install tensorboard") from None
        self.open, self.writer = lambda step: SummaryWriter(folder, purge_step=step), None

    def __call__(self, record: Mapping[str, float]) -> None:
        step = int(record["step"])
        self.writer = self.writer or self.open(step)  # what an earlier, longer run wrote from here on is hidden
        for name, value in record.items():
            if name != "step":
                self.writer.add_scalar(name, value, step)
        self.writer.flush()


class Reports:
    """What `train` calls after each step: logs, and a line where the run begins and at each evaluation."""

    def __init__(self, run: Run):
        settings, self.first = run.settings, True
        self.logs: list[Callable[[Mapping[str, float]], None]] = []
        if is_first():
            self.logs.append(CsvLog(settings.get("log", "csv", run.folder / "log.csv"), run.new))
            if folder := settings.get("log", "tensorboard"):
                self.logs.append(TensorBoardLog(folder))

    def __call__(self, record: Mapping[str, float]) -> None:
        if self.first and record["step"] > 1:
            say(f"going on after step {record['step'] - 1:,}, from a checkpoint")
        self.first = False
        for log in self.logs:
            log(record)
        if "val_loss" in record:
            say(f"step {record['step']:,}: loss {record['loss']:.3f}, held out {record['val_loss']:.3f}, "
                 f"{record['seconds']:,.0f} s")
