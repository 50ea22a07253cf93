"""Whether the test of `/v1/experiments` keeps its promise however often one looks, and what that costs.

    python benchmarks/sequential.py [--runs 10000] [--users 2000] [--seed 0]

Simulated experiments in which every user is assigned to an arm by chance and says "good" or "bad" once. The peer is
what is usually done: a two-sample z-test at 5 %, looked at after every outcome (from 10 in each arm on). Printed are
the false positives of A/A experiments (at most 5 % is asked for, however often one looks), how often true differences
are found and after how many users on average (beside the z-test looked at only once, at the size that finds the
difference in 80 % of experiments), and how often the advice "no difference of at least the margin" comes, rightly and
wrongly. Exit code 1 if an error rate is above 5 % by more than chance.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from eval.sequential import block_differences, block_sizes, log_wealth

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
ALPHA = 0.05
LEVEL = math.log(2 / ALPHA)
FEWEST = 10
"""Outcomes in each arm before the z-test is looked at."""
AT_ONCE = 200
"""Experiments simulated together; bounds the memory."""
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Case:
    """Two arms by how often they are found good, and the share of traffic that goes to the first."""

    first: float
    second: float
    share: float = 0.5
    ratings: int = 1
    """How often a user answers; beyond the first only those count who are counted naively."""
    alike: float = 0.0
    """How much a user's outcomes are alike: the correlation of any two of them."""

    def __str__(self) -> str:
        several = f", {self.ratings} ratings a user" if self.ratings > 1 else ""
        return f"{self.first:.2f} and {self.second:.2f}, {self.share:.0%} to the first{several}"


class Runs(NamedTuple):
    """Simulated experiments: outcomes in the order of users, [runs, users]."""

    of_first: Bools
    good: Floats


class Blocks(NamedTuple):
    """Differences by block, after which user each block is complete, and which blocks there are; [runs, blocks]."""

    differences: Floats
    ends: Ints
    exist: Bools


class Stops(NamedTuple):
    """After how many outcomes each experiment ended, `NEVER` if it did not."""

    ours: Ints
    peeked: Ints


def simulate(case: Case, runs: int, users: int, rng: np.random.Generator) -> Iterator[Runs]:
    """`runs` experiments, some at a time; a user's further outcomes follow the first at once."""
    for begin in range(0, runs, AT_ONCE):
        shape = min(AT_ONCE, runs - begin), users
        of_first = rng.random(shape) < case.share
        rate = np.where(of_first, case.first, case.second)
        if case.alike:
            strength = 1 / case.alike - 1  # of a beta distribution whose draws agree as much as asked
            rate = rng.beta(rate * strength, (1 - rate) * strength)
        several = np.repeat(rate, case.ratings, axis=1)
        good = (rng.random(several.shape) < several).astype(float)
        yield Runs(np.repeat(of_first, case.ratings, axis=1), good)


def once(runs: Runs, ratings: int) -> Runs:
    """The first outcome of every user."""
    return Runs(runs.of_first[:, ::ratings], runs.good[:, ::ratings])


