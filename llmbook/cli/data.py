"""The texts of a pretraining run: from what [data] names to token files and batches."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import is_first, replace_file
from .corpora import find_source
from .errors import UsageError
from .settings import Settings
from .terminal import say, shows_progress

__all__ = ["Data", "held_out_windows", "is_token_folder", "learn_or_load_tokenizer",
           "write_tokens"]

SAMPLE = 4_000_000  # bytes of text from which a vocabulary is learned and lengths are estimated


def is_token_folder(source: Any) -> bool:
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
        if size > SAMPLE and files:
            return "".join(read), sum(path.stat().st_size for path in files)
    return "".join(read), None


def learn_or_load_tokenizer(choice: int | str | None, sources: Sequence[Any], column: str) -> Any:
    """By name or file; learned from the sources if a number; that of the token files if None."""
    from ..text import load_tokenizer, train_bpe

    if choice is None:
        beside = [source / "tokenizer.json" for source in sources if is_token_folder(source)]
        return load_tokenizer(beside[0] if beside and beside[0].is_file() else "gpt2")
    if isinstance(choice, str):
        return load_tokenizer(choice)
    texts = [_sample(source, column)[0] for source in sources if not is_token_folder(source)]
    return train_bpe("".join(texts), choice, progress=shows_progress())


def write_tokens(source: Any, folder: Path, tokenizer: Any, column: str, processes: int | None = None) -> Any:
    from ..scale.token_files import TokenFiles, tokenizer_fingerprint, write_token_files

    if is_token_folder(source):
        files = TokenFiles(source)
        if files.tokenizer != tokenizer_fingerprint(tokenizer):
            raise ValueError(f"{source} was made with another tokenizer: set [data] tokenizer to that one")
        return files
    if not is_first():
        return TokenFiles(folder)
    if processes is None and _sample(source, column)[1] is None:
        processes = 1  # starting more would take longer than the work
    return write_token_files(source, folder, tokenizer, column, processes, progress=shows_progress())


def held_out_windows(files: Sequence[Any], share: float, context: int, most: int) -> Any:
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
        items = given if isinstance(given, list) else [given]
        parts = [item if isinstance(item, dict) else {"path": item} for item in items]
        if len({"share" in part for part in parts}) > 1:
            raise UsageError(f"{place} has a share for some texts only: give a share to each or to none")
        if "share" in parts[0] and not sum(part["share"] for part in parts) > 0:
            raise UsageError(f"{place} has shares whose sum is 0: raise at least one")
        self.shares = [part["share"] for part in parts] if "share" in parts[0] else None
        self.column, self.validation = settings.get("data", "text_column", "text"), settings.get("data", "validation")
        self.sources = [find_source(part["path"], place) for part in parts]
        self.held_out = (find_source(self.validation, settings.place("data", "validation"))
                         if isinstance(self.validation, str) else None)

    def content_paths(self) -> dict[str, str]:
        """The files and folders whose content decides what a run computes, by the name of their setting."""
        named = {f"data.train, text {number + 1}": source for number, source in enumerate(self.sources)}
        named["data.validation"] = self.held_out
        choice = self.settings.get("data", "tokenizer")
        named["data.tokenizer"] = Path(choice).expanduser() if isinstance(choice, str) else None
        return {name: str(source) for name, source in named.items() if isinstance(source, Path)}

    def tokenizer(self, folder: Path) -> Any:
        """The tokenizer: the one that a run keeps in `folder`, so that it stays the same, or else that of the
        settings. Under torchrun, process 0 writes all of `folder`, and the others wait here until it has."""
        from ..text import load_tokenizer

        ready, wanted = folder / "ready.json", self.settings.values["data"]
        while not is_first() and not (ready.is_file() and json.loads(ready.read_text()) == wanted):
            time.sleep(0.2)
        if (folder / "tokenizer.json").is_file():
            return load_tokenizer(folder / "tokenizer.json")
        return learn_or_load_tokenizer(self.settings.get("data", "tokenizer"), self.sources, self.column)

    def count(self, tokenizer: Any) -> tuple[int, str]:
        """Tokens to train on, and how they are known."""
        from ..scale.token_files import TokenFiles

        total, about = 0, ""
        for source in self.sources:
            if is_token_folder(source):
                total += len(TokenFiles(source))
                continue
            text, size = _sample(source, self.column)
            tokens = len(tokenizer.encode(text, allowed_special="all"))
            total += tokens if size is None else int(tokens * size / len(text.encode()))
            about = about if size is None else f", estimated from the first {SAMPLE / 1e6:.0f} MB"
        return int(total * (1 - (self.validation if isinstance(self.validation, float) else 0))), about

    def loaders(self, folder: Path, tokenizer: Any, context: int, batch_size: int, seed: int, eval_batches: int,
                ) -> tuple[Any, list | None]:
        """Endless batches to train on, and the held-out ones. Text becomes token files in `folder` first."""
        from ..scale.token_files import TokenWindows
        from ..text import save_tokenizer

        if is_first() and not (folder / "tokenizer.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            save_tokenizer(tokenizer, folder / "tokenizer.json")
        files = [write_tokens(source, folder / f"train-{number}", tokenizer, self.column)
                 for number, source in enumerate(self.sources)]
        others = None if self.held_out is None else write_tokens(self.held_out, folder / "validation", tokenizer,
                                                                  self.column)
        if is_first():
            replace_file(folder / "ready.json", json.dumps(self.settings.values["data"]).encode())
        windows = None
        if self.validation is not None:
            share = 1.0 if others else self.validation
            windows = held_out_windows([others] if others else files, share, context, eval_batches * batch_size)
        say(f"{sum(map(len, files)):,} tokens to train on" + (
            "" if windows is None else f", {windows[:, 1:].numel():,} held out for evaluations"))
        held_out = None if windows is None else [(rows[:, :-1], rows[:, 1:]) for rows in windows.split(batch_size)]
        return TokenWindows(files, context, batch_size, self.shares, seed), held_out
