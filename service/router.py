"""The `auto` route: a small model that takes one of the routes, by what is known before the question is answered.

`openbook eval router` trains it on dev questions and writes it down; here it is read and applied.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from indexer.config import Workspace
from indexer.database import IndexMissing
from indexer.files import hash_json
from indexer.metadata import Where
from indexer.retriever import Hit
from service.answer import Answer
from service.answering import Answerer
from service.routes import AUTO, Route
from tuner.decoding import Decoded, Sampling
from tuner.registry import AdapterError

DEPTH = 10
"""Hits looked at, whatever the routes show."""
PROBE = Sampling(max_new_tokens=8, logprobs=0)
"""How the base model is asked for the start of its answer, to see how sure it is."""

Facts = Mapping[str, float]
"""What is known of a question before it is answered, by name."""
Number = Annotated[float, Field(allow_inf_nan=False)]

_SHAPES = {
    "asks_person": r"\bwho(m|se)?\b",
    "asks_time": r"\bwhen\b|\bwhat (year|date|day|time)\b",
    "asks_place": r"\bwhere\b",
    "asks_amount": r"\bhow (many|much|long|far|high|old|often|tall|big|deep|heavy)\b",
    "asks_yes_no": r"^(is|are|was|were|do|does|did|can|could|has|have|had|will|would|should)\b",
}
"""English ones; in other languages these facts are the same for every question, and decide nothing."""


class RouterError(ValueError):
    """A router that cannot be used, as it is or with these routes; the message says why and what to do."""


class TrainedRouter(BaseModel):
    """`auto.json`: a linear estimate of every route's score; the route with the highest is taken.

    The estimate is `intercepts[route] + sum(weights[route] * (facts - means) / scales)`. The first of equals is taken,
    so that cheaper routes come first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    routes: dict[str, str] = Field(min_length=1)
    """By route, `Answerer.lasting_identity` when the router was trained."""
    probe: str | None
    """The route that is asked for the start of its answer, if `facts` has its confidence."""
    facts: list[str]
    means: list[Number]
    scales: list[Annotated[Number, Field(gt=0)]]
    weights: dict[str, list[Number]]
    intercepts: dict[str, Number]
    encoder: str | None
    index_generation: int | None
    """Of the documents that it was trained over, where a route retrieves."""

    @model_validator(mode="after")
    def _fits_together(self) -> TrainedRouter:
        known = {**question_facts(""), **retrieval_facts([]), **confidence_facts(None)}
        if not set(self.facts) <= set(known):
            raise ValueError(f"unknown facts {sorted(set(self.facts) - set(known))}")
        lengths = {len(self.facts), *map(len, [self.means, self.scales, *self.weights.values()])}
        names = {tuple(table) for table in (self.routes, self.weights, self.intercepts)}
        if len(lengths) != 1 or len(names) != 1 or not {self.probe} <= {None, *self.routes}:
            raise ValueError("its tables do not fit together")
        return self

    def require_routes(self, names: Collection[str]) -> None:
        """Raise RouterError if a route that it takes is not among `names`."""
        for name in self.routes:
            if name not in names:
                raise RouterError(
                    f"the router was trained with route {name!r}, which is not among {', '.join(names)}; "
                    "run `openbook eval router`"
                )

    def choose(self, facts: Facts) -> str:
        """The name of the route to take."""
        units = [(facts[n] - m) / s for n, m, s in zip(self.facts, self.means, self.scales, strict=True)]

        def estimate(route: str) -> float:
            weighted = (w * unit for w, unit in zip(self.weights[route], units, strict=True))
            return self.intercepts[route] + sum(weighted)

        return max(self.routes, key=estimate)


