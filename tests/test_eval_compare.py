"""Two evaluations side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eval.answers import EvalError
from eval.compare import (
    compare_evaluations,
    find_evaluation,
    format_comparison,
    format_list,
    list_evaluations,
)
from eval.config import EvalConfig
from eval.run import evaluate
from indexer.config import Workspace
from tests.fakes_eval import ROUTES, SETUP, ScriptedRoutes, make_questions, right_answer

SETTINGS = EvalConfig(resamples=1000, latency_questions=1)
QUESTIONS = make_questions(60, documents=30)
TWO = {name: ROUTES[name] for name in ("rag", "tuned")}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """`before`: rag is right and tuned wrong; `after`: both are right, of a retrained adapter."""
    workspace = Workspace(tmp_path)
    for name, right, version in (("before", ("rag",), "1"), ("after", ("rag", "tuned"), "2")):
        setup = replace(SETUP, adapter_hashes={"tuned": version})
        model = ScriptedRoutes(
            lambda q, route, right=right: right_answer(q) if route.name in right else "no", setup
        )
        evaluate(model, QUESTIONS, TWO, workspace.evaluations / name, SETTINGS)
    return workspace


def test_what_changed_is_tested_route_by_route(workspace: Workspace) -> None:
    a, b = find_evaluation(workspace, "bef"), find_evaluation(workspace, "after")
    found = compare_evaluations(a, b, QUESTIONS, SETTINGS)
    assert {r.route: (r.a < r.b, r.verdict) for r in found.routes} == {
        "rag": (False, "undecided"),
        "tuned": (True, "better"),
    }
    assert (found.questions, found.documents) == (60, 30)
    assert "tuned: 0.000 -> 1.000" in format_comparison(found)


def test_only_questions_that_read_the_same_are_paired(workspace: Workspace) -> None:
    a, b = (workspace.evaluations / name for name in ("before", "after"))
    changed = [replace(QUESTIONS[0], text="another question?"), *QUESTIONS[1:50]]
    assert compare_evaluations(a, b, changed, SETTINGS).questions == 49
    with pytest.raises(EvalError, match="no answered question in common"):
        compare_evaluations(a, b, changed[:1], SETTINGS)


def test_evaluations_are_listed_with_their_verdict(workspace: Workspace) -> None:
    (workspace.evaluations / "after" / "result.json").unlink()
    listed = {one.name: one for one in list_evaluations(workspace)}
    assert listed["before"].recommended == "rag"
    assert listed["after"].recommended is None
    assert "not finished, 120 answers of rag, tuned" in format_list(list(listed.values()))


@pytest.mark.parametrize("ref", ["nothing", "../before"])
def test_an_unknown_evaluation_lists_the_known_ones(workspace: Workspace, ref: str) -> None:
    with pytest.raises(EvalError, match=r"no evaluation is called .*before"):
        find_evaluation(workspace, ref if ref == "nothing" else "x" + ref)


def test_an_ambiguous_name_is_refused(workspace: Workspace) -> None:
    with pytest.raises(EvalError, match="more than one"):
        find_evaluation(workspace, "")
