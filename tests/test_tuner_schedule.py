import math

import pytest
import torch

from tuner.config import TuneConfig
from tuner.schedule import LearningRates


def rates(schedule, steps=20, warmup=0.2):
    settings = TuneConfig(schedule=schedule, learning_rate=1.0, warmup=warmup)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    learning_rate = LearningRates(optimizer, steps, 0, settings)
    return [learning_rate(step) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_linearly_and_no_step_is_lost(schedule):
    assert rates(schedule)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates(schedule, steps=1) == [1.0]
    assert min(rates(schedule, warmup=0)) > 0


def test_cosine_falls_to_a_tenth():
    expected = [0.1 + 0.45 * (1 + math.cos(math.pi * done / 16)) for done in range(16)]
    assert rates("cosine")[4:] == pytest.approx(expected)


def test_linear_falls_evenly_towards_nothing():
    assert rates("linear")[4:] == pytest.approx([1 - done / 16 for done in range(16)])


def test_constant_stays():
    assert rates("constant")[4:] == [1.0] * 16


def test_reading_has_a_rise_and_fall_of_its_own_at_its_share_of_the_rate():
    settings = TuneConfig(schedule="linear", learning_rate=1.0, open_book_rate=0.25, warmup=0.2)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    learning_rate = LearningRates(optimizer, 20, 10, settings)
    assert [learning_rate(step) for step in range(20)] == pytest.approx(rates("linear"))
    assert [learning_rate(step) for step in range(20, 30)] == pytest.approx(
        [0.25 * rate for rate in rates("linear", steps=10)]
    )
