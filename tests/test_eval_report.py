"""The report is complete, offline and escaped."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval.answer_rows import clip, longest_that_fits
from eval.answers import AnswerRecord
from eval.config import EvalConfig
from eval.markdown import markdown_report, markdown_table
from eval.report import html_report
from eval.run import Evaluation, Extras, evaluate
from indexer.corpus import Question, Split
from service.answer import Answer
from service.routes import Route
from tests.fakes_eval import ROUTES, ScriptedRoutes, make_answer, make_context, make_questions, right_answer

PAYLOADS = (
    "<script>document.title = 'owned'</script>",
    "</script><script>document.title = 'owned'</script>",
    '"><img src=x onerror="document.title = 1">',
    "' autofocus onfocus='document.title = 1",
    "<!-- </td></table> <style>body { display: none }</style>",
    "{{ 7 * 7 }} {% raw %} &lt;b&gt; \u2028 ]]>",
    "=HYPERLINK(1)",
)
HARMLESS = "harmless"
MOST_BYTES = 5_000_000


class Routes(ScriptedRoutes):
    """Routes with retrieval also show a passage that holds what they say."""

    def answer_many(self, pairs: list[tuple[str, Route]]) -> list[Answer]:
        return [
            replace(given, contexts=(make_context(f"{given.answer}.md", 0, 9, f"A passage: {given.answer}"),))
            if route.retrieve
            else given
            for given, (_, route) in zip(super().answer_many(pairs), pairs, strict=True)
        ]


def run(folder: Path, questions: list[Question], routes=ROUTES, payload: str = HARMLESS) -> Evaluation:
    def say(question: str, route: Route) -> str:
        return f"{payload} {right_answer(question)}" if route.retrieve else "nonsense"

    settings = EvalConfig(resamples=1000, latency_questions=1)
    extras = Extras(retrieval={"recall@1": 0.885, "mrr": 0.9})
    return evaluate(Routes(say), questions, routes, folder, settings, extras)


def questions_with(payload: str) -> list[Question]:
    hostile = Question(f"h{payload}", f"question {payload}?", (payload,), (f"{payload}.md",), Split.TEST)
    silent = Question("s", "question nobody can answer?", (), (), Split.TEST)
    return [*make_questions(30), hostile, silent]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return run(tmp_path_factory.mktemp("evaluations") / "one", questions_with(HARMLESS))


class Tags(HTMLParser):
    """Every start tag with its attributes, the texts of scripts and styles, and whether all tags were closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]].append(data)

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.found if (value := attributes.get(attribute)) is not None]


def html_of(evaluation: Evaluation) -> str:
    return (evaluation.folder / "report.html").read_text()


