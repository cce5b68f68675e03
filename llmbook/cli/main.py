"""The command line: `llmbook pretrain`, `tokenize`, `finetune`, `generate`, `chat`. See `llmbook --help`.

PyTorch is imported inside the commands only, so that help and wrong usage are answered at once.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
import os
import re
import statistics
import sys
import time
import traceback
import types
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

EXAMPLE = '''\
# Settings for `llmbook pretrain`. As it stands, this file trains a small GPT on the documentation that every Python
# carries: a few minutes on two cores. Paths are seen from the folder in which you run the command. What begins with
# "# " and a key is an option that is not used here.

out = "runs/example"                # everything is written here: tokens, checkpoints, log, model

[model]
kind = "gpt"                        # or "llama"; with each, any field of GPTConfig or LlamaConfig
# preset = "gpt2"                   # or "gpt2-medium", "gpt2-large", "gpt2-xl": OpenAI's sizes
context_length = 128                # the most tokens that the model looks at
d_model = 128                       # features of a token; must be divisible by n_heads
n_heads = 4
n_layers = 4
dropout = 0.0

[data]
train = "python-documentation"      # or "twenty-in-hand", the book's story; a text file; a folder of them; JSON Lines;
                                    # or what `llmbook tokenize` wrote. Several, with their shares of the batches:
                                    # [{path = "stories", share = 0.7}, {path = "code.jsonl", share = 0.3}]
validation = 0.05                   # this share is held out; or the path of other text
tokenizer = 2048                    # learn a byte-pair encoding of 2048 tokens; or "gpt2"; or a tokenizer's file
# text_column = "text"              # the key of the text in JSON Lines

[training]
max_steps = 500
batch_size = 16                     # windows of context_length tokens in a batch
learning_rate = 2e-3                # the highest one
warmup_steps = 30
eval_every = 100                    # steps between measurements of the held-out loss
eval_batches = 10                   # batches for each
seed = 0                            # of the first weights and of the order of the data
# accumulation_steps = 4            # batches for one step: a larger batch in the same memory
# device = "cuda"                   # the best there is if not given; and any other field of TrainingConfig

[checkpoints]                       # the same command goes on from the newest one after whatever ended it
every_minutes = 5.0
keep = 2
# every_steps = 1000
# folder = "runs/example/checkpoints"
# allow = ["max_steps"]             # settings that may be changed on the way

[log]
# csv = "runs/example/log.csv"      # one row a step
# tensorboard = "runs/example/tensorboard"  # needs: pip install tensorboard
'''


class UsageError(Exception):
    """What the reader asked for cannot be: a wrong argument or setting. Exit code 2."""


# --- settings ----------------------------------------------------------------------------------------------------

def _schema(model_kind: str = "gpt") -> dict[str, dict[str, Any]]:
    """The type of each key of each section; "" holds what stands before the first section."""
    from ..gpt import GPTConfig
    from ..llama import LlamaConfig
    from ..training import TrainingConfig

    kinds = {"gpt": GPTConfig, "llama": LlamaConfig}
    return {"": {"out": str},
            "model": {"kind": str, "preset": str, **typing.get_type_hints(kinds[model_kind])},
            "data": {"train": str | list, "validation": float | str, "tokenizer": int | str, "text_column": str},
            "training": {**typing.get_type_hints(TrainingConfig), "batch_size": int, "seed": int},
            "checkpoints": {"folder": str, "every_steps": int, "every_minutes": float, "keep": int, "allow": list},
            "log": {"csv": str, "tensorboard": str}}


_TYPE_NAMES = {int: "a whole number", float: "a number", str: "text in quotation marks", bool: "true or false",
               list: "a list", tuple: "a list of two", dict: "a table", Mapping: "a table"}


def _convert(value: Any, hint: Any, where: str) -> Any:
    """A value from TOML as the type that a key has."""
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    kinds = [typing.get_origin(kind) or kind for kind in (typing.get_args(hint) if union else [hint])]
    for kind in kinds:
        if kind is tuple and isinstance(value, list) and len(value) == len(typing.get_args(hint)):
            return tuple(_convert(item, wanted, where) for item, wanted in zip(value, typing.get_args(hint)))
        if kind is Mapping and isinstance(value, dict) or type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value)
    wanted = " or ".join(_TYPE_NAMES[kind] for kind in kinds if kind in _TYPE_NAMES)
    raise UsageError(f"{where} is {value!r}: it must be {wanted}")


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}"


class Settings:
    """The sections of a TOML file and what was changed on the command line, checked.

    values: section -> key -> value. Raises UsageError that names the place of what is wrong.
    """

    def __init__(self, path: str | None, changes: Sequence[tuple[str, str, Any, str]] = (),
                 sections: Sequence[str] | None = None):
        self.path, self.values, self.places = path, {}, {}
        for key, value in (_read_toml(path) if path else {}).items():
            if isinstance(value, dict):
                self.values[key] = dict(value)
            else:
                self.values.setdefault("", {})[key] = value
        for section, key, value, place in changes:
            self.values.setdefault(section, {})[key] = value
            self.places[section, key] = place
        kind = self.values.get("model", {}).get("kind", "gpt")
        if kind not in ("gpt", "llama"):
            raise UsageError(f"{self.place('model', 'kind')} is {kind!r}: {_nearest(str(kind), ('gpt', 'llama'))}")
        schema = _schema(kind)
        self._check({name: schema[name] for name in sections or schema}, schema)

    def _check(self, wanted: dict[str, dict[str, Any]], schema: dict[str, dict[str, Any]]) -> None:
        for section, keys in self.values.items():
            if section not in wanted:
                raise UsageError(f"{self._origin(section, next(iter(keys), ''))}: no section [{section}]: "
                                 f"{_nearest(section, [name for name in wanted if name])}")
            for key, value in keys.items():
                if key not in wanted[section]:
                    at = [name for name in schema if name and key in schema[name] and name != section]
                    hint = f"it belongs in [{at[0]}]" if at else _nearest(key, list(wanted[section]))
                    raise UsageError(f"{self.place(section, key)} is not known: {hint}")
                keys[key] = _convert(value, wanted[section][key], self.place(section, key))
        self.values = {name: self.values.get(name, {}) for name in wanted}

    def _origin(self, section: str, key: str = "") -> str:
        return self.places.get((section, key)) or self.path or "command line"

    def place(self, section: str, key: str) -> str:
        """Where a setting stands, for a message."""
        return f"{self._origin(section, key)}: " + (f"[{section}] {key}" if section else key)

    def get(self, section: str, key: str, default: Any = None) -> Any:
        return self.values[section].get(key, default)

    def need(self, section: str, key: str) -> Any:
        if key not in self.values[section]:
            raise UsageError(f"{self.place(section, key) if self.path else '--' + key} is missing: add it")
        return self.values[section][key]

    def make(self, section: str, build: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """A configuration from a section; what it refuses is said with the place."""
        try:
            return build(*arguments, **more)
        except (ValueError, TypeError) as error:
            named = [key for key in self.values[section] if re.match(rf"{key}\b", str(error))]
            raise UsageError(f"{self._origin(section, *named[:1])}: [{section}] {error}") from None


def _read_toml(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: `llmbook pretrain --example > {path}` writes one that runs") from None
    except (OSError, ValueError) as error:  # not TOML, or not UTF-8
        raise UsageError(f"{path} cannot be read: {error}") from None


def _changes(arguments: argparse.Namespace) -> list[tuple[str, str, Any, str]]:
    """What the command line changes: `--set section.key=value`, and the flags of single settings."""
    changes = []
    for text in arguments.set:
        name, equals, value = text.partition("=")
        section, dot, key = name.strip().rpartition(".")
        if not equals or not key:
            raise UsageError(f"--set {text}: write --set section.key=value, such as --set training.max_steps=100")
        try:
            value = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            value = value.strip()  # a shell takes quotation marks away: --set model.kind="llama"
        changes.append((section, key, value, f"--set {name.strip()}"))
    for section, key in (("", "out"), ("training", "max_steps"), ("training", "batch_size"),
                         ("training", "learning_rate"), ("training", "device")):
        if (value := getattr(arguments, key, None)) is not None:
            changes.append((section, key, value, f"--{key.replace('_', '-')}"))
    return changes


# --- runs --------------------------------------------------------------------------------------------------------

def _leads() -> bool:
    """Whether this process prints and writes: under torchrun, process 0 only."""
    return os.environ.get("RANK", "0") == "0"


def _say(text: str) -> None:
    if _leads():
        from tqdm import tqdm

        tqdm.write(text, file=sys.stdout)  # above a progress bar, if one is shown
        sys.stdout.flush()


# These change where and how a run goes, not what it computes.
_FREE = {("", "out"), ("training", "device"), ("training", "parallel"), ("training", "progress")}


class Run:
    """The folder of one run, with `run.json`, which says what runs there and whether it is finished.

    Raises ValueError if the folder holds anything else, or a run with other settings: nothing is deleted.
    """

    def __init__(self, command: str, settings: Settings, about: Mapping[str, Any] | None = None):
        self.folder, self.settings = Path(settings.need("", "out")), settings
        allow = settings.get("checkpoints", "allow", [])
        compared = {f"{section}.{key}" if section else key: value for section in ("model", "data", "training")
                    for key, value in settings.values.get(section, {}).items() if (section, key) not in _FREE}
        self.note = json.loads(json.dumps({"command": command, **(about or {}), **compared}))
        path, self.finished = self.folder / "run.json", None
        self.new = not path.is_file()
        if not self.new:
            try:
                about = json.loads(path.read_text(encoding="utf-8"))
                self.finished, before = about["finished"], dict(about["settings"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} is damaged ({error!r}): choose another --out") from None
            changed = [name for name in {**before, **self.note} if before.get(name) != self.note.get(name)]
            if refused := [name for name in changed if name.rpartition(".")[2] not in allow]:
                name = refused[0]
                raise ValueError(f"{self.folder} holds a run whose {name} is {before.get(name, 'not given')!r}, not "
                                 f"{self.note.get(name, 'not given')!r}: choose another --out, or the settings of then")
            self.finished = None if changed else self.finished
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())) and _leads():
            raise ValueError(f"{self.folder} exists and is no run of llmbook: choose another --out")

    def write(self, finished: Mapping[str, Any] | None = None) -> None:
        if _leads():
            from ..files import replace_file

            self.folder.mkdir(parents=True, exist_ok=True)
            content = json.dumps({"settings": self.note, "finished": finished}, indent=1)
            replace_file(self.folder / "run.json", content.encode())

    def say_finished(self) -> int:
        _say(f"{self.folder} is complete: {self.finished['steps']:,} steps; the model is in {self.folder / 'model'}")
        return 0

    def checkpoints(self) -> Any:
        from ..scale.checkpoints import Checkpoints

        given = {"folder": str(self.folder / "checkpoints"), **self.settings.values["checkpoints"]}
        return self.settings.make("checkpoints", Checkpoints, **given)

    def save(self, model: Any, tokenizer: Any, source: str | None = None) -> Path:
        """Write the model and its tokenizer, so that `llmbook generate --model` opens both."""
        from ..text import save_tokenizer
        from ..training import save_model

        save_model(model, self.folder / "model")
        if _leads():
            try:
                save_tokenizer(tokenizer, self.folder / "model" / "tokenizer.json")
            except (ValueError, AttributeError):  # not a tokenizer that the book's format can hold: say whose it is
                if source is None:
                    raise
                where = str(Path(source).resolve()) if Path(source).exists() else source
                (self.folder / "model" / "tokenizer_of.json").write_text(json.dumps({"model": where}))
        return self.folder / "model"


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
        from ..files import replace_file

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
        if _leads():
            self.logs.append(CsvLog(settings.get("log", "csv", run.folder / "log.csv"), run.new))
            if folder := settings.get("log", "tensorboard"):
                self.logs.append(TensorBoardLog(folder))

    def __call__(self, record: Mapping[str, float]) -> None:
        if self.first and record["step"] > 1:
            _say(f"going on after step {record['step'] - 1:,}, from a checkpoint")
        self.first = False
        for log in self.logs:
            log(record)
        if "val_loss" in record:
            _say(f"step {record['step']:,}: loss {record['loss']:.3f}, held out {record['val_loss']:.3f}, "
                 f"{record['seconds']:,.0f} s")


# --- data --------------------------------------------------------------------------------------------------------

_BUILT_IN = ("python-documentation", "twenty-in-hand")
_SAMPLE = 4_000_000  # bytes of text from which a vocabulary is learned and lengths are estimated


def _source(name: str, place: str) -> Any:
    """Documents, or the path of a text file, a folder, or token files. place: where the name stands, for a message."""
    from ..book import corpora

    if name == "python-documentation":
        return corpora.python_documentation()
    if name == "twenty-in-hand":
        return corpora.data_folder() / "twenty_in_hand.txt"
    if not (path := Path(name).expanduser()).exists():
        raise ValueError(f"{place}: {name} does not exist: give a text file, a folder, or {' or '.join(_BUILT_IN)}")
    return path


def _is_tokens(source: Any) -> bool:
    return isinstance(source, Path) and (source / "tokens.json").is_file()


def _sample(source: Any, column: str) -> tuple[str, int | None]:
    """The beginning of a source's text, each document with the token that ends it; and the size of the source's files
    in bytes if there is more of it."""
    from ..scale.documents import DOCUMENT_END, document_parts, source_files
    from ..text import END_OF_TEXT

    files, read, size = source_files(source), [], 0
    for part in document_parts(source, column):
        read.append(part.replace(DOCUMENT_END, END_OF_TEXT.encode()).decode("utf-8"))
        size += len(part)
        if size > _SAMPLE and files:
            return "".join(read), sum(path.stat().st_size for path in files)
    return "".join(read), None


def _tokenizer(choice: int | str | None, sources: Sequence[Any], column: str) -> Any:
    """By name or file; learned from the sources if a number; that of the token files if None."""
    from ..text import load_tokenizer, train_bpe

    if choice is None:
        beside = [source / "tokenizer.json" for source in sources if _is_tokens(source)]
        return load_tokenizer(beside[0] if beside and beside[0].is_file() else "gpt2")
    if isinstance(choice, str):
        return load_tokenizer(choice)
    texts = [_sample(source, column)[0] for source in sources if not _is_tokens(source)]
    return train_bpe("".join(texts), choice, progress=sys.stderr.isatty() and _leads())


def _write_tokens(source: Any, folder: Path, tokenizer: Any, column: str, processes: int | None = None) -> Any:
    from ..scale.token_files import TokenFiles, tokenizer_fingerprint, write_token_files

    if _is_tokens(source):
        files = TokenFiles(source)
        if files.tokenizer != tokenizer_fingerprint(tokenizer):
            raise ValueError(f"{source} was made with another tokenizer: set [data] tokenizer to that one")
        return files
    if not _leads():
        return TokenFiles(folder)
    if processes is None and _sample(source, column)[1] is None:
        processes = 1  # starting more would take longer than the work
    return write_token_files(source, folder, tokenizer, column, processes, progress=sys.stderr.isatty())


def _held_out(files: Sequence[Any], share: float, context: int, most: int) -> Any:
    """Up to `most` windows (windows, context + 1), evenly spread over the last `share` of every shard. Those parts are
    taken out of `files`, whose sizes become smaller."""
    import torch

    places = []
    for file in files:
        sizes, starts = file.sizes, (file.sizes * (1 - share)).astype(int)
        places += [(file, shard, start) for shard in range(len(sizes))
                   for start in range(starts[shard], sizes[shard] - context, context)]
        file.sizes = starts
    if not places:
        raise ValueError(f"what is held out has no window of {context + 1} tokens: raise [data] validation, or lower "
                         "[model] context_length")
    chosen = [places[i * len(places) // most] for i in range(most)] if most < len(places) else places
    return torch.stack([torch.from_numpy(file.shards[shard][start : start + context + 1].astype("int64"))
                        for file, shard, start in chosen])


class Data:
    """The texts that the section [data] names, and the tokenizer for them."""

    def __init__(self, settings: Settings):
        self.settings, place = settings, settings.place("data", "train")
        given = settings.need("data", "train")
        parts = [item if isinstance(item, dict) else {"path": item} for item in
                 (given if isinstance(given, list) else [given])]
        for part in parts:
            if not isinstance(part.get("path"), str) or part.keys() - {"path", "share"}:
                raise UsageError(f'{place} has {part}: write {{path = "stories", share = 0.7}}')
            _convert(part.get("share", 1.0), float, f"{place}, share")
        if not parts or len({"share" in part for part in parts}) > 1:
            raise UsageError(f"{place}: give at least one text, and a share to each or to none")
        self.shares = [part["share"] for part in parts] if "share" in parts[0] else None
        self.column, self.validation = settings.get("data", "text_column", "text"), settings.get("data", "validation")
        if isinstance(self.validation, float) and not 0 < self.validation < 1:
            raise UsageError(f"{settings.place('data', 'validation')} is {self.validation}: a share must be above 0 "
                             "and below 1")
        self.sources = [_source(part["path"], place) for part in parts]
        self.held_out = (_source(self.validation, settings.place("data", "validation"))
                         if isinstance(self.validation, str) else None)

    def tokenizer(self, folder: Path) -> Any:
        """The tokenizer: the one that a run keeps in `folder`, so that it stays the same, or else that of the
        settings. Under torchrun, process 0 writes all of `folder`, and the others wait here until it has."""
        from ..text import load_tokenizer

        ready = folder / "ready.json"
        while not _leads() and not (ready.is_file() and json.loads(ready.read_text()) == self.settings.values["data"]):
            time.sleep(0.2)
        if (folder / "tokenizer.json").is_file():
            return load_tokenizer(folder / "tokenizer.json")
        return _tokenizer(self.settings.get("data", "tokenizer"), self.sources, self.column)

    def count(self, tokenizer: Any) -> tuple[int, str]:
        """Tokens to train on, and how they are known."""
        from ..scale.token_files import TokenFiles

        total, about = 0, ""
        for source in self.sources:
            if _is_tokens(source):
                total += len(TokenFiles(source))
                continue
            text, size = _sample(source, self.column)
            tokens = len(tokenizer.encode(text, allowed_special="all"))
            total += tokens if size is None else int(tokens * size / len(text.encode()))
            about = about if size is None else f", estimated from the first {_SAMPLE / 1e6:.0f} MB"
        return int(total * (1 - (self.validation if isinstance(self.validation, float) else 0))), about

    def loaders(self, folder: Path, tokenizer: Any, context: int, batch_size: int, seed: int, eval_batches: int,
                ) -> tuple[Any, list | None]:
        """Endless batches to train on, and the held-out ones. Text becomes token files in `folder` first."""
        from ..files import replace_file
        from ..scale.token_files import TokenWindows
        from ..text import save_tokenizer

        if _leads() and not (folder / "tokenizer.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            save_tokenizer(tokenizer, folder / "tokenizer.json")
        files = [_write_tokens(source, folder / f"train-{number}", tokenizer, self.column)
                 for number, source in enumerate(self.sources)]
        others = None if self.held_out is None else _write_tokens(self.held_out, folder / "validation", tokenizer,
                                                                  self.column)
        if _leads():
            replace_file(folder / "ready.json", json.dumps(self.settings.values["data"]).encode())
        windows = None
        if self.validation is not None:
            share = 1.0 if others else self.validation
            windows = _held_out([others] if others else files, share, context, eval_batches * batch_size)
        _say(f"{sum(map(len, files)):,} tokens to train on" + (
            "" if windows is None else f", {windows[:, 1:].numel():,} held out for evaluations"))
        held_out = None if windows is None else [(rows[:, :-1], rows[:, 1:]) for rows in windows.split(batch_size)]
        return TokenWindows(files, context, batch_size, self.shares, seed), held_out


# --- what it will cost -------------------------------------------------------------------------------------------

def _activation_bytes(model: Any, tokens: int, vocab_size: int, half: bool) -> int:
    """An estimate of what a step keeps for its backward pass: the inputs and outputs of every linear layer, and the
    logits three times in float32 (as they are, as log-probabilities, and their gradient)."""
    from torch import nn

    kept = sum(layer.in_features + layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear))
    return tokens * (kept * (2 if half else 4) + 3 * 4 * vocab_size)


def _device_memory(device: Any) -> int | None:
    """Bytes of memory, all together, where a model would train; None if that is not known."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def _step_seconds(model_config: Any, config: Any, batch_size: int, flops: float, fits: bool) -> tuple[float, str]:
    """Seconds of a step of `flops`, and how they are known. Takes at most about 20 s."""
    import torch

    from ..devices import autocast, best_device
    from ..training import next_token_loss, train

    device, seconds = torch.device(config.device or best_device()), []
    square = torch.rand(1024, 1024, device=device)
    with autocast(device, config.precision):
        for _ in range(4):
            start = time.perf_counter()
            float((square @ square)[0, 0])  # waits for a GPU
            seconds.append(time.perf_counter() - start)
    guess = flops / (0.4 * 2 * 1024**3 / min(seconds))  # a model gets some 40 % of a large product's speed
    parts = config.accumulation_steps
    if guess / parts > 4 or not fits:
        return guess, "estimated from the speed of a matrix product"
    model = _build(model_config)
    ids = torch.randint(model_config.vocab_size, (batch_size, model_config.context_length + 1))
    once = replace(config, max_steps=1, accumulation_steps=1, progress=False)
    first = train(model, [(ids[:, :-1], ids[:, 1:])], next_token_loss, once).steps[0]["seconds"]
    if (more := min(20, int(8 / first))) < 2:
        return first * parts, f"measured: one step on {device}"
    steps = train(model, [(ids[:, :-1], ids[:, 1:])], next_token_loss, replace(once, max_steps=more)).steps
    times = [after["seconds"] - before["seconds"] for before, after in zip(steps, steps[1:])]
    return statistics.median(times) * parts, f"measured: {len(times)} steps on {device}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"


