"""The recommended route is the cheapest that is not inferior to the best."""

from __future__ import annotations

import numpy as np

from eval.verdict import Cost, Verdict, decide

LABELS = [str(n % 40) for n in range(200)]


def verdict_of(means: dict[str, float], tokens: dict[str, float], noise: float = 0.02) -> Verdict:
    rng = np.random.default_rng(1)
    scores = {name: np.clip(mean + rng.normal(0, noise, 200), 0, 1) for name, mean in means.items()}
    costs = {name: Cost(value / 1000, value, seconds=value / 100) for name, value in tokens.items()}
    return decide(scores, LABELS, costs, "USD", "f1", margin=0.03, resamples=2000, seed=0)


def test_a_clearly_better_route_is_recommended_whatever_it_costs() -> None:
    verdict = verdict_of({"base": 0.2, "rag": 0.6}, {"base": 20, "rag": 500})
    assert (verdict.recommended, verdict.tied_with, verdict.more_questions) == ("rag", (), 0)
    assert verdict.reason.startswith("rag has the highest f1 (0.")
    assert verdict.reason.endswith("), at 0.5 USD per 1,000 answers.")


def test_a_cheaper_route_wins_within_the_margin() -> None:
    verdict = verdict_of(
        {"hybrid": 0.61, "tuned": 0.60, "base": 0.2}, {"hybrid": 500, "tuned": 20, "base": 20}
    )
    assert verdict.recommended == "tuned"
    assert "at most 0.03 worse than hybrid" in verdict.reason
    assert "0.02 USD per 1,000 answers instead of 0.5." in verdict.reason


def test_a_route_that_may_be_worse_than_the_margin_is_not_as_good() -> None:
    verdict = verdict_of({"hybrid": 0.55, "tuned": 0.50}, {"hybrid": 500, "tuned": 20}, noise=0.5)
    assert verdict.recommended == "hybrid"
    assert verdict.tied_with == ("tuned",)
    assert verdict.more_questions > 0
    assert f"cannot tell it from tuned; about {verdict.more_questions} more would." in verdict.reason


def test_equal_scores_go_to_the_cheaper_route() -> None:
    same = np.full(40, 0.5)
    costs = {"hybrid": Cost(0.5, 500, 1.0), "rag": Cost(0.5, 500, 0.9)}
    verdict = decide({"hybrid": same, "rag": same}, LABELS[:40], costs, "USD", "f1", 0.03, 1000, 0)
    assert verdict.recommended == "rag"
    assert verdict.reason.startswith("rag has the highest f1 (0.500), at 0.5 USD per 1,000 answers.")


def test_a_single_route_is_its_own_recommendation() -> None:
    assert verdict_of({"rag": 0.5}, {"rag": 500}).recommended == "rag"
