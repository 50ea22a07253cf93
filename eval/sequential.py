"""Is one arm of a running experiment better? A test that may be looked at after every outcome and still holds.

Outcomes are numbers from 0 (bad) to 1 (good). Those of two arms are put into blocks in the order in which they come,
a fixed number of each arm in every block (`block_sizes`), and every block gives one difference of means D. For a
supposed true difference d, with Z = (1 + D) / 2, m = (1 + d) / 2 and bets 0 < k < 1,

    K(d) = mean over k of the product over blocks of 1 + k (Z / m - 1)

is never negative and has expectation 1 as long as the expectation of D is d at most, so that it ever reaches 1 / alpha
with probability alpha at most (Ville's inequality), however often one looks and whenever one stops. The differences d
for which it never did are a confidence sequence: its lower end from K, its upper end from K with the arms exchanged.

Sources: I. Waudby-Smith and A. Ramdas, Estimating means of bounded random variables by betting, JRSS B 86 (2024), for
the wealth K; H. Robbins, Statistical methods related to the law of the iterated logarithm, Ann. Math. Stat. 41 (1970),
for mixing over bets (the mixture SPRT); R. Johari, P. Koomen, L. Pekelis and D. Walsh, Always valid inference, Oper.
Res. 70 (2022), for the p-value. With yes-or-no outcomes, one of each arm in a block and d = 0 it is A. Wald's test of
double dichotomies (Sequential Analysis, 1947, chapter 6) mixed over the odds: no variance is estimated, and what the
two arms have in common drops out. How well it keeps its promise is measured by `benchmarks/sequential.py`
(docs/decisions/0012-experiments.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from service.findings import Advice, Contrast, Findings

Floats = NDArray[np.float64]

BETS: Floats = np.geomspace(0.05, 0.9, 12)
"""Equally likely; small ones find small differences, large ones are quick to find large differences."""
LARGEST_DENOMINATOR = 3
"""Shares are approximated by such fractions, so that blocks stay small."""
_EDGE = 1e-9
_TOLERANCE = 1e-5


def analyse(
    shares: Mapping[str, float], outcomes: Sequence[tuple[str, float]], margin: float, alpha: float
) -> Findings:
    """What is known of every pair of arms, and whether to go on; the error rate `alpha` is for all pairs together.

    `outcomes` are (arm, number from 0 to 1) in the order in which they came. Advice is `better` if all arms but one
    are worse than another, `no_difference` if those that are left differ by less than `margin`, else `go_on`.
    """
    pairs = list(combinations(shares, 2))
    values = {arm: np.array([value for of, value in outcomes if of == arm], dtype=float) for arm in shares}
    contrasts = [_contrast(a, b, shares, values, alpha / len(pairs)) for a, b in pairs]
    beaten = {c.b for c in contrasts if c.low > 0} | {c.a for c in contrasts if c.high < 0}
    left = tuple(arm for arm in shares if arm not in beaten)
    close = all(
        -margin < c.low and c.high < margin for c in contrasts if c.a not in beaten and c.b not in beaten
    )
    advice: Advice = "better" if len(left) == 1 else "no_difference" if left and close else "go_on"
    return Findings(advice, left, tuple(contrasts))


def block_sizes(share_a: float, share_b: float) -> tuple[int, int]:
    """How many outcomes of either arm make a block: as the shares are to each other, roughly."""
    if share_a < share_b:
        b, a = block_sizes(share_b, share_a)
        return a, b
    ratio = Fraction(share_a / share_b).limit_denominator(LARGEST_DENOMINATOR)
    return ratio.numerator, ratio.denominator


def block_differences(a: Floats, b: Floats, sizes: tuple[int, int]) -> Floats:
    """Mean of `a` minus mean of `b` in every complete block; blocks run along the last axis."""
    blocks = min(a.shape[-1] // sizes[0], b.shape[-1] // sizes[1])
    means = [
        values[..., : blocks * size].reshape(*values.shape[:-1], blocks, size).mean(axis=-1)
        for values, size in zip((a, b), sizes, strict=True)
    ]
    return np.asarray(means[0] - means[1], dtype=float)


def log_wealth(differences: Floats, supposed: float) -> Floats:
    """The log of K(`supposed`) after every block (last axis): large where the true difference is larger than that."""
    odds = (1 + differences) / (1 + supposed) - 1
    # One bet at a time: all at once would take as many times the memory.
    logs = np.stack([np.cumsum(np.log1p(bet * odds), axis=-1) for bet in BETS])
    return np.asarray(special.logsumexp(logs, axis=0) - math.log(len(BETS)), dtype=float)


def confidence_sequence(differences: Floats, alpha: float) -> tuple[float, float, float]:
    """The lowest and the highest true difference that no block so far has ruled out, and the always-valid p of 0."""
    if not len(differences):
        return -1.0, 1.0, 1.0
    level = math.log(2 / alpha)  # each end errs at half of alpha
    low, high = _lower_end(differences, level), -_lower_end(-differences, level)
    peak = max(float(log_wealth(side, 0.0).max()) for side in (differences, -differences))
    return low, high, min(1.0, 2 * math.exp(-peak))


def _lower_end(differences: Floats, level: float) -> float:
    """Where the largest wealth so far, which falls as the supposed difference grows, reaches `level`."""

    def excess(supposed: float) -> float:
        return float(log_wealth(differences, supposed).max()) - level

    if excess(-1 + _EDGE) <= 0:
        return -1.0
    return float(optimize.brentq(excess, -1 + _EDGE, 1, xtol=_TOLERANCE))


def _contrast(
    a: str, b: str, shares: Mapping[str, float], values: Mapping[str, Floats], alpha: float
) -> Contrast:
    differences = block_differences(values[a], values[b], block_sizes(shares[a], shares[b]))
    low, high, p = confidence_sequence(differences, alpha)
    estimate = float(differences.mean()) if len(differences) else None
    return Contrast(a, b, estimate, low, high, p, len(differences))