def _dry_run(settings: Settings, config: Any, batch_size: int) -> int:
    """Print what a run would take. Nothing is written."""
    import torch

    from ..devices import best_device, has_native_bfloat16, without_weights

    data = Data(settings)
    tokenizer = data.tokenizer(Path(settings.need("", "out")) / "tokens")
    model_config, (data_tokens, about) = _model_config(settings, tokenizer.n_vocab), data.count(tokenizer)
    device, context = torch.device(config.device or best_device()), model_config.context_length
    with without_weights():
        model = _build(model_config)
    count, step_tokens = sum(p.numel() for p in model.parameters()), batch_size * context * config.accumulation_steps
    half = config.precision == "bfloat16" or config.precision == "auto" and has_native_bfloat16(device)
    kept = _activation_bytes(model, batch_size * context, model_config.vocab_size, half)
    needed, there, flops = 16 * count + kept, _device_memory(device), 6 * count * step_tokens
    fits = there is None or needed < 0.9 * there
    seconds, how = _step_seconds(model_config, config, batch_size, flops, fits)
    room = "" if there is None else f"of {there / 1e6:,.0f} here" + (
        "" if fits else ": TOO LITTLE. Lower batch_size and raise accumulation_steps, or take a smaller model")
    for what, number, remark in (
            ("parameters", f"{count:,}", ""),
            ("memory, MB", f"{needed / 1e6:,.0f}", room),
            ("  weights", f"{4 * count / 1e6:,.0f}", "4 bytes a parameter"),
            ("  gradients", f"{4 * count / 1e6:,.0f}", "4 bytes a parameter"),
            ("  AdamW", f"{8 * count / 1e6:,.0f}", "8 bytes a parameter"),
            ("  activations", f"{kept / 1e6:,.0f}", "an estimate"),
            ("FLOPs a step", f"{flops:.2e}", "6 x parameters x tokens, as in chapter 1"),
            ("FLOPs in total", f"{flops * config.max_steps:.2e}", f"{config.max_steps:,} steps"),
            ("tokens a step", f"{step_tokens:,}", f"{config.accumulation_steps} x {batch_size} windows of {context}"),
            ("tokens in total", f"{step_tokens * config.max_steps:,}", ""),
            ("passes over the data", f"{step_tokens * config.max_steps / max(1, data_tokens):,.2f}",
             f"of {data_tokens:,} tokens{about}"),
            ("tokens a second", f"{step_tokens / seconds:,.0f}", how),
            ("expected time", _duration(seconds * config.max_steps), "without evaluations and checkpoints")):
        _say(f"{what:22}{number:>18}  {remark}".rstrip())
    return 0


