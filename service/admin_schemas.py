"""What the endpoints that look after a workspace take and give."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from indexer.corpus import Owner
from service.filters import Filter
from service.jobs import Job

MetadataValue = str | bool | int | float
SearchText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=8000)]


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [values]})


class DocumentBody(BaseModel):
    """A document to add or replace."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "title": "Tide table",
                    "text": "# Tides\n\nHigh water is at 06:40 and 19:05.",
                    "metadata": {"year": 2026},
                }
            ]
        },
    )

    title: str = Field(default="", max_length=1000)
    text: str = Field(min_length=1)
    metadata: dict[str, MetadataValue] = {}


class DocumentWritten(BaseModel):
    """What a put or a delete did; `generation` is the first in which it can be seen."""

    model_config = _example(id="tides.md", generation=8, created=True, chunks_embedded=2)

    id: str
    generation: int
    created: bool
    chunks_embedded: int


class DocumentEntry(BaseModel):
    """A document without its text; one of the `folder` changes with its file only."""

    model_config = _example(id="tides.md", title="Tide table", owner="api", characters=2310, chunks=4)

    id: str
    title: str
    owner: Owner
    characters: int
    chunks: int


class DocumentPage(BaseModel):
    """Some of the documents, in the order of their ids; `total` is how many there are in all."""

    documents: list[DocumentEntry]
    total: int
    offset: int


class IndexStatus(BaseModel):
    """The generation that answers come from, and what a sync would find in the documents folder."""

    model_config = _example(
        generation=7,
        documents=48,
        chunks=312,
        encoder="all-minilm-l6-v2:9d1c",
        stale=True,
        changed=["harbour.md"],
        removed=[],
        problem=None,
    )

    generation: int
    documents: int
    chunks: int
    encoder: str
    stale: bool
    """Whether files are new, changed (or cannot be read), or gone."""
    changed: list[str]
    """The first of them by name, and of those that are gone."""
    removed: list[str]
    problem: str | None
    """Why the folder could not be looked at."""


class SearchRequest(BaseModel):
    """A search without a model: the passages that a route with retrieval would be shown."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"query": "when is high water", "k": 5, "where": {"year": 2026}}]},
    )

    query: SearchText
    k: int = Field(default=5, ge=1, le=50)
    where: Filter | None = None


class SearchHit(BaseModel):
    """A passage; `dense` and `bm25` are null where that search did not have it among its candidates.

    `rerank` is the cross-encoder's score, null without one or where it has not read the passage.
    """

    model_config = _example(
        document_id="tides.md",
        title="Tides",
        heading="",
        chunk_id=313,
        start=0,
        end=23,
        text="High water is at 06:40.",
        score=0.98,
        dense=0.61,
        bm25=7.2,
        rerank=None,
    )

    document_id: str
    title: str
    heading: str
    chunk_id: int
    start: int
    end: int
    text: str
    score: float
    dense: float | None
    bm25: float | None
    rerank: float | None


class SearchResponse(BaseModel):
    """The best passages first."""

    generation: int
    hits: list[SearchHit]


class AdapterEntry(BaseModel):
    """One version of an adapter."""

    model_config = _example(
        name="mixed",
        version=3,
        promoted=True,
        loaded=True,
        recipe="mixed",
        method="lora",
        base_model="bundled:smollm2-135m-instruct",
        created="2026-11-24T17:05:11Z",
        tokens=412000,
        seconds=480.0,
        dev_scores={"f1": 0.38},
        gate_failures=[],
        stale="",
    )

    name: str
    version: int
    promoted: bool
    """Whether routes that name the adapter without a version use this one."""
    loaded: bool
    """Whether it is in memory; the first answer with it loads it otherwise."""
    recipe: str
    method: str
    base_model: str
    created: str
    tokens: int
    seconds: float
    dev_scores: dict[str, float]
    gate_failures: list[str] | None
    """What it did not show on dev; null if that was not measured."""
    stale: str
    """How the documents differ from those it was trained on; empty if they do not, or if that is not known."""


class AdapterList(BaseModel):
    """Every version of every adapter."""

    adapters: list[AdapterEntry]


class CurvePoint(BaseModel):
    """One look at the dev questions during training; `loss` is the mean since the last."""

    model_config = _example(step=40, tokens=82000, loss=1.74, dev={"f1": 0.31})

    step: int
    tokens: int
    loss: float
    dev: dict[str, float]


class Curve(BaseModel):
    """The course of training; empty for an adapter that was trained elsewhere."""

    points: list[CurvePoint]


class JobBody(BaseModel):
    """Work that goes on after the response; times are seconds since 1970."""

    model_config = _example(
        id="5f0c9a1be2d34f67",
        kind="evaluation",
        state="running",
        created=1764000000.0,
        started=1764000001.5,
        ended=None,
        step="evaluating",
        done=212,
        total=588,
        result=None,
        error=None,
    )

    id: str
    kind: Literal["sync", "evaluation"]
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    created: float
    started: float | None
    ended: float | None
    step: str
    """What it is at, with how much of it is `done` out of `total`."""
    done: int | None
    total: int | None
    result: dict[str, Any] | None
    """`{"evaluation": NAME}`, or what a sync did."""
    error: str | None

    @classmethod
    def of(cls, job: Job) -> JobBody:
        """The job as it is now."""
        return cls.model_validate(job, from_attributes=True)


class JobList(BaseModel):
    """The latest jobs, newest first."""

    jobs: list[JobBody]


class EvaluationEntry(BaseModel):
    """A finished evaluation; its `result` is the whole of `result.json`."""

    model_config = _example(name="a1b2c3d4e5f6", finished=1764000000.0, result={"schema": 1, "routes": {}})

    name: str
    finished: float
    result: dict[str, Any]


class EvaluationSummary(BaseModel):
    """A finished evaluation in short: the mean and interval of the primary metric by route."""

    model_config = _example(
        name="a1b2c3d4e5f6", finished=1764000000.0, questions=147, recommended="hybrid", reason="best by 0.15"
    )

    name: str
    finished: float
    questions: int
    recommended: str
    reason: str


class EvaluationList(BaseModel):
    """The latest first."""

    evaluations: list[EvaluationSummary]


class RatingRequest(BaseModel):
    """What one answer is worth; it replaces what was said of it before."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"answer": "0f3b62a1c9de84", "rating": "good"}]}
    )

    answer: str = Field(max_length=64)
    rating: Literal["good", "bad"]


class PreferenceRequest(BaseModel):
    """Which of two answers to the same question is better."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"preferred": "0f3b62a1c9de84", "rejected": "77ab01c2d3e4f5"}]},
    )

    preferred: str = Field(max_length=64)
    rejected: str = Field(max_length=64)


class FeedbackResponse(BaseModel):
    """The feedback is kept."""

    model_config = _example(id="5f0c9a1be2d34f67")

    id: str
