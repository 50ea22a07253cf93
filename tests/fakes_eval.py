"""Answers without models: what a route says is looked up in a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from eval.provenance import Setup, route_identity
from indexer.corpus import Question, Split
from indexer.files import hash_text
from service.answer import Answer, Citation, Timings
from service.routes import Route

ROUTES: Mapping[str, Route] = {
    "base": Route("base", retrieve=False, prompt="brief"),
    "rag": Route("rag", retrieve=True, prompt="brief"),
    "tuned": Route("tuned", retrieve=False, adapter="mixed"),
    "hybrid": Route("hybrid", retrieve=True, adapter="mixed"),
}

SETUP = Setup(
    source="in process",
    base_model="tiny",
    base_model_hash="base-hash",
    adapters={"tuned": "mixed@1", "hybrid": "mixed@1"},
    adapter_hashes={"tuned": "weights", "hybrid": "weights"},
    corpus_hash="corpus",
    index_generation=1,
    making="making",
    examples_hash="examples",
)


class ScriptedRoutes:
    """Says what `say(question, route)` returns, and remembers in `calls` what it was asked."""

    parallel = 32

    def __init__(self, say: Callable[[str, Route], str], setup: Setup = SETUP) -> None:
        self.calls: list[list[tuple[str, Route]]] = []
        self.setup = setup
        self._say = say

    def keys(self, pairs: Sequence[tuple[str, Route]]) -> list[str]:
        return [hash_text(question, route_identity(route, self.setup)) for question, route in pairs]

    def answer_many(self, pairs: Sequence[tuple[str, Route]]) -> list[Answer]:
        self.calls.append(list(pairs))
        return [make_answer(question, route, self._say(question, route)) for question, route in pairs]


def make_answer(
    question: str, route: Route, text: str, contexts: Sequence[Citation] = (), milliseconds: float = 10.0
) -> Answer:
    return Answer(
        question=question,
        answer=text,
        route=route.name,
        contexts=tuple(contexts),
        citations=(),
        abstained=text == "I don't know.",
        prompt_tokens=100 * route.k * (1 + route.examples) if route.retrieve else 20 * (1 + route.examples),
        completion_tokens=5,
        finish_reason="stop",
        timings_ms=Timings(queue=0.0, retrieve=1.0, generate=milliseconds - 1.0, total=milliseconds),
        base_model="tiny",
        adapter=f"{route.adapter}@1" if route.adapter else None,
        generation=1 if route.retrieve else None,
    )


def make_context(document_id: str, start: int, end: int, text: str) -> Citation:
    return Citation(1, document_id, document_id.title(), 7, start, end, text, 0.9)


def make_questions(count: int, documents: int = 12, split: Split = Split.TEST) -> list[Question]:
    """Question `n` is about document `n mod documents` and answered by `answer n`."""
    return [
        Question(f"{split}-{n}", f"question {n}?", (f"answer {n}",), (f"doc{n % documents}.md",), split)
        for n in range(count)
    ]


def right_answer(question: str) -> str:
    return "answer " + question.removeprefix("question ").rstrip("?")
