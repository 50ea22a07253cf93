"""What a trained adapter must show on dev before routes use it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

MOST_POINTS_FORGOTTEN = 2.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Dev scores, question by question, of a route with the adapter and of its rival without.

    `must_win` asks for a higher mean, otherwise one as high is enough.
    """

    route: str
    rival: str
    scores: tuple[float, ...]
    rival_scores: tuple[float, ...]
    must_win: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """What the gates judge; `points_forgotten` is None where no general questions are configured."""

    comparisons: Sequence[Comparison]
    points_forgotten: float | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """Measures an adapter version, by its key; handed in by the command line, since routes live in `service`.

    `conditions` is the hash of what is asked, of which routes, and how it is scored.
    """

    of: Callable[[str], Measured]
    conditions: str


@dataclass(frozen=True, slots=True)
class Gates:
    """`failures` is empty if the adapter may be promoted; `figures` is what was found under the `conditions`."""

    failures: tuple[str, ...]
    figures: dict[str, Any]
    conditions: str

    @property
    def passed(self) -> bool:
        """Whether the adapter may be promoted."""
        return not self.failures


def judge(measured: Measured, conditions: str) -> Gates:
    """Compare means of paired dev scores; the standard error is reported, not used to wave a failure through."""
    failures: list[str] = []
    figures: dict[str, Any] = {}
    for pair in measured.comparisons:
        differences = [a - b for a, b in zip(pair.scores, pair.rival_scores, strict=True)]
        if not differences:
            continue
        mean = fmean(differences)
        error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
        figures[f"{pair.route} - {pair.rival}"] = {
            "questions": len(differences),
            "difference": round(mean, 4),
            "standard_error": round(error, 4) if math.isfinite(error) else None,
        }
        if not (mean > 0 if pair.must_win else mean >= 0):
            failures.append(
                f"{pair.route} scores {fmean(pair.scores):.3f} on {len(differences)} dev questions and "
                f"{pair.rival} {fmean(pair.rival_scores):.3f} (paired: {mean:+.3f}, standard error {error:.3f})"
            )
    if measured.points_forgotten is not None:
        figures["points_forgotten"] = round(measured.points_forgotten, 2)
        if not measured.points_forgotten <= MOST_POINTS_FORGOTTEN:
            failures.append(
                f"{measured.points_forgotten:.1f} points of general multiple choice are forgotten; "
                f"{MOST_POINTS_FORGOTTEN:.0f} are allowed"
            )
    return Gates(tuple(failures), figures, conditions)
