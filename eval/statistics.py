"""Means and paired differences over questions clustered by document: intervals, p-values, verdicts.

Questions about one document are not independent, so documents are resampled, never questions. Everything is a
pure function of its arguments; random numbers come from the generator passed in. How well the procedures keep
what they promise is measured by `benchmarks/calibration.py` (docs/decisions/0007-intervals.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from eval.rare import (
    Bounds,
    clusters_without_variation,
    effective_sample,
    exact_interval,
    interval_without_variation,
    student_interval,
)

Floats = NDArray[np.float64]
ContrastVerdict = Literal["better", "worse", "equivalent", "undecided"]

ALPHA = 0.05
POWER = 0.8
_TINY = 1e-12
_FEWEST = 10.0
"""Right and wrong answers, in effect, from which a mean's distribution is taken for nearly normal."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval; `standard_error` is infinite where one cluster leaves it unknown."""

    value: float
    low: float
    high: float
    standard_error: float
    n: int
    clusters: int
    hardly_any_differ: bool = False
    """Whether so few clusters, less than half of them, have a value of their own that there is no spread to go by."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """Route `a` minus route `b`, paired by question; interval and `p_holm` allow for all contrasts."""

    a: str
    b: str
    difference: Estimate
    p: float
    p_holm: float
    mde: float
    verdict: ContrastVerdict
    non_inferior: bool
    """Whether `a` is known to be at most the margin worse than `b`."""
    more_questions: int


class Difference(NamedTuple):
    """A paired difference and the two-sided p of there being none; the interval leaves out 0 iff p <= alpha."""

    estimate: Estimate
    p: float


def contrasts(
    scores: Mapping[str, Floats],
    clusters: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    margin: float,
    resamples: int,
    rng: np.random.Generator,
) -> list[Contrast]:
    """Test every declared pair of routes on the same questions; family-wise error rate 5 %."""
    alpha = ALPHA / max(len(pairs), 1)
    tested = [paired_difference(scores[a] - scores[b], clusters, resamples, rng, alpha) for a, b in pairs]
    adjusted = holm([difference.p for difference in tested])
    return [
        Contrast(
            a=a,
            b=b,
            difference=estimate,
            p=p,
            p_holm=p_holm,
            mde=minimum_detectable_effect(_error_with_unseen(estimate, alpha), estimate.clusters, alpha),
            verdict=contrast_verdict(estimate, p_holm, margin),
            non_inferior=estimate.low > -margin,
            more_questions=more_questions(estimate, margin, alpha),
        )
        for (a, b), (estimate, p), p_holm in zip(pairs, tested, adjusted, strict=True)
    ]


def mean_interval(
    values: Floats,
    clusters: Sequence[str],
    resamples: int,
    rng: np.random.Generator,
    alpha: float = ALPHA,
    bounds: Bounds = (0.0, 1.0),
) -> Estimate:
    """Mean over questions with a studentised (bootstrap-t) cluster interval, clipped to `bounds`.

    The percentile bootstrap covers only about 0.90-0.93 at 12-48 clusters; the studentised one keeps 0.95
    (Cameron, Gelbach & Miller 2008). The mean is a ratio of cluster sums, its error by linearisation. Where too
    little is right, or wrong, for either, the interval is that of a share of as many independent answers. A mean
    with an infinite bound is no share: where resamples tell too little of it, its interval is Student's.
    """
    sums, sizes = _cluster_sums(values, clusters)
    count, n = len(sums), len(values)
    mean = float(values.mean())
    if count < 2:
        return Estimate(mean, *_finite(bounds, values), standard_error=math.inf, n=n, clusters=count)
    error = _standard_error(sums, sizes)
    if error < _TINY:
        return _estimate_without_variation(mean, n, count, alpha, _finite(bounds, values))
    if np.isfinite(bounds).all():
        sample = effective_sample(mean, error, n, count, alpha, bounds)
        otherwise, enough = exact_interval(sample, alpha, bounds), min(sample) >= _FEWEST
    else:
        otherwise, enough = student_interval(mean, error, count, alpha), True
    found = _bootstrap_t(sums, sizes, error, resamples, rng, alpha) if enough else None
    low, high = np.clip(found or otherwise, *bounds)
    return Estimate(mean, float(low), float(high), error, n, count)


def paired_difference(
    differences: Floats,
    clusters: Sequence[str],
    resamples: int,
    rng: np.random.Generator,
    alpha: float = ALPHA,
    bounds: Bounds = (-1.0, 1.0),
) -> Difference:
    """Mean difference with the interval and p of the cluster sign-flip test; exact where that is cheap.

    If the true difference is mu, flipping the signs of whole clusters' sums of (difference - mu) changes nothing
    but chance. The interval holds every mu that this test does not reject. A pattern of signs is as extreme as the
    data exactly for mu between the means of its two groups of clusters, so the ends are order statistics of means
    of random subsets (Hartigan 1969, "typical values").
    """
    sums, sizes = _cluster_sums(differences, clusters)
    count, n, mean = len(sums), len(differences), float(differences.mean())
    if count < 2:
        return Difference(Estimate(mean, *bounds, standard_error=math.inf, n=n, clusters=count), 1.0)
    error = _standard_error(sums, sizes)
    exact = 2**count <= resamples
    lows, highs = np.concatenate(
        [_subset_means(sums, sizes, flipped) for flipped in _subsets(count, resamples, exact, rng)], axis=1
    )
    as_extreme = int(((lows <= _TINY) & (highs >= -_TINY)).sum())
    # The pattern of the data themselves is among the exact ones, and is added to the drawn ones.
    p = as_extreme / len(lows) if exact else (as_extreme + 1) / (len(lows) + 1)
    if error < _TINY:
        return Difference(_estimate_without_variation(mean, n, count, alpha, bounds), p)
    rejected = math.floor(alpha * len(lows) if exact else alpha * (len(lows) + 1) - 1)
    low, high = (
        (float(np.partition(lows, rejected)[rejected]), float(-np.partition(-highs, rejected)[rejected]))
        if rejected >= 0
        else bounds
    )
    differing = int(np.count_nonzero(np.abs(sums) > _TINY))
    too_few = 2.0 ** (1 - differing) > alpha
    if too_few:
        # So few documents differ that no pattern of signs could reach alpha: those unseen may differ as well.
        unseen = interval_without_variation(mean, count, alpha, bounds)
        low, high = min(low, unseen[0]), max(high, unseen[1])
    low, high = np.clip([low, high], *bounds)
    hardly_any = too_few and differing < count / 2
    return Difference(Estimate(mean, float(low), float(high), error, n, count, hardly_any), p)


def clustered_standard_error(values: Floats, clusters: Sequence[str]) -> float:
    """Of the mean over questions; infinite where one cluster leaves it unknown."""
    sums, sizes = _cluster_sums(values, clusters)
    return _standard_error(sums, sizes) if len(sums) > 1 else math.inf


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def contrast_verdict(difference: Estimate, p_holm: float, margin: float) -> ContrastVerdict:
    """`better` and `worse` need both the interval and the test, so that neither contradicts the verdict."""
    if -margin < difference.low and difference.high < margin:
        return "equivalent"
    if p_holm <= ALPHA and difference.low > 0:
        return "better"
    if p_holm <= ALPHA and difference.high < 0:
        return "worse"
    return "undecided"


def minimum_detectable_effect(standard_error: float, clusters: int, alpha: float = ALPHA) -> float:
    """The true difference that a test at `alpha` finds with probability 0.8; infinite if unknown."""
    if clusters < 2:
        return math.inf
    return _detection_factor(clusters, alpha) * standard_error


def planned_standard_error(
    questions: int, clusters: int, spread: float = 0.5, correlation: float = 0.05
) -> float:
    """Standard error of a paired difference before there are data.

    `spread` is the assumed standard deviation of one question's difference, `correlation` that between two
    questions about one document (Kish's design effect).
    """
    if not questions or not clusters:
        return math.inf
    return spread * math.sqrt((1 + (questions / clusters - 1) * correlation) / questions)


def more_questions(difference: Estimate, margin: float, alpha: float = ALPHA) -> int:
    """How many more questions, spread over documents alike, would settle a contrast (0 if it has enough).

    Enough to find the observed difference, or one as large as the margin if the observed one is smaller. Where hardly
    any document differs there is no spread to go by: enough that a difference as large as the margin would show.
    """
    if difference.clusters < 2:
        return 0
    if difference.hardly_any_differ and abs(difference.value) < margin:
        documents = clusters_without_variation(margin, alpha)
        return max(0, math.ceil(difference.n * (documents / difference.clusters - 1)))
    target = max(abs(difference.value), margin)
    error_needed = target / _detection_factor(difference.clusters, alpha)
    return max(0, math.ceil(difference.n * ((difference.standard_error / error_needed) ** 2 - 1)))


def _detection_factor(clusters: int, alpha: float) -> float:
    """In standard errors: the difference that a t test with one degree less than clusters finds (noncentral t)."""
    critical = stats.t.ppf(1 - alpha / 2, clusters - 1)
    return float(special.nctdtrinc(clusters - 1, 1 - POWER, critical))


def _bootstrap_t(
    sums: Floats, sizes: Floats, error: float, resamples: int, rng: np.random.Generator, alpha: float
) -> tuple[float, float] | None:
    """The studentised interval, whose mean has the standard error `error`; None where resamples tell too little.

    A resample that misses the few clusters that differ has hardly any spread, and sends t to infinity. If there are
    so many of those that they make up a tail, the interval would be theirs.
    """
    count, mean = len(sums), sums.sum() / sizes.sum()
    moments = np.stack([sums, sizes, sums**2, sums * sizes, sizes**2], axis=1)
    equal = np.full(count, 1 / count)
    drawn = [rng.multinomial(count, equal, size=part) @ moments for part in _parts(resamples, count)]
    total, size, total2, cross, size2 = np.concatenate(drawn).T
    means = total / size
    squares = np.maximum(total2 - 2 * means * cross + means**2 * size2, 0.0)
    errors = np.sqrt(count / (count - 1) * squares) / size
    if np.mean(errors < 0.5 * error) > alpha / 2:
        return None
    t_low, t_high = np.quantile((means - mean) / np.maximum(errors, 0.1 * error), [alpha / 2, 1 - alpha / 2])
    return mean - t_high * error, mean - t_low * error


def _subsets(count: int, resamples: int, exact: bool, rng: np.random.Generator) -> Iterator[Floats]:
    """Which clusters have their sign flipped: all patterns or random ones, [patterns, clusters] of 0 and 1."""
    if exact:
        # A pattern and its mirror image are equally extreme, so that half of them will do.
        yield ((np.arange(2 ** (count - 1))[:, None] >> np.arange(count)) & 1).astype(np.float64)
        return
    for part in _parts(resamples, count):
        yield rng.integers(0, 2, size=(part, count), dtype=np.int8).astype(np.float64)


def _parts(resamples: int, count: int) -> list[int]:
    """Sizes of batches of resamples that keep memory bounded, however many clusters there are."""
    size = max(1, 4_000_000 // count)
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _subset_means(sums: Floats, sizes: Floats, flipped: Floats) -> Floats:
    """[2, patterns]: smaller and larger of the means of either group; infinite where a group is empty."""
    sum_flipped, size_flipped = flipped @ sums, flipped @ sizes
    sum_kept, size_kept = sums.sum() - sum_flipped, sizes.sum() - size_flipped
    lone = (size_flipped < 0.5) | (size_kept < 0.5)  # sizes are counts
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.stack([sum_flipped / size_flipped, sum_kept / size_kept])
    return np.stack([np.where(lone, -np.inf, means.min(axis=0)), np.where(lone, np.inf, means.max(axis=0))])


def _cluster_sums(values: Floats, clusters: Sequence[str]) -> tuple[Floats, Floats]:
    """Per cluster, in order of first appearance: the sum of its values and their number."""
    if not len(values) or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values for {len(clusters)} cluster labels; give one label per value")
    order = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    codes = np.array([order[name] for name in clusters])
    sums, sizes = np.bincount(codes, weights=values), np.bincount(codes)
    return sums.astype(np.float64), sizes.astype(np.float64)


def _standard_error(sums: Floats, sizes: Floats) -> float:
    count = len(sums)
    residuals = sums - sums.sum() / sizes.sum() * sizes
    return float(np.sqrt(count / (count - 1) * np.sum(residuals**2)) / sizes.sum())


def _estimate_without_variation(mean: float, n: int, clusters: int, alpha: float, bounds: Bounds) -> Estimate:
    low, high = interval_without_variation(mean, clusters, alpha, bounds)
    return Estimate(mean, low, high, _error_of(low, high, alpha), n, clusters, hardly_any_differ=True)


def _error_with_unseen(difference: Estimate, alpha: float) -> float:
    """The standard error, or that of the interval where few clusters differ: it allows for those unseen."""
    if not difference.hardly_any_differ:
        return difference.standard_error
    return max(difference.standard_error, _error_of(difference.low, difference.high, alpha))


def _error_of(low: float, high: float, alpha: float) -> float:
    """The standard error that a normal interval of this width would have."""
    return (high - low) / 2 / float(stats.norm.ppf(1 - alpha / 2))


def _finite(bounds: Bounds, values: Floats) -> Bounds:
    """`bounds`, an infinite one replaced by the farthest value seen: nothing tells how much farther others lie."""
    seen = float(values.min()), float(values.max())
    low, high = (bound if math.isfinite(bound) else end for bound, end in zip(bounds, seen, strict=True))
    return low, high
