"""Dose and response: what more phrasings of each fact do to an adapter's dev scores (`benchmarks/dose.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from eval.drawing import WIDTH, curves, in_words, linear, picture, width_of, write, x_axis, y_axis
from eval.plots import Figure

_LEFT, _TOP, _BOTTOM, _HEIGHT = 44.0, 26.0, 214.0, 260.0


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Dose(_Section):
    """One adapter, trained on so many `phrasings` of each fact; `seconds` is its training."""

    phrasings: int
    scores: dict[str, float]
    """Dev scores by what is asked: closed book, open book with so many passages."""
    tokens: int
    seconds: float


class DoseProvenance(_Section):
    """What the adapters were trained from; they serve no route."""

    corpus: str
    base_model: str
    base_model_hash: str


class DoseResult(_Section):
    """`dose.json`; the doses ascend."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True, validate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    sentence: str
    metric: str
    doses: list[Dose]
    provenance: DoseProvenance


def advice(doses: Sequence[Dose]) -> str:
    """Whether more phrasings would help, by the mean of the dev scores."""
    means = {dose.phrasings: sum(dose.scores.values()) / len(dose.scores) for dose in doses}
    best, most = max(means, key=means.__getitem__), max(means)
    found = f"The mean dev score is highest ({means[best]:.3f}) at a dose of {best} phrasings of each fact"
    if best < most:
        return f"{found}; {most} give {means[most]:.3f}. Each was trained once, so small steps may be chance."
    return f"{found}, the most that were tried: more may help."


def dose_plot(result: DoseResult) -> Figure:
    """Every dev score over the phrasings of each fact."""
    names = list(dict.fromkeys(name for dose in result.doses for name in dose.scores))
    scores_of = {
        name.replace("_", " "): [(d.phrasings, d.scores[name]) for d in result.doses if name in d.scores]
        for name in names
    }
    svg = picture(
        "dose-response", _HEIGHT, f"Dev {result.metric} over phrasings of each fact", in_words(scores_of)
    )
    right = WIDTH - 18 - 1.2 * max(map(width_of, scores_of))  # letters are larger on a phone
    across = linear([0.0, *(float(dose.phrasings) for dose in result.doses)], _LEFT, right)
    up = linear([0.0, *(score for points in scores_of.values() for _, score in points)], _BOTTOM, _TOP)
    x_axis(svg, across, _TOP, _BOTTOM, "phrasings of each fact")
    y_axis(svg, up, _LEFT, right, f"dev {result.metric}")
    curves(
        svg,
        scores_of,
        across,
        up,
        (right, _TOP, _BOTTOM),
        lambda label, dose, score: f"{label}, {dose} phrasings: {score:.3f}",
    )
    return Figure(
        "dose-response",
        "Dose and response",
        "Dev scores of adapters that differ only in how often, and in how many wordings, they were shown each fact.",
        write(svg),
    )
