"""The one thread that owns the generator: requests queue here, join the running batch, and leave it when done."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from service.generation import GenerationRequest, Generator, Run
from service.metrics import Metrics
from tuner.decoding import Decoded
from tuner.registry import AdapterError

log = logging.getLogger("openbook.service")

T = TypeVar("T")

BATCH_WINDOW_SECONDS = 0.005
"""How long the first request after a pause waits for company; later ones join while others run."""
MAX_ROWS = 32
PREFILL_TOKENS = 2048
"""About this many prompt tokens are read between two steps, so that newcomers do not hold up running answers."""
IDLE_BEAT_SECONDS = 1.0
STALLED_AFTER_SECONDS = 60.0
"""Without a sign of life for this long (a beat comes with every token), the thread counts as stuck."""

OnText = Callable[[int, str], None]
"""Called in the model thread with the place of a request in its submission and the next piece of its answer."""


class Overloaded(RuntimeError):
    """The queue is full or closing; try again after `retry_after_seconds`."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class GenerationFailed(RuntimeError):
    """An answer that broke off and could not be taken up again."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What became of one submission; milliseconds in the queue, to the first token after it, and in all after it."""

    decoded: list[Decoded]
    queue_ms: float
    first_token_ms: float
    generate_ms: float


@dataclass(slots=True, eq=False)
class _Job:
    requests: Sequence[GenerationRequest]
    on_text: OnText | None
    submitted: float
    future: Future[Generated] = field(default_factory=Future)
    runs: list[Run] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    started: float = 0.0
    first_token: float = 0.0
    alone: bool = False
    """It was in a batch that failed: it is tried once more, and without company."""

    @property
    def prompt_tokens(self) -> int:
        return sum(len(request.prompt) for request in self.requests)

    @property
    def width(self) -> int:
        return max(len(r.prompt) + r.sampling.max_new_tokens for r in self.requests)