# --- commands ----------------------------------------------------------------------------------------------------

def _build(model_config: Any) -> Any:
    from ..gpt import GPT, GPTConfig
    from ..llama import Llama

    return (GPT if isinstance(model_config, GPTConfig) else Llama)(model_config)


def _model_config(settings: Settings, n_vocab: int) -> Any:
    from ..gpt import GPTConfig
    from ..llama import LlamaConfig

    given = dict(settings.values["model"])
    kind, preset = given.pop("kind", "gpt"), given.pop("preset", None)
    if preset and kind != "gpt":
        raise UsageError(f"{settings.place('model', 'preset')} goes with kind = \"gpt\" only")
    if given.setdefault("vocab_size", n_vocab) < n_vocab:
        raise UsageError(f"{settings.place('model', 'vocab_size')} is {given['vocab_size']:,}, the tokenizer has "
                         f"{n_vocab:,} tokens: raise it, or leave it out")
    if preset:
        return settings.make("model", GPTConfig.preset, preset, **given)
    return settings.make("model", GPTConfig if kind == "gpt" else LlamaConfig, **given)


def _training_config(settings: Settings) -> tuple[Any, int, int]:
    """`TrainingConfig`, batch size and seed."""
    from ..training import TrainingConfig

    given = {"progress": sys.stderr.isatty(), **settings.values["training"]}
    batch_size, seed = given.pop("batch_size", 8), given.pop("seed", 0)
    if batch_size < 1:
        raise UsageError(f"{settings.place('training', 'batch_size')} is {batch_size}: it must be at least 1")
    settings.need("training", "max_steps")
    return settings.make("training", TrainingConfig, **given), batch_size, seed


