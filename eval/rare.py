"""Intervals of a mean where too few clusters differ to resample them: nearly everything is wrong, or right.

Resamples that miss the few clusters that differ have no spread of their own, and a studentised bootstrap of them says
nothing, or anything up to the bounds. Here a mean is taken for a share of right answers instead, which errs on the
side of too wide: no values between the bounds spread more around their mean than right and wrong answers do. Without
bounds, as of a logarithm, there is no such share: a lone outlier would then be the only wrong answer among right ones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy import stats

Bounds = tuple[float, float]


class EffectiveSample(NamedTuple):
    """As many independent right and wrong answers as are worth what was observed; neither number need be whole."""

    right: float
    wrong: float


def effective_sample(
    mean: float, standard_error: float, n: int, clusters: int, alpha: float, bounds: Bounds
) -> EffectiveSample:
    """The size at which independent answers have this standard error, lessened for its own error, at most `n`.

    Korn & Graubard (1998), "Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data", Survey Methodology 24: 193-201; capped as in the presentation standards of the
    National Center for Health Statistics (Parker et al. 2017, Vital and Health Statistics 2/175).
    """
    low, high = bounds
    share = (mean - low) / (high - low)
    known, estimated = stats.t.ppf(1 - alpha / 2, [n - 1, clusters - 1])
    size = share * (1 - share) * ((high - low) / standard_error * known / estimated) ** 2
    size = min(float(size), float(n))
    return EffectiveSample(share * size, (1 - share) * size)


def exact_interval(sample: EffectiveSample, alpha: float, bounds: Bounds) -> Bounds:
    """Clopper & Pearson's interval of a share, from one bound to the other."""
    right, wrong = sample
    shares = (stats.beta.ppf(alpha / 2, right, wrong + 1), stats.beta.ppf(1 - alpha / 2, right + 1, wrong))
    low, high = (bounds[0] + float(share) * (bounds[1] - bounds[0]) for share in shares)
    return low, high


def student_interval(mean: float, standard_error: float, clusters: int, alpha: float) -> Bounds:
    """Of a mean without bounds: Student's t with one degree of freedom less than clusters."""
    half = float(stats.t.ppf(1 - alpha / 2, clusters - 1)) * standard_error
    return mean - half, mean + half


def interval_without_variation(mean: float, clusters: int, alpha: float, bounds: Bounds) -> Bounds:
    """All values alike: no spread to go by, so bound the share of clusters that could differ."""
    low, high = bounds
    share = 1 - (alpha / 2) ** (1 / clusters)
    return mean - share * (mean - low), mean + share * (high - mean)


def clusters_without_variation(share: float, alpha: float) -> float:
    """How many clusters have to be alike for the interval to be narrower than `share` of what values could be."""
    return math.log(alpha / 2) / math.log1p(-share)
