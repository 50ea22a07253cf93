"""Which tokens are drawn, and how often."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuner.sampling import sample, seeded

LARGE_VOCABULARY = 5000


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> dict[int, float]:
    """The tokens that may be drawn, each with its probability, by the definition."""
    weights = [math.exp(value / temperature) for value in logits.tolist()]
    whole = sum(weights)
    kept, mass = {}, 0.0
    for token in sorted(range(len(weights)), key=weights.__getitem__, reverse=True):
        if mass >= top_p:
            break
        kept[token] = weights[token] / whole
        mass += kept[token]
    return {token: share / mass for token, share in kept.items()}


def draw(logits: torch.Tensor, temperature: float, top_p: float, times: int) -> Counter[int]:
    randomness = seeded(temperature, seed=1)
    assert randomness is not None
    return Counter(sample(logits, temperature, top_p, randomness) for _ in range(times))


@given(
    values=st.lists(st.floats(-8, 8), min_size=1, max_size=40, unique_by=lambda value: round(value, 2)),
    temperature=st.floats(0.2, 2),
    top_p=st.floats(0.05, 0.95),
)
def test_nothing_outside_the_nucleus_is_drawn(values, temperature, top_p):
    logits = torch.tensor(values)
    # Where rounding decides whether one token more belongs to it, either answer is right.
    allowed = nucleus(logits, temperature, min(1.0, top_p + 1e-5))
    assert set(draw(logits, temperature, top_p, 20)) <= set(allowed)


@pytest.mark.parametrize("top_p", [0.5, 0.9, 1.0])
def test_tokens_are_drawn_as_often_as_they_should(top_p):
    logits = torch.tensor([2.0, 1.5, 1.0, 0.0, -1.0, -3.0])
    drawn = draw(logits, 0.8, top_p, 4000)
    for token, share in nucleus(logits, 0.8, top_p).items():
        assert drawn[token] / 4000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 4000))


def test_a_nucleus_of_thousands_is_drawn_from_as_a_whole():
    logits = torch.linspace(0.0, 0.1, LARGE_VOCABULARY)
    drawn = draw(logits, 1.0, 0.5, 600)
    allowed = nucleus(logits, 1.0, 0.5)
    assert 2000 < len(allowed) < LARGE_VOCABULARY / 2
    assert set(drawn) <= set(allowed)
    assert min(drawn) < LARGE_VOCABULARY * 0.55
