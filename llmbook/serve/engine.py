"""One thread that decodes for everybody: requests join the batch between two steps, and leave it when they end.

Reading a prompt takes much longer than a step. So it is read in parts, one between two steps, and whoever is being
answered meanwhile waits for a part and no more. What was read is remembered for texts that begin alike.

Source: joining and leaving between steps: Yu et al., "Orca: A Distributed Serving System for Transformer-Based
Generative Models" (2022), iteration-level scheduling.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..diagnosis import explain_bad_logits
from ..generation import Sampling
from ..protocols import Cache
from ..threads import dismiss_threads
from .answers import AnswerText, Ended, Piece, Score
from .prefixes import Prefixes
from .rows import Rows, read_on

__all__ = ["Busy", "Closed", "Engine", "Job", "Request"]

PART = 256  # tokens of a prompt that are read between two steps

Listener = Callable[["Piece | Ended"], None]


class Busy(Exception):
    """The queue is full. retry_after: seconds after which it may not be."""

    def __init__(self, waiting: int, retry_after: int):
        super().__init__(f"{waiting} requests wait already: try again in {retry_after} s, or start the server with a "
                         "longer queue")
        self.retry_after = retry_after


class Closed(Exception):
    """The engine ends, or has ended."""

    def __init__(self) -> None:
        super().__init__("the server ends: start it again")


@dataclass(frozen=True)
class Request:
    """One text to go on with.

    Args:
        ids: the prompt's tokens.
        max_new_tokens: at most so many; fewer where the context is full.
        sampling: how a token is chosen; vocab_size is the engine's to set.
        seed: makes sampling repeatable: the same text as from `llmbook.generation.generate` with that seed.
        ends: tokens that end the answer. stops: strings that do; they are no part of it.
        continues: whether the answer goes on from a text, so that a first space stays.
        top_scores: None for no scores; else each token's, and those of so many likeliest ones.
        seconds: time limit, the queue included; the answer is cut there.
    """

    ids: Sequence[int]
    max_new_tokens: int = 200
    sampling: Sampling = Sampling()
    seed: int | None = None
    ends: frozenset[int] = frozenset()
    stops: tuple[str, ...] = ()
    continues: bool = False
    top_scores: int | None = None
    seconds: float = math.inf


@dataclass(eq=False)
class Job:
    """A request on its way. `cancel` may be called from any thread; an `Ended` comes in every case."""

    request: Request
    listener: Listener
    wake: Callable[[], None]
    text: AnswerText
    generator: torch.Generator
    cancelled: bool = False
    begun: float = field(default_factory=time.monotonic)
    new: list[int] = field(default_factory=list)
    reused: int = 0
    cache: Cache | None = None  # while the prompt is read
    parting: int | None = None  # where to end a part, so that a state of that place is kept
    over: bool = False

    def cancel(self) -> None:
        """Break the answer off before the next step."""
        self.cancelled = True
        self.wake()

    @property
    def ids(self) -> list[int]:
        return [*self.request.ids, *self.new]

    def tell(self, event: Piece | Ended | None) -> None:
        """Hand an event to whoever asked; one who cannot take it is not answered further."""
        if event is None:
            return
        try:
            self.listener(event)
        except Exception:
            self.cancelled = True


class Engine:
    """A model and the requests that it answers side by side.

    Args:
        model, tokenizer: as `load_pretrained` gives them.
        rows: requests that are answered at the same time.
        waiting: requests that may wait beyond those; more are refused with `Busy`.
        prefix_bytes: memory for what was read, for texts that begin alike; 0 for none.
        context: the longest text, prompt and answer; the model's context_length if None.

    `submit` may be called from any thread; the listener is called in the engine's own. The engine is a context manager:
    it starts at the `with`, and ends after it, whatever is going on.

    Raises ValueError for numbers out of range, and for a model whose cache cannot take rows.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, rows: int = 8, waiting: int = 64,
                 prefix_bytes: int = 2**28, context: int | None = None):
        for name, number, least in (("rows", rows, 1), ("waiting", waiting, 0), ("prefix_bytes", prefix_bytes, 0)):
            if number < least:
                raise ValueError(f"{name} is {number}: it must be at least {least}")
        most = model.config.context_length
        if context is not None and not 2 <= context <= most:
            raise ValueError(f"context is {context:,}: it must be 2 to {most:,}, the model's context_length")
        self.model, self.tokenizer = model, tokenizer
        self.context, self.most_waiting = context or most, waiting
        self.rows, self.prefixes = Rows(model, rows), Prefixes(prefix_bytes)
        self.device = next(model.parameters()).device
        self._inbox: deque[Job] = deque()
        self._active: list[Job] = []  # one for each row
        self._reading: Job | None = None
        self._state = threading.Condition()
        self._closing = False
        self._seconds = 1.0  # that a request takes, on average
        self._thread = threading.Thread(target=self._run, name="llmbook-engine", daemon=True)

    def __enter__(self) -> Engine:
        dismiss_threads()  # of the thread that loaded the model: those of the engine's own are as many as the cores
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
        self._thread.join()

    def close(self) -> None:
        """End soon: all requests get an `Ended`, and further ones are refused. May be called more than once."""
        with self._state:
            self._closing = True
            self._state.notify_all()

    @property
    def load(self) -> tuple[int, int]:
        """Requests that are being answered, and that wait."""
        return len(self._active) + (self._reading is not None), len(self._inbox)

    def submit(self, request: Request, listener: Listener) -> Job:
        """Queue a request; its `Piece`s and an `Ended` go to the listener.

        Raises ValueError for a request that the model cannot answer, Busy if the queue is full, Closed after `close`.
        """
        self._check(request)
        seed = int.from_bytes(os.urandom(7), "big") if request.seed is None else request.seed
        job = Job(request, listener, self._wake, AnswerText(self.tokenizer, request.continues, request.stops),
                  torch.Generator(self.device).manual_seed(seed))
        with self._state:
            if self._closing:
                raise Closed
            free = self.rows.most - len(self._active) - (self._reading is not None)
            if len(self._inbox) >= self.most_waiting + free:
                rounds = math.ceil((len(self._inbox) + 1) / self.rows.most)
                raise Busy(len(self._inbox), min(60, max(1, math.ceil(rounds * self._seconds))))
            self._inbox.append(job)
            self._state.notify_all()
        return job

    def events(self, request: Request) -> Iterator[Piece | Ended]:
        """The events of a request as they come, for whoever has no loop of their own. Raises as `submit`."""
        told: queue.SimpleQueue[Piece | Ended] = queue.SimpleQueue()
        job = self.submit(request, told.put)

        def pieces() -> Iterator[Piece | Ended]:
            try:
                while True:
                    yield (event := told.get())
                    if isinstance(event, Ended):
                        return
            finally:
                job.cancel()

        return pieces()

    def _check(self, request: Request) -> None:
        prompt, vocab_size = len(request.ids), self.model.config.vocab_size
        if not prompt:
            raise ValueError("the prompt has no tokens: give a few words to go on from")
        if prompt >= self.context:
            raise ValueError(f"the prompt has {prompt:,} tokens, and the context is {self.context:,} with the answer: "
                             "shorten it")
        if not 0 <= min(request.ids) <= max(request.ids) < vocab_size:
            bad = next(token for token in request.ids if not 0 <= token < vocab_size)
            raise ValueError(f"token {bad} of the prompt is outside the vocabulary of {vocab_size:,}: encode the text "
                             "with this model's tokenizer")
        if request.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {request.max_new_tokens}: it must be at least 1")
        if "" in request.stops:
            raise ValueError("a stop string is empty: leave it out")

    # --- the thread ------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        with self._state:
            self._state.notify_all()

    @torch.inference_mode()
    def _run(self) -> None:
        while self._has_work():
            try:
                for job in self._under_way:
                    self._look_at_limits(job)
                self._read_a_part()
                if self._active:
                    self._choose(list(self._active), self.rows.step([job.new[-1] for job in self._active]))
            except Exception as error:
                self._fail(error)
        with self._state:  # whoever submits now is refused
            jobs, self._inbox = [*self._under_way, *self._inbox], deque()
        for job in jobs:
            self._end(job, "closed")

    @property
    def _under_way(self) -> list[Job]:
        return [*self._active, *([self._reading] if self._reading else [])]

    def _fail(self, error: Exception) -> None:
        """Nobody's answer can go on from an unknown state; the next ones can."""
        jobs, self._active, self._reading = self._under_way, [], None
        self.rows.clear()
        self.prefixes.clear()
        for job in jobs:
            self._end(job, "error", error)

    def _has_work(self) -> bool:
        """Wait for something to do; False once the engine is to end. What waits and was given up leaves here."""
        with self._state:
            while not self._closing:
                late = [job for job in self._inbox if job.cancelled or self._is_late(job)]
                for job in late:
                    self._inbox.remove(job)
                    self._end(job, "cancelled" if job.cancelled else "length")
                if self._inbox or self._active or self._reading:
                    return True
                self._state.wait()
            return False

    def _is_late(self, job: Job) -> bool:
        return time.monotonic() - job.begun > job.request.seconds

    def _look_at_limits(self, job: Job) -> None:
        if job.cancelled:
            self._end(job, "cancelled")
        elif self._is_late(job):
            self._end(job, "length")

    def _read_a_part(self) -> None:
        """A part of a prompt; after the last one, the job gets its first token and a row."""
        if self._reading is None:
            with self._state:
                if not self._inbox or len(self._active) == self.rows.most:
                    return
                self._reading = self._inbox.popleft()
        job = self._reading
        ids = job.request.ids
        try:
            if job.cache is None:
                job.cache = self.prefixes.begin(self.model, ids, len(ids))
                job.reused = job.cache.length
                job.parting = self.prefixes.parting(ids, job.reused)
            start, end = job.cache.length, job.cache.length + PART
            if job.parting is not None and start < job.parting:
                end = min(end, job.parting)
            part = torch.tensor([ids[start:end]], device=self.device)
            logits = read_on(self.model, part, job.cache, self.rows.modules)
            if job.cache.length < len(ids):
                return
            self.prefixes.keep(ids, job.cache)
            self._reading = None
            self._choose([job], logits)
            if not job.over:
                self.rows.join(job.cache)
                self._active.append(job)
            job.cache = None
        except Exception as error:  # this prompt's own, such as too little memory
            self._end(job, "error", error)

    def _choose(self, jobs: list[Job], logits: Tensor) -> None:
        """A token for each job of its row of scores, (jobs, vocab_size); who has ended leaves."""
        logits = logits[:, : self.tokenizer.n_vocab]
        fine = logits.amax(dim=-1).isfinite().tolist()
        greedy = logits.argmax(dim=-1).tolist()
        for row, job in enumerate(jobs):
            scores = logits[row : row + 1]
            if not fine[row]:
                self._end(job, "error", FloatingPointError(explain_bad_logits(self.model, scores, len(job.ids))))
                continue
            token = greedy[row]
            if job.request.sampling.temperature:
                token = int(job.request.sampling.choose(scores, job.generator))
            job.new.append(token)
            self._tell(job, token, scores)

    def _tell(self, job: Job, token: int, scores: Tensor) -> None:
        request = job.request
        if token in request.ends:
            return self._end(job, "stop")
        score = None if request.top_scores is None else _score(scores[0], token, request.top_scores)
        job.tell(job.text.push(token, score))
        if job.text.stopped:
            self._end(job, "stop")
        elif len(job.new) >= request.max_new_tokens or len(request.ids) + len(job.new) >= self.context:
            self._end(job, "length")

    def _end(self, job: Job, reason: str, error: Exception | None = None) -> None:
        """The last event of a job, and what it took up is free again."""
        if job.over:
            return
        job.over = True
        if job in self._active:
            row = self._active.index(job)
            if self.prefixes.most_bytes and reason in ("stop", "length"):
                self.prefixes.keep(job.ids, self.rows.copy_of(row))
            self.rows.leave(row)
            self._active[row] = self._active[-1]
            self._active.pop()
        if job is self._reading:
            self._reading = None
        if reason != "error":
            job.tell(job.text.finish())
            self._seconds += 0.2 * (time.monotonic() - job.begun - self._seconds)
        job.tell(Ended(reason, len(job.request.ids), job.reused, tuple(job.new), error))


def _score(logits: Tensor, token: int, top: int) -> Score:
    """A token's logarithm of its probability by scores (vocab_size,), and the likeliest ones'."""
    logprobs = logits.float().log_softmax(dim=-1)
    best = logprobs.topk(min(top, len(logprobs)))
    return Score(token, float(logprobs[token]), tuple(zip(best.indices.tolist(), best.values.tolist())))
