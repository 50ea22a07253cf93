"""The report's plots of quality: contrasts, quality against latency and cost, outcomes, retrieval, forgetting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from eval.attribution import Outcome
from eval.drawing import (
    WIDTH,
    beside,
    circle,
    curves,
    in_words,
    line,
    linear,
    logarithmic,
    picture,
    rectangle,
    series,
    shortened,
    text,
    tooltip,
    width_of,
    write,
    x_axis,
    y_axis,
)
from eval.result import EvaluationResult, RouteAttribution

GOOD = (Outcome.READ, Outcome.PARAMETRIC_HIT, Outcome.RIGHT_ABSTENTION)
"""Outcomes of right answers."""
_LEFT, _RIGHT = 44.0, WIDTH - 12.0
_WIDEST_RATIO = 6.0
"""Latencies further apart than this are drawn on a logarithmic scale."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with what it is called, in the page and as a file, and what is to be seen in it."""

    name: str
    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Interval:
    """A row of a forest plot."""

    label: str
    note: str
    value: float
    low: float
    high: float


def contrasts_plot(result: EvaluationResult) -> Figure | None:
    """Differences between routes with simultaneous intervals; None without contrasts."""
    if not result.contrasts:
        return None
    margin = float(result.provenance.settings["margin"])
    metric = result.contrasts[0].metric
    rows = [
        Interval(
            f"{c.a} \N{MINUS SIGN} {c.b}",
            f"{c.difference:+.3f}, {c.verdict}"
            + (f" ({c.more_questions:,} more)" if c.verdict == "undecided" and c.more_questions else ""),
            c.difference,
            *c.ci,
        )
        for c in result.contrasts
    ]
    return Figure(
        "contrasts",
        f"Differences in {metric}",
        "Paired by question; the intervals hold for all contrasts at once. Right of nought the route named first is "
        f"better. Inside the shaded band (± {margin:g}) a difference is too small to matter.",
        forest(
            "contrasts", f"Differences in {metric} between routes, with intervals", rows, f"{metric}", margin
        ),
    )


def forest(name: str, title: str, rows: Sequence[Interval], label: str, margin: float = 0.0) -> Markup:
    """Intervals about nought, one below the other; within `margin` of it they are shaded."""
    height, bottom = 46.0 * len(rows) + 52, 46.0 * len(rows) + 6
    said = "; ".join(f"{r.label}: {r.note}, from {r.low:+.3f} to {r.high:+.3f}" for r in rows)
    svg = picture(name, height, title, f"{said}.")
    ends = [end for row in rows for end in (row.low, row.value, row.high)]
    scale = linear([0.0, -margin, margin, *ends], 20.0, WIDTH - 20)
    if margin:
        rectangle(svg, "band", scale(-margin), 0, scale(margin) - scale(-margin), bottom)
    x_axis(svg, scale, 0, bottom, f"difference in {label}")
    line(svg, "axis", scale(0), 0, scale(0), bottom)
    for number, row in enumerate(rows):
        top = 46.0 * number
        room = WIDTH - width_of(row.note) - 16
        text(svg, shortened(row.label, room), 2, top + 18, kind="strong halo")
        text(svg, row.note, WIDTH - 2, top + 18, "end", "halo")
        line(svg, "interval", scale(row.low), top + 34, scale(row.high), top + 34)
        for end in (row.low, row.high):
            line(svg, "interval", scale(end), top + 29, scale(end), top + 39)
        dot = circle(svg, "point", scale(row.value), top + 34, 5)
        tooltip(dot, f"{row.label}: {row.value:+.3f} [{row.low:+.3f}, {row.high:+.3f}]")
    return write(svg)


def quality_plot(result: EvaluationResult) -> Figure:
    """Every route by its latency (across), quality (up) and cost (the size of its mark)."""
    metric = str(result.provenance.settings["primary_metric"])
    currency = str(result.costs.prices["currency"])
    top, bottom, height = 26.0, 270.0, 316.0
    scores = {name: route.metrics[metric] for name, route in result.routes.items()}
    latency = {name: max(route.latency_ms.p50, 0.01) for name, route in result.routes.items()}
    money = {
        name: cost.per_1000 if cost.per_1000_with_training is None else cost.per_1000_with_training
        for name, cost in result.costs.routes.items()
    }
    said = "; ".join(
        f"{name}: {metric} {scores[name].mean:.3f}, {latency[name]:.0f} ms, {money[name]:.3g} {currency}"
        for name in scores
    )
    svg = picture("quality", height, f"{metric} against latency and cost", f"{said}.")
    far = max(latency.values()) / min(latency.values()) > _WIDEST_RATIO
    across = (
        logarithmic([*latency.values()], _LEFT, _RIGHT)
        if far
        else linear([0.0, *latency.values()], _LEFT, _RIGHT)
    )
    up = linear([0.0, *(end for score in scores.values() for end in score.ci)], bottom, top)
    x_axis(svg, across, top, bottom, "median latency in ms" + (", logarithmic" if far else ""))
    y_axis(svg, up, _LEFT, _RIGHT, metric)
    dearest = max(money.values())
    radius = {name: max(20 * math.sqrt(cost / dearest), 3) if dearest else 6 for name, cost in money.items()}
    # Large ones first, so that none is hidden.
    for name in sorted(scores, key=lambda name: -radius[name]):
        colour = series([*scores].index(name))
        x, y = across(latency[name]), up(scores[name].mean)
        line(svg, f"whisker {colour}", x, up(scores[name].ci[0]), x, up(scores[name].ci[1]))
        bubble = circle(svg, f"bubble {colour}", x, y, round(radius[name], 1))
        tooltip(
            bubble,
            f"{name}: {metric} {scores[name].mean:.3f}, {latency[name]:.0f} ms, {money[name]:.3g} {currency}",
        )
        circle(svg, f"mark {colour}", x, y, 2.5)
    spots = [(across(latency[n]), up(scores[n].mean), radius[n]) for n in scores]
    labels = [f"{name}, {money[name]:.2g} {currency}" for name in scores]
    for words, (x, y, anchor) in zip(labels, beside(spots, labels, _LEFT), strict=True):
        text(svg, words, x, y, anchor, "halo")
    return Figure(
        "quality",
        "Quality, latency and cost",
        f"Higher is better, further left is faster. The area of a mark is what 1,000 answers cost ({currency}, the "
        "share of training included where it is known); the line is the 95 % interval.",
        write(svg),
    )


