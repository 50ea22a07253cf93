"""Do the evaluator's intervals and tests keep their promises? Simulated runs with known differences.

    python benchmarks/calibration.py [--runs 4000] [--resamples 999] [--seed 0]

Questions belong to documents of uneven size (1 to 25 questions) and agree within a document. Measured are the share
of 95 % intervals that hold the true difference (93-97 % is asked for), the share of A/A runs of four equal routes in
which any of the four contrasts is called different (at most 5.5 %), how often a difference as large as the
detectable effect is found (80 %, 3 points either way), and the share of intervals that hold a route's true score, rare
right answers included (at least 93 %: where next to nothing is right, nothing can be exact without being wide; the
width that nine in ten stay below is shown). Exit code 1 if any of them is missed by more than chance.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from eval.statistics import ALPHA, contrasts, mean_interval, minimum_detectable_effect, paired_difference

Floats = NDArray[np.float64]
CLUSTERS = (12, 24, 48, 100)
WITHIN = 0.15
"""Correlation of two questions about one document."""
PAIRS = [("rag", "base"), ("tuned", "base"), ("hybrid", "rag"), ("hybrid", "tuned")]


MEANS = (0.01, 0.03, 0.1, 0.3, 0.5)


@dataclass(frozen=True)
class Share:
    """How often something happened in `runs` simulated runs, and how often it may."""

    what: str
    value: float
    runs: int
    low: float
    high: float

    @property
    def kept(self) -> bool:
        """Whether the promise holds, with two standard errors of the simulation as allowance."""
        slack = 2 * math.sqrt(max(self.value * (1 - self.value), 0.01) / self.runs)
        return self.low - slack <= self.value <= self.high + slack


def documents(clusters: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The document of each question: sizes are log-normal, from 1 to 25, about 5 on average."""
    sizes = np.clip(rng.lognormal(1.3, 0.8, clusters).astype(int), 1, 25)
    return np.repeat(np.arange(clusters), sizes)


