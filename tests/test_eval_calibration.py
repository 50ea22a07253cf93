"""Intervals and tests keep their promises in simulation; `benchmarks/calibration.py` measures it at length."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.calibration import Share, coverage, false_positives, mean_coverage, power


@pytest.mark.parametrize(("kind", "clusters"), [("exact match", 12), ("token F1", 48)])
def test_intervals_hold_the_true_difference_as_often_as_they_say(kind: str, clusters: int) -> None:
    share = coverage(kind, clusters, 400, 499, np.random.default_rng(1))
    assert share.kept, share


@pytest.mark.parametrize(
    ("kind", "mean", "clusters"),
    [
        ("exact match", 0.03, 24),
        ("exact match", 0.3, 12),
        ("token F1, part right", 0.1, 12),
        ("token F1, words in common", 0.01, 48),
        ("token F1, words in common", 0.3, 24),
    ],
)
def test_intervals_hold_the_true_score_also_where_little_is_right(
    kind: str, mean: float, clusters: int
) -> None:
    share = mean_coverage(kind, mean, clusters, 400, 499, np.random.default_rng(4))
    assert share.kept, share


def test_equal_routes_are_seldom_called_different() -> None:
    share = false_positives(24, 400, 499, np.random.default_rng(2))
    assert share.kept, share


@pytest.mark.parametrize("clusters", [12, 48])
def test_the_detectable_effect_is_found_as_often_as_the_formula_says(clusters: int) -> None:
    share = power("continuous", clusters, 400, 499, np.random.default_rng(3))
    assert share.kept, share


def test_a_broken_promise_is_noticed() -> None:
    assert not Share("coverage", 0.90, 4000, 0.93, 0.97).kept
    assert not Share("false positives", 0.08, 4000, 0.0, 0.055).kept