def outcomes_plot(attribution: Mapping[str, RouteAttribution]) -> Figure:
    """What became of every question, one bar a route: right on the left, wrong on the right."""
    kinds = [k for k in sorted(Outcome, key=lambda kind: kind not in GOOD) if _count(attribution, k)]
    bars = 48.0 * len(attribution)
    legend_rows = math.ceil(len(kinds) / 2)
    said = []
    svg = picture("outcomes", bars + 22 * legend_rows + 12, "Outcomes by route", "")
    for number, (name, route) in enumerate(attribution.items()):
        top, total = 48.0 * number, sum(route.outcomes.values())
        right = sum(route.outcomes.get(kind.value, 0) for kind in GOOD)
        text(svg, shortened(name, WIDTH - 130), 0, top + 14, kind="strong")
        text(svg, f"{right} of {total} right", WIDTH, top + 14, "end")
        start = 0.0
        for kind in kinds:
            count = route.outcomes.get(kind.value, 0)
            if not count:
                continue
            width = round(WIDTH * count / total, 2)
            piece = rectangle(svg, f"piece {kind.value}", start + 0.75, top + 20, max(width - 1.5, 0.75), 20)
            tooltip(piece, f"{name}, {_words(kind)}: {count} of {total}")
            if width > width_of(str(count)) + 6:
                text(svg, str(count), start + width / 2, top + 35, "middle", "on-piece")
            start += width
        said.append(f"{name}: {', '.join(f'{n} {_words(Outcome(k))}' for k, n in route.outcomes.items())}")
    for number, kind in enumerate(kinds):
        # Down the first column, then the second.
        x, y = WIDTH / 2 * (number // legend_rows), bars + 8 + 22 * (number % legend_rows)
        rectangle(svg, f"piece {kind.value}", x, y, 13, 13)
        text(svg, f"{'✓' if kind in GOOD else '✗'} {_words(kind)}", x + 19, y + 12, kind="small")
    svg[1].text = "; ".join(said) + "."
    return Figure(
        "outcomes",
        "What became of every question",
        "Numbers of questions: right answers (✓) on the left of every bar, wrong ones (✗) on the right.",
        write(svg),
    )


def retrieval_plot(retrieval: Mapping[str, float]) -> Figure | None:
    """Recall over the number of passages, of documents and of evidence; None if it was not measured."""
    recalls = {
        label: points
        for label, prefix in (("gold document", "recall@"), ("gold passage", "evidence_recall@"))
        if (points := _curve(retrieval, prefix))
    }
    if not recalls:
        return None
    top, bottom = 26.0, 214.0
    svg = picture("retrieval", 260, "Recall over the number of passages", in_words(recalls))
    deepest = max(k for points in recalls.values() for k, _ in points)
    right = WIDTH - 18 - max(map(width_of, recalls))
    across = linear([0.0, float(deepest)], _LEFT, right)
    up = linear([0.0, 1.0], bottom, top)
    x_axis(svg, across, top, bottom, "passages retrieved (k)")
    y_axis(svg, up, _LEFT, right, "recall@k")
    curves(
        svg,
        recalls,
        across,
        up,
        (right, top, bottom),
        lambda label, k, value: f"{label}, recall@{k}: {value:.3f}",
    )
    return Figure(
        "retrieval",
        "Retrieval",
        "How often what is needed is among the first k passages, over the questions that name it.",
        write(svg),
    )


def forgetting_plot(result: EvaluationResult) -> Figure | None:
    """What each adapter lost or gained on general questions; None if it was not measured."""
    rows = [
        Interval(
            f"{adapter}, {one.source}",
            f"{one.change.mean:+.3f}",
            one.change.mean,
            *one.change.ci,
        )
        for adapter, found in result.forgetting.items()
        for one in found
    ]
    if not rows:
        return None
    return Figure(
        "forgetting",
        "Forgetting",
        "Share of general questions answered rightly with the adapter less that without it, paired by question. Left "
        "of nought something was forgotten.",
        forest("forgetting", "What adapters forgot", rows, "right answers"),
    )


def _count(attribution: Mapping[str, RouteAttribution], kind: Outcome) -> int:
    return sum(route.outcomes.get(kind.value, 0) for route in attribution.values())


def _words(kind: Outcome) -> str:
    return kind.value.replace("_", " ")


def _curve(retrieval: Mapping[str, float], prefix: str) -> list[tuple[int, float]]:
    found = [(int(name.removeprefix(prefix)), v) for name, v in retrieval.items() if name.startswith(prefix)]
    return sorted(found)
