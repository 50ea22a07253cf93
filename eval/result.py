"""`result.json`: its schema, which scripts rely on, and reading it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.answers import EvalError
from eval.statistics import ContrastVerdict


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Measure(_Section):
    """A mean over questions with its 95 % interval, clustered by document."""

    mean: float
    ci: tuple[float, float]


class AbstentionResult(_Section):
    """How a route handles the questions without an answer; None where there were none to judge by."""

    unanswerable: int
    recall: Measure | None
    precision: float | None
    f1: float | None


class Latency(_Section):
    """Milliseconds per question, over the `n` questions that were answered one at a time."""

    p50: float
    p95: float
    n: int


class Tokens(_Section):
    """Mean tokens per question."""

    prompt: float
    completion: float


class GroundingResult(_Section):
    """Of the `n` answers given over passages: how far their wording stands there, and whether citations are right.

    `lexical` is the share of words found in the passages, `semantic` the similarity with the nearest sentence.
    """

    n: int
    lexical: Measure
    semantic: Measure | None
    citation_precision: Measure | None
    citation_recall: Measure | None


class MultipleChoice(_Section):
    """For questions whose answers are a few labels: always saying the commonest is right this often."""

    labels: list[str]
    majority: str
    majority_share: float


class RouteResult(_Section):
    """The scores of one route: `metrics` over the answerable questions, costs over all `n`."""

    n: int
    answerable: int
    metrics: dict[str, Measure]
    abstention: AbstentionResult
    grounding: GroundingResult | None
    latency_ms: Latency
    tokens: Tokens
    taken: dict[str, float] = {}
    """For `auto`, the share of the questions that each route answered."""


class ContrastResult(_Section):
    """Route `a` minus route `b`; `ci` is simultaneous over all contrasts; `mde` is None if unknowable."""

    a: str
    b: str
    metric: str
    difference: float
    ci: tuple[float, float]
    p: float
    p_holm: float
    mde: float | None
    verdict: ContrastVerdict
    non_inferior: bool
    more_questions: int


class RouteAttribution(_Section):
    """Why a route's answers are right or wrong: counts of questions.

    `outcomes` adds up to all questions. `against` compares with the route that differs only in retrieval, or
    only in the adapter, where the run has it.
    """

    outcomes: dict[str, int]
    against: dict[str, int]


class OracleResult(_Section):
    """A retrieving route shown exactly the passages with the answer, on the `n` questions that have any.

    `lost` is the oracle's score minus the route's on these: what better retrieval could gain at most.
    """

    n: int
    metric: str
    score: Measure
    lost: Measure


class RepeatsResult(_Section):
    """Primary scores of answers drawn at `temperature`, several times.

    `standard_error_questions` is the mean's from the choice of questions, `standard_deviation_runs` that of one
    run's mean from the drawing of answers; `share_of_decoding` the latter's share in the variance of one answer.
    """

    repeats: int
    temperature: float
    mean: float
    ci: tuple[float, float]
    standard_error_questions: float | None
    standard_deviation_runs: float
    share_of_decoding: float


class SegmentResult(_Section):
    """One kind of question: mean primary scores by route, and the route to use there.

    `differs` if that is another route than the recommended one, and better there beyond chance in any segment.
    """

    n: int
    documents: int
    scores: dict[str, float]
    use: str
    differs: bool


class ForgettingResult(_Section):
    """General multiple choice with an adapter and without: shares of right answers, and the paired change."""

    source: str
    items: str
    n: int
    chance: float
    base: Measure
    adapter: Measure
    change: Measure
    p: float


class RouteCost(_Section):
    """What a route needs per answer (means) and what that costs, in `prices.currency`; None if not known."""

    seconds: float
    prompt_tokens: float
    completion_tokens: float
    per_1000: float
    training_seconds: float | None
    training: float | None
    per_1000_with_training: float | None


class BreakEven(_Section):
    """A route with an adapter against the best one without.

    `questions_per_day` maps days between changes of the documents to the questions a day from which the tuned
    route is the cheaper one; None where it never is.
    """

    route: str
    against: str
    saving_per_1000: float
    quality_difference: float
    questions_per_day: dict[str, float | None]
    sentence: str


class CostsResult(_Section):
    """Costs by the price table of the run."""

    prices: dict[str, Any]
    routes: dict[str, RouteCost]
    break_even: list[BreakEven]


class VerdictResult(_Section):
    """Which route to use, and how sure that is."""

    recommended: str
    tied_with: list[str]
    more_questions: int
    reason: str


class Provenance(_Section):
    """What the numbers were measured on."""

    source: str
    corpus: str | None
    index_generation: int | None
    questions: str
    documents_asked_about: int
    synthetic_questions: int = 0
    """How many were made from the documents instead of asked by somebody."""
    base_model: str
    base_model_hash: str
    adapters: dict[str, str]
    routes: dict[str, dict[str, Any]]
    prompt: str
    settings: dict[str, Any]
    seed: int
    versions: dict[str, str]
    machine: dict[str, Any]
    timing: str


class EvaluationResult(_Section):
    """The whole of `result.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True, validate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    routes: dict[str, RouteResult]
    multiple_choice: MultipleChoice | None
    contrasts: list[ContrastResult]
    retrieval: dict[str, float]
    attribution: dict[str, RouteAttribution]
    oracle: dict[str, OracleResult]
    forgetting: dict[str, list[ForgettingResult]]
    """By adapter, what was measured by `openbook eval forgetting`; empty if it was not run."""
    segments: dict[str, SegmentResult]
    repeats: dict[str, RepeatsResult]
    """By route, with `--repeats`."""
    costs: CostsResult
    verdict: VerdictResult
    provenance: Provenance


def load_result(path: Path) -> EvaluationResult:
    """Read a `result.json`."""
    try:
        return EvaluationResult.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise EvalError(f"{path} is not a readable evaluation result; run `openbook eval` again") from error
