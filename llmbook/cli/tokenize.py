"""`llmbook tokenize`: turn text into a folder of token files."""

from __future__ import annotations

import argparse
from pathlib import Path

from .errors import UsageError, naming

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Write the token files; returns the exit code."""
    for name in ("source", "folder", "tokenizer", "text_column"):
        if not getattr(arguments, name):
            raise UsageError(f"{name.upper()} is empty: give one")
    if arguments.processes is not None and arguments.processes < 1:
        raise UsageError(f"--processes is {arguments.processes}: it must be at least 1")
    from .interrupts import import_torch

    import_torch()
    from ..text import load_tokenizer, save_tokenizer
    from .corpora import find_source
    from .data import TextReader
    from .terminal import say

    reader = TextReader(arguments.text_column, arguments.separator)
    source, folder = find_source(arguments.source, "SOURCE"), Path(arguments.folder).expanduser()
    choice = int(arguments.tokenizer) if arguments.tokenizer.isdigit() else arguments.tokenizer
    kept = folder / "tokenizer.json"
    refuse_foreign(folder)
    if kept.is_file() and isinstance(choice, int):  # going on after an interruption
        tokenizer = load_tokenizer(kept)
        if tokenizer.n_vocab != choice:
            raise ValueError(f"{folder} was begun with a tokenizer of {tokenizer.n_vocab:,} tokens, --tokenizer asks "
                             f"for {choice:,}: give another folder, or --tokenizer {tokenizer.n_vocab}")
    else:
        tokenizer = reader.tokenizer(choice, [source])
    files = reader.write(source, folder, tokenizer, arguments.processes)
    with naming(kept):
        save_tokenizer(tokenizer, kept)
    say(f"{len(files):,} tokens in {len(files.shards)} files in {folder}")
    return 0


def refuse_foreign(folder: Path) -> None:
    """Raise ValueError for a folder that holds anything but token files."""
    if not folder.exists() or (folder / "tokens.json").is_file():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder for the token files")
    strangers = sorted(path.name for path in folder.iterdir()
                       if not path.name.startswith((".", "shard-", "tokens.json")))
    if strangers:
        raise ValueError(f"{folder} holds {strangers[0]!r}, which is no token file: give an empty or a new folder")
