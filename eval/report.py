"""The result for people who browse: one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eval.answer_rows import TEXT_BYTES, answer_rows, clip, html_bytes, longest_that_fits, passages_json
from eval.answers import AnswerRecord
from eval.cost_plots import break_even_plot, volume_plot
from eval.examples import CLASSES, examples
from eval.markdown import main_metrics, measured_on, segments_note, taken_lines
from eval.plots import Figure, contrasts_plot, forgetting_plot, outcomes_plot, quality_plot, retrieval_plot
from eval.result import EvaluationResult
from eval.studies import Study
from indexer.corpus import Question
from service.answer import Answer
from service.routes import Route


def html_report(
    result: EvaluationResult,
    questions: Sequence[Question],
    routes: Mapping[str, Route],
    records: Mapping[str, Sequence[AnswerRecord]],
    studies: Sequence[Study] = (),
) -> str:
    """`report.html`: needs nothing from the network; every text from outside is escaped.

    Style and script stand in the page, and its policy allows exactly these.
    """
    style, script = _template("report.css"), _template("report.js")
    metric = str(result.provenance.settings["primary_metric"])
    answers = {name: [record.answer for record in given] for name, given in records.items()}
    rows = answer_rows(questions, routes, records, metric)
    length = longest_that_fits(_texts(questions, answers), TEXT_BYTES, html_bytes)
    environment = Environment(
        loader=PackageLoader("eval"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clip"] = lambda text: text if length is None else clip(text, length)
    return environment.get_template("report.html.j2").render(
        result=result,
        policy=(
            f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
            "base-uri 'none'; form-action 'none'"
        ),
        style=Markup(style),  # noqa: S704 - files of ours
        script=Markup(script),  # noqa: S704
        metric=metric,
        metrics=main_metrics(result),
        taken=taken_lines(result),
        figures=_figures(result, routes),
        rows=rows,
        synthetic=sum(row.synthetic for row in rows),
        cut=length,
        passages=passages_json(questions, records),
        measured_on=measured_on(result),
        segments_note=segments_note(result),
        studies=studies,
        examples=[
            (kind.replace("_", " "), CLASSES[kind], some)
            for kind, some in examples(questions, routes, answers).items()
        ],
    )


def _figures(result: EvaluationResult, routes: Mapping[str, Route]) -> dict[str, Figure]:
    """The plots that there is something to draw for, by name."""
    drawn = (
        contrasts_plot(result),
        quality_plot(result),
        outcomes_plot(result.attribution),
        retrieval_plot(result.retrieval),
        volume_plot(result.costs, {name: route.retrieve for name, route in routes.items()}),
        break_even_plot(result.costs),
        forgetting_plot(result),
    )
    return {figure.name: figure for figure in drawn if figure is not None}


def _texts(questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]]) -> list[str]:
    asked = [text for question in questions for text in (question.text, *question.answers)]
    return [*asked, *(answer.answer for given in answers.values() for answer in given)]


def _template(name: str) -> str:
    return (files("eval") / "templates" / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """A style or script as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
