"""The folder of one run, and what its `run.json` remembers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any

from filelock import FileLock, Timeout

from ..files import is_first, replace_file
from .contents import fingerprint, model_problem, saved_steps
from .errors import naming, plain_reason
from .settings import Settings
from .terminal import say

__all__ = ["Run"]

# These change where and how a run goes, not what it computes.
_FREE = {("", "out"), *(("training", name) for name in ("device", "parallel", "progress", "compile"))}


class Run:
    """The folder of one run, with `run.json`, which says what runs there and whether it is finished.

    Args:
        command: "pretrain" or "finetune".
        settings: those of the run. Where `run.json` lacks one, it is taken to have been the default, so that what an
            older version wrote stays known.
        about: further things that decide what the run computes.
        texts: name -> file or folder whose content decides it too. What is a name only, not a path, is compared as
            text.

    Attributes: new, whether nothing was there; finished, None unless all is done and the model is there.

    Raises ValueError if the folder holds anything else, a run with other settings or other content of its texts, or one
    that another process works on: nothing is deleted. A run that has not made a checkpoint yet owns nothing: other
    settings take its place.
    """

    def __init__(self, command: str, settings: Settings, about: Mapping[str, Any] | None = None,
                 texts: Mapping[str, str] | None = None):
        self.folder, self.settings = Path(settings.need("", "out")).expanduser(), settings
        given = {f"{section}.{key}": value for section in ("model", "data", "training")
                 for key, value in settings.values.get(section, {}).items() if (section, key) not in _FREE}
        self.note = json.loads(json.dumps({"command": command, **(about or {}), **given}, default=str))
        self.path, self.finished, self.lock, self.keeper = self.folder / "run.json", None, None, None
        self.new, self.content = not self.path.is_file(), {}
        before = None if self.new else self._read()
        if before is None:
            self._refuse_strangers()
        self._take()
        try:
            self.content = self._fingerprints(texts or {}, (before or {}).get("content", {}))
            if before is not None:
                self._compare(before)
        except BaseException:
            self.release()
            raise

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        self.release()
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(self.folder)  # writing, other than opening, does not know its file

    def _read(self) -> dict[str, Any]:
        try:
            with naming(self.path):
                found = json.loads(self.path.read_text(encoding="utf-8"))
            return {"settings": dict(found["settings"]), "content": dict(found.get("content", {})),
                    "finished": None if found["finished"] is None else dict(found["finished"])}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{self.path} is damaged ({plain_reason(error)}): choose another --out") from None

    def _refuse_strangers(self) -> None:
        if not is_first() or not self.folder.exists():
            return
        if not self.folder.is_dir() or any(path.name != ".lock" for path in self.folder.iterdir()):
            raise ValueError(f"{self.folder} exists and is no run of llmbook: choose another --out")

    def _take(self) -> None:
        """Keep other commands out of the folder for as long as this process lives."""
        if not is_first() or not self.folder.is_dir():
            return
        self.lock = FileLock(self.folder / ".lock")
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            self.lock = None
            raise ValueError(f"another process works on {self.folder}: end that one, or choose another --out") from None
        except OSError:  # a folder that nobody can write to needs no lock
            self.lock = None

    def release(self) -> None:
        """Let other commands into the folder."""
        if self.lock is not None:
            self.lock.release()

    def _fingerprints(self, texts: Mapping[str, str], before: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for name, text in texts.items():
            path = Path(text).expanduser()
            if path.exists():
                old = before.get(name)
                found[name] = fingerprint(path, old if isinstance(old, dict) else None)
        return found

    def _compare(self, before: Mapping[str, Any]) -> None:
        allow = self.settings.get("checkpoints", "allow", [])
        old, new = (json.loads(json.dumps(self.settings.complete(note), default=str))
                    for note in (before["settings"], self.note))
        for name in _FREE:
            old.pop(".".join(name), None)
            new.pop(".".join(name), None)
        changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        texts = [name for name, now in self.content.items()
                 if name in before["content"] and before["content"][name].get("content") != now["content"]]
        if (changed or texts) and not before["finished"] and not saved_steps(self.checkpoint_folder):
            self._begin_anew()
            return
        if refused := [name for name in changed if name.rpartition(".")[2] not in allow]:
            name = refused[0]
            raise ValueError(f"{self.folder} holds a run whose {name} is {old.get(name) or 'not given'!r}, not "
                             f"{new.get(name) or 'not given'!r}: choose another --out, or the settings of then")
        if texts:
            raise ValueError(f"{self.folder} holds a run on other content of {texts[0]}: it has changed since. Put it "
                             "back as it was, or choose another --out")
        if not changed and before["finished"]:
            self._check_model(before["finished"])

    def _begin_anew(self) -> None:
        """What an earlier command prepared with other settings, and never trained on, makes room."""
        if is_first():
            self.path.unlink(missing_ok=True)
            if (self.folder / "tokens" / "tokenizer.json").is_file():
                rmtree(self.folder / "tokens")
            (self.folder / "log.csv").unlink(missing_ok=True)

    def _check_model(self, finished: Mapping[str, Any]) -> None:
        """A finished run stays finished only as long as its model is there."""
        problem = model_problem(self.folder / "model")
        if problem is None:
            self.finished = dict(finished)
            return
        if not saved_steps(self.checkpoint_folder):
            raise ValueError(f"{self.folder} was complete, but of its model {problem}, and no checkpoint is left in "
                             f"{self.checkpoint_folder}: choose another --out to train it again")
        say(f"{self.folder} was complete, but of its model {problem}: writing it again from the last checkpoint")
        self._clear_model()

    def _clear_model(self) -> None:
        """Take out of the model's folder, which this run wrote, what would keep `save_model` from writing there."""
        if is_first():
            for name in ("config.json", "generation_config.json"):
                (self.folder / "model" / name).unlink(missing_ok=True)

    def write(self, finished: Mapping[str, Any] | None = None) -> None:
        """Write `run.json`; makes the folder if need be."""
        if not is_first():
            return
        with naming(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.lock is None:
                self._take()
                if self.new and self.path.exists():
                    raise ValueError(f"another process began to work on {self.folder} just now: choose another --out")
            content = {"settings": self.note, "content": self.content, "finished": finished}
            replace_file(self.path, json.dumps(content, indent=1).encode())

    def say_finished(self) -> int:
        say(f"{self.folder} is complete: {self.finished['steps']:,} steps; the model is in {self.folder / 'model'}")
        return 0

    @property
    def checkpoint_folder(self) -> Path:
        return Path(self.settings.get("checkpoints", "folder", str(self.folder / "checkpoints"))).expanduser()

    def checkpoints(self) -> Any:
        """The run's `llmbook.scale.checkpoints.Checkpoints`."""
        from ..scale.checkpoints import Checkpoints

        given = {**self.settings.values["checkpoints"], "folder": str(self.checkpoint_folder)}
        self.keeper = self.settings.make("checkpoints", Checkpoints, **given)
        return self.keeper

    def save(self, model: Any, tokenizer: Any) -> Path:
        """Write the model and its tokenizer, so that `llmbook generate --model` opens both. All processes must call
        it."""
        from ..training import save_model
        from .models import keep_tokenizer

        folder = self.folder / "model"
        with naming(folder):
            save_model(model, folder)
            if is_first():
                keep_tokenizer(tokenizer, folder, self.note.get("data.documents") is True)
        return folder

    def end(self, history: Any, model: Any, tokenizer: Any) -> int:
        """After training: save the model, or say where an interrupted run goes on. Returns the exit code."""
        if history.interrupted:
            self._say_interrupted(len(history.steps))
            return 130
        folder = self.save(model, tokenizer)
        self.write({"steps": len(history.steps)})
        say(f"the model is in {folder}")
        return 0

    def _say_interrupted(self, step: int) -> None:
        """What is on the disk is what counts: a second Ctrl-C may come before the last step is saved."""
        saved = self.keeper.saved_step
        if saved == step:
            say(f"interrupted after step {step:,}, which is saved: the same command goes on from there")
        elif saved:
            say(f"interrupted after step {step:,}; step {saved:,} is saved: the same command goes on from that one")
        else:
            say(f"interrupted after step {step:,}; no step is saved: the same command begins again")