def _pretrain(arguments: argparse.Namespace) -> int:
    if arguments.example:
        print(EXAMPLE, end="")
        return 0
    if arguments.settings is None:
        raise UsageError("give a file of settings: `llmbook pretrain --example > run.toml` writes one that runs")
    settings = Settings(arguments.settings, _changes(arguments))
    config, batch_size, seed = _training_config(settings)
    if arguments.dry_run:
        return _dry_run(settings, config, batch_size)
    run = Run("pretrain", settings)
    if run.finished:
        return run.say_finished()

    import torch

    from ..training import next_token_loss, train

    data, checkpoints, reports = Data(settings), run.checkpoints(), Reports(run)
    tokenizer = data.tokenizer(folder := run.folder / "tokens")
    model_config = _model_config(settings, tokenizer.n_vocab)
    run.write()  # from here on, other settings are refused
    loader, held_out = data.loaders(folder, tokenizer, model_config.context_length, batch_size, seed,
                                    config.eval_batches or 20)
    torch.manual_seed(seed)
    model = _build(model_config)
    history = train(model, loader, next_token_loss, config, held_out, checkpoints=checkpoints, on_step=reports)
    return _end(run, history, model, tokenizer)


def _end(run: Run, history: Any, model: Any, tokenizer: Any, source: str | None = None) -> int:
    if history.interrupted:
        _say(f"interrupted after step {len(history.steps):,}: the same command goes on from there")
        return 130
    folder = run.save(model, tokenizer, source)
    run.write({"steps": len(history.steps)})
    _say(f"the model is in {folder}")
    return 0


