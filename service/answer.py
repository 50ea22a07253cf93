"""An answer, what it rests on, and what it cost; and a question that is ready for the model."""

from __future__ import annotations

from dataclasses import dataclass

from service.generation import GenerationRequest
from service.routes import Route
from tuner.decoding import FinishReason


@dataclass(frozen=True, slots=True)
class Citation:
    """A chunk that was shown in the prompt as passage `[number]`; `text` is `document.text[start:end]`."""

    number: int
    document_id: str
    title: str
    chunk_id: int
    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock milliseconds; every answer of a batch has the batch's times, as each waited that long."""

    queue: float
    retrieve: float
    generate: float
    total: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route said, what it was shown, and what that cost."""

    question: str
    answer: str
    route: str
    contexts: tuple[Citation, ...]
    """Every chunk in the prompt, in the order shown."""
    citations: tuple[Citation, ...]
    """The contexts whose text contains the answer; none if the route abstained."""
    abstained: bool
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    """`stop` if the model ended the answer itself, `length` if it ran into `max_new_tokens`."""
    timings_ms: Timings
    base_model: str
    adapter: str | None
    """`name@version`, or None for the plain base model."""
    generation: int | None
    """The index generation searched, or None if the route does not retrieve."""
    id: str = ""
    """Names the answer in feedback: equal for equal words of the same route about the same passages."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question ready for the model: its prompt and everything the answer will report about it."""

    question: str
    route: Route
    request: GenerationRequest
    contexts: tuple[Citation, ...]
    generation: int | None
    retrieve_ms: float
    retrieve_started: float = 0.0
    """Monotonic seconds."""
