"""The result for people who browse: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from eval.answers import AnswerRecord
from eval.attribution import Outcome, outcome
from eval.examples import CLASSES, examples
from eval.markdown import main_metrics, measure_text, measured_on, segments_note
from eval.result import ContrastResult, EvaluationResult
from indexer.corpus import Question
from service.routes import Route

_PLOT_WIDTH = 360.0
_GOOD = (Outcome.READ, Outcome.PARAMETRIC_HIT, Outcome.RIGHT_ABSTENTION)


@dataclass(frozen=True, slots=True)
class _ForestRow:
    """One contrast of the forest plot, with its positions in pixels."""

    contrast: ContrastResult
    low: float
    point: float
    high: float


@dataclass(frozen=True, slots=True)
class _Forest:
    """The forest plot: rows, and where nought and the margins lie, in pixels."""

    rows: list[_ForestRow]
    width: float
    zero: float
    margin_low: float
    margin_high: float
    limit: float


@dataclass(frozen=True, slots=True)
class _Bar:
    """One piece of a route's attribution bar, in per cent of its questions."""

    outcome: str
    count: int
    start: float
    share: float
    good: bool


@dataclass(frozen=True, slots=True)
class _Cell:
    """One route's answer to one question."""

    text: str
    outcome: str
    good: bool


def html_report(
    result: EvaluationResult,
    questions: Sequence[Question],
    routes: Mapping[str, Route],
    records: Mapping[str, Sequence[AnswerRecord]],
) -> str:
    """`report.html`: needs nothing from the network; every text from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("eval"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["measure"] = measure_text
    answers = {name: [record.answer for record in given] for name, given in records.items()}
    return environment.get_template("report.html.j2").render(
        result=result,
        metrics=main_metrics(result),
        forest=_forest(result) if result.contrasts else None,
        bars={name: _bars(route.outcomes) for name, route in result.attribution.items()},
        rows=[
            (question, [_cell(question, routes[name], given[index]) for name, given in records.items()])
            for index, question in enumerate(questions)
        ],
        measured_on=measured_on(result),
        segments_note=segments_note(result),
        examples=[
            (kind.replace("_", " "), CLASSES[kind], some)
            for kind, some in examples(questions, routes, answers).items()
        ],
    )


def _forest(result: EvaluationResult) -> _Forest:
    margin = float(result.provenance.settings["margin"])
    ends = [abs(end) for contrast in result.contrasts for end in contrast.ci]
    limit = 1.05 * max(*ends, 2 * margin)

    def position(difference: float) -> float:
        return round((difference + limit) / (2 * limit) * _PLOT_WIDTH, 1)

    rows = [
        _ForestRow(c, position(c.ci[0]), position(c.difference), position(c.ci[1])) for c in result.contrasts
    ]
    return _Forest(rows, _PLOT_WIDTH, position(0), position(-margin), position(margin), limit)


def _bars(outcomes: Mapping[str, int]) -> list[_Bar]:
    total = sum(outcomes.values())
    bars, start = [], 0.0
    for kind in sorted((Outcome(name) for name in outcomes), key=lambda kind: kind not in _GOOD):
        share = 100 * outcomes[kind.value] / total
        bars.append(_Bar(kind.value.replace("_", " "), outcomes[kind.value], start, share, kind in _GOOD))
        start += share
    return bars


def _cell(question: Question, route: Route, record: AnswerRecord) -> _Cell:
    kind = outcome(question, route, record.answer)
    return _Cell(record.answer.answer, kind.value.replace("_", " "), kind in _GOOD)