def latent(labels: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Standard normal, correlated within documents."""
    shared = rng.normal(size=labels.max() + 1)[labels]
    return math.sqrt(WITHIN) * shared + math.sqrt(1 - WITHIN) * rng.normal(size=len(labels))


def continuous(labels: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Normal differences with mean 0."""
    return 0.3 * latent(labels, rng)


def exact_match(labels: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """One route right and the other wrong: 22 % for one, 12 % against; less its mean of 0.10."""
    u = latent(labels, rng)
    return (u > norm.ppf(0.78)).astype(float) - (u < norm.ppf(0.12)) - 0.10


def one_sided(labels: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Skewed: 10 % gains, 3 % losses; less its mean of 0.07."""
    u = latent(labels, rng)
    return (u > norm.ppf(0.90)).astype(float) - (u < norm.ppf(0.03)) - 0.07


def token_f1(labels: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Half of the questions do not differ, the others by any amount."""
    return np.where(rng.random(len(labels)) < 0.5, 0.0, np.clip(0.5 * latent(labels, rng), -1, 1))


KINDS: dict[str, Callable[[NDArray[np.int64], np.random.Generator], Floats]] = {
    "continuous": continuous,
    "exact match": exact_match,
    "one-sided": one_sided,
    "token F1": token_f1,
}


def right_or_wrong(mean: float, labels: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Exact match of a route."""
    return (latent(labels, rng) > norm.ppf(1 - mean)).astype(float)


def part_right(mean: float, labels: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Token F1 of a route: nought, but for a few answers of which a third are right, the others a third so."""
    some = latent(labels, rng) > norm.ppf(1 - mean / (5 / 9))
    return some * np.where(rng.random(len(labels)) < 1 / 3, 1.0, rng.beta(1.5, 3, len(labels)))


def words_in_common(mean: float, labels: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Token F1 of a route: half of its mean are right answers, half words that all answers share with them."""
    right = latent(labels, rng) > norm.ppf(1 - mean / 2)
    shared = (mean / 2) / (1 - mean / 2)
    return np.where(right, 1.0, rng.beta(0.5, 0.5 * (1 - shared) / shared, len(labels)))


SCORES: dict[str, Callable[[float, NDArray[np.int64], np.random.Generator], Floats]] = {
    "exact match": right_or_wrong,
    "token F1, part right": part_right,
    "token F1, words in common": words_in_common,
}


def coverage(kind: str, clusters: int, runs: int, resamples: int, rng: np.random.Generator) -> Share:
    """The share of intervals that hold the truth."""
    held = 0
    for _ in range(runs):
        labels = documents(clusters, rng)
        found, _ = paired_difference(KINDS[kind](labels, rng), names(labels), resamples, rng)
        held += found.low <= 0 <= found.high
    return Share(f"coverage, {kind}, {clusters} documents", held / runs, runs, 0.93, 0.97)


def mean_coverage(
    kind: str, mean: float, clusters: int, runs: int, resamples: int, rng: np.random.Generator
) -> Share:
    """The share of intervals that hold a route's true score."""
    held, widths = 0, []
    for _ in range(runs):
        labels = documents(clusters, rng)
        found = mean_interval(SCORES[kind](mean, labels, rng), names(labels), resamples, rng)
        held += found.low <= mean <= found.high
        widths.append(found.high - found.low)
    what = f"score {mean}, {kind}, {clusters} documents (width {np.quantile(widths, 0.9):.2f})"
    return Share(what, held / runs, runs, 0.93, 1.0)


def false_positives(clusters: int, runs: int, resamples: int, rng: np.random.Generator) -> Share:
    """The share of runs of four equal routes in which Holm's correction leaves any p at or below 5 %."""
    wrong = 0
    for _ in range(runs):
        labels = documents(clusters, rng)
        hard = latent(labels, rng)
        scores = {
            name: np.clip(0.5 + 0.4 * hard + 0.3 * latent(labels, rng), 0, 1).round(1)
            for name in ("base", "rag", "tuned", "hybrid")
        }
        tested = contrasts(scores, names(labels), PAIRS, 0.03, resamples, rng)
        wrong += any(contrast.p_holm <= ALPHA for contrast in tested)
    return Share(f"false positives of four contrasts, {clusters} documents", wrong / runs, runs, 0.0, 0.055)


def power(kind: str, clusters: int, runs: int, resamples: int, rng: np.random.Generator) -> Share:
    """How often a true difference as large as the detectable effect is found."""
    means = [KINDS[kind](documents(clusters, rng), rng).mean() for _ in range(20_000)]
    effect = minimum_detectable_effect(float(np.std(means)), clusters)
    found = 0
    for _ in range(runs):
        labels = documents(clusters, rng)
        difference, p = paired_difference(KINDS[kind](labels, rng) + effect, names(labels), resamples, rng)
        found += p <= ALPHA and difference.low > 0
    return Share(
        f"power at the detectable effect, {kind}, {clusters} documents", found / runs, runs, 0.77, 0.83
    )


def names(labels: NDArray[np.int64]) -> list[str]:
    return [str(label) for label in labels]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=4000)
    parser.add_argument("--resamples", type=int, default=999)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    started, missed = time.monotonic(), 0
    jobs: list[Callable[[], Share]] = [
        *(
            lambda k=kind, g=g: coverage(k, g, given.runs, given.resamples, rng)
            for kind in KINDS
            for g in CLUSTERS
        ),
        *(lambda g=g: false_positives(g, given.runs, given.resamples, rng) for g in CLUSTERS),
        *(
            lambda k=kind, g=g: power(k, g, given.runs, given.resamples, rng)
            for kind in KINDS
            for g in CLUSTERS
        ),
        *(
            lambda k=kind, m=mean, g=g: mean_coverage(k, m, g, given.runs, given.resamples, rng)
            for kind in SCORES
            for mean in MEANS
            for g in CLUSTERS
        ),
    ]
    for job in jobs:
        share = job()
        missed += not share.kept
        print(f"{share.what:68} {share.value:.3f}  {'kept' if share.kept else 'MISSED'}", flush=True)
    print(f"{len(jobs) - missed} of {len(jobs)} kept in {time.monotonic() - started:.0f} s")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
