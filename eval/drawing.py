"""What plots are drawn with: SVG elements, scales and axes. Colours and fonts come from the page's style sheet.

Elements are built as a tree and written out by the standard library, so every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

WIDTH = 480.0
"""Of every plot, in its own units: narrow enough to be read on a phone."""
SERIES = 8
"""How many colours the style sheet has for routes (`.s0`, `.s1`, ...)."""
_CHARACTER = 7.2
"""The width of one, about, at the plots' font size."""
_TICKS = 5
_LOWER = (-17.0, 17.0, -34.0, 34.0)
"""How far a label may stand from its mark's height, where marks lie upon each other."""
_Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places: linear, or logarithmic for values above nought."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Where `value` lies."""
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Round values inside the scale."""
        return _log_ticks(self.low, self.high) if self.logarithmic else _linear_ticks(self.low, self.high)


def linear(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale that holds all `values` and ends on round ones."""
    low, high = min(values), max(values)
    if low == high:
        low, high = min(low, 0.0), max(high, low + 1.0)
    step = _step(high - low)
    return Scale(math.floor(low / step) * step, math.ceil(high / step) * step, start, end)


def logarithmic(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale that holds all `values`, which are above nought, with some room at both ends."""
    low, high = min(values), max(values)
    room = max((high / low) ** 0.08, 1.25)
    return Scale(low / room, high * room, start, end, logarithmic=True)


def picture(name: str, height: float, title: str, description: str) -> Element:
    """An empty SVG; `title` and `description` are what a screen reader says of it."""
    svg = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {WIDTH:g} {height:g}",
            "role": "img",
            "aria-labelledby": f"{name}-title {name}-description",
        },
    )
    SubElement(svg, "title", {"id": f"{name}-title"}).text = title
    SubElement(svg, "desc", {"id": f"{name}-description"}).text = description
    return svg


def write(svg: Element) -> Markup:
    """The SVG as a part of a page."""
    # The tree's own writer has escaped every text.
    return Markup(tostring(svg, encoding="unicode"))  # noqa: S704


def line(parent: Element, kind: str, x1: float, y1: float, x2: float, y2: float) -> Element:
    """A straight line of the style sheet's class `kind`."""
    places = {"x1": f"{x1:g}", "y1": f"{y1:g}", "x2": f"{x2:g}", "y2": f"{y2:g}"}
    return SubElement(parent, "line", {"class": kind, **places})


def polyline(parent: Element, kind: str, points: Sequence[tuple[float, float]]) -> Element:
    """A line through `points`."""
    places = " ".join(f"{x:g},{y:g}" for x, y in points)
    return SubElement(parent, "polyline", {"class": kind, "points": places})


def rectangle(parent: Element, kind: str, x: float, y: float, width: float, height: float) -> Element:
    """A filled rectangle."""
    sides = {"x": f"{x:g}", "y": f"{y:g}", "width": f"{width:g}", "height": f"{height:g}"}
    return SubElement(parent, "rect", {"class": kind, **sides})


def circle(parent: Element, kind: str, x: float, y: float, radius: float) -> Element:
    """A filled circle."""
    return SubElement(parent, "circle", {"class": kind, "cx": f"{x:g}", "cy": f"{y:g}", "r": f"{radius:g}"})


def marker(parent: Element, number: int, x: float, y: float) -> Element:
    """The mark of series `number`: told apart by shape as well as by colour."""
    shapes = (
        "m-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
        "m-4.5-4.5h9v9h-9z",
        "m0-6l5.5 10h-11z",
        "m0-6l6 6l-6 6l-6-6z",
    )
    shape = shapes[number % len(shapes)]
    return SubElement(parent, "path", {"class": f"mark {series(number)}", "d": f"M{x:g} {y:g}{shape}"})


def text(parent: Element, words: str, x: float, y: float, anchor: str = "start", kind: str = "") -> Element:
    """Words at a place; `anchor` is `start`, `middle` or `end`."""
    attributes = {"x": f"{x:g}", "y": f"{y:g}"}
    attributes |= {"text-anchor": anchor} if anchor != "start" else {}
    attributes |= {"class": kind} if kind else {}
    element = SubElement(parent, "text", attributes)
    element.text = words
    return element


def tooltip(element: Element, words: str) -> None:
    """What is shown where the pointer rests."""
    SubElement(element, "title").text = words


def series(number: int) -> str:
    """The style sheet's class for the colour of series `number`."""
    return f"s{number % SERIES}"


def width_of(words: str) -> float:
    """About how wide words are."""
    return _CHARACTER * len(words)


def shortened(words: str, room: float) -> str:
    """`words` cut to about `room`."""
    fits = max(int(room / _CHARACTER), 2)
    return words if len(words) <= fits else words[: fits - 1] + "…"


def x_axis(parent: Element, scale: Scale, top: float, bottom: float, label: str) -> None:
    """Grid lines from `top` to `bottom`, their values below, and what they mean."""
    for value in scale.ticks():
        line(parent, "grid", scale(value), top, scale(value), bottom)
        text(parent, tick_text(value), scale(value), bottom + 18, "middle", "small")
    line(parent, "axis", scale.start, bottom, scale.end, bottom)
    text(parent, label, (scale.start + scale.end) / 2, bottom + 38, "middle", "small")


def y_axis(parent: Element, scale: Scale, left: float, right: float, label: str) -> None:
    """Grid lines from `left` to `right`, their values before them, and what they mean above."""
    for value in scale.ticks():
        line(parent, "grid", left, scale(value), right, scale(value))
        text(parent, tick_text(value), left - 8, scale(value) + 4, "end", "small")
    text(parent, label, 0, 14, "start", "small")


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """`places` moved as little as is simple so that all are `gap` apart, between `low` and `high` if they fit."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    below = low - gap
    for index in order:
        moved[index] = below = max(places[index], below + gap)
    above = high + gap
    for index in reversed(order):
        moved[index] = above = min(moved[index], above - gap)
    return moved


def curves(
    parent: Element,
    points_of: Mapping[str, Sequence[tuple[float, float]]],
    across: Scale,
    up: Scale,
    box: tuple[float, float, float],
    said: Callable[[str, float, float], str],
) -> None:
    """A line with markers for each label, which stands at its end; `box` is the right, top and bottom of the axes.

    `said` makes the tooltip of a label's point.
    """
    right, top, bottom = box
    ends = spread([up(points[-1][1]) for points in points_of.values()], 17, top, bottom)
    for number, (label, points) in enumerate(points_of.items()):
        polyline(parent, f"curve {series(number)}", [(across(x), up(y)) for x, y in points])
        for x, y in points:
            tooltip(marker(parent, number, across(x), up(y)), said(label, x, y))
        text(parent, label, right + 12, ends[number] + 4, kind=f"on-{series(number)}")


def in_words(points_of: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """What `curves` shows, for those who do not see it."""
    return (
        "; ".join(
            f"{label}: {', '.join(f'{y:.3f} at {x}' for x, y in points)}"
            for label, points in points_of.items()
        )
        + "."
    )


def beside(
    spots: Sequence[tuple[float, float, float]], labels: Sequence[str], left: float
) -> list[tuple[float, float, str]]:
    """A place with its anchor for the label of every spot (x, y, radius), away from the other spots and labels.

    Nothing goes beyond `left` or the right edge where that can be helped.
    """
    taken = [(x - r, y - r, x + r, y + r) for x, y, r in spots]
    chosen = []
    for (x, y, r), words in zip(spots, labels, strict=True):
        wide = width_of(words)
        places = [
            (x + r + 5, y + 4, "start"),
            (x - r - 5, y + 4, "end"),
            (x, y - r - 6, "middle"),
            (x, y + r + 15, "middle"),
            *((x - r - 5, y + 4 + lower, "end") for lower in _LOWER),
            *((x + r + 5, y + 4 + lower, "start") for lower in _LOWER),
        ]
        boxes = [_box(place, wide) for place in places]
        costs = [sum(_overlap(box, other) for other in taken) + _outside(box, left) for box in boxes]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        chosen.append(places[best])
    return chosen


def tick_text(value: float) -> str:
    """A round value in few characters."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:,g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _step(span: float) -> float:
    raw = span / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.999)


def _linear_ticks(low: float, high: float) -> list[float]:
    step = _step(high - low)
    first = math.ceil(low / step - 1e-9)
    # Rounded, so that 0.30000000000000004 is 0.3 and -0.0 is 0.
    return [round(n * step, 12) + 0.0 for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        found = [s * 10.0**p for p in powers for s in steps if low <= s * 10.0**p <= high]
        if len(found) >= 3:
            break
    if len(found) < 2:
        return _linear_ticks(low, high)
    # Not more than can stand beside each other.
    return found[:: math.ceil(len(found) / 7)]


def _box(place: tuple[float, float, str], wide: float) -> _Box:
    x, y, anchor = place
    left = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
    return left, y - 12, left + wide, y + 4


def _overlap(a: _Box, b: _Box) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def _outside(box: _Box, left: float) -> float:
    return 1000 * (max(left - box[0], 0) + max(box[2] - WIDTH, 0))
