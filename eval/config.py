"""The `[eval]` section of openbook.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

PrimaryMetric = Literal["f1", "exact_match", "containment"]


class Prices(BaseModel):
    """What machines and tokens cost; edit it to your own prices."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    currency: str = "USD"
    """Shown beside every amount."""
    machine_hour: float = Field(default=0.10, ge=0)
    """An hour of the machine that answers."""
    training_hour: float = Field(default=0.10, ge=0)
    """An hour of the machine that trains."""
    million_prompt_tokens: float = Field(default=0.0, ge=0)
    """A million tokens read, where a model is paid by the token."""
    million_completion_tokens: float = Field(default=0.0, ge=0)
    """A million tokens written."""
    questions_per_day: float = Field(default=1000.0, gt=0)
    """How many questions training is spread over."""
    change_days: float = Field(default=30.0, gt=0)
    """Days between changes of the documents, after which a route without retrieval is trained again."""
    retrain_days: float = Field(default=90.0, gt=0)
    """Days that the adapter of a route with retrieval is used."""


class EvalConfig(BaseModel):
    """What is asked, and the metric, margin and contrasts, which are declared before the run."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    questions: Path = Path("questions.jsonl")
    """Read by `tune` (train, dev) and `eval` (dev for prompts, test for the verdict)."""
    primary_metric: PrimaryMetric = "f1"
    """What routes are compared by, on answerable questions: `f1`, `exact_match` or `containment`."""
    margin: float = Field(default=0.03, gt=0, lt=1)
    """A difference of the primary metric too small to matter."""
    resamples: int = Field(default=10_000, ge=1_000)
    """Bootstrap and permutation resamples."""
    seed: int = Field(default=0, ge=0)
    """Of the resampling."""
    contrasts: tuple[tuple[str, str], ...] = (
        ("rag", "base"),
        ("tuned", "base"),
        ("hybrid", "rag"),
        ("hybrid", "tuned"),
    )
    """Pairs of routes whose differences are tested, declared beforehand."""
    semantic: bool = True
    """Whether answers are also compared by meaning (similarity with gold and passages), with `model.encoder`."""
    gold_likelihood: bool = False
    """Whether the log-probability of the accepted answers is measured too (in this process); takes a pass more."""
    oracle: bool = True
    """Whether routes that retrieve also answer from the gold passages, to show what better retrieval could gain."""
    temperature: float = Field(default=0.7, gt=0, le=2)
    """Of the answers that `--repeats` draws at random; all others are the likeliest."""
    latency_questions: int = Field(default=10, ge=1)
    """How many questions per route are answered one at a time, so that latency is not that of a batch."""

    prices: Prices = Field(default_factory=Prices)
    """What answers and training cost: the table `[eval.prices]`."""

    @field_validator("contrasts")
    @classmethod
    def _pairs_are_distinct(cls, pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        for a, b in pairs:
            if a == b:
                raise ValueError(f"contrast [{a!r}, {b!r}] compares a route with itself; name two routes")
        if len(set(map(frozenset, pairs))) < len(pairs):
            raise ValueError("a contrast is listed twice; list each pair of routes once")
        return pairs
