"""What a run will take and can show, before it is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eval.config import EvalConfig
from eval.plan import format_plan, plan
from eval.run import evaluate
from tests.fakes_eval import ROUTES, SETUP, ScriptedRoutes, make_questions, right_answer

SETTINGS = EvalConfig(resamples=1000, latency_questions=2)
QUESTIONS = make_questions(66, documents=33)


def scripted(setup=SETUP) -> ScriptedRoutes:
    return ScriptedRoutes(lambda question, route: right_answer(question) if route.retrieve else "no", setup)


def test_without_earlier_runs_each_route_is_timed_on_two_questions() -> None:
    model = scripted()
    found = plan(model, QUESTIONS, ROUTES, SETTINGS, [])
    assert [len(call) for call in model.calls] == [2] * len(ROUTES)
    # two answers share 10 ms; prompts of rag take 300 tokens
    assert found.routes["rag"].seconds == pytest.approx(66 * 0.005)
    assert found.routes["rag"].prompt_tokens == 66 * 300
    # error 0.5 * sqrt(1.05 / 66) = 0.0631, times 3.50 at alpha 0.05 / 4 with 32 degrees of freedom
    assert found.detectable["hybrid - rag"] == pytest.approx(0.0631 * 3.50, rel=0.01)
    assert "hybrid - rag: 0.22 or more" in format_plan(found)


def test_what_is_known_takes_no_time_and_earlier_differences_tell_what_can_be_found(tmp_path: Path) -> None:
    first = evaluate(scripted(), QUESTIONS, ROUTES, tmp_path / "first", SETTINGS).result
    retrained = replace(SETUP, adapter_hashes={"tuned": "new", "hybrid": "new"})
    model = scripted(retrained)
    found = plan(model, QUESTIONS[:33], ROUTES, SETTINGS, [tmp_path / "first"])
    assert model.calls == []
    assert {name: route.missing for name, route in found.routes.items()} == {
        "base": 0,
        "rag": 0,
        "tuned": 33,
        "hybrid": 33,
    }
    assert found.routes["base"].seconds == 0.0
    assert found.routes["tuned"].seconds > 0
    mde = next(c.mde for c in first.contrasts if (c.a, c.b) == ("rag", "base"))
    assert found.detectable["rag - base"] == pytest.approx(mde * 2**0.5)


def test_one_document_cannot_tell_routes_apart() -> None:
    found = plan(scripted(), make_questions(5, documents=1), ROUTES, SETTINGS, [])
    assert set(found.detectable.values()) == {None}
    assert "fewer than 2 documents" in format_plan(found)
