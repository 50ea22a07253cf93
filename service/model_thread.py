"""The one thread that owns the generator: requests queue here and are generated in batches."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from service.generation import GenerationRequest, Generator
from tuner.decoding import Decoded

log = logging.getLogger("openbook.service")

BATCH_WINDOW_SECONDS = 0.005
"""How long the first request of a batch waits for company; while a batch runs, others queue up anyway."""
MAX_BATCH_REQUESTS = 16
IDLE_BEAT_SECONDS = 1.0
STALLED_AFTER_SECONDS = 60.0
"""Without a sign of life for this long (a beat comes with every token), the thread counts as stuck."""


class Overloaded(RuntimeError):
    """The queue is full or closing; try again after `retry_after_seconds`."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class Generated:
    """What became of one submission; milliseconds in the queue and in the generator."""

    decoded: list[Decoded]
    queue_ms: float
    generate_ms: float


@dataclass(frozen=True, slots=True)
class _Job:
    requests: Sequence[GenerationRequest]
    future: Future[Generated]
    submitted: float


class ModelThread:
    """Runs from construction to `close()`; every method may be called from any thread."""

    def __init__(self, generator: Generator, queue_size: int = 64) -> None:
        """`queue_size` bounds the requests that wait, not those being generated."""
        self._generator = generator
        self._queue_size = queue_size
        self._queue: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._last_beat = time.monotonic()
        self._last_batch_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="openbook-model", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[GenerationRequest]) -> Future[Generated]:
        """Queue requests to be generated together; cancelling the future drops them. Raises Overloaded."""
        with self._changed:
            retry_after = max(1, math.ceil(self._last_batch_seconds))
            if self._closing or not self._thread.is_alive():
                raise Overloaded("the service is shutting down", retry_after)
            waiting = sum(len(job.requests) for job in self._queue if not job.future.cancelled())
            if waiting + len(requests) > self._queue_size:
                raise Overloaded(
                    f"{waiting} requests are waiting already; try again in {retry_after} s", retry_after
                )
            job = _Job(requests, Future(), time.monotonic())
            self._queue.append(job)
            self._changed.notify_all()
        return job.future

    def ready(self) -> bool:
        """Whether the thread takes requests and has shown a sign of life lately."""
        stalled = time.monotonic() - self._last_beat > STALLED_AFTER_SECONDS
        return self._thread.is_alive() and not self._closing and not stalled

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Take no more requests, finish those that wait, and stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while jobs := self._next_batch():
            started = time.monotonic()
            self._generate(jobs)
            self._last_batch_seconds = time.monotonic() - started

    def _next_batch(self) -> list[_Job]:
        """The jobs to generate next, waiting for some; empty once closed and drained."""
        with self._changed:
            while not self._queue:
                if self._closing:
                    return []
                self._last_beat = time.monotonic()
                self._changed.wait(IDLE_BEAT_SECONDS)
            self._changed.wait_for(
                lambda: self._closing or len(self._queue) >= MAX_BATCH_REQUESTS, BATCH_WINDOW_SECONDS
            )
            jobs = [self._queue.popleft()]
            size = len(jobs[0].requests)
            while self._queue and size + len(self._queue[0].requests) <= MAX_BATCH_REQUESTS:
                size += len(self._queue[0].requests)
                jobs.append(self._queue.popleft())
            return jobs

    def _generate(self, jobs: Sequence[_Job]) -> None:
        """Generate one batch and settle its futures."""
        # Futures stay pending while their batch runs, so that a client that leaves can still cancel.
        jobs = [job for job in jobs if not job.future.cancelled()]
        if not jobs:
            return

        def cancelled() -> bool:
            self._last_beat = time.monotonic()
            return all(job.future.cancelled() for job in jobs)

        started = self._last_beat = time.monotonic()
        try:
            decoded = self._generator.generate([r for job in jobs for r in job.requests], cancelled)
        except Exception as error:
            if len(jobs) > 1:
                # One request may have spoilt it for all: alone, only the guilty one fails.
                for job in jobs:
                    self._generate([job])
            elif jobs[0].future.set_running_or_notify_cancel():
                log.exception("generation failed")
                jobs[0].future.set_exception(error)
            return
        generate_ms = (time.monotonic() - started) * 1000
        results = iter(decoded)
        for job in jobs:
            own = [next(results) for _ in job.requests]
            if job.future.set_running_or_notify_cancel():
                job.future.set_result(Generated(own, (started - job.submitted) * 1000, generate_ms))