class ModelThread:
    """Runs from construction to `close()`; every method may be called from any thread."""

    def __init__(
        self,
        generator: Generator,
        queue_size: int = 64,
        queue_tokens: int = 65_536,
        batch_tokens: int = 16_384,
        metrics: Metrics | None = None,
    ) -> None:
        """`queue_size` and `queue_tokens` (of prompts) bound what waits; `batch_tokens` (padded) what runs."""
        self.metrics = metrics or Metrics()
        self._generator = generator
        self._queue_size = queue_size
        self._queue_tokens = queue_tokens
        self._batch_tokens = batch_tokens
        self._queue: deque[_Job] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._running: list[_Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._last_beat = time.monotonic()
        self._job_seconds = 0.0
        self.metrics.watch_queue(self.waiting)
        self._start()

    def submit(
        self, requests: Sequence[GenerationRequest], on_text: OnText | None = None
    ) -> Future[Generated]:
        """Queue requests to be answered together; cancelling the future drops them. Raises Overloaded."""
        job = _Job(requests, on_text, time.monotonic(), sent=[""] * len(requests))
        with self._changed:
            self.require_room(len(requests), job.prompt_tokens)
            self._queue.append(job)
            self._changed.notify_all()
        return job.future

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Let the thread do something between two tokens, such as loading an adapter. Raises Overloaded."""
        future: Future[T] = Future()
        with self._changed:
            self.require_room(0)
            self._calls.append((work, future))
            self._changed.notify_all()
        return future

    def require_room(self, requests: int, prompt_tokens: int = 0) -> None:
        """Raise Overloaded if so many more cannot be queued; a prompt alone is never too long for the queue."""
        with self._changed:
            waiting = [job for job in self._queue if not job.future.cancelled()]
            rows, tokens = (
                sum(len(job.requests) for job in waiting),
                sum(job.prompt_tokens for job in waiting),
            )
            retry_after = max(1, math.ceil(self._job_seconds * (1 + rows / MAX_ROWS)))
            if self._closing:
                raise Overloaded("the service is shutting down", retry_after)
            if not self._thread.is_alive():
                raise Overloaded("the model is being started again", retry_after)
            if rows + requests > self._queue_size:
                raise Overloaded(
                    f"{rows} requests are waiting already; try again in {retry_after} s", retry_after
                )
            if waiting and tokens + prompt_tokens > self._queue_tokens:
                raise Overloaded(
                    f"prompts of {tokens} tokens are waiting already; try again in {retry_after} s",
                    retry_after,
                )

    def waiting(self) -> int:
        """Requests in the queue that somebody still waits for."""
        with self._changed:
            return sum(len(job.requests) for job in self._queue if not job.future.cancelled())

    def ready(self) -> bool:
        """Whether the thread takes requests and has shown a sign of life lately."""
        stalled = time.monotonic() - self._last_beat > STALLED_AFTER_SECONDS
        return self._thread.is_alive() and not self._closing and not stalled

    def revive(self) -> None:
        """Start the thread again if it has died."""
        with self._changed:
            if not self._closing and not self._thread.is_alive():
                log.error("the model thread has died; starting it again")
                self._start()

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Take no more requests, finish those that wait, and stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_seconds)

    def _start(self) -> None:
        self._last_beat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="openbook-model", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._answer_calls()
                self._admit(self._next_jobs())
                self._step()
        finally:
            # Nothing runs after an orderly end; after a blow from outside, what ran is tried again.
            if self._running:
                self._recover([], GenerationFailed("the model thread died twice over this answer"), died=True)

    def _wait_for_work(self) -> bool:
        """Whether there is some; False once closed and drained."""
        with self._changed:
            self._last_beat = time.monotonic()
            if self._running:
                return True
            while not self._queue and not self._calls:
                if self._closing:
                    return False
                self._last_beat = time.monotonic()
                self._changed.wait(IDLE_BEAT_SECONDS)
            self._changed.wait_for(
                lambda: self._closing or len(self._queue) >= MAX_ROWS, BATCH_WINDOW_SECONDS
            )
            return True

    def _answer_calls(self) -> None:
        while self._calls:
            work, future = self._calls.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except Exception as error:
                    future.set_exception(error)

    def _next_jobs(self) -> list[_Job]:
        """The jobs that may join now: in turn, as far as rows, padded tokens and the reading budget allow."""
        with self._changed:
            self._queue = deque(job for job in self._queue if not job.future.cancelled())
            chosen: list[_Job] = []
            for job in list(self._queue):
                company = [*self._running, *chosen]
                if any(other.alone for other in company) or (job.alone and company):
                    break
                if sum(other.prompt_tokens for other in chosen) >= PREFILL_TOKENS:
                    break
                if not self._fits(job, company):
                    break
                chosen.append(job)
                self._queue.remove(job)
            return chosen

    def _fits(self, job: _Job, mates: Sequence[_Job]) -> bool:
        rows = sum(len(other.requests) for other in (*mates, job))
        width = max(other.width for other in (*mates, job))
        return not mates or (rows <= MAX_ROWS and rows * width <= self._batch_tokens)

    def _admit(self, jobs: Sequence[_Job]) -> None:
        """Let the generator start on `jobs`, those with the same adapter together."""
        by_adapter: dict[str | None, list[_Job]] = {}
        for job in jobs:
            job.started = job.started or time.monotonic()
            job.runs = [Run(request) for request in job.requests]
            by_adapter.setdefault(job.requests[0].adapter, []).append(job)
        for place, group in enumerate(by_adapter.values()):
            try:
                self._generator.admit([run for job in group for run in job.runs])
            except AdapterError as error:
                for job in group:
                    self._fail(job, error)
            except Exception as error:
                later = [job for others in list(by_adapter.values())[place + 1 :] for job in others]
                with self._changed:
                    self._queue.extendleft(reversed(later))
                self._recover(group, error)
                return
            else:
                self._running += group
        if jobs:
            self._deliver()

    def _step(self) -> None:
        if not self._running:
            return
        # Futures stay pending while their requests run, so that a client that leaves can still cancel.
        for job in self._running:
            for run in job.runs:
                run.cancelled = job.future.cancelled()
        self._running = [job for job in self._running if not job.future.cancelled()]
        self.metrics.batch_size.observe(sum(len(job.runs) for job in self._running))
        try:
            self._generator.step()
        except Exception as error:
            self._recover([], error)
        self._deliver()

    def _deliver(self) -> None:
        """Hand out new text and finished answers."""
        for job in list(self._running):
            if not job.first_token and all(run.tokens or run.decoded for run in job.runs):
                job.first_token = time.monotonic()
            if not all(self._send_text(job, i, run.text) for i, run in enumerate(job.runs)):
                self._running.remove(job)
                for run in job.runs:
                    run.cancelled = True
                self._fail(job, GenerationFailed("the answer broke off and could not be taken up again"))
                continue
            if error := next((run.error for run in job.runs if run.error is not None), None):
                self._running.remove(job)
                for run in job.runs:
                    run.cancelled = True
                self._fail(job, error)
                continue
            decoded = [run.decoded for run in job.runs if run.decoded is not None]
            if len(decoded) == len(job.runs):
                self._running.remove(job)
                self._finish(job, decoded)

    def _send_text(self, job: _Job, place: int, text: str) -> bool:
        """Send what is new in `text`; False if it contradicts what was sent before a failure."""
        sent = job.sent[place]
        if job.on_text is None or sent.startswith(text):
            return True
        if not text.startswith(sent):
            return False
        if not job.future.cancelled():
            job.on_text(place, text[len(sent) :])
        job.sent[place] = text
        return True

    def _finish(self, job: _Job, decoded: list[Decoded]) -> None:
        ended = time.monotonic()
        self._job_seconds = 0.8 * self._job_seconds + 0.2 * (ended - job.started)
        generated = Generated(
            decoded,
            queue_ms=(job.started - job.submitted) * 1000,
            first_token_ms=(job.first_token - job.started) * 1000,
            generate_ms=(ended - job.started) * 1000,
        )
        self.metrics.generated(generated)
        if job.future.set_running_or_notify_cancel():
            job.future.set_result(generated)

    def _fail(self, job: _Job, error: BaseException) -> None:
        if job.future.set_running_or_notify_cancel():
            job.future.set_exception(error)

    def _recover(self, suspects: Sequence[_Job], error: Exception, died: bool = False) -> None:
        """Start afresh after a failure: one request may have spoilt it for all, so each is tried again alone."""
        log.error("generation failed", exc_info=error)
        jobs = [job for job in (*self._running, *suspects) if not job.future.cancelled()]
        self._running = []
        self._generator.reset()
        if len(jobs) == 1 and (jobs[0].alone or not died):
            self._fail(jobs[0], error)
            return
        with self._changed:
            for job in reversed(jobs):
                job.alone = True
                self._queue.appendleft(job)
