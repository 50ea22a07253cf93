"""The report's colours can be told apart, in its light and in its dark theme."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from eval.attribution import Outcome

STYLE = (Path(__file__).parents[1] / "eval" / "templates" / "report.css").read_text()
PAIRS = {
    name: pair
    for name, *pair in re.findall(r"([\w-]+)(?:: | \{ fill: )light-dark\((#\w{6}), (#\w{6})\)", STYLE)
}
OUTCOMES = [kind.value for kind in Outcome]


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_of_words_and_marks_can_be_told_from_what_is_behind_them(theme: int) -> None:
    behind = {name: PAIRS[f"--{name}"][theme] for name in ("paper", "panel")}
    for name in ("ink", "soft", "accent", "right", "wrong", *(f"s{n}" for n in range(8))):
        assert contrast(PAIRS[f"--{name}"][theme], behind["paper"]) >= 4.5, name
    for name in ("ink", "soft", "right"):
        assert contrast(PAIRS[f"--{name}"][theme], behind["panel"]) >= 4.5, name
    for name in OUTCOMES:
        assert contrast(PAIRS[name][theme], behind["paper"]) >= 3, name
        assert contrast(PAIRS[name][theme], PAIRS["on-piece"][theme]) >= 4.5, name


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    r, g, b = (part / 12.92 if part <= 0.04045 else math.pow((part + 0.055) / 1.055, 2.4) for part in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
