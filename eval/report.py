"""The result for people: a Markdown table for the terminal, and one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from eval.answers import AnswerRecord
from eval.attribution import Outcome, outcome
from eval.examples import CLASSES, examples
from eval.result import ContrastResult, EvaluationResult, Measure, OracleResult, RouteResult
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


def markdown_table(result: EvaluationResult) -> str:
    """Routes by row; means with intervals, latency and tokens."""
    names = main_metrics(result)
    header = [
        "route",
        *(f"{name} [95 % CI]" for name in names),
        "abstains rightly",
        "p50 ms",
        "p95 ms",
        "tokens",
    ]
    rows = [
        [
            f"**{name}**" if name == result.verdict.recommended else name,
            *(measure_text(route.metrics[metric]) for metric in names),
            measure_text(route.abstention.recall),
            f"{route.latency_ms.p50:.0f}",
            f"{route.latency_ms.p95:.0f}",
            f"{route.tokens.prompt + route.tokens.completion:.0f}",
        ]
        for name, route in result.routes.items()
    ]
    return _table(header, rows)


def main_metrics(result: EvaluationResult) -> list[str]:
    """The metrics of the first table: those that compare words, and accuracy on sets of labels."""
    found = next(iter(result.routes.values())).metrics
    return [name for name in found if name != "semantic_similarity"]


def markdown_report(result: EvaluationResult) -> str:
    """`report.md`: the verdict, the routes, the contrasts, retrieval and attribution."""
    contrasts = _table(
        [
            "contrast",
            "difference [simultaneous 95 % CI]",
            "p (Holm)",
            "detectable",
            "verdict",
            "more questions",
        ],
        [
            [
                f"{c.a} - {c.b}",
                f"{c.difference:+.3f} [{c.ci[0]:+.3f}, {c.ci[1]:+.3f}]",
                f"{c.p_holm:.4f}",
                "-" if c.mde is None else f"{c.mde:.3f}",
                c.verdict,
                str(c.more_questions) if c.verdict == "undecided" else "",
            ]
            for c in result.contrasts
        ],
    )
    attribution = _table(
        ["route", *(kind.value.replace("_", " ") for kind in Outcome)],
        [
            [name, *(str(route.outcomes.get(kind.value, 0)) for kind in Outcome)]
            for name, route in result.attribution.items()
        ],
    )
    retrieval = _table(list(result.retrieval), [[f"{value:.3f}" for value in result.retrieval.values()]])
    sections = [
        "# Evaluation",
        f"**Use {result.verdict.recommended}.** {result.verdict.reason}",
        markdown_table(result),
        *_majority_line(result),
        "## Meaning and passages",
        _grounding_table(result),
        "## Contrasts",
        contrasts,
        "## Why",
        attribution,
        *(_oracle_line(name, ceiling) for name, ceiling in result.oracle.items()),
        *(["## Retrieval", retrieval] if result.retrieval else []),
        *_forgetting_section(result),
        "## Costs",
        _costs_table(result),
        *(f"- {pair.sentence}" for pair in result.costs.break_even),
        _measured_on(result),
    ]
    return "\n\n".join(sections) + "\n"


def _majority_line(result: EvaluationResult) -> list[str]:
    choice = result.multiple_choice
    if choice is None:
        return []
    return [
        f"Always saying {choice.majority!r} is right on {choice.majority_share:.3f} of the answerable questions."
    ]


def _grounding_table(result: EvaluationResult) -> str:
    def cells(route: RouteResult) -> list[str]:
        rests = route.grounding
        return [
            measure_text(route.metrics.get("semantic_similarity")),
            measure_text(rests.lexical if rests else None),
            measure_text(rests.semantic if rests else None),
            measure_text(rests.citation_precision if rests else None),
            measure_text(rests.citation_recall if rests else None),
            "-" if route.abstention.precision is None else f"{route.abstention.precision:.3f}",
            "-" if route.abstention.f1 is None else f"{route.abstention.f1:.3f}",
        ]

    return _table(
        [
            "route",
            "like an accepted answer",
            "words in passages",
            "meaning in passages",
            "citations right",
            "right one cited",
            "abstention precision",
            "abstention F1",
        ],
        [[name, *cells(route)] for name, route in result.routes.items()],
    )


def _oracle_line(name: str, ceiling: OracleResult) -> str:
    return (
        f"- {name} shown exactly the right passages: {ceiling.metric} {measure_text(ceiling.score)} on {ceiling.n} "
        f"questions; retrieval costs it {measure_text(ceiling.lost)}"
    )


def _forgetting_section(result: EvaluationResult) -> list[str]:
    lines = [
        f"- {adapter}, {one.source} ({one.n} questions): {measure_text(one.adapter)} right, {one.base.mean:.3f} "
        f"without it; change {measure_text(one.change)}"
        for adapter, found in result.forgetting.items()
        for one in found
    ]
    return ["## Forgetting", "\n".join(lines)] if lines else []


def _costs_table(result: EvaluationResult) -> str:
    currency = str(result.costs.prices["currency"])
    return _table(
        [
            "route",
            "s an answer",
            f"{currency} per 1,000",
            f"{currency} a training",
            "with training, per 1,000",
        ],
        [
            [
                name,
                f"{cost.seconds:.3f}",
                f"{cost.per_1000:.4g}",
                "not known" if cost.training is None else f"{cost.training:.4g}",
                "not known" if cost.per_1000_with_training is None else f"{cost.per_1000_with_training:.4g}",
            ]
            for name, cost in result.costs.routes.items()
        ],
    )


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
        measured_on=_measured_on(result),
        examples=[
            (kind.replace("_", " "), CLASSES[kind], some)
            for kind, some in examples(questions, routes, answers).items()
        ],
    )


def measure_text(measure: Measure | None) -> str:
    """`0.612 [0.540, 0.681]`; a dash if there is nothing to measure."""
    return "-" if measure is None else f"{measure.mean:.3f} [{measure.ci[0]:.3f}, {measure.ci[1]:.3f}]"


def _measured_on(result: EvaluationResult) -> str:
    facts = result.provenance
    route = next(iter(result.routes.values()))
    return (
        f"{route.n} questions ({route.answerable} answerable) about {facts.documents_asked_about} documents; "
        f"base model {facts.base_model}; "
        f"margin {facts.settings['margin']:g} {facts.settings['primary_metric']}; "
        f"intervals by studentised bootstrap over documents, {facts.settings['resamples']} resamples, "
        f"seed {facts.seed}; {facts.timing}."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns; cells hold no text from outside but route names."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


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