def _tokenize(arguments: argparse.Namespace) -> int:
    from ..text import save_tokenizer

    source, folder = _source(arguments.source, "SOURCE"), Path(arguments.folder)
    choice = int(arguments.tokenizer) if arguments.tokenizer.isdigit() else arguments.tokenizer
    if (kept := folder / "tokenizer.json").is_file() and isinstance(choice, int):
        choice = str(kept)  # going on after an interruption
    tokenizer = _tokenizer(choice, [source], arguments.text_column)
    files = _write_tokens(source, folder, tokenizer, arguments.text_column, arguments.processes)
    save_tokenizer(tokenizer, kept)
    _say(f"{len(files):,} tokens in {len(files.shards)} files in {folder}")
    return 0


def _finetune(arguments: argparse.Namespace) -> int:
    settings = Settings(None, _changes(arguments), ("", "training", "checkpoints", "log"))
    source = str(Path(arguments.model).resolve()) if Path(arguments.model).exists() else arguments.model
    asked = {name: getattr(arguments, name) for name in ("data", "validation", "epochs", "style", "tokenizer")}
    run = Run("finetune", settings, {"model": source, **asked})
    if run.finished:
        return run.say_finished()

    import torch

    from ..instructions import (
        InstructionDataset,
        finetune_instructions,
        held_out_loss,
        read_instructions,
        split_instructions,
    )
    from ..training import TrainingConfig, load_model

    given = {"progress": sys.stderr.isatty(), "seed": 0, **settings.values["training"]}
    settings.make("training", TrainingConfig, **{"max_steps": 1, **{
        key: value for key, value in given.items() if key not in ("batch_size", "seed")}})
    (share, path), entries = _share_or_path(arguments.validation), read_instructions(arguments.data)
    parts = [entries, read_instructions(path)] if path else split_instructions(
        entries, (1 - share, share), given["seed"])
    if not all(map(len, parts)):
        raise ValueError(f"{arguments.data}: --validation {arguments.validation} leaves {len(parts[0])} entries to "
                         f"train on and {len(parts[1])} held out: both need some")
    checkpoints, reports = run.checkpoints(), Reports(run)
    model, tokenizer = _open_model(source, arguments.tokenizer, given.get("device"))
    training, validation = (InstructionDataset(part, tokenizer, model.config.context_length, arguments.style)
                            for part in parts)
    _say(f"{len(training):,} entries to train on, {len(validation):,} held out, in the style {training.style!r}")
    run.write()
    before = held_out_loss(model, validation)
    _say(f"held-out loss before: {before:.3f} nats a token")
    torch.manual_seed(given["seed"])
    history = finetune_instructions(model, training, validation, arguments.epochs, **given, checkpoints=checkpoints,
                                    on_step=reports)
    if not (code := _end(run, history, model, tokenizer, source)) and _leads():
        after = held_out_loss(load_model(run.folder / "model", next(model.parameters()).device), validation)
        _say(f"held-out loss after: {after:.3f} nats a token (before: {before:.3f})")
    return code


