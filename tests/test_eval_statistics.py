"""Intervals, tests and verdicts: worked by hand where possible, by simulation where not."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from eval.statistics import (
    Contrast,
    Estimate,
    contrast_verdict,
    contrasts,
    holm,
    mean_interval,
    minimum_detectable_effect,
    more_questions,
    paired_difference,
    planned_standard_error,
)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def estimate(value: float, low: float, high: float, error: float = 0.05) -> Estimate:
    return Estimate(value, low, high, error, n=100, clusters=50)


def test_holm_by_hand() -> None:
    # 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04, and 0.04 may not fall below 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_value_or_changes_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    ranked = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in ranked] == sorted(adjusted)


@pytest.mark.parametrize(("clusters", "correlation"), [(12, 0.3), (30, 0.1)])
def test_interval_covers_the_true_mean_about_as_often_as_it_says(clusters: int, correlation: float) -> None:
    rng = generator()
    covered, runs = 0, 300
    for _ in range(runs):
        sizes = rng.integers(2, 9, clusters)
        labels = [str(c) for c in np.repeat(np.arange(clusters), sizes)]
        shared = np.repeat(rng.normal(0, correlation**0.5, clusters), sizes)
        values = 0.2 * (shared + rng.normal(0, (1 - correlation) ** 0.5, len(labels)))
        found = mean_interval(values, labels, 400, rng, bounds=(-5.0, 5.0))
        covered += found.low <= 0 <= found.high
    assert 0.91 <= covered / runs <= 0.985


def test_interval_widens_when_questions_of_a_document_agree() -> None:
    values = np.repeat([0.0, 1.0] * 10, 5)
    alone = mean_interval(values, [str(n) for n in range(100)], 2000, generator())
    together = mean_interval(values, [str(n // 5) for n in range(100)], 2000, generator())
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    assert together.value == alone.value == 0.5


def test_standard_error_by_hand() -> None:
    # two clusters of two: sums 2 and 1 about expected 1.5: sqrt(2/1 * (0.25 + 0.25)) / 4
    found = mean_interval(np.array([1.0, 1.0, 1.0, 0.0]), ["a", "a", "b", "b"], 1000, generator())
    assert found.standard_error == pytest.approx(0.25)


def test_all_alike_still_leaves_doubt_that_shrinks_with_documents() -> None:
    few = mean_interval(np.zeros(12), [str(n) for n in range(12)], 1000, generator())
    many = mean_interval(np.zeros(200), [str(n) for n in range(200)], 1000, generator())
    assert few.low == many.low == 0
    assert few.high == pytest.approx(1 - 0.025 ** (1 / 12))
    assert many.high < 0.02


def test_one_document_allows_no_conclusion() -> None:
    found = mean_interval(np.array([1.0, 0.0, 1.0]), ["a"] * 3, 1000, generator())
    assert (found.low, found.high) == (0.0, 1.0)
    difference = paired_difference(np.array([0.5, 0.5]), ["a", "a"], 1000, generator())
    assert (difference.p, difference.estimate.low, difference.estimate.high) == (1.0, -1.0, 1.0)
    assert minimum_detectable_effect(found.standard_error, found.clusters) == np.inf


def test_one_success_among_many_failures_has_a_finite_interval() -> None:
    values = np.zeros(120)
    values[0] = 1.0
    found = mean_interval(values, [str(n % 12) for n in range(120)], 4000, generator())
    assert found.low <= found.value < found.high < 0.25


def test_few_right_answers_to_independent_questions_have_nearly_the_exact_interval() -> None:
    exact = binomtest(3, 24).proportion_ci()
    found = mean_interval(np.repeat([1.0, 0.0], [3, 21]), [str(n) for n in range(24)], 1000, generator())
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.01)


def test_few_right_answers_leave_more_doubt_if_they_are_about_one_document() -> None:
    labels = [str(n // 2) for n in range(24)]
    apart, together = np.zeros(24), np.zeros(24)
    apart[[0, 2, 4, 6]] = together[:4] = 1.0
    found = [mean_interval(values, labels, 1000, generator()) for values in (apart, together)]
    assert found[0].high < found[1].high < 0.6
    assert found[1].low < found[0].low < found[0].value


def test_few_wrong_answers_are_as_uncertain_as_few_right_ones() -> None:
    labels = [str(n // 2) for n in range(24)]
    values = np.zeros(24)
    values[[0, 5, 9]] = [1.0, 0.5, 1.0]
    right, wrong = (mean_interval(given, labels, 1000, generator()) for given in (values, 1 - values))
    assert (wrong.low, wrong.high) == pytest.approx((1 - right.high, 1 - right.low))


def test_a_right_answer_where_the_others_share_a_word_could_have_been_missed() -> None:
    labels = [str(n // 5) for n in range(120)]
    shared = np.tile([0.0, 0.02, 0.01], 40)
    assert mean_interval(shared, labels, 1000, generator()).high > 1 / 120 + shared.mean()


def test_an_outlier_of_a_mean_without_bounds_widens_the_interval_no_further_than_its_error_says() -> None:
    values, labels = -np.linspace(1, 2, 48), [str(n // 2) for n in range(48)]
    values[7] = -30.0
    found = mean_interval(values, labels, 1000, generator(), bounds=(-np.inf, 0.0))
    assert found.value - 2.1 * found.standard_error < found.low < -2
    assert -1.5 < found.high < -0.5
    farther = mean_interval(values - 100, labels, 1000, generator(), bounds=(-np.inf, 0.0))
    assert (farther.low, farther.high) == pytest.approx((found.low - 100, found.high - 100))


def test_a_mean_without_bounds_has_a_finite_interval_also_where_nothing_tells_of_it() -> None:
    one_document = mean_interval(np.array([-1.0, -3.0]), ["a", "a"], 1000, generator(), bounds=(-np.inf, 0.0))
    assert (one_document.low, one_document.high) == (-3.0, 0.0)
    alike = mean_interval(np.array([-2.0, -2.0]), ["a", "b"], 1000, generator(), bounds=(-np.inf, 0.0))
    assert alike.low == -2.0 < alike.high < 0.0


def test_sign_flip_p_is_exact_for_few_documents() -> None:
    # all four cluster sums positive: 2 of 16 sign patterns are as extreme
    assert paired_difference(np.ones(4), ["a", "b", "c", "d"], 1000, generator()).p == 2 / 16
    assert paired_difference(np.zeros(4), ["a", "b", "c", "d"], 1000, generator()).p == 1.0


def test_sign_flip_p_by_sampling_agrees_with_the_exact_one() -> None:
    values = np.array([0.6, 0.1, -0.2, 0.4, 0.3, -0.1, 0.5, 0.2, 0.1, 0.3])
    labels = [str(n) for n in range(10)]
    exact = paired_difference(values, labels, 1024, generator())
    sampled = paired_difference(values, labels, 1023, generator())
    assert sampled.p == pytest.approx(exact.p, abs=0.03)
    assert sampled.estimate.low == pytest.approx(exact.estimate.low, abs=0.05)


def test_a_difference_interval_is_what_the_test_does_not_reject() -> None:
    values = np.array([0.6, 0.1, -0.2, 0.4, 0.3, -0.1, 0.5, 0.2, 0.1, 0.3, 0.2, 0.15])
    labels = [str(n // 2 if n < 4 else n) for n in range(12)]
    found = paired_difference(values, labels, 4096, generator()).estimate
    assert found.low < found.value < found.high
    for end, step in ((found.low, -1e-6), (found.high, 1e-6)):
        assert paired_difference(values - end, labels, 4096, generator()).p > 0.05
        assert paired_difference(values - end - step, labels, 4096, generator()).p <= 0.05


def test_where_few_documents_differ_those_unseen_may_differ_too() -> None:
    labels = [str(n) for n in range(48)]
    one = np.zeros(48)
    one[0] = 1.0
    none = paired_difference(np.zeros(48), labels, 1000, generator()).estimate
    found = paired_difference(one, labels, 1000, generator()).estimate
    assert found.low < -0.05
    assert found.high >= none.high


@pytest.mark.parametrize(
    ("found", "p_holm", "verdict"),
    [
        (estimate(0.10, 0.02, 0.18), 0.01, "better"),
        (estimate(-0.10, -0.18, -0.02), 0.01, "worse"),
        (estimate(0.01, -0.01, 0.025), 0.30, "equivalent"),
        (estimate(0.015, 0.005, 0.025), 0.01, "equivalent"),  # real, but too small to matter
        (estimate(0.05, -0.02, 0.12), 0.20, "undecided"),
        (estimate(0.10, 0.02, 0.18), 0.06, "undecided"),  # the test does not agree with the interval
        (estimate(0.00, -0.03, 0.03), 1.00, "undecided"),  # the margin itself is not inside the margin
    ],
)
def test_verdict(found: Estimate, p_holm: float, verdict: str) -> None:
    assert contrast_verdict(found, p_holm, margin=0.03) == verdict


def test_contrasts_find_a_clear_difference_and_pair_by_question() -> None:
    rng = generator()
    hard = rng.random(150)  # how hard each question is, for both routes alike
    scores = {"a": np.clip(hard + 0.1, 0, 1), "b": hard, "c": np.clip(hard + rng.normal(0, 0.02, 150), 0, 1)}
    labels = [str(n % 30) for n in range(150)]
    first, second = contrasts(scores, labels, [("a", "b"), ("c", "b")], 0.03, 2000, rng)
    assert first.verdict == "better"
    assert second.verdict == "equivalent"
    assert first.p_holm >= first.p


def test_more_questions_shrink_with_the_effect_and_vanish_when_there_are_enough() -> None:
    assert more_questions(estimate(0.10, 0, 0, error=0.05), margin=0.03) > 0
    assert more_questions(estimate(0.10, 0, 0, error=0.05), 0.03) < more_questions(estimate(0.05, 0, 0), 0.03)
    assert more_questions(estimate(0.01, 0, 0), 0.03) == more_questions(estimate(0.02, 0, 0), 0.03)
    assert more_questions(estimate(0.50, 0, 0, error=0.05), margin=0.03) == 0


def test_more_questions_by_hand() -> None:
    # power 0.8 at 49 degrees of freedom needs a noncentrality of 2.857: an error of 0.1 / 2.857 = 0.0350;
    # (0.05 / 0.0350)^2 = 2.04 times 100 questions
    assert more_questions(estimate(0.10, 0, 0, error=0.05), margin=0.03) == pytest.approx(104, abs=1)


@pytest.mark.parametrize("one_differs_by", [0.0, 0.1])
def test_where_next_to_nothing_differs_so_many_more_questions_are_enough(one_differs_by: float) -> None:
    def contrast(questions: int) -> Contrast:
        scores = {"a": np.zeros(questions), "b": np.zeros(questions)}
        scores["a"][0] = one_differs_by
        labels = [str(n // 2) for n in range(questions)]
        return contrasts(scores, labels, [("a", "b")], 0.03, 1000, generator())[0]

    few = contrast(24)
    # 1 - 0.025^(1 / documents) is below 0.03 from 122 documents on, of two questions each.
    assert (few.verdict, few.more_questions) == ("undecided", 219)
    assert contrast(24 + 210).verdict == "undecided"
    enough = contrast(24 + 224)
    assert (enough.verdict, enough.more_questions) == ("equivalent", 0)


def test_no_smaller_difference_is_called_detectable_because_one_document_differs() -> None:
    scores = {"a": np.zeros(24), "b": np.zeros(24), "c": np.zeros(24)}
    scores["a"][0] = 0.1
    labels = [str(n // 2) for n in range(24)]
    one, none = contrasts(scores, labels, [("a", "b"), ("c", "b")], 0.03, 1000, generator())
    assert one.mde >= 0.99 * none.mde > 0.3


def test_a_few_documents_that_all_differ_have_a_spread_to_go_by() -> None:
    scores = {"a": np.array([0.5, -0.5, 0.5, -0.4]), "b": np.zeros(4)}
    (found,) = contrasts(scores, list("wxyz"), [("a", "b")], 0.03, 1000, generator())
    assert found.verdict == "undecided"
    assert found.more_questions > 1000


def test_planned_error_grows_with_questions_per_document() -> None:
    assert planned_standard_error(100, 100) == pytest.approx(0.05)
    assert planned_standard_error(100, 10) == pytest.approx(0.05 * 1.45**0.5)
    assert planned_standard_error(0, 0) == np.inf


def test_ten_thousand_resamples_of_150_questions_take_less_than_a_second() -> None:
    values = generator().random(150)
    labels = [str(n % 48) for n in range(150)]
    started = time.perf_counter()
    mean_interval(values, labels, 10_000, generator())
    paired_difference(values, labels, 10_000, generator())
    assert time.perf_counter() - started < 1.0


def test_labels_must_match_values() -> None:
    with pytest.raises(ValueError, match="2 values for 1 cluster labels"):
        mean_interval(np.zeros(2), ["a"], 1000, generator())
