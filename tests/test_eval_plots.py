"""Plots show the numbers where they belong, inside their frames, and say in words what they show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element, fromstring

import pytest

from eval.config import EvalConfig, Prices
from eval.cost_plots import break_even_plot, volume_plot
from eval.costs import Usage, break_even_questions, costs
from eval.drawing import WIDTH, width_of
from eval.plots import (
    Figure,
    Interval,
    contrasts_plot,
    forest,
    forgetting_plot,
    outcomes_plot,
    quality_plot,
    retrieval_plot,
)
from eval.result import EvaluationResult, ForgettingResult, Measure, RouteAttribution
from eval.run import Extras, evaluate
from service.routes import Route
from tests.fakes_eval import ROUTES, ScriptedRoutes, make_questions, right_answer

SVG = "{http://www.w3.org/2000/svg}"
PRICES = Prices(machine_hour=1.0, training_hour=2.0)
USAGES = {
    "rag": Usage(0.5, 900, 10, retrieves=True, training_seconds=0.0),
    "tuned": Usage(0.1, 60, 10, retrieves=False, training_seconds=3600.0),
    "hybrid": Usage(0.4, 900, 10, retrieves=True, training_seconds=3600.0),
}
COSTS = costs(USAGES, {"rag": 0.5, "tuned": 0.4, "hybrid": 0.6}, PRICES)
RETRIEVES = {name: usage.retrieves for name, usage in USAGES.items()}
RETRIEVAL = {"recall@1": 0.5, "recall@3": 0.7, "recall@10": 0.9, "evidence_recall@1": 0.4, "mrr": 0.6}
FORGOTTEN = ForgettingResult(
    source="bundled",
    items="x",
    n=100,
    chance=0.25,
    base=Measure(mean=0.6, ci=(0.5, 0.7)),
    adapter=Measure(mean=0.5, ci=(0.4, 0.6)),
    change=Measure(mean=-0.1, ci=(-0.15, -0.05)),
    p=0.01,
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> EvaluationResult:
    def say(question: str, route: Route) -> str:
        number = int("".join(letter for letter in question if letter.isdigit()))
        return right_answer(question) if route.retrieve and number % 3 else "nonsense"

    settings = EvalConfig(resamples=1000, latency_questions=1)
    extras = Extras(retrieval=RETRIEVAL, forgotten={"mixed@1": [FORGOTTEN]})
    folder = tmp_path_factory.mktemp("evaluation")
    return evaluate(ScriptedRoutes(say), make_questions(36), ROUTES, folder, settings, extras).result


@pytest.fixture(scope="module")
def figures(result: EvaluationResult) -> list[Figure]:
    drawn = [
        contrasts_plot(result),
        quality_plot(result),
        outcomes_plot(result.attribution),
        retrieval_plot(result.retrieval),
        forgetting_plot(result),
        volume_plot(COSTS, RETRIEVES),
        break_even_plot(COSTS),
    ]
    return [figure for figure in drawn if figure is not None]


def parse(figure: Figure | None) -> Element:
    assert figure is not None
    return fromstring(figure.svg)


def by_class(svg: Element, kind: str) -> list[Element]:
    return [element for element in svg.iter() if kind in element.get("class", "").split()]


def numbers(element: Element, *names: str) -> Iterator[float]:
    return (float(element.get(name, "")) for name in names)


def tips(svg: Element) -> list[str]:
    return [element.findtext(f"{SVG}title", "") for element in svg.iter() if element is not svg]


def test_every_plot_has_a_name_and_words_for_those_who_do_not_see_it(figures: list[Figure]) -> None:
    assert len(figures) == 7
    for figure in figures:
        svg = parse(figure)
        assert (svg[0].tag, svg[1].tag) == (f"{SVG}title", f"{SVG}desc")
        assert svg.get("role") == "img"
        assert svg.get("aria-labelledby") == f"{svg[0].get('id')} {svg[1].get('id')}"
        assert re.search(r"\d", svg[1].text or ""), figure.name


def test_nothing_is_drawn_outside_the_frame(figures: list[Figure]) -> None:
    for figure in figures:
        svg = parse(figure)
        _, _, width, height = map(float, svg.get("viewBox", "").split())
        for name, limit in (
            ("x", width),
            ("x1", width),
            ("x2", width),
            ("cx", width),
            ("y", height),
            ("cy", height),
        ):
            places = [float(element.get(name, "0")) for element in svg.iter()]
            assert all(0 <= place <= limit for place in places), (figure.name, name)
        for words in svg.iter(f"{SVG}text"):
            left, right = extent(words)
            # The widths of letters are guessed.
            assert -8 <= left <= right <= width + 8, (figure.name, words.text)


def extent(words: Element) -> tuple[float, float]:
    x, wide = (
        float(words.get("x", "")),
        width_of(words.text or "") * (0.92 if "small" in words.get("class", "") else 1),
    )
    left = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[words.get("text-anchor", "start")]
    return left, left + wide


def test_forest_plot_puts_numbers_in_proportion() -> None:
    rows = [Interval("a", "", 0.2, 0.1, 0.3), Interval("b", "", -0.1, -0.2, 0.0)]
    svg = fromstring(forest("f", "t", rows, "f1", margin=0.05))
    (a, b), [band] = by_class(svg, "point"), by_class(svg, "band")
    spans = [
        list(numbers(element, "x1", "x2"))
        for element in by_class(svg, "interval")
        if element.get("y1") == element.get("y2")
    ]
    unit = (spans[0][1] - spans[0][0]) / 0.2
    zero = float(a.get("cx", "")) - 0.2 * unit
    assert float(b.get("cx", "")) == pytest.approx(zero - 0.1 * unit, abs=0.2)
    assert spans[1] == pytest.approx([zero - 0.2 * unit, zero], abs=0.2)
    assert list(numbers(band, "x", "width")) == pytest.approx([zero - 0.05 * unit, 0.1 * unit], abs=0.2)


def test_contrasts_are_named_with_their_verdicts(result: EvaluationResult) -> None:
    svg = parse(contrasts_plot(result))
    words = [text.text or "" for text in svg.iter(f"{SVG}text")]
    for contrast in result.contrasts:
        assert f"{contrast.a} \N{MINUS SIGN} {contrast.b}" in words
        assert any(contrast.verdict in text and f"{contrast.difference:+.3f}" in text for text in words)


def test_area_of_a_mark_is_what_the_route_costs(result: EvaluationResult) -> None:
    money = {"base": 1.0, "rag": 4.0, "tuned": 9.0, "hybrid": 16.0}
    priced = result.costs.model_copy(
        update={
            "routes": {
                name: cost.model_copy(update={"per_1000_with_training": money[name]})
                for name, cost in result.costs.routes.items()
            }
        }
    )
    svg = parse(quality_plot(result.model_copy(update={"costs": priced})))
    radius = {
        (bubble[0].text or "").split(":")[0]: float(bubble.get("r", "")) for bubble in by_class(svg, "bubble")
    }
    assert {name: r / radius["base"] for name, r in radius.items()} == pytest.approx(
        {"base": 1, "rag": 2, "tuned": 3, "hybrid": 4}, rel=0.02
    )


def test_labels_of_routes_do_not_cover_each_other(result: EvaluationResult) -> None:
    svg = parse(quality_plot(result))
    labels = [text for text in by_class(svg, "halo") if text.tag == f"{SVG}text"]
    assert len(labels) == len(result.routes)
    for number, one in enumerate(labels):
        for other in labels[number + 1 :]:
            (a, b), (c, d) = extent(one), extent(other)
            beside = b <= c or d <= a
            assert beside or abs(float(one.get("y", "")) - float(other.get("y", ""))) >= 12


def test_pieces_of_a_bar_are_in_proportion_and_right_ones_come_first() -> None:
    counts = {"reader_miss": 30, "read_from_context": 60, "right_abstention": 10}
    svg = parse(outcomes_plot({"rag": RouteAttribution(outcomes=counts, against={})}))
    pieces = [piece for piece in by_class(svg, "piece") if len(piece)]
    assert [piece.get("class") for piece in pieces] == [
        "piece read_from_context",
        "piece right_abstention",
        "piece reader_miss",
    ]
    assert [float(piece.get("width", "")) for piece in pieces] == pytest.approx(
        [0.6 * WIDTH, 0.1 * WIDTH, 0.3 * WIDTH], abs=2
    )
    assert "70 of 100 right" in [text.text for text in svg.iter(f"{SVG}text")]
    assert "rag, reader miss: 30 of 100" in tips(svg)


def test_recall_rises_to_the_right_and_curves_are_told_apart() -> None:
    svg = parse(retrieval_plot(RETRIEVAL))
    [documents, passages] = by_class(svg, "curve")
    points = [tuple(map(float, point.split(","))) for point in documents.get("points", "").split()]
    assert points == sorted(points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    assert len(passages.get("points", "").split()) == 1
    assert {"gold document, recall@3: 0.700", "gold passage, recall@1: 0.400"} <= set(tips(svg))
    assert retrieval_plot({"mrr": 0.5}) is None


def test_break_even_points_are_those_of_the_price_table() -> None:
    svg = parse(break_even_plot(COSTS))
    for name in ("tuned", "hybrid"):
        for days in (1.0, 30.0, 365.0):
            needed = break_even_questions(USAGES[name], USAGES["rag"], PRICES, days)
            assert f"{name} costs less than rag above {needed:,.0f} a day at every {days:g} days" in tips(svg)
    falling, flat = (
        [float(p.split(",")[1]) for p in c.get("points", "").split()] for c in by_class(svg, "curve")
    )
    assert falling == sorted(falling)
    assert len(set(flat)) == 1


def test_there_is_no_break_even_plot_where_training_never_pays() -> None:
    dear = {**USAGES, "tuned": Usage(0.9, 60, 10, retrieves=False, training_seconds=3600.0)}
    del dear["hybrid"]
    assert break_even_plot(costs(dear, {"rag": 0.5, "tuned": 0.4}, PRICES)) is None


def test_costs_at_volumes_leave_out_what_is_free_or_not_known() -> None:
    usages = {**USAGES, "tuned": Usage(0.1, 60, 10, retrieves=False, training_seconds=None)}
    svg = parse(volume_plot(costs(usages, dict.fromkeys(usages, 0.5), PRICES), RETRIEVES))
    labels = {text.text for text in svg.iter(f"{SVG}text")}
    assert {"rag", "hybrid"} <= labels
    assert "tuned" not in labels
    free = costs(USAGES, dict.fromkeys(USAGES, 0.5), Prices(machine_hour=0.0, training_hour=0.0))
    assert volume_plot(free, RETRIEVES) is None


def test_names_from_outside_are_escaped() -> None:
    name = '<script>alert(1)</script>"&'
    written = forest("f", "t", [Interval(name, "", 0.1, 0.0, 0.2)], "f1")
    assert "<script" not in written
    assert name in [text.text for text in fromstring(written).iter(f"{SVG}text")]
