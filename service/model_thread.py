"""The one thread that owns the generator: requests queue here, join the running batch, and leave it when done."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from service.admission import MAX_ROWS, Generated, OnText, Overloaded, Queue, Submission
from service.generation import GenerationRequest, Generator, Run
from service.metrics import Metrics
from tuner.decoding import Decoded
from tuner.registry import AdapterError

log = logging.getLogger("openbook.service")

T = TypeVar("T")

BATCH_WINDOW_SECONDS = 0.005
"""How long the first request after a pause waits for company; later ones join while others run."""
IDLE_BEAT_SECONDS = 1.0
STALLED_AFTER_SECONDS = 60.0
"""Without a sign of life for this long (a beat comes with every token), the thread counts as stuck."""
RESET_AGAIN_SECONDS = 1.0
"""Between two attempts to reset a generator that cannot be."""


class GenerationFailed(RuntimeError):
    """An answer that broke off and could not be taken up again."""


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
        self._queue = Queue(queue_size, queue_tokens, batch_tokens)
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._calling = False
        self._running: list[Submission] = []
        self._joining: list[Submission] = []
        """Taken from the queue, and not yet running."""
        self._changed = threading.Condition()
        self._closing = False
        self._spoilt = False
        """The generator could not be reset after a failure: until it can, nothing may run on it."""
        self._last_beat = time.monotonic()
        self.metrics.watch_queue(self.waiting)
        self._start()

    def submit(
        self, requests: Sequence[GenerationRequest], on_text: OnText | None = None
    ) -> Future[Generated]:
        """Queue requests to be answered together; cancelling the future drops them.

        Raises Overloaded, TooMuchAtOnce.
        """
        submission = Submission(requests, on_text, time.monotonic(), sent=[""] * len(requests))
        with self._changed:
            self._queue.require_possible(submission)
            self.require_room(len(requests), submission.prompt_tokens)
            self._queue.add(submission)
            self._changed.notify_all()
        return submission.future

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Let the thread do something between two tokens, such as loading an adapter. Raises Overloaded."""
        future: Future[T] = Future()
        with self._changed:
            self.require_room(0)
            self._calls.append((work, future))
            self._changed.notify_all()
        return future

    def require_room(self, requests: int, prompt_tokens: int = 0, coming: int = 0) -> None:
        """Raise Overloaded if so many more cannot be queued beside those that are `coming`, or TooMuchAtOnce.

        A prompt alone is never too long for the queue.
        """
        with self._changed:
            if self._closing:
                raise Overloaded("the service is shutting down", self._queue.retry_after_seconds())
            if self._spoilt or not self._thread.is_alive():
                raise Overloaded("the model is being started again", self._queue.retry_after_seconds())
            self._queue.require_room(requests, prompt_tokens, coming)

    def waiting(self) -> int:
        """Requests in the queue that somebody still waits for."""
        with self._changed:
            return self._queue.waiting()

    def ready(self) -> bool:
        """Whether the thread takes requests and has shown a sign of life lately."""
        stalled = time.monotonic() - self._last_beat > STALLED_AFTER_SECONDS
        return self._thread.is_alive() and not self._closing and not self._spoilt and not stalled

    def idle(self) -> bool:
        """Whether nothing waits, and nothing is under way."""
        with self._changed:
            return not (self._running or self._joining or self._queue or self._calls or self._calling)

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
        self._calling = False
        self._last_beat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="openbook-model", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            if self._spoilt:  # the thread died over it
                self._reset()
            while self._wait_for_work():
                self._answer_calls()
                with self._changed:
                    self._joining = self._queue.take(self._running)
                self._admit(self._joining)
                self._joining = []
                self._step()
        finally:
            # Nothing runs after an orderly end; after a blow from outside, what ran is tried again.
            if cut_off := [
                one for one in self._joining if one not in self._running and not one.future.done()
            ]:
                self._joining = []
            if self._running or cut_off:
                error = GenerationFailed("the model thread died twice over this answer")
                self._recover(cut_off, error, died=True)

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
            self._calling = True
            work, future = self._calls.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except Exception as error:
                    future.set_exception(error)
        self._calling = False

    def _admit(self, submissions: Sequence[Submission]) -> None:
        """Let the generator start on `submissions`, those with the same adapter together."""
        by_adapter: dict[str | None, list[Submission]] = {}
        for submission in submissions:
            submission.started = submission.started or time.monotonic()
            submission.runs = [Run(request) for request in submission.requests]
            by_adapter.setdefault(submission.requests[0].adapter, []).append(submission)
        for place, group in enumerate(by_adapter.values()):
            try:
                self._generator.admit([run for one in group for run in one.runs])
            except AdapterError as error:
                for submission in group:
                    self._fail(submission, error)
            except Exception as error:
                later = [one for others in list(by_adapter.values())[place + 1 :] for one in others]
                self._joining = []
                with self._changed:
                    self._queue.put_back(later)
                self._recover(group, error)
                return
            else:
                self._running += group
        if submissions:
            self._deliver()

    def _step(self) -> None:
        if not self._running:
            return
        # Futures stay pending while their requests run, so that a client that leaves can still cancel.
        for submission in self._running:
            for run in submission.runs:
                run.cancelled = submission.future.cancelled()
        self._running = [one for one in self._running if not one.future.cancelled()]
        self.metrics.batch_size.observe(sum(len(one.runs) for one in self._running))
        try:
            self._generator.step()
        except Exception as error:
            self._recover([], error)
        self._deliver()

    def _deliver(self) -> None:
        """Hand out new text and finished answers."""
        for submission in list(self._running):
            if not submission.first_token and all(run.tokens or run.decoded for run in submission.runs):
                submission.first_token = time.monotonic()
            if not all(self._send_text(submission, i, run.text) for i, run in enumerate(submission.runs)):
                self._running.remove(submission)
                for run in submission.runs:
                    run.cancelled = True
                self._fail(
                    submission, GenerationFailed("the answer broke off and could not be taken up again")
                )
                continue
            if error := next((run.error for run in submission.runs if run.error is not None), None):
                self._running.remove(submission)
                for run in submission.runs:
                    run.cancelled = True
                self._fail(submission, error)
                continue
            decoded = [run.decoded for run in submission.runs if run.decoded is not None]
            if len(decoded) == len(submission.runs):
                self._running.remove(submission)
                self._finish(submission, decoded)

    def _send_text(self, submission: Submission, place: int, text: str) -> bool:
        """Send what is new in `text`; False if it contradicts what was sent before a failure."""
        sent = submission.sent[place]
        if submission.on_text is None or sent.startswith(text):
            return True
        if not text.startswith(sent):
            return False
        if not submission.future.cancelled():
            submission.on_text(place, text[len(sent) :])
        submission.sent[place] = text
        return True

    def _finish(self, submission: Submission, decoded: list[Decoded]) -> None:
        ended = time.monotonic()
        with self._changed:
            self._queue.answered(ended - submission.started)
        generated = Generated(
            decoded,
            queue_ms=(submission.started - submission.submitted) * 1000,
            first_token_ms=(submission.first_token - submission.started) * 1000,
            generate_ms=(ended - submission.started) * 1000,
        )
        self.metrics.generated(generated)
        if submission.future.set_running_or_notify_cancel():
            submission.future.set_result(generated)

    def _fail(self, submission: Submission, error: BaseException) -> None:
        if submission.future.set_running_or_notify_cancel():
            submission.future.set_exception(error)

    def _recover(self, suspects: Sequence[Submission], error: Exception, died: bool = False) -> None:
        """Start afresh after a failure: one request may have spoilt it for all, so each is tried again alone."""
        log.error("generation failed", exc_info=error)
        submissions = [one for one in (*self._running, *suspects) if not one.future.cancelled()]
        self._running = submissions  # until they are dealt with, lest a blow from outside loses them
        if not self._reset():
            return
        self._running = []
        if len(submissions) == 1 and (submissions[0].alone or not died):
            self._fail(submissions[0], error)
            return
        for submission in submissions:
            submission.alone = True
        with self._changed:
            self._queue.put_back(submissions)

    def _reset(self) -> bool:
        """Reset the generator. If that fails, refuse all that waits, and go on trying until it works or `close()`.

        Whether it worked at once.
        """
        at_once = True
        while True:
            try:
                self._generator.reset()
            except Exception as error:
                log.exception("the generator cannot be reset; trying again in %g s", RESET_AGAIN_SECONDS)
                at_once = False
                self._refuse_all(error)
                with self._changed:
                    if self._changed.wait_for(lambda: self._closing, RESET_AGAIN_SECONDS):
                        return False
            else:
                self._last_beat = time.monotonic()
                self._spoilt = False
                return at_once

    def _refuse_all(self, reason: Exception) -> None:
        """Take no more requests, and answer those there are with the reason."""
        with self._changed:
            self._spoilt = True
            submissions = [*self._running, *self._queue.take_all()]
            calls = list(self._calls)
            self._running = []
            self._calls.clear()
        seconds = self._queue.retry_after_seconds()
        error = Overloaded(
            f"the model failed and cannot be started again yet ({type(reason).__name__}); try again in {seconds} s",
            seconds,
        )
        for submission in submissions:
            self._fail(submission, error)
        for _, future in calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
