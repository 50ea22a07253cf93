"""The report is complete, offline and escaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval.config import EvalConfig
from eval.markdown import markdown_report, markdown_table
from eval.run import Evaluation, Extras, evaluate
from indexer.corpus import Question, Split
from service.routes import Route
from tests.fakes_eval import ROUTES, ScriptedRoutes, make_questions, right_answer

HOSTILE = '<script>alert("x")</script>'


def say(question: str, route: Route) -> str:
    return f"{HOSTILE} {right_answer(question)}" if route.retrieve else "nonsense"


def run(folder: Path, questions: list[Question], routes=ROUTES) -> Evaluation:
    model = ScriptedRoutes(say)
    settings = EvalConfig(resamples=1000, latency_questions=1)
    return evaluate(model, questions, routes, folder, settings, Extras(retrieval={"recall@1": 0.885}))


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    hostile = Question("h", f"question {HOSTILE}?", (HOSTILE,), ("doc0.md",), Split.TEST)
    silent = Question("s", "question nobody can answer?", (), (), Split.TEST)
    return run(tmp_path, [*make_questions(30), hostile, silent])


class Tags(HTMLParser):
    """Every start tag with its attributes, and whether all that were opened were closed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.found.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def parse(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    return tags


def test_html_holds_no_script_and_refers_to_nothing_outside(evaluation: Evaluation) -> None:
    html = (evaluation.folder / "report.html").read_text()
    tags = parse(html)
    assert tags.open == []
    names = {name for name, _ in tags.found}
    assert not names & {"script", "link", "img", "iframe", "object"}
    assert not any({"src", "href"} & set(attributes) for _, attributes in tags.found)
    assert "url(" not in html
    assert "&lt;script&gt;" in html


def test_html_shows_verdict_contrasts_and_every_answer(evaluation: Evaluation) -> None:
    html = (evaluation.folder / "report.html").read_text()
    assert f"Use {evaluation.result.verdict.recommended}" in html
    assert all(f"{c.a} \N{MINUS SIGN} {c.b}" in html for c in evaluation.result.contrasts)
    assert all(f"question {n}?" in html for n in range(30))
    assert "read from context" in html or "parametric hit" in html
    assert "0.885" in html


def test_forest_plot_stays_inside_its_frame(evaluation: Evaluation) -> None:
    tags = parse((evaluation.folder / "report.html").read_text())
    lines = [attributes for name, attributes in tags.found if name == "line"]
    assert all(0 <= float(line[end]) <= 360 for line in lines for end in ("x1", "x2"))


def test_markdown_table_has_a_row_a_route_and_marks_the_recommended(evaluation: Evaluation) -> None:
    lines = markdown_table(evaluation.result).splitlines()
    assert len(lines) == 2 + len(ROUTES)
    assert len({len(line) for line in lines}) == 1
    assert [line for line in lines if line.startswith(f"| **{evaluation.result.verdict.recommended}**")]


def test_markdown_report_names_what_was_measured(evaluation: Evaluation) -> None:
    report = markdown_report(evaluation.result)
    assert "32 questions (31 answerable)" in report
    assert "margin 0.03 f1" in report
    assert re.search(r"\| hybrid - rag +\| [+-]0\.\d{3} \[", report)


def test_one_route_alone_needs_no_contrasts(tmp_path: Path) -> None:
    evaluation = run(tmp_path, make_questions(5), routes={"rag": ROUTES["rag"]})
    assert "Contrasts" not in (evaluation.folder / "report.html").read_text()
    assert "Use rag" in markdown_report(evaluation.result).replace("**", "")


def test_every_class_of_error_has_escaped_examples(evaluation: Evaluation) -> None:
    html = (evaluation.folder / "report.html").read_text()
    assert "not known: no passages, and the weights do not hold the answer (20 examples)" in html
    assert "hallucinated on unanswerable: no answer exists, and one was given (4 examples)" in html
