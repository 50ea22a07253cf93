"""Scales have readable ticks, and labels make room for each other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from eval.drawing import Scale, linear, logarithmic, spread


@pytest.mark.parametrize(
    "scale",
    [
        *(
            linear(values, 0, 100)
            for values in ([0.0], [-0.013, 0.02], [0.0, 1.0], [3.0, 97_000.0], [-5.0, -4.0])
        ),
        *(logarithmic(values, 0, 100) for values in ([0.01, 0.012], [1.0, 1e6], [5.0], [1e-9, 1e9])),
    ],
)
def test_ticks_are_few_ascending_and_inside(scale: Scale) -> None:
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 8
    assert list(ticks) == sorted(set(ticks))
    assert all(-0.1 <= scale(tick) <= 100.1 for tick in ticks)


def test_logarithmic_scale_gives_equal_ratios_equal_room() -> None:
    scale = Scale(1, 10_000, 0, 100, logarithmic=True)
    assert [scale(v) for v in (1, 10, 100, 1000, 10_000)] == [0, 25, 50, 75, 100]


@pytest.mark.parametrize("places", [[5, 5, 5], [0, 100, 50], [99, 98, 97], []])
def test_labels_are_spread_apart_and_stay_inside(places: Sequence[float]) -> None:
    moved = spread(places, 10, 0, 100)
    assert all(b - a >= 10 - 1e-9 for a, b in zip(sorted(moved), sorted(moved)[1:], strict=False))
    assert all(0 <= place <= 100 for place in moved)
    order = sorted(range(len(places)), key=places.__getitem__)
    assert [moved[index] for index in order] == sorted(moved)