def _share_or_path(text: str) -> tuple[float, str | None]:
    try:
        share = float(text)
    except ValueError:
        return 0.0, text
    if not 0 < share < 1:
        raise UsageError(f"--validation is {text}: a share must be above 0 and below 1")
    return share, None


def _find_model(name: str) -> tuple[Path, bool]:
    """Where a model is, and whether `save_model` wrote it. A run's folder stands for the model in it."""
    path = Path(name).expanduser()
    path = path / "model" if (path / "model" / "config.json").is_file() else path
    config = path / "config.json"
    return path, config.is_file() and '"weights"' in config.read_text(encoding="utf-8")


def _find_tokenizer(name: str) -> Any:
    """The tokenizer that belongs to a model, None if there is none."""
    from ..assets import fetch
    from ..formats.gguf import GGUFCheckpoint
    from ..formats.tokenizers import _folder_tokenizer, _gguf_tokenizer
    from ..text import load_tokenizer

    path, ours = _find_model(name)
    if ours and (path / "tokenizer_of.json").is_file():
        return _find_tokenizer(json.loads((path / "tokenizer_of.json").read_text(encoding="utf-8"))["model"])
    if ours:
        return load_tokenizer(path / "tokenizer.json") if (path / "tokenizer.json").is_file() else None
    path = path if path.exists() else fetch(name)
    return _folder_tokenizer(path) if path.is_dir() else _gguf_tokenizer(GGUFCheckpoint(path))