def sha256(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_html_refers_to_nothing_outside(evaluation: Evaluation) -> None:
    html = html_of(evaluation)
    tags = Tags(html)
    assert tags.open == []
    assert not {name for name, _ in tags.found} & {"link", "img", "iframe", "object", "base"}
    assert not any({"src", "style", "action"} & set(attributes) for _, attributes in tags.found)
    assert "url(" not in html
    assert set(re.findall(r"https?://[^\s\"']+", html)) == {"http://www.w3.org/2000/svg"}
    ids = tags.values("id")
    assert len(ids) == len(set(ids))
    assert {f"#{name}" for name in ids} >= set(tags.values("href"))
    assert {name for names in tags.values("aria-labelledby") for name in names.split()} <= set(ids)


def test_policy_allows_the_style_and_script_of_the_page_and_nothing_else(evaluation: Evaluation) -> None:
    tags = Tags(html_of(evaluation))
    [policy] = [a["content"] for _, a in tags.found if a.get("http-equiv") == "Content-Security-Policy"]
    [style], [_, script] = tags.inside["style"], tags.inside["script"]
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules == {
        "default-src": "'none'",
        "style-src": sha256(style),
        "script-src": sha256(script),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


@pytest.mark.parametrize("payload", PAYLOADS)
def test_text_from_documents_and_answers_stays_text(
    tmp_path: Path, evaluation: Evaluation, payload: str
) -> None:
    html = html_of(run(tmp_path, questions_with(payload), payload=payload))
    expected, tags = Tags(html_of(evaluation)), Tags(html)
    # Scores, and so plots, may differ; what the page consists of may not.
    for kinds in (
        (lambda tags: {name for name, _ in tags.found}),
        (lambda tags: {n for _, a in tags.found for n in a}),
    ):
        assert kinds(tags) <= kinds(expected)
    for name in ("script", "style", "form"):
        assert len([1 for n, _ in tags.found if n == name]) == len(
            [1 for n, _ in expected.found if n == name]
        )
    assert tags.open == []
    assert f"h{payload}" in tags.values("data-id")
    data = json.loads(tags.inside["script"][0])
    assert any(passage[4] == f"A passage: {payload} answer 3" for passage in data["passages"])


def test_html_shows_verdict_contrasts_and_every_answer(evaluation: Evaluation) -> None:
    html = html_of(evaluation)
    assert f"Use {evaluation.result.verdict.recommended}" in html
    assert evaluation.result.verdict.reason in html
    assert all(f"{c.a} \N{MINUS SIGN} {c.b}" in html for c in evaluation.result.contrasts)
    assert all(f"question {n}?" in html for n in range(30))
    assert "0.885" in html
    for name in ("quality", "contrasts", "outcomes", "retrieval"):
        assert f'<figure id="{name}">' in html


def test_passages_are_kept_once_with_gold_and_cited_ones_marked(evaluation: Evaluation) -> None:
    question = Question("q", "Who?", ("Ada",), ("a.md",), Split.TEST)
    gold, other = make_context("a.md", 0, 9, "Ada wrote it."), make_context("b.md", 0, 9, "Nobody knows.")
    shown = {"base": (), "rag": (gold, other), "tuned": (), "hybrid": (replace(gold, score=0.1, number=2),)}
    records = {
        name: [
            AnswerRecord(
                "",
                "q",
                1,
                replace(make_answer("Who?", ROUTES[name], "Ada", contexts), citations=contexts[:1]),
            )
        ]
        for name, contexts in shown.items()
    }
    html = html_report(evaluation.result, [question], ROUTES, records)
    data = json.loads(Tags(html).inside["script"][0])
    assert [passage[:1] + passage[4:] for passage in data["passages"]] == [
        ["a.md", "Ada wrote it."],
        ["b.md", "Nobody knows."],
    ]
    assert data["shown"] == [[[], [[0, 3], [1, 0]], [], [[0, 3]]]]
    assert data["cut"] is None


def test_report_of_300_questions_with_long_passages_stays_below_five_megabytes(
    evaluation: Evaluation,
) -> None:
    questions = [replace(q, text=q.text + " why" * 50) for q in make_questions(300)]

    def record(number: int, route: Route) -> AnswerRecord:
        contexts = [
            make_context(f"{number}-{k}.md", 0, 9, f"<{number} {k}>" + " ünlike & <b>words</b>" * 120)
            for k in range(5 if route.retrieve else 0)
        ]
        return AnswerRecord("", f"test-{number}", 1, make_answer("", route, "long <answer> " * 120, contexts))

    records = {name: [record(n, route) for n in range(300)] for name, route in ROUTES.items()}
    html = html_report(evaluation.result, questions, ROUTES, records)
    assert len(html.encode()) < MOST_BYTES
    assert re.search(r"Texts are cut to \d+ characters", html)
    assert json.loads(Tags(html).inside["script"][0])["cut"] >= 120


def test_texts_are_cut_only_as_far_as_they_must_be() -> None:
    texts = ["a" * 1000, "b" * 300, "c"]
    assert longest_that_fits(texts, 1301, len) is None
    cut = longest_that_fits(texts, 900, len)
    assert cut is not None
    assert 700 <= sum(len(clip(text, cut)) for text in texts) <= 900
    assert longest_that_fits(texts, 1, len) == 120


def test_synthetic_questions_are_marked_as_such(tmp_path: Path, evaluation: Evaluation) -> None:
    assert "synthetic" not in Tags(html_of(evaluation)).values("class")
    assert "data-synthetic" not in {
        name for _, attributes in Tags(html_of(evaluation)).found for name in attributes
    }
    made = [replace(q, synthetic=number < 4) for number, q in enumerate(make_questions(12))]
    synthetic = run(tmp_path, made)
    html = html_of(synthetic)
    assert synthetic.result.provenance.synthetic_questions == 4
    assert "4 of 12 questions are synthetic" in (synthetic.folder / "report.md").read_text()
    assert "4 of 12 questions were made from the documents" in html
    assert sum("data-synthetic" in attributes for _, attributes in Tags(html).found) == 4


def test_markdown_table_has_a_row_a_route_and_marks_the_recommended(evaluation: Evaluation) -> None:
    lines = markdown_table(evaluation.result).splitlines()
    assert len(lines) == 2 + len(ROUTES)
    assert len({len(line) for line in lines}) == 1
    assert [line for line in lines if line.startswith(f"| **{evaluation.result.verdict.recommended}**")]


def test_markdown_report_names_what_was_measured(evaluation: Evaluation) -> None:
    report = markdown_report(evaluation.result)
    assert "32 questions (31 answerable)" in report
    assert "Differences in f1 of less than 0.03 are too small to matter." in report
    assert "(1,000 resamples, seed 0). Latency is that of the first" in report
    assert re.search(r"\| hybrid - rag +\| [+-]0\.\d{3} \[", report)


def test_one_route_alone_needs_no_contrasts(tmp_path: Path) -> None:
    evaluation = run(tmp_path, make_questions(5), routes={"rag": ROUTES["rag"]})
    assert "Contrasts" not in html_of(evaluation)
    assert "Use rag" in markdown_report(evaluation.result).replace("**", "")


def test_every_class_of_error_has_examples(evaluation: Evaluation) -> None:
    html = html_of(evaluation)
    assert "not known: no passages, and the weights do not hold the answer (20 examples)" in html
    assert "hallucinated on unanswerable: no answer exists, and one was given (4 examples)" in html
