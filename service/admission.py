"""What waits for the model: how much may wait, and what may join the batch that runs."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from service.generation import GenerationRequest, Run
from tuner.decoding import Decoded

MAX_ROWS = 32
PREFILL_TOKENS = 2048
"""About this many prompt tokens are read between two steps, so that newcomers do not hold up running answers."""

OnText = Callable[[int, str], None]
"""Called in the model thread with the place of a request in its submission and the next piece of its answer."""


class Overloaded(RuntimeError):
    """The queue is full or closing; try again after `retry_after_seconds`."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class TooMuchAtOnce(ValueError):
    """One request asks for more answers, or longer ones, than can ever run together."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What became of one submission; milliseconds in the queue, to the first token after it, and in all after it."""

    decoded: list[Decoded]
    queue_ms: float
    first_token_ms: float
    generate_ms: float


@dataclass(slots=True, eq=False)
class Submission:
    """Requests that are answered together, from the queue to their end; times are seconds of the monotonic clock."""

    requests: Sequence[GenerationRequest]
    on_text: OnText | None
    submitted: float
    future: Future[Generated] = field(default_factory=Future)
    runs: list[Run] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    """The text of each answer that has gone out."""
    started: float = 0.0
    first_token: float = 0.0
    alone: bool = False
    """It was in a batch that failed: it is tried once more, and without company."""

    @property
    def prompt_tokens(self) -> int:
        """Of all its prompts."""
        return sum(len(request.prompt) for request in self.requests)

    @property
    def width(self) -> int:
        """Tokens that its longest row may come to have."""
        return max(len(r.prompt) + r.sampling.max_new_tokens for r in self.requests)


class Queue:
    """Submissions in the order in which they came. Not thread-safe: the model thread holds its lock over every call."""

    def __init__(self, most_requests: int, most_tokens: int, batch_tokens: int) -> None:
        """`most_requests` and `most_tokens` (of prompts) bound what waits; `batch_tokens` (padded) what runs."""
        self._most_requests = most_requests
        self._most_tokens = most_tokens
        self._batch_tokens = batch_tokens
        self._submissions: deque[Submission] = deque()
        self._mean_seconds = 0.0

    def __len__(self) -> int:
        return len(self._submissions)

    def add(self, submission: Submission) -> None:
        """Let a submission, for which there is room, wait at the end."""
        self._submissions.append(submission)

    def put_back(self, submissions: Sequence[Submission]) -> None:
        """Let submissions wait before all others, in their order."""
        self._submissions.extendleft(reversed(submissions))

    def require_possible(self, submission: Submission) -> None:
        """Raise TooMuchAtOnce for requests that would exceed the batch by themselves; one alone always may run."""
        rows = len(submission.requests)
        if rows > 1 and rows * submission.width > self._batch_tokens:
            raise TooMuchAtOnce(
                f"{rows} answers with prompts, of up to {submission.width} tokens each, are more than the "
                f"{self._batch_tokens} tokens that run together (serve.batch_tokens); send fewer at once"
            )

    def require_room(self, requests: int, prompt_tokens: int, coming: int = 0) -> None:
        """Raise Overloaded if so many more cannot wait beside those `coming`, TooMuchAtOnce if not even alone.

        A prompt alone is never too long.
        """
        if requests > self._most_requests:
            raise TooMuchAtOnce(
                f"{requests} answers are more than the {self._most_requests} that may wait (serve.queue_size); "
                "send fewer at once"
            )
        waiting = self._wanted()
        rows, tokens = _rows(waiting) + coming, sum(one.prompt_tokens for one in waiting)
        seconds = self.retry_after_seconds()
        if rows + requests > self._most_requests:
            raise Overloaded(f"{rows} requests are waiting already; try again in {seconds} s", seconds)
        if waiting and tokens + prompt_tokens > self._most_tokens:
            raise Overloaded(
                f"prompts of {tokens} tokens are waiting already; try again in {seconds} s", seconds
            )

    def retry_after_seconds(self) -> int:
        """About when what waits now will have been answered."""
        return max(1, math.ceil(self._mean_seconds * (1 + self.waiting() / MAX_ROWS)))

    def answered(self, seconds: float) -> None:
        """Learn how long a submission ran."""
        self._mean_seconds = 0.8 * self._mean_seconds + 0.2 * seconds

    def waiting(self) -> int:
        """Requests that somebody still waits for."""
        return _rows(self._wanted())

    def take(self, running: Sequence[Submission]) -> list[Submission]:
        """Those that may join what runs: in turn, as far as rows, padded tokens and the reading budget allow."""
        self._submissions = deque(self._wanted())
        chosen: list[Submission] = []
        while self._submissions and self._may_join(self._submissions[0], running, chosen):
            chosen.append(self._submissions.popleft())
        return chosen

    def take_all(self) -> list[Submission]:
        """Everything, so that nothing waits any more."""
        taken = list(self._submissions)
        self._submissions.clear()
        return taken

    def _wanted(self) -> list[Submission]:
        return [one for one in self._submissions if not one.future.cancelled()]

    def _may_join(
        self, newcomer: Submission, running: Sequence[Submission], chosen: Sequence[Submission]
    ) -> bool:
        mates = [*running, *chosen]
        if not mates:
            return True
        if newcomer.alone or any(mate.alone for mate in mates):
            return False
        if sum(one.prompt_tokens for one in chosen) >= PREFILL_TOKENS:
            return False
        together = [*mates, newcomer]
        rows = _rows(together)
        return rows <= MAX_ROWS and rows * max(one.width for one in together) <= self._batch_tokens


def _rows(submissions: Sequence[Submission]) -> int:
    return sum(len(one.requests) for one in submissions)