class Router:
    """A trained router over the routes that are served."""

    def __init__(self, trained: TrainedRouter, answerer: Answerer) -> None:
        """Raises RouterError if it was trained with other routes."""
        self.trained = trained
        self._answerer = answerer
        self.require_same_routes()

    @property
    def probe(self) -> Route | None:
        """The route whose confidence is to be known before `choose`."""
        return None if self.trained.probe is None else self._answerer.route(self.trained.probe)

    def require_same_routes(self) -> None:
        """Raise RouterError if a route is no longer what it was in training: it may be good at other questions."""
        self.trained.require_routes(self._answerer.routes)
        for name, identity in self.trained.routes.items():
            if self._answerer.lasting_identity(self._answerer.routes[name]) != identity:
                raise RouterError(
                    f"route {name!r} has changed since the router was trained (its options, adapter or model, "
                    "or how documents are cut and embedded); run `openbook eval router`"
                )

    def stale(self) -> str:
        """How the documents differ from those it was trained over; empty if they do not."""
        then, now = self.trained.index_generation, self._answerer.index_generation()
        if then is None or now == then:
            return ""
        return f"trained over generation {then} of the documents, which are at {now}"

    def identity(self) -> str | None:
        """Hash of all that its answers depend on beside the question; None if it cannot answer as things are."""
        try:
            self.require_same_routes()
            behind = {
                name: self._answerer.identity(self._answerer.route(name)) for name in self.trained.routes
            }
        except (RouterError, AdapterError, IndexMissing):
            return None
        return hash_json([self.trained.model_dump(mode="json"), behind])

    def facts(self, question: str, where: Where | None) -> dict[str, float]:
        """What is known of a question without asking a model. Raises RouterError, IndexMissing, CorpusError."""
        self.require_same_routes()
        facts = question_facts(question)
        if set(self.trained.facts) & set(retrieval_facts([])):
            _, hits = self._answerer.search(question, DEPTH, where)
            facts |= retrieval_facts(hits)
        return facts

    def choose(self, facts: Facts) -> Route:
        """The route to take."""
        return self._answerer.route(self.trained.choose(facts))

    def answer(self, question: str) -> Answer:
        """Answer one question by the route that fits it, in this thread; `total` includes the choice.

        Raises what `facts` and `Answerer.answer_many` do.
        """
        started = time.monotonic()
        facts = self.facts(question, None)
        if (probe := self.probe) is not None:
            [prepared] = self._answerer.prepare([(question, probe)], PROBE)
            [decoded] = self._answerer.generator.generate([prepared.request])
            facts |= confidence_facts(decoded)
        [answer] = self._answerer.answer_many([(question, self.choose(facts))])
        total_ms = (time.monotonic() - started) * 1000
        return replace(answer, timings_ms=replace(answer.timings_ms, total=total_ms))


def question_facts(question: str) -> dict[str, float]:
    """Length and shape of a question."""
    words = re.findall(r"\w+", question)
    plain = question.strip().casefold()
    return {
        "words": math.log1p(len(words)),
        "names": sum(word[0].isupper() for word in words[1:]) / max(len(words), 1),
        "numbers": float(any(word[0].isdigit() for word in words)),
        **{name: float(re.search(shape, plain) is not None) for name, shape in _SHAPES.items()},
    }


def retrieval_facts(hits: Sequence[Hit]) -> dict[str, float]:
    """How good the best hits are, how far ahead the first is, and whether both searches agree on it."""
    dense, bm25 = [hit.dense or 0.0 for hit in hits], [hit.bm25 or 0.0 for hit in hits]
    best_dense, next_dense = _first_two(dense)
    best_bm25, next_bm25 = _first_two(bm25)
    best_fused, next_fused = _first_two([hit.score for hit in hits])
    nearest = hits[:5]
    return {
        "dense": best_dense,
        "dense_gap": best_dense - next_dense,
        "bm25": math.log1p(best_bm25),
        "bm25_gap": (best_bm25 - next_bm25) / best_bm25 if best_bm25 > 0 else 0.0,
        "fused_gap": best_fused - next_fused,
        "same_first": float(bool(hits) and dense.index(best_dense) == bm25.index(best_bm25)),
        "same_document": sum(hit.chunk.document_id == hits[0].chunk.document_id for hit in nearest)
        / max(len(nearest), 1),
    }


def confidence_facts(decoded: Decoded | None) -> dict[str, float]:
    """How likely the model finds the start of its own answer: the first token, and the mean of those asked for."""
    found = [place.logprob for place in decoded.logprobs] if decoded else []
    if not found:  # it ended at once
        return {"confidence_first": 0.0, "confidence_mean": 0.0}
    return {"confidence_first": found[0], "confidence_mean": sum(found) / len(found)}


def router_path(workspace: Workspace) -> Path:
    """Where `openbook eval router` leaves the router that is served."""
    return workspace.data / f"{AUTO}.json"


def load_router(path: Path) -> TrainedRouter | None:
    """The trained router, if there is one. Raises RouterError if it cannot be read."""
    if not path.exists():
        return None
    try:
        return TrainedRouter.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RouterError(f"{path} is damaged or of another version; run `openbook eval router`") from error


def _first_two(values: Sequence[float]) -> tuple[float, float]:
    first, second, *_ = [*sorted(values, reverse=True), 0.0, 0.0]
    return first, second
