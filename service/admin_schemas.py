"""What the endpoints for adapters, jobs, evaluations and feedback take and give."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.jobs import Job


def example(**values: Any) -> ConfigDict:
    """The configuration of a model whose documentation shows these values."""
    return ConfigDict(json_schema_extra={"examples": [values]})


class AdapterEntry(BaseModel):
    """One version of an adapter."""

    model_config = example(
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

    model_config = example(step=40, tokens=82000, loss=1.74, dev={"f1": 0.31})

    step: int
    tokens: int
    loss: float
    dev: dict[str, float]


class Curve(BaseModel):
    """The course of training; empty for an adapter that was trained elsewhere."""

    points: list[CurvePoint]


class JobBody(BaseModel):
    """Work that goes on after the response; times are seconds since 1970."""

    model_config = example(
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

    model_config = example(name="a1b2c3d4e5f6", finished=1764000000.0, result={"schema": 1, "routes": {}})

    name: str
    finished: float
    result: dict[str, Any]


class EvaluationSummary(BaseModel):
    """A finished evaluation in short: the mean and interval of the primary metric by route."""

    model_config = example(
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

    model_config = example(id="5f0c9a1be2d34f67")

    id: str
