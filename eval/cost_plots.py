"""The report's plots of money: what answers cost at any volume, and from where on fine-tuning pays."""

from __future__ import annotations

from collections.abc import Mapping

from eval.config import Prices
from eval.costs import Usage, total_per_1000
from eval.drawing import (
    WIDTH,
    line,
    logarithmic,
    marker,
    picture,
    polyline,
    series,
    shortened,
    spread,
    text,
    tooltip,
    width_of,
    write,
    x_axis,
    y_axis,
)
from eval.plots import Figure
from eval.result import CostsResult, RouteCost

VOLUMES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6)
"""Questions a day that costs are drawn for."""
_LEFT, _TOP, _BOTTOM, _HEIGHT = 56.0, 26.0, 250.0, 296.0


def volume_plot(costs: CostsResult, retrieves: Mapping[str, bool]) -> Figure | None:
    """1,000 answers of every route, training included, over the questions a day.

    Routes that cost nothing, or whose training nobody knows, are left out; None if no route is left.
    """
    prices = Prices.model_validate(costs.prices)
    curves = {
        name: points
        for name, route in costs.routes.items()
        if (points := _points(route, prices, retrieves[name]))
    }
    if not curves:
        return None
    room = 18 + max(width_of(shortened(name, 120)) for name in curves)
    said = "; ".join(
        f"{n}: {p[0][1]:.3g} at {p[0][0]:,.0f}, {p[-1][1]:.3g} at {p[-1][0]:,.0f}" for n, p in curves.items()
    )
    svg = picture("volume", _HEIGHT, f"{prices.currency} for 1,000 answers over questions a day", f"{said}.")
    across = logarithmic([*VOLUMES, prices.questions_per_day], _LEFT, WIDTH - room)
    up = logarithmic([cost for points in curves.values() for _, cost in points], _BOTTOM, _TOP)
    x_axis(svg, across, _TOP, _BOTTOM, "questions a day, logarithmic")
    y_axis(svg, up, _LEFT, WIDTH - room, f"{prices.currency} per 1,000 answers, logarithmic")
    ours = across(prices.questions_per_day)
    line(svg, "declared", ours, _TOP, ours, _BOTTOM)
    tooltip(svg[-1], f"{prices.questions_per_day:,g} questions a day, as declared")
    ends = spread([up(points[-1][1]) for points in curves.values()], 16, _TOP, _BOTTOM)
    for (name, points), end in zip(curves.items(), ends, strict=True):
        number = [*costs.routes].index(name)
        polyline(svg, f"curve {series(number)}", [(across(volume), up(cost)) for volume, cost in points])
        at_end = marker(svg, number, across(points[-1][0]), up(points[-1][1]))
        tooltip(at_end, f"{name}: {points[-1][1]:.3g} {prices.currency} at {points[-1][0]:,.0f} a day")
        text(svg, shortened(name, 120), WIDTH - room + 12, end + 4, kind=f"on-{series(number)}")
    return Figure(
        "volume",
        "What answers cost at other volumes",
        f"Documents change every {prices.change_days:g} days; the dashed line is the declared "
        f"{prices.questions_per_day:,g} questions a day. Costs fall where a training is shared by more answers.",
        write(svg),
    )


def break_even_plot(costs: CostsResult) -> Figure | None:
    """Questions a day from which fine-tuning is cheaper, over how rarely documents change; None if it never is."""
    prices = Prices.model_validate(costs.prices)
    curves = [
        (pair.route, pair.against, points)
        for pair in costs.break_even
        if (points := [(float(d), q) for d, q in pair.questions_per_day.items() if q])
    ]
    if not curves:
        return None
    said = "; ".join(
        f"{route} against {against}: "
        + ", ".join(f"{q:,.0f} a day at every {day:g} days" for day, q in points)
        for route, against, points in curves
    )
    svg = picture("break-even", _HEIGHT, "Questions a day from which fine-tuning costs less", f"{said}.")
    right = WIDTH - 12
    across = logarithmic([prices.change_days, *(d for *_, p in curves for d, _ in p)], _LEFT, right)
    up = logarithmic([prices.questions_per_day, *(q for *_, p in curves for _, q in p)], _BOTTOM, _TOP)
    x_axis(svg, across, _TOP, _BOTTOM, "days between changes of the documents, logarithmic")
    y_axis(svg, up, _LEFT, right, "questions a day, logarithmic")
    # Beside the second point, where a falling line leaves room above itself.
    spots = [points[min(1, len(points) - 1)] for *_, points in curves]
    heights = spread([up(questions) for _, questions in spots], 18, _TOP + 24, _BOTTOM)
    for (route, against, points), (first, _), high in zip(curves, spots, heights, strict=True):
        number = [*costs.routes].index(route)
        polyline(svg, f"curve {series(number)}", [(across(day), up(q)) for day, q in points])
        for day, questions in points:
            words = f"{route} costs less than {against} above {questions:,.0f} a day at every {day:g} days"
            tooltip(marker(svg, number, across(day), up(questions)), words)
        kind = f"halo on-{series(number)}"
        words = f"above: {route} cheaper than {against}"
        if points[0][1] == points[-1][1]:
            text(svg, shortened(words, right - _LEFT), right - 4, high - 10, "end", kind)
        else:
            text(svg, shortened(words, right - across(first) - 8), across(first) + 8, high - 10, kind=kind)
    x, y = across(prices.change_days), up(prices.questions_per_day)
    line(svg, "declared", x, _TOP, x, _BOTTOM)
    line(svg, "declared", _LEFT, y, right, y)
    return Figure(
        "break-even",
        "When fine-tuning pays",
        "Above a line the route with the adapter costs less in all. Where the dashed lines cross is what was declared: "
        f"{prices.questions_per_day:,g} questions a day, documents changing every {prices.change_days:g} days.",
        write(svg),
    )


def _points(route: RouteCost, prices: Prices, retrieves: bool) -> list[tuple[float, float]]:
    usage = Usage(
        route.seconds, route.prompt_tokens, route.completion_tokens, retrieves, route.training_seconds
    )
    found = [
        (volume, total_per_1000(usage, prices.model_copy(update={"questions_per_day": volume})))
        for volume in VOLUMES
    ]
    return [(volume, cost) for volume, cost in found if cost]
