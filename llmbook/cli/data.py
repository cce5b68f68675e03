"""The texts of a pretraining run: from what [data] names to token files and batches."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import is_first, replace_file
from .corpora import HELD_OUT_STORIES, STORIES, STORY_NAMES, Stories, find_source
from .errors import UsageError, naming
from .settings import Settings
from .terminal import say, shows_progress

__all__ = ["Data", "TextReader", "held_out_documents", "held_out_windows", "is_token_folder"]

SAMPLE = 4_000_000  # bytes of text from which lengths are estimated
VOCABULARY_SAMPLE = 10_000_000  # bytes of text from which a vocabulary is learned; more makes it little better
STORIES_SAMPLE, VOCABULARY_STORIES = 2_000, 8_000  # the same of stories, which have about 1,200 bytes each


def is_token_folder(source: Any) -> bool:
    """Whether a source is a folder that `llmbook tokenize` wrote."""
    return isinstance(source, Path) and (source / "tokens.json").is_file()


@dataclass(frozen=True)
class TextReader:
    """How the documents of texts are read: the key of the text in JSON Lines, and what separates the documents of a
    plain text file."""

    column: str = "text"
    separator: str | None = None

    def sample(self, source: Any) -> tuple[list[str], int | None]:
        """The first documents of a source; and the bytes of all its files if there is more of it."""
        from ..scale.documents import sample_documents

        if isinstance(source, Stories) and len(source) > STORIES_SAMPLE:
            found = source.first(STORIES_SAMPLE)
            return found, sum(len(text.encode()) for text in found) * len(source) // len(found)
        return sample_documents(source, self.column, self.separator, SAMPLE)

    def tokenizer(self, choice: int | str | None, sources: Sequence[Any]) -> Any:
        """By name or file; learned from the sources if a number; that of the token files if None."""
        from ..scale.documents import spread_documents
        from ..text import load_tokenizer, train_bpe

        if choice is None:
            beside = [source / "tokenizer.json" for source in sources if is_token_folder(source)]
            return load_tokenizer(beside[0] if beside and beside[0].is_file() else "gpt2")
        if isinstance(choice, str):
            return load_tokenizer(choice)
        texts = [source for source in sources if not is_token_folder(source)]
        if not texts:
            raise ValueError(f"tokenizer = {choice} is to be learned, but there is no text to learn from, only token "
                             "files: leave it out, to take theirs")
        texts = [source.first(VOCABULARY_STORIES) if isinstance(source, Stories) else source for source in texts]
        documents = spread_documents(texts, self.column, self.separator, VOCABULARY_SAMPLE)
        return train_bpe(documents, choice, progress=shows_progress())

    @staticmethod
    def learned_from(sources: Sequence[Any]) -> str:
        """What `tokenizer` learns a vocabulary from, in words."""
        from ..scale.documents import source_files

        files = [path for source in sources if not is_token_folder(source) for path in source_files(source)]
        if any(isinstance(source, Stories) and len(source) > VOCABULARY_STORIES for source in sources):
            return f"learned from {VOCABULARY_STORIES:,} stories" + (" and other text" if len(sources) > 1 else "")
        size = sum(path.stat().st_size for path in files)
        if size <= VOCABULARY_SAMPLE:
            return "learned from all of the text"
        return f"learned from {VOCABULARY_SAMPLE / 1e6:.0f} MB, taken from all over the {size / 1e6:,.0f} MB of text"

    def count(self, source: Any, tokenizer: Any) -> tuple[int, bool]:
        """The tokens of a source, and whether that is exact."""
        from ..scale.encoding import count_tokens
        from ..scale.token_shards import TokenFiles

        if is_token_folder(source):
            return len(TokenFiles(source)), True
        if isinstance(source, Stories) and len(source) > STORIES_SAMPLE:
            tokens, _ = count_tokens(source.first(STORIES_SAMPLE), tokenizer)
            return tokens * len(source) // STORIES_SAMPLE, False
        return count_tokens(source, tokenizer, self.column, self.separator, SAMPLE)

    def write(self, source: Any, folder: Path, tokenizer: Any, processes: int | None = None) -> Any:
        """The token files of a source, written to `folder` unless it is such files already."""
        from ..scale.encoding import tokenizer_fingerprint
        from ..scale.token_files import write_token_files
        from ..scale.token_shards import TokenFiles
        from ..text import END_OF_TEXT

        if END_OF_TEXT not in tokenizer.special_tokens_set:
            known = ", ".join(sorted(tokenizer.special_tokens_set)[:5]) or "none"
            raise ValueError(f"the tokenizer has no special token {END_OF_TEXT!r} to end documents with (it has "
                             f"{known}): give a number, to learn one, or gpt2")
        if is_token_folder(source):
            files = TokenFiles(source)
            if files.tokenizer != tokenizer_fingerprint(tokenizer):
                raise ValueError(f"{source} was made with another tokenizer: set [data] tokenizer to that one")
            return files
        if not is_first():
            return TokenFiles(folder)
        if isinstance(source, Stories) and _is_written(source, folder, tokenizer):
            return TokenFiles(folder)
        if processes is None and self.sample(source)[1] is None:
            processes = 1  # starting more would take longer than the work
        try:
            with naming(folder):
                return write_token_files(source, folder, tokenizer, self.column, processes, progress=shows_progress(),
                                         separator=self.separator)
        except ValueError as error:
            if isinstance(source, Path):
                raise ValueError(str(error).replace("the source", str(source), 1)) from error
            raise


def _is_written(source: Stories, folder: Path, tokenizer: Any) -> bool:
    """Whether a folder holds the tokens of these stories. They are not made again to compare them: a run goes on with
    what it began with, whatever an update has done to the stories."""
    from ..scale.encoding import tokenizer_fingerprint
    from ..scale.token_shards import TokenHeader

    header = TokenHeader.read(folder)
    return (header is not None and header.complete and header.tokenizer == tokenizer_fingerprint(tokenizer)
            and sum(shard.documents for shard in header.shards) == len(source))


class _AllShards(Sequence):
    """The shards of several token files as one sequence, mapped into memory when asked for."""

    def __init__(self, files: Sequence[Any]):
        self.places = [(file, number) for file in files for number in range(len(file.shards))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        file, number = self.places[index]
        return file.shards[number]


def held_out_documents(dataset: Any, most: int, batch_size: int) -> list:
    """Batches of up to `most` rows, evenly spread over a dataset, each of rows of similar length."""
    from ..documents import make_document_loader

    rows = len(dataset)
    chosen = [number * rows // most for number in range(most)] if most < rows else list(range(rows))
    return list(make_document_loader(dataset.choose(chosen), dataset.context_length, batch_size, dataset.end,
                                     shuffle=False, drop_last=False))


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
        self.reader = TextReader(settings.get("data", "text_column"), settings.get("data", "separator"))
        self.validation, self.documents = settings.get("data", "validation"), settings.get("data", "documents")
        stories = settings.get("data", "stories")
        if stories is not None and all(part["path"] not in STORY_NAMES for part in parts):
            raise UsageError(f"{settings.place('data', 'stories')} is {stories:,}, but train does not name them: write "
                             'train = "stories" or "short-stories", or leave it out')
        if self.documents and self.shares:
            raise UsageError(f"{place} has shares, and documents = true trains on every document once a pass: leave "
                             "out one of the two")
        self.sources = [find_source(part["path"], place, Stories(stories or STORIES)) for part in parts]
        self.held_out = (find_source(self.validation, settings.place("data", "validation"),
                                     Stories(HELD_OUT_STORIES, "test"))
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
        return self.reader.tokenizer(self.settings.get("data", "tokenizer"), self.sources)

    def tokenizer_origin(self, folder: Path) -> str:
        """Where that tokenizer comes from, in words."""
        choice = self.settings.get("data", "tokenizer")
        if (folder / "tokenizer.json").is_file():
            return f"as in {folder / 'tokenizer.json'}"
        return self.reader.learned_from(self.sources) if isinstance(choice, int) else ""

    def count(self, tokenizer: Any) -> tuple[int, str]:
        """Tokens to train on, and how they are known."""
        counts = [self.reader.count(source, tokenizer) for source in self.sources]
        sample = f"{SAMPLE / 1e6:.0f} MB" if any(not isinstance(source, Stories) for source in self.sources) else (
            f"{STORIES_SAMPLE:,} stories")
        about = "" if all(exact for _, exact in counts) else f", estimated from the first {sample}"
        share = self.validation if isinstance(self.validation, float) else 0
        return int(sum(tokens for tokens, _ in counts) * (1 - share)), about

    def row_tokens(self, tokenizer: Any, context: int) -> int:
        """Tokens of a row: `context` of a window; of documents, the mean of some of the first text's first ones."""
        if not self.documents:
            return context
        if is_token_folder(self.sources[0]):
            from ..scale.token_shards import TokenHeader

            shards = TokenHeader.read(self.sources[0]).shards
            documents = max(1, sum(shard.documents for shard in shards))
            return min(context, sum(shard.tokens for shard in shards) // documents)
        texts = self.reader.sample(self.sources[0])[0][:200]
        sizes = [len(tokenizer.encode(text, disallowed_special=())) + 1 for text in texts]
        return round(sum(sizes) / max(1, sum(-(-size // context) for size in sizes)))

    @staticmethod
    def _prepare(folder: Path, tokenizer: Any) -> None:
        from ..text import save_tokenizer

        if is_first() and not (folder / "tokenizer.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            save_tokenizer(tokenizer, folder / "tokenizer.json")

    def loaders(self, folder: Path, tokenizer: Any, context: int, batch_size: int, seed: int, eval_batches: int,
                ) -> tuple[Any, list | None]:
        """Endless batches to train on, and the held-out ones. Text becomes token files in `folder` first."""
        from ..scale.token_windows import TokenWindows

        with naming(folder):
            self._prepare(folder, tokenizer)
        files = [self.reader.write(source, folder / f"train-{number}", tokenizer)
                 for number, source in enumerate(self.sources)]
        others = None
        if self.held_out is not None:
            others = self.reader.write(self.held_out, folder / "validation", tokenizer)
        if is_first():
            replace_file(folder / "ready.json", json.dumps(self.settings.values["data"]).encode())
        if self.documents:
            return self._document_loaders(files, others, context, batch_size, seed, eval_batches)
        windows = None
        if self.validation is not None:
            share = 1.0 if others else self.validation
            windows = held_out_windows([others] if others else files, share, context, eval_batches * batch_size)
        say(f"{sum(map(len, files)):,} tokens to train on" + (
            "" if windows is None else f", {windows[:, 1:].numel():,} held out for evaluations"))
        held_out = None if windows is None else [(rows[:, :-1], rows[:, 1:]) for rows in windows.split(batch_size)]
        return TokenWindows(files, context, batch_size, self.shares, seed), held_out

    def _document_loaders(self, files: list, others: Any, context: int, batch_size: int, seed: int,
                          eval_batches: int) -> tuple[Any, list | None]:
        """The same where each row begins with a document."""
        from ..documents import DocumentDataset, make_document_loader

        end, held_out = files[0].end_of_text, None
        rows = DocumentDataset.from_shards(_AllShards(files), context, end)
        if others is not None:
            held_out = DocumentDataset.from_shards(others.shards, context, end)
        elif self.validation is not None:
            try:
                rows, held_out = rows.split(self.validation)
            except ValueError as error:
                raise UsageError(f"{self.settings.place('data', 'validation')}: {error}") from None
        batches = None if held_out is None else held_out_documents(held_out, eval_batches * batch_size, batch_size)
        held_rows = sum(len(inputs) for inputs, _ in batches or [])
        say(f"{int(rows.lengths.sum()):,} tokens to train on, in {len(rows):,} rows that begin with a document" + (
            f"; {held_rows:,} rows held out for evaluations" if held_rows else ""))
        return make_document_loader(rows, context, batch_size, end, seed), batches
