"""Which route to use: the cheapest that is not inferior to the best by the margin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.statistics import ALPHA, Estimate, Floats, more_questions, paired_difference


@dataclass(frozen=True, slots=True)
class Cost:
    """What answers cost on a route: money for 1,000 of them with training, tokens and seconds for one."""

    money: float
    tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A recommendation; `tied_with` are the routes that these data cannot tell from it."""

    recommended: str
    tied_with: tuple[str, ...]
    more_questions: int
    """About how many more would settle the ties that are not known to be within the margin."""
    reason: str


def decide(
    scores: Mapping[str, Floats],
    clusters: Sequence[str],
    costs: Mapping[str, Cost],
    currency: str,
    metric: str,
    margin: float,
    resamples: int,
    seed: int,
) -> Verdict:
    """Compare every route with the best one, and the rest with the cheapest that is as good.

    Costs are compared in money, then in tokens, then in seconds. Intervals are simultaneous over the routes compared.
    """

    def cost_of(name: str) -> tuple[float, float, float]:
        return costs[name].money, costs[name].tokens, costs[name].seconds

    def compare(a: str, b: str) -> Estimate:
        rng = np.random.default_rng(seed)
        return paired_difference(scores[a] - scores[b], clusters, resamples, rng, alpha).estimate

    alpha = ALPHA / max(len(scores) - 1, 1)
    means = {name: float(values.mean()) for name, values in scores.items()}
    best = min(scores, key=lambda name: (-means[name], *cost_of(name)))
    as_good = [name for name in scores if name == best or compare(name, best).low > -margin]
    recommended = min(as_good, key=cost_of)

    against = {name: compare(name, recommended) for name in scores if name != recommended}
    tied = {name: estimate for name, estimate in against.items() if estimate.low <= 0 <= estimate.high}
    open_ties = {name: e for name, e in tied.items() if not (-margin < e.low and e.high < margin)}
    needed = {name: more_questions(estimate, margin, alpha) for name, estimate in open_ties.items()}
    return Verdict(
        recommended=recommended,
        tied_with=tuple(tied),
        more_questions=max(needed.values(), default=0),
        reason=" ".join(
            [_why(recommended, best, means, costs, currency, metric, margin), *_what_is_open(needed)]
        ),
    )


def _why(
    recommended: str,
    best: str,
    means: Mapping[str, float],
    costs: Mapping[str, Cost],
    currency: str,
    metric: str,
    margin: float,
) -> str:
    ours, theirs = costs[recommended], costs[best]
    price = f"{ours.money:.3g} {currency} per 1,000 answers"
    if recommended == best:
        return f"{recommended} has the highest {metric} ({means[best]:.3f}), at {price}."
    if ours.money < theirs.money:
        saving = f"cheaper: {price} instead of {theirs.money:.3g}"
    elif ours.tokens < theirs.tokens:
        saving = f"cheaper: {ours.tokens:.0f} tokens a question instead of {theirs.tokens:.0f}"
    else:
        saving = f"faster: {ours.seconds:.2f} s a question instead of {theirs.seconds:.2f}"
    return (
        f"{recommended} ({metric} {means[recommended]:.3f}) is at most {margin:g} worse than {best} "
        f"({means[best]:.3f}) and {saving}."
    )


def _what_is_open(needed: Mapping[str, int]) -> list[str]:
    if not needed:
        return []
    rivals = " and ".join(needed)
    most = max(needed.values())
    if not most:
        return [f"These questions cannot tell it from {rivals}."]
    return [f"These questions cannot tell it from {rivals}; about {most} more would."]
