"""Studies beside an evaluation are found, fit to it, and shown as tables that can be read."""

from __future__ import annotations

import json
import os
from pathlib import Path

from eval.config import EvalConfig
from eval.run import Evaluation, evaluate
from eval.studies import latest_studies
from tests.fakes_eval import ROUTES, ScriptedRoutes, make_questions, right_answer


def run(folder: Path) -> Evaluation:
    settings = EvalConfig(resamples=1000, latency_questions=1)
    routes = ScriptedRoutes(lambda question, route: right_answer(question))
    return evaluate(routes, make_questions(12), ROUTES, folder, settings)


def write_study(evaluation: Evaluation, folder: str, kind: str, changed: float, **content: object) -> None:
    path = evaluation.folder.parent / folder / f"{kind}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    os.utime(path, (changed, changed))


def test_latest_fitting_studies_are_shown_as_tables(tmp_path: Path) -> None:
    evaluation = run(tmp_path / "evaluations" / "one")
    ours = evaluation.result.provenance.model_dump(mode="json")
    others = ours | {"corpus": "another"}
    routes = {
        "rag": {"kept": 0.975, "after": {"new": {"mean": 0.8, "ci": [0.7, 0.9]}}},
        "<marquee>": {"state": "stale"},
    }
    write_study(evaluation, "f1", "freshness", 100, routes={"rag": {"kept": 0.125}}, provenance=ours)
    write_study(
        evaluation,
        "f2",
        "freshness",
        200,
        n=24,
        routes=routes,
        sentence="<blink>All</blink> fresh.",
        provenance=ours,
    )
    write_study(evaluation, "f3", "freshness", 300, routes={"rag": {"kept": 0.25}}, provenance=others)
    write_study(evaluation, "r1", "router", 300, tried=[{"facts": 3, "score": 0.5}])
    (evaluation.folder.parent / "r1" / "robustness.json").write_text("[1, {")
    found = latest_studies(evaluation.folder.parent, evaluation.result)
    assert [(study.kind, study.source, study.sentence) for study in found] == [
        ("freshness", "From f2/freshness.json.", "<blink>All</blink> fresh.")
    ]
    assert [(table.header, table.rows) for table in found[0].tables] == [
        (["", ""], [["n", "24"]]),
        (
            ["routes", "rag", "<marquee>"],
            [["kept", "0.975", "-"], ["after new", "0.800 [0.700, 0.900]", "-"], ["state", "-", "stale"]],
        ),
    ]
    evaluation = run(evaluation.folder)
    html, markdown = ((evaluation.folder / name).read_text() for name in ("report.html", "report.md"))
    assert all(
        "Freshness" in text and "0.800 [0.700, 0.900]" in text and "f2/freshness.json" in text
        for text in (html, markdown)
    )
    assert not any(tag in text for tag in ("<marquee>", "<blink>") for text in (html, markdown))


def test_robustness_of_many_routes_is_shown_whole_a_table_for_each_route(tmp_path: Path) -> None:
    evaluation = run(tmp_path / "evaluations" / "one")
    ours = evaluation.result.provenance.model_dump(mode="json")
    changes = [
        {"route": route, "variant": f"k={k}", "n": 12, "difference": {"mean": -0.1, "ci": [-0.2, k / 100]}}
        for route in ("base", "rag", "reader")
        for k in range(30)
    ]
    write_study(evaluation, "r1", "robustness", 100, changes=changes, provenance=ours)
    [study] = latest_studies(evaluation.folder.parent, evaluation.result)
    assert [table.header for table in study.tables] == [
        [f"route {route}", "n", "difference"] for route in ("base", "rag", "reader")
    ]
    assert [len(table.rows) for table in study.tables] == [30, 30, 30]
    assert all(table.folded for table in study.tables)
    html = (run(evaluation.folder).folder / "report.html").read_text()
    assert "<details><summary>route reader (30 rows)</summary>" in html
    assert html.count("k=29") == 3
    assert html.count("<details>") == html.count("</details>")
    assert study.tables[2].rows[29] == ["k=29", "12", "-0.100 [-0.200, 0.290]"]


def test_a_short_list_about_routes_is_one_table(tmp_path: Path) -> None:
    evaluation = run(tmp_path / "evaluations" / "one")
    ours = evaluation.result.provenance.model_dump(mode="json")
    changes = [{"route": route, "variant": "polite", "n": 12} for route in ("base", "rag")]
    write_study(evaluation, "r1", "robustness", 100, changes=changes, provenance=ours)
    [study] = latest_studies(evaluation.folder.parent, evaluation.result)
    assert [(table.header, len(table.rows)) for table in study.tables] == [(["route", "variant", "n"], 2)]


def test_what_is_too_large_for_a_report_is_named_with_its_size(tmp_path: Path) -> None:
    evaluation = run(tmp_path / "evaluations" / "one")
    ours = evaluation.result.provenance.model_dump(mode="json")
    changes = [{"id": f"c{n}", "question": "When?", "before": {"rag": "noon"}} for n in range(61)]
    routes = {f"route {n}": {"kept": 1.0, "state": "fresh"} for n in range(13)}
    write_study(evaluation, "f1", "freshness", 100, n=61, changes=changes, routes=routes, provenance=ours)
    [study] = latest_studies(evaluation.folder.parent, evaluation.result)
    assert [table.rows for table in study.tables] == [[["n", "61"]]]
    said = (
        "From f1/freshness.json, which also has what is too large to show here: "
        "changes (61 rows, 3 columns), routes (2 rows, 14 columns)."
    )
    assert study.source == said
    evaluation = run(evaluation.folder)
    for name in ("report.html", "report.md"):
        assert said in (evaluation.folder / name).read_text()