def _open_model(name: str, tokenizer: str | None = None, device: str | None = None) -> tuple[Any, Any]:
    """A model in evaluation mode and its tokenizer, or another one, by name or file."""
    from ..devices import best_device
    from ..open_weights import load_pretrained
    from ..text import load_tokenizer
    from ..training import load_model

    (path, ours), device = _find_model(name), device or best_device()
    model, found = (load_model(path, device), _find_tokenizer(name)) if ours else load_pretrained(
        path if path.exists() else name, device=device)
    found = load_tokenizer(tokenizer) if tokenizer else found
    if not hasattr(model, "lm_head"):
        raise ValueError(f"{name} is a {type(model).__name__}, which writes no text")
    if found is None:
        raise ValueError(f"{name} has no tokenizer: give --tokenizer gpt2, or the file of the one it was trained with")
    if found.n_vocab > model.config.vocab_size:
        raise ValueError(f"the tokenizer has {found.n_vocab:,} tokens, {name} knows {model.config.vocab_size:,}: "
                         "they do not belong together")
    return model, found


def _generate(arguments: argparse.Namespace) -> int:
    import torch

    from ..generation import stream
    from ..open_weights import _decode

    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    if not prompt:
        raise UsageError("the prompt is empty: give a few words to go on from")
    model, tokenizer = _open_model(arguments.model, arguments.tokenizer, arguments.device)
    ids = torch.tensor([tokenizer.encode(prompt, allowed_special="all")])  # (1, tokens)
    ends = [tokenizer.encode(token, allowed_special="all")[0] for token in ("<|endoftext|>", "<|im_end|>")
            if token in tokenizer.special_tokens_set]
    tokens = stream(model, ids, arguments.max_new_tokens, arguments.temperature, arguments.top_k, arguments.top_p,
                    ends, arguments.seed)
    print(prompt, end="", flush=True)
    before_end = itertools.takewhile(lambda token: int(token) not in ends, tokens)
    for piece in _decode(before_end, types.SimpleNamespace(tokenizer=tokenizer, stop=None)):
        print(piece, end="", flush=True)
    print()
    return 0


def _chat(arguments: argparse.Namespace) -> int:
    from ..open_weights import Chat

    with suppress(ImportError):
        import readline  # noqa: F401 (lets the reader edit a line and call back earlier ones)
    names = ("temperature", "top_k", "top_p", "seed")
    sampling = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    model, tokenizer = _open_model(arguments.model, arguments.tokenizer, arguments.device)
    talk = Chat(model, tokenizer, arguments.system, arguments.max_new_tokens, **sampling)
    asked = "You: " if sys.stdin.isatty() else ""
    print("Ctrl-D ends the conversation." if asked else "", end="\n" if asked else "")
    try:
        while True:
            if not (text := input(asked)).strip():
                continue
            try:
                for piece in talk.stream(text):
                    print(piece, end="", flush=True)
                print()
            except ValueError as error:  # a message too long: the conversation goes on
                print(f"({error})")
    except (EOFError, KeyboardInterrupt):
        print()
    return 0


# --- the command line --------------------------------------------------------------------------------------------

