"""The result as Markdown: a table for the terminal, and `report.md`."""

from __future__ import annotations

from collections.abc import Sequence

from eval.attribution import Outcome
from eval.result import EvaluationResult, Measure, OracleResult, RouteResult
from eval.studies import Study


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
    return aligned_table(header, rows)


def main_metrics(result: EvaluationResult) -> list[str]:
    """The metrics of the first table: those that compare words, and accuracy on sets of labels."""
    found = next(iter(result.routes.values())).metrics
    return [name for name in found if name not in ("semantic_similarity", "gold_log_likelihood")]


def markdown_report(result: EvaluationResult, studies: Sequence[Study] = ()) -> str:
    """`report.md`: what `report.html` shows, without its plots and the answers."""
    contrasts = aligned_table(
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
                str(c.more_questions) if c.verdict == "undecided" and c.more_questions else "",
            ]
            for c in result.contrasts
        ],
    )
    attribution = aligned_table(
        ["route", *(kind.value.replace("_", " ") for kind in Outcome)],
        [
            [name, *(str(route.outcomes.get(kind.value, 0)) for kind in Outcome)]
            for name, route in result.attribution.items()
        ],
    )
    retrieval = aligned_table(
        list(result.retrieval), [[f"{value:.3f}" for value in result.retrieval.values()]]
    )
    sections = [
        "# Evaluation",
        f"**Use {result.verdict.recommended}.** {result.verdict.reason}",
        *synthetic_line(result),
        markdown_table(result),
        *taken_lines(result),
        *_majority_line(result),
        "## Meaning and passages",
        _grounding_table(result),
        "## Contrasts",
        contrasts,
        "## Why",
        attribution,
        *(_oracle_line(name, ceiling) for name, ceiling in result.oracle.items()),
        *(["## Retrieval", retrieval] if result.retrieval else []),
        *_segments_section(result),
        *_repeats_section(result),
        *_forgetting_section(result),
        "## Costs",
        _costs_table(result),
        *(f"- {pair.sentence}" for pair in result.costs.break_even),
        *(part for study in studies for part in _study_section(study)),
        measured_on(result),
    ]
    return "\n\n".join(sections) + "\n"


def taken_lines(result: EvaluationResult) -> list[str]:
    """What `auto` did, where it was asked."""
    return [
        f"{name} took {', '.join(f'{taken} for {share:.0%}' for taken, share in route.taken.items())} of the questions."
        for name, route in result.routes.items()
        if route.taken
    ]


def synthetic_line(result: EvaluationResult) -> list[str]:
    """What to keep in mind of questions that nobody asked; nothing where all are real."""
    made, asked = result.provenance.synthetic_questions, next(iter(result.routes.values())).n
    if not made:
        return []
    return [
        f"{made} of {asked} questions are synthetic (made from the documents): read the scores with care."
    ]


def _majority_line(result: EvaluationResult) -> list[str]:
    choice = result.multiple_choice
    if choice is None:
        return []
    return [
        f"Always saying {_plain(choice.majority)!r} is right on {choice.majority_share:.3f} of the answerable "
        "questions."
    ]


def _grounding_table(result: EvaluationResult) -> str:
    def cells(route: RouteResult) -> list[str]:
        rests = route.grounding
        return [
            measure_text(route.metrics.get("semantic_similarity")),
            measure_text(route.metrics.get("gold_log_likelihood")),
            measure_text(rests.lexical if rests else None),
            measure_text(rests.semantic if rests else None),
            measure_text(rests.citation_precision if rests else None),
            measure_text(rests.citation_recall if rests else None),
            "-" if route.abstention.precision is None else f"{route.abstention.precision:.3f}",
            "-" if route.abstention.f1 is None else f"{route.abstention.f1:.3f}",
        ]

    return aligned_table(
        [
            "route",
            "like an accepted answer",
            "log-likelihood of one",
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


def _segments_section(result: EvaluationResult) -> list[str]:
    if not result.segments:
        return []
    table = aligned_table(
        ["questions", "n", *result.routes, "use"],
        [
            [name, str(segment.n), *(f"{score:.3f}" for score in segment.scores.values()), segment.use]
            for name, segment in result.segments.items()
        ],
    )
    return ["## By kind of question", table, segments_note(result)]


def segments_note(result: EvaluationResult) -> str:
    """Where another route should be used, in one sentence."""
    exceptions = [f"{name}: {segment.use}" for name, segment in result.segments.items() if segment.differs]
    if not exceptions:
        return (
            f"No kind of question is answered better by another route than {result.verdict.recommended}, "
            "as far as these questions tell."
        )
    return (
        f"Better than {result.verdict.recommended} there (corrected over all kinds): {'; '.join(exceptions)}."
    )


def _repeats_section(result: EvaluationResult) -> list[str]:
    if not result.repeats:
        return []
    first = next(iter(result.repeats.values()))
    table = aligned_table(
        ["route", "mean [95 % CI]", "error from questions", "spread of one run", "share of decoding"],
        [
            [
                name,
                measure_text(Measure(mean=one.mean, ci=one.ci)),
                "-" if one.standard_error_questions is None else f"{one.standard_error_questions:.4f}",
                f"{one.standard_deviation_runs:.4f}",
                f"{one.share_of_decoding:.2f}",
            ]
            for name, one in result.repeats.items()
        ],
    )
    return ["## Drawn answers", f"{first.repeats} runs at temperature {first.temperature:g}.", table]


def _forgetting_section(result: EvaluationResult) -> list[str]:
    lines = [
        f"- {adapter}, {one.source} ({one.n} questions): {measure_text(one.adapter)} right, {one.base.mean:.3f} "
        f"without it; change {measure_text(one.change)}"
        for adapter, found in result.forgetting.items()
        for one in found
    ]
    return ["## Forgetting", "\n".join(lines)] if lines else []


def _study_section(study: Study) -> list[str]:
    tables = [aligned_table(table.header, table.rows) for table in study.tables]
    said = [_plain(study.sentence)] if study.sentence else []
    return [f"## {study.title}", *said, *tables, _plain(study.source)]


def _costs_table(result: EvaluationResult) -> str:
    currency = str(result.costs.prices["currency"])
    return aligned_table(
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


def measure_text(measure: Measure | None) -> str:
    """`0.612 [0.540, 0.681]`; a dash if there is nothing to measure."""
    return "-" if measure is None else f"{measure.mean:.3f} [{measure.ci[0]:.3f}, {measure.ci[1]:.3f}]"


def measured_on(result: EvaluationResult) -> str:
    """What the numbers rest on, in a few sentences."""
    facts = result.provenance
    route = next(iter(result.routes.values()))
    metric = str(facts.settings["primary_metric"]).replace("_", " ")
    return (
        f"{route.n} questions ({route.answerable} answerable) about {facts.documents_asked_about} documents were "
        f"asked; the base model is {facts.base_model}. "
        f"Differences in {metric} of less than {facts.settings['margin']:g} are too small to matter. "
        "Intervals of means come from a studentised bootstrap, those of differences from flipped signs, both over "
        f"whole documents ({facts.settings['resamples']:,} resamples, seed {facts.seed}). "
        f"{facts.timing[:1].upper()}{facts.timing[1:]}."
    )


def aligned_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    cells = [[_plain(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _plain(text: str) -> str:
    """Text from outside as one cell or phrase: no line breaks, no columns, no HTML of its own."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