def blocks(runs: Runs, share: float) -> Blocks:
    """As `eval.sequential` makes them."""
    sizes = block_sizes(share, 1 - share)
    orders = [np.argsort(~mine, axis=1, kind="stable") for mine in (runs.of_first, ~runs.of_first)]
    counts = [mine.sum(axis=1) for mine in (runs.of_first, ~runs.of_first)]
    values = [np.take_along_axis(runs.good, order, axis=1) for order in orders]
    complete = np.minimum(counts[0] // sizes[0], counts[1] // sizes[1])
    most = int(complete.max())
    differences = block_differences(values[0], values[1], sizes)[:, :most]
    ends = np.maximum(
        *(order[:, size - 1 : most * size : size] + 1 for order, size in zip(orders, sizes, strict=True))
    )
    return Blocks(differences, ends, np.arange(most) < complete[:, None])


def rejections(found: Blocks, supposed: float) -> Ints:
    """After which user it is known that the difference is larger than `supposed`."""
    return first_time((log_wealth(found.differences, supposed) >= LEVEL) & found.exist, found.ends)


def first_time(happened: Bools, when: Ints) -> Ints:
    place = happened.argmax(axis=1)
    found = np.take_along_axis(when, place[:, None], axis=1)[:, 0]
    return np.where(happened.any(axis=1), found, NEVER)


def mirrored(found: Blocks) -> Blocks:
    return found._replace(differences=-found.differences)


def different(found: Blocks) -> Ints:
    """After which user one arm is called better."""
    return np.minimum(rejections(found, 0.0), rejections(mirrored(found), 0.0))


def alike(found: Blocks, margin: float) -> Ints:
    """After which user the arms are known to differ by less than the margin."""
    ends = [rejections(side, -margin) for side in (found, mirrored(found))]
    return np.maximum(*ends)


def z_test_peeked(runs: Runs) -> Ints:
    """After which outcome |z| first exceeds 1.96."""
    n = [np.cumsum(mine, axis=1) for mine in (runs.of_first, ~runs.of_first)]
    good = [np.cumsum(runs.good * mine, axis=1) for mine in (runs.of_first, ~runs.of_first)]
    enough = (n[0] >= FEWEST) & (n[1] >= FEWEST)
    a, b = np.maximum(n[0], 1), np.maximum(n[1], 1)
    pooled = (good[0] + good[1]) / (n[0] + n[1])
    error = np.sqrt(pooled * (1 - pooled) * (1 / a + 1 / b))
    far = np.abs(good[0] / a - good[1] / b) > norm.ppf(1 - ALPHA / 2) * error
    steps = np.broadcast_to(np.arange(1, far.shape[1] + 1), far.shape)
    return first_time(far & enough & (error > 0), steps)


def stops(case: Case, runs: int, users: int, rng: np.random.Generator) -> Stops:
    """When either test calls the arms different."""
    ours, peeked = [], []
    for some in simulate(case, runs, users, rng):
        ours.append(different(blocks(once(some, case.ratings), case.share)))
        peeked.append(z_test_peeked(some))
    return Stops(np.concatenate(ours), np.concatenate(peeked))


def size_for_power(case: Case) -> int:
    """Users that a z-test looked at once needs to find the difference in 80 % of experiments."""
    spread = case.first * (1 - case.first) / case.share + case.second * (1 - case.second) / (1 - case.share)
    z = norm.ppf(1 - ALPHA / 2) + norm.ppf(0.8)
    return math.ceil(z**2 * spread / (case.first - case.second) ** 2)


def share(ended: Ints) -> float:
    """How many experiments ended before all users were asked."""
    return float((ended != NEVER).mean())


def mean_size(ended: Ints, users: int) -> float:
    """Users asked on average, where the others are given up after `users`."""
    return float(np.minimum(ended, users).mean())


def too_many(rate: float, runs: int) -> bool:
    """Whether a rate is above 5 % by more than two standard errors of the simulation."""
    return rate > ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


EQUAL = (
    Case(0.5, 0.5),
    Case(0.1, 0.1),
    Case(0.9, 0.9),
    Case(0.7, 0.7, share=0.8),
    Case(0.7, 0.7, share=0.6),
    Case(0.7, 0.7, ratings=5, alike=0.5),
)
UNEQUAL = (Case(0.65, 0.60), Case(0.70, 0.60), Case(0.80, 0.60), Case(0.70, 0.60, share=0.8))
MARGINS = ((Case(0.7, 0.7), 0.1, True), (Case(0.7, 0.7), 0.05, True), (Case(0.8, 0.7), 0.1, False))
MOST_USERS = 6000
"""For experiments that are to find something."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    started, missed = time.monotonic(), 0

    print(f"A/A, {given.runs} experiments of {given.users} users: called different at any time")
    for case in EQUAL:
        ended = stops(case, given.runs, given.users, rng)
        ours, peeked = share(ended.ours), share(ended.peeked)
        missed += too_many(ours, given.runs)
        print(
            f"  {case!s:58} {ours:.4f}   z-test peeked {peeked:.4f}, {peeked / max(ours, 1e-4):.0f} x",
            flush=True,
        )

    few = max(given.runs // 10, 1)
    print(f"A/B, {few} experiments of at most {MOST_USERS} users: found; users on average")
    for case in UNEQUAL:
        ended, fixed = stops(case, few, MOST_USERS, rng), size_for_power(case)
        size, naive = (mean_size(one, MOST_USERS) for one in ended)
        by_then = float((ended.ours <= fixed).mean())
        print(
            f"  {case!s:58} {share(ended.ours):.3f}; {size:5.0f}   z-test once {fixed:5} ({size / fixed:.2f} x; "
            f"ours has found {by_then:.2f} by then), peeked {naive:5.0f} ({size / naive:.2f} x)",
            flush=True,
        )

    print(
        f"no difference of at least the margin, {few} experiments of at most {MOST_USERS} users: said; users"
    )
    for case, margin, true in MARGINS:
        ended_alike = np.concatenate(
            [alike(blocks(some, case.share), margin) for some in simulate(case, few, MOST_USERS, rng)]
        )
        said = share(ended_alike)
        missed += not true and too_many(said, few)
        size = mean_size(ended_alike, MOST_USERS)
        print(
            f"  {case!s:50} margin {margin:.2f} {said:.3f}; {size:5.0f} ({'rightly' if true else 'wrongly'})",
            flush=True,
        )

    print(f"{missed} error rates above 5 %; {time.monotonic() - started:.0f} s")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