class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser() -> _Parser:
    parser = _Parser("llmbook", description="Train language models and let them write. Each command has its own "
                     "--help with an example.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(run: Callable[[argparse.Namespace], int], about: str, example: str) -> _Parser:
        added = commands.add_parser(run.__name__[1:], help=about, description=about, epilog=f"example: {example}",
                                    allow_abbrev=False)
        added.set_defaults(run=run)
        added.add_argument("--debug", action="store_true", help="show where in the program an error comes from")
        return added

    def training_flags(added: _Parser) -> None:
        added.add_argument("--out", metavar="FOLDER", help="where everything is written; the same command goes on "
                           "there after an interruption")
        added.add_argument("--max-steps", type=int, metavar="N", help="optimizer steps")
        added.add_argument("--batch-size", type=int, metavar="N", help="examples in a batch")
        added.add_argument("--learning-rate", type=float, metavar="X", help="the highest learning rate")
        added.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
                           help="any other setting, such as training.weight_decay=0.05; may be repeated")

    def model_flags(added: _Parser) -> None:
        added.add_argument("--model", required=added.prog.split()[-1] != "finetune", metavar="NAME_OR_FOLDER",
                           default="smollm2-135m-instruct", help="smollm2-135m-instruct, gpt2, gpt2-medium, ...; a "
                           "folder that llmbook or Hugging Face wrote; a .gguf file")
        added.add_argument("--tokenizer", metavar="NAME_OR_FILE", help="gpt2 or a file, for a model saved without one")

    def sampling_flags(added: _Parser, temperature: float | None) -> None:
        added.add_argument("--max-new-tokens", type=int, default=200, metavar="N", help="stop after so many (200)")
        added.add_argument("--temperature", type=float, default=temperature, metavar="X",
                           help="0: always the likeliest token; higher: more varied (0.7)")
        added.add_argument("--top-k", type=int, metavar="N", help="choose among the N likeliest tokens only")
        added.add_argument("--top-p", type=float, metavar="X", help="choose among the likeliest tokens that together "
                           "have this probability")
        added.add_argument("--seed", type=int, metavar="N", help="the same text each time")

    one = command(_pretrain, "Train a model from nothing on text.", "llmbook pretrain --example > run.toml && "
                  "llmbook pretrain run.toml")
    one.add_argument("settings", nargs="?", metavar="run.toml", help="a file of settings")
    one.add_argument("--example", action="store_true", help="print a file of settings that runs, with explanations")
    one.add_argument("--dry-run", action="store_true", help="say what it would cost, memory and time; write nothing")
    training_flags(one)
    one = command(_tokenize, "Turn text into a folder of token files, to train on it again and again.",
                  "llmbook tokenize stories/ tokens/")
    one.add_argument("source", help="a text file, a folder of them, or JSON Lines")
    one.add_argument("folder", help="where the token files go")
    one.add_argument("--tokenizer", default="gpt2", metavar="NAME_OR_FILE", help="gpt2 (if not given), or a file")
    one.add_argument("--text-column", default="text", metavar="KEY", help="the key of the text in JSON Lines (text)")
    one.add_argument("--processes", type=int, metavar="N", help="how many work at it; as many as cores if not given")
    one = command(_finetune, "Train a model that exists to follow instructions.", "llmbook finetune --data "
                  "instructions.json --out runs/assistant")
    one.add_argument("--data", required=True, metavar="FILE", help="JSON or JSON Lines; each entry has an instruction, "
                     "an output, and an input if there is one")
    model_flags(one)
    one.add_argument("--validation", default="0.1", metavar="SHARE_OR_FILE", help="what is held out (0.1)")
    one.add_argument("--epochs", type=int, default=1, metavar="N", help="passes over the entries (1)")
    one.add_argument("--style", choices=("chatml", "alpaca"), help="how an instruction is written; that of the "
                     "model's tokenizer if not given")
    training_flags(one)
    one = command(_generate, "Let a model go on with a text.", "llmbook generate --model runs/example \"The list is\"")
    one.add_argument("prompt", help="the text to go on with; - reads it from the standard input")
    model_flags(one)
    sampling_flags(one, 0.7)
    one = command(_chat, "Talk with a model that was trained to.", "llmbook chat --model smollm2-135m-instruct")
    model_flags(one)
    sampling_flags(one, None)
    one.add_argument("--system", default="You are a helpful assistant.", metavar="TEXT", help="the first message, "
                     "which says how to answer")
    for added in commands.choices.values():
        if added.prog.split()[-1] != "tokenize":
            added.add_argument("--device", metavar="NAME", help="cpu, cuda or mps; the best there is if not given")
    return parser


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    known = isinstance(error, (UsageError, ValueError, OSError, ArithmeticError, ImportError))
    return text if known and text else f"{type(error).__name__}: {text}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 fine, 1 an error of the work, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    with suppress(AttributeError):  # a terminal that knows few characters shows ? for the others
        sys.stdout.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"llmbook: {_one_line(message)}", file=sys.stderr)
            parsed = _parser().parse_args(arguments)
            return parsed.run(parsed)
    except SystemExit as end:  # after --help
        return int(end.code or 0)
    except KeyboardInterrupt:
        print("llmbook: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough, as in `llmbook generate ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"llmbook: {_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
