"""What an experiment shows: the terms between the service, which keeps outcomes, and the statistics that judge them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Advice = Literal["better", "no_difference", "go_on"]


@dataclass(frozen=True, slots=True)
class Contrast:
    """What is known of arm `a` minus arm `b`; `low`, `high` and `p` hold whenever one looks."""

    a: str
    b: str
    difference: float | None
    low: float
    high: float
    p: float
    blocks: int
    """How many blocks of outcomes this rests on."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What an experiment shows so far; `arms` are those that no other arm is known to be better than."""

    advice: Advice
    arms: tuple[str, ...]
    contrasts: tuple[Contrast, ...]


Analyse = Callable[[Mapping[str, float], Sequence[tuple[str, float]], float, float], Findings]
"""From shares, outcomes as they came (arm, number from 0 to 1), margin and error rate; `eval.sequential` has one."""
