"""Documents to token ids, in this process or in several: what a shard of `llmbook.scale.token_files` is made of."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from multiprocessing import get_context, parent_process
from typing import TYPE_CHECKING, Any

import numpy as np
import tiktoken

from ..tokenizing import encode_array
from .documents import DOCUMENT_END, Documents, sample_documents

if TYPE_CHECKING:  # worker processes import this module, and PyTorch would cost each of them seconds
    from ..protocols import Tokenizer

__all__ = ["ShardEncoder", "chunks_ahead", "chunks_of", "count_tokens", "encoded_in_order", "encoding_processes",
           "tokenizer_fingerprint"]

_PIECE = 1_000_000  # bytes of text that a worker process gets at a time, at least; and whole documents

def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """A hash of all that decides which ids a text gets, 16 hexadecimal digits. Equal for equal tokenizers, whatever
    their names.

    A tokenizer that is no `tiktoken.Encoding`, and wraps none, says it by an attribute `fingerprint`.
    """
    if own := getattr(tokenizer, "fingerprint", None):
        return own
    encoding = getattr(getattr(tokenizer, "runner", None), "encoding", tokenizer)
    if not isinstance(encoding, tiktoken.Encoding):
        raise ValueError(f"a {type(tokenizer).__name__} does not say what decides its ids: give it an attribute "
                         "fingerprint, a text")
    ranks, special = encoding._mergeable_ranks, encoding._special_tokens
    content = repr((encoding._pat_str, sorted(ranks.items()), sorted(special.items())))
    return sha256(content.encode("utf-8")).hexdigest()[:16]


@dataclass(frozen=True)
class ShardEncoder:
    """Turns a chunk of text into the bytes of a shard. Travels to each worker process once.

    A chunk is UTF-8 with `DOCUMENT_END` after each document; what follows the last one goes on in the next chunk.
    """

    tokenizer: Tokenizer
    end_of_text: int
    vocab_size: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, end_of_text: str) -> ShardEncoder:
        """Raises ValueError if the tokenizer has no special token of this name to end documents with."""
        if end_of_text not in tokenizer.special_tokens_set:
            known = ", ".join(sorted(tokenizer.special_tokens_set)[:5]) or "none"
            raise ValueError(f"the tokenizer has no special token {end_of_text!r} to end documents with: name one of "
                             f"its own by end_of_text (it has {known})")
        return cls(tokenizer, tokenizer.encode(end_of_text, allowed_special="all")[0], tokenizer.n_vocab)

    @property
    def dtype(self) -> np.dtype:
        """Two bytes a token where the vocabulary fits; little-endian on every machine."""
        return np.dtype("<u2" if self.vocab_size <= 2**16 else "<u4")

    def __call__(self, chunk: bytes) -> bytes:
        rows = []
        *documents, unfinished = chunk.split(DOCUMENT_END)
        for document in documents:
            rows += [self.ids(document.decode("utf-8")), np.array([self.end_of_text], self.dtype)]
        return np.concatenate([*rows, self.ids(unfinished.decode("utf-8"))]).tobytes()

    def ids(self, text: str) -> np.ndarray:
        """Ids of a text, (n,). What looks like a special token is spelled out like any other text."""
        ids = encode_array(text, self.tokenizer)
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.vocab_size:
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise ValueError(f"the tokenizer gave the id {wrong}, but says that it has {self.vocab_size}: its file is "
                             "damaged")
        return ids.astype(self.dtype)


def count_tokens(source: Documents, tokenizer: Tokenizer, text_column: str = "text", separator: str | None = None,
                 at_most_bytes: int = 4_000_000, end_of_text: str = "<|endoftext|>") -> tuple[int, bool]:
    """How many tokens `write_token_files` makes of a source, and whether that is exact.

    It is exact where the source's text has at most `at_most_bytes`, and an estimate from that much of it elsewhere.
    Arguments and errors as there.
    """
    encoder = ShardEncoder.of(tokenizer, end_of_text)
    documents, total = sample_documents(source, text_column, separator, at_most_bytes)
    tokens = sum(len(encoder.ids(document)) + 1 for document in documents)
    if total is None:
        return tokens, True
    return round(tokens * total / sum(len(document.encode("utf-8")) for document in documents)), False


# --- chunks of text, encoded side by side and handed back in order -------------------------------------------------

def chunks_of(parts: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Parts joined, in order, to chunks of at most `size` bytes (and the ends of documents)."""
    held, total = [], 0
    for part in parts:
        if held and total + len(part) > size + 1:
            yield b"".join(held)
            held, total = [], 0
        held.append(part)
        total += len(part)
    if held:
        yield b"".join(held)


def encoded_in_order(chunks: Iterable[bytes], is_kept: Callable[[int, str], bool], submit: Callable,
                     ahead: int) -> Iterator[tuple[dict[str, Any], Callable | None]]:
    """Each chunk's shard: what the header says of it, and how to get its bytes (None: it is there already).

    At most `ahead` + 1 chunks are in memory: the reading waits for the encoding.
    """
    waiting: deque[tuple[dict[str, Any], Callable | None]] = deque()
    for index, chunk in enumerate(chunks):
        documents = chunk.count(DOCUMENT_END)
        shard = {"documents": documents, "bytes": len(chunk) - documents, "sha256": sha256(chunk).hexdigest()}
        waiting.append((shard, None if is_kept(index, shard["sha256"]) else submit(chunk)))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def _pieces(chunk: bytes) -> Iterator[bytes]:
    """A chunk cut between documents, so that its ids are those of its pieces in a row."""
    start = 0
    while start < len(chunk):
        end = chunk.find(DOCUMENT_END, start + _PIECE) + 1 or len(chunk)
        yield chunk[start:end]
        start = end


_worker_encoder: ShardEncoder | None = None  # set in worker processes only


def _start_worker(encoder: ShardEncoder) -> None:
    """What a worker process does first."""
    global _worker_encoder
    _worker_encoder = encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers: they would wait for work for ever."""
    parent_process().join()
    os._exit(1)


def _encode_in_worker(chunk: bytes) -> bytes:
    return _worker_encoder(chunk)


def _submit_pieces(pool: ProcessPoolExecutor, chunk: bytes) -> Callable[[], bytes]:
    futures = [pool.submit(_encode_in_worker, piece) for piece in _pieces(chunk)]
    return lambda: b"".join(future.result() for future in futures)


def chunks_ahead(processes: int, shard_bytes: int) -> int:
    """How many chunks to read ahead of the one that is waited for, so that no process waits for text."""
    return 0 if processes == 1 else min(processes, 1 + 2 * processes * _PIECE // shard_bytes)


@contextmanager
def encoding_processes(encoder: ShardEncoder, processes: int) -> Iterator[Callable[[bytes], Callable]]:
    """A function that starts to encode a chunk and returns one that waits for the result.

    The processes get a chunk in pieces: the smaller they are, the sooner all of them have work, and end together.
    """
    if processes == 1:
        yield lambda chunk: partial(encoder, chunk)
        return
    # "spawn" starts clean processes, on every system: a copy ("fork") of one with threads can hang
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _start_worker, (encoder,))
    try:
        yield partial(_submit_pieces, pool)
    except BrokenProcessPool:
        raise RuntimeError("a worker process ended too early: put a script's code under `if __name__ == \"__main__\":`"
                           ", or, if memory ran out, give fewer processes; then run again to go on where this "
                           "stopped") from None
    finally:
        pool.shutdown(cancel_futures=True)
