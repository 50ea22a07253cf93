"""The sequential test keeps its promise while looked at after every outcome; `benchmarks/sequential.py` at length."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

from benchmarks.sequential import Case, share, stops, too_many
from eval.sequential import (
    BETS,
    analyse,
    block_differences,
    block_sizes,
    confidence_sequence,
    log_wealth,
)

HALVES = {"rag": 0.5, "hybrid": 0.5}


def outcomes(seed: int, users: int, **good: float) -> list[tuple[str, float]]:
    rng = np.random.default_rng(seed)
    arms = list(good)
    return [
        (arm, float(rng.random() < good[arm])) for arm in (arms[n] for n in rng.integers(0, len(arms), users))
    ]


@pytest.mark.parametrize("case", [Case(0.5, 0.5), Case(0.7, 0.7, share=0.8)])
def test_equal_arms_are_seldom_called_different_however_often_one_looks(case: Case) -> None:
    ended = stops(case, 600, 600, np.random.default_rng(1))
    assert not too_many(share(ended.ours), 600)
    assert share(ended.peeked) > 0.2  # what the z-test does


def test_a_difference_is_found_sooner_than_the_last_user() -> None:
    ended = stops(Case(0.8, 0.6), 100, 1000, np.random.default_rng(2))
    assert share(ended.ours) > 0.95
    assert np.median(ended.ours) < 400


def test_wealth_of_yes_or_no_outcomes_is_walds_sign_test() -> None:
    differences = np.array([1.0, 0.0, -1.0, 1.0, 1.0])
    by_hand = special.logsumexp([3 * math.log(1 + k) + math.log(1 - k) for k in BETS]) - math.log(len(BETS))
    assert log_wealth(differences, 0.0)[-1] == pytest.approx(by_hand)


def test_interval_holds_every_difference_that_was_not_ruled_out_and_only_shrinks() -> None:
    rng = np.random.default_rng(3)
    differences = (rng.random(400) < 0.8).astype(float) - (rng.random(400) < 0.6)
    before, after = confidence_sequence(differences[:200], 0.05), confidence_sequence(differences, 0.05)
    assert before[0] <= after[0] < 0.2 < after[1] <= before[1]
    assert log_wealth(differences, after[0]).max() == pytest.approx(math.log(40), abs=0.01)


def test_interval_leaves_out_zero_exactly_if_p_is_small_enough() -> None:
    differences = np.array([1.0] * 30)
    for n in range(1, 31):
        low, _, p = confidence_sequence(differences[:n], 0.05)
        assert (low > 0) == (p < 0.05)


@pytest.mark.parametrize(
    ("shares", "sizes"), [((0.5, 0.5), (1, 1)), ((0.1, 0.9), (1, 9)), ((0.6, 0.4), (3, 2))]
)
def test_blocks_follow_the_shares(shares: tuple[float, float], sizes: tuple[int, int]) -> None:
    assert block_sizes(*shares) == sizes


def test_incomplete_block_waits() -> None:
    differences = block_differences(np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0]), (1, 1))
    assert differences.tolist() == [1.0, 0.0]


def test_without_outcomes_nothing_is_known() -> None:
    findings = analyse(HALVES, [], 0.05, 0.05)
    [contrast] = findings.contrasts
    assert (findings.advice, findings.arms) == ("go_on", ("rag", "hybrid"))
    assert (contrast.difference, contrast.low, contrast.high, contrast.p) == (None, -1.0, 1.0, 1.0)


def test_advice_is_to_stop_once_an_arm_is_better() -> None:
    findings = analyse(HALVES, outcomes(4, 600, rag=0.5, hybrid=0.8), 0.05, 0.05)
    assert (findings.advice, findings.arms) == ("better", ("hybrid",))


def test_advice_is_to_stop_once_the_difference_is_below_the_margin() -> None:
    findings = analyse(HALVES, outcomes(7, 2000, rag=0.8, hybrid=0.8), 0.15, 0.05)
    assert (findings.advice, findings.arms) == ("no_difference", ("rag", "hybrid"))


def test_the_worst_of_three_does_not_keep_the_other_two_going() -> None:
    shares = {"base": 1 / 3, "rag": 1 / 3, "hybrid": 1 / 3}
    findings = analyse(shares, outcomes(6, 3000, base=0.3, rag=0.8, hybrid=0.8), 0.15, 0.05)
    assert (findings.advice, findings.arms) == ("no_difference", ("rag", "hybrid"))


def test_outcomes_between_bad_and_good_count_in_part() -> None:
    some = [(arm, value) for _ in range(200) for arm, value in (("rag", 0.4), ("hybrid", 0.6))]
    [contrast] = analyse(HALVES, some, 0.05, 0.05).contrasts
    assert contrast.difference == pytest.approx(-0.2)
    assert contrast.low <= -0.2 <= contrast.high < 0
