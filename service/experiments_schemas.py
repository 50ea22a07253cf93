"""What the endpoints for experiments take and give."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.experiments import PREFIX, ArmCounts, Experiment
from service.findings import Advice, Contrast, Findings

ExperimentName = Annotated[str, StringConstraints(pattern="^[a-z0-9][a-z0-9-]{0,63}$")]
Share = Annotated[float, Field(ge=0.001, le=1)]


class ExperimentRequest(BaseModel):
    """Routes that are to share the traffic of `experiment:NAME`, in proportion to the numbers given."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "reader-or-rag", "routes": {"rag": 0.5, "hybrid": 0.5}, "margin": 0.05}]
        },
    )

    name: ExperimentName
    routes: dict[str, Share] = Field(min_length=2, max_length=8)
    """Share of the users by route; the first route is the one to fall back on."""
    margin: float = Field(default=0.05, ge=0.001, le=0.5)
    """The smallest difference in the share of good answers that matters."""
    alpha: float = Field(default=0.05, ge=0.0001, le=0.2)
    """The chance of a wrong finding, over all pairs of routes and however often one looks."""


class StopRequest(BaseModel):
    """Which of the experiment's routes answers from now on."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"route": "hybrid"}]})

    route: str | None = None
    """Left out, it is the better one if one is known to be better, else the first."""


class ArmBody(BaseModel):
    """A route of an experiment and what it has had so far."""

    route: str
    share: float
    users: int
    requests: int
    ratings: int
    """All feedback on its answers."""
    counted: int
    """Users whose first word counts in the test."""
    good: int
    """Of `counted`."""


class ContrastBody(BaseModel):
    """Route `a` minus route `b`, in the share of good answers; interval and p hold whenever one looks."""

    a: str
    b: str
    difference: float | None
    low: float
    high: float
    p: float
    blocks: int
    """How many blocks of outcomes (one of each route, if their shares are equal) this rests on."""

    @classmethod
    def of(cls, contrast: Contrast) -> ContrastBody:
        """The contrast as it is now."""
        return cls.model_validate(contrast, from_attributes=True)


class ExperimentEntry(BaseModel):
    """An experiment without what it shows; times are seconds since 1970."""

    name: str
    model: str
    """What clients ask for."""
    state: Literal["running", "stopped"]
    created: float
    stopped: float | None
    successor: str | None
    """The route that answers since it was stopped."""
    margin: float
    alpha: float
    arms: list[ArmBody]

    @classmethod
    def of(cls, experiment: Experiment, counts: dict[str, ArmCounts]) -> ExperimentEntry:
        """The experiment as it is now."""
        return cls.model_validate(_fields(experiment, counts))


class ExperimentBody(ExperimentEntry):
    """An experiment with what it shows so far, and whether to go on."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "reader-or-rag",
                    "model": "experiment:reader-or-rag",
                    "state": "running",
                    "created": 1764000000.0,
                    "stopped": None,
                    "successor": None,
                    "margin": 0.05,
                    "alpha": 0.05,
                    "arms": [],
                    "advice": "better",
                    "leading": ["hybrid"],
                    "summary": "stop: hybrid is better than every other route",
                    "contrasts": [],
                }
            ]
        }
    )

    advice: Advice
    leading: list[str]
    """The routes that no other is known to be better than."""
    summary: str
    contrasts: list[ContrastBody]

    @classmethod
    def with_findings(
        cls, experiment: Experiment, counts: dict[str, ArmCounts], findings: Findings
    ) -> ExperimentBody:
        """The experiment as it is now."""
        shown = {
            "advice": findings.advice,
            "leading": list(findings.arms),
            "summary": _summary(findings, experiment.margin),
            "contrasts": [ContrastBody.of(contrast) for contrast in findings.contrasts],
        }
        return cls.model_validate(_fields(experiment, counts) | shown)


class ExperimentList(BaseModel):
    """The latest first."""

    experiments: list[ExperimentEntry]


def _fields(experiment: Experiment, counts: dict[str, ArmCounts]) -> dict[str, object]:
    arms = [
        ArmBody(
            route=route,
            share=experiment.shares[route],
            users=arm.users,
            requests=arm.requests,
            ratings=arm.ratings,
            counted=arm.counted,
            good=arm.good,
        )
        for route, arm in counts.items()
    ]
    return {
        "name": experiment.name,
        "model": PREFIX + experiment.name,
        "state": "running" if experiment.stopped is None else "stopped",
        "created": experiment.created,
        "stopped": experiment.stopped,
        "successor": experiment.successor,
        "margin": experiment.margin,
        "alpha": experiment.alpha,
        "arms": arms,
    }


def _summary(findings: Findings, margin: float) -> str:
    routes = " and ".join(findings.arms)
    match findings.advice:
        case "better":
            return f"stop: {routes} is better than every other route"
        case "no_difference":
            return f"stop: {routes} differ by less than {margin:g}"
        case "go_on":
            return f"go on: nothing is certain yet about {routes}"
