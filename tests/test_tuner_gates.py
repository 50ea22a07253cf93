import math
import re

import pytest

from cli.gates import gated_pairs
from service.config import RouteConfig
from settings import Settings
from tuner.gates import Comparison, Measured, judge


def tuned(scores, rival=(0.2, 0.2, 0.2)):
    return Comparison("tuned", "base", tuple(scores), tuple(rival), must_win=True)


def hybrid(scores, rival=(0.5, 0.5, 0.5)):
    return Comparison("hybrid", "rag", tuple(scores), tuple(rival), must_win=False)


def test_an_adapter_that_helps_passes_with_its_figures():
    gates = judge(Measured([tuned([0.4, 0.2, 0.3]), hybrid([0.5, 0.5, 0.5])], points_forgotten=1.5), "")
    assert gates.passed
    assert gates.figures["tuned - base"] == {"questions": 3, "difference": 0.1, "standard_error": 0.0577}
    assert gates.figures["points_forgotten"] == 1.5


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (Measured([tuned([0.2, 0.2, 0.2])]), "tuned scores 0.200 on 3 dev questions and base 0.200"),
        (Measured([tuned([0.9] * 3), hybrid([0.4, 0.5, 0.5])]), "hybrid scores 0.467 .* rag 0.500"),
        (Measured([tuned([0.9] * 3)], points_forgotten=2.4), "2.4 points of general multiple choice"),
        (Measured([tuned([0.9] * 3)], points_forgotten=math.nan), "nan points"),
    ],
)
def test_a_failing_adapter_says_why(measured, said):
    (failure,) = judge(measured, "").failures
    assert re.search(said, failure)


def test_without_anything_to_compare_nothing_fails():
    assert judge(Measured([]), "").passed
    assert judge(Measured([tuned([], [])]), "").passed


def test_routes_with_the_adapter_are_pinned_to_the_version_and_have_a_rival_that_retrieves_alike():
    settings = Settings(routes={"reader": RouteConfig(retrieve=True, adapter="reader")})
    pairs = gated_pairs(settings, "mixed@7")
    assert [(a.name, a.adapter, b.name) for a, b in pairs] == [
        ("tuned", "mixed@7", "base"),
        ("hybrid", "mixed@7", "rag"),
    ]
    assert [(a.name, b.name) for a, b in gated_pairs(settings, "reader@1")] == [("reader", "rag")]
    assert gated_pairs(settings, "unused@1") == []
