"""Costs and break-even, worked by hand from the price table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eval.config import EvalConfig, Prices
from eval.costs import Usage, answer_cost, break_even_questions, costs, rounded_up
from eval.result import load_result
from eval.run import evaluate
from tests.fakes_eval import ROUTES, SETUP, ScriptedRoutes, make_questions, right_answer

PRICES = Prices(
    machine_hour=0.36, training_hour=7.2, million_prompt_tokens=2.0, million_completion_tokens=10.0
)
RAG = Usage(seconds=1.0, prompt_tokens=500, completion_tokens=10, retrieves=True, training_seconds=0.0)
TUNED = Usage(seconds=0.5, prompt_tokens=50, completion_tokens=10, retrieves=False, training_seconds=1000.0)


def test_an_answer_costs_its_seconds_and_tokens() -> None:
    # 1 s of 0.36 an hour is 0.0001; 500 tokens of 2 a million are 0.001; 10 of 10 a million are 0.0001
    assert answer_cost(RAG, PRICES) == pytest.approx(0.0012)
    # 0.00005 + 0.0001 + 0.0001
    assert answer_cost(TUNED, PRICES) == pytest.approx(0.00025)


def test_training_pays_where_its_cost_is_saved() -> None:
    # a training costs 1000 s x 7.2 / 3600 s = 2; over 10 days 0.2 a day; 0.00095 saved per answer
    assert break_even_questions(TUNED, RAG, PRICES, change_days=10) == pytest.approx(0.2 / 0.00095)
    assert break_even_questions(TUNED, RAG, PRICES, change_days=1) == pytest.approx(2 / 0.00095)
    assert break_even_questions(replace(TUNED, prompt_tokens=600), RAG, PRICES, 10) is None
    assert break_even_questions(replace(TUNED, training_seconds=None), RAG, PRICES, 10) is None


def test_the_adapter_of_a_route_that_retrieves_outlives_changes_of_the_documents() -> None:
    hybrid = replace(TUNED, retrieves=True)
    prices = PRICES.model_copy(update={"retrain_days": 20.0})
    assert break_even_questions(hybrid, RAG, prices, change_days=1) == pytest.approx(2 / 20 / 0.00095)


def test_the_sentence_says_from_when_it_pays_or_that_it_never_does() -> None:
    prices = PRICES.model_copy(update={"change_days": 10.0})
    quality = {"rag": 0.5, "tuned": 0.4}
    (found,) = costs({"rag": RAG, "tuned": TUNED}, quality, prices).break_even
    assert found.sentence == (
        "Fine-tuning (tuned) costs less than rag above 220 questions a day "
        "if documents change less than every 10 days."
    )
    assert found.quality_difference == pytest.approx(-0.1)
    (never,) = costs({"rag": RAG, "tuned": replace(TUNED, seconds=20.0)}, quality, prices).break_even
    assert "never pays" in never.sentence
    assert set(never.questions_per_day.values()) == {None}


def test_questions_are_rounded_up_to_two_figures() -> None:
    assert [rounded_up(q) for q in (0.2, 9.1, 210.5, 99.5, 123456.0)] == ["1", "10", "220", "100", "130,000"]


def test_the_numbers_of_a_result_recompute_from_its_price_table_and_measurements(tmp_path: Path) -> None:
    setup = replace(SETUP, training_seconds={"tuned": 600.0, "hybrid": 600.0})
    settings = EvalConfig(resamples=1000, latency_questions=2, prices=PRICES)
    model = ScriptedRoutes(lambda question, route: right_answer(question) if route.retrieve else "no", setup)
    evaluate(model, make_questions(66), ROUTES, tmp_path, settings)
    found = load_result(tmp_path / "result.json")
    prices = found.costs.prices
    for name, cost in found.costs.routes.items():
        # batches of 32 share the 10 ms that the script says every answer took
        assert cost.seconds == pytest.approx(0.010 / 32)
        assert cost.prompt_tokens == found.routes[name].tokens.prompt
        by_hand = (
            cost.seconds * prices["machine_hour"] / 3600
            + cost.prompt_tokens * prices["million_prompt_tokens"] / 1e6
            + cost.completion_tokens * prices["million_completion_tokens"] / 1e6
        )
        assert cost.per_1000 == pytest.approx(1000 * by_hand)
        assert cost.training == pytest.approx(0.0 if ROUTES[name].adapter is None else 600 / 3600 * 7.2)
    tuned = next(b for b in found.costs.break_even if b.route == "tuned")
    routes = found.costs.routes
    assert tuned.against == "rag"
    saved = (routes["rag"].per_1000 - routes["tuned"].per_1000) / 1000
    assert saved > 0
    for days, questions in tuned.questions_per_day.items():
        assert questions == pytest.approx(routes["tuned"].training / float(days) / saved)
