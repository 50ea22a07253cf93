"""The report in a real browser, from a file: skipped where there is no Chromium or no Playwright."""

from __future__ import annotations

import csv
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.config import EvalConfig
from eval.run import Extras, evaluate
from indexer.corpus import Question, Split
from service.answer import Answer
from service.routes import Route
from tests.fakes_eval import ROUTES, ScriptedRoutes, make_context, make_questions, right_answer

PAYLOAD = "=1+1 <img src=x onerror=\"document.title = 'owned'\"><script>document.title = 'owned'</script>"
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
RETRIEVAL = {"recall@1": 0.6, "recall@5": 0.8, "mrr": 0.7}


class Routes(ScriptedRoutes):
    """Routes with retrieval were shown a passage."""

    def answer_many(self, pairs: list[tuple[str, Route]]) -> list[Answer]:
        contexts = (make_context("doc0.md", 0, 40, f"A passage with {PAYLOAD}"),)
        return [
            replace(given, contexts=contexts) if route.retrieve else given
            for given, (_, route) in zip(super().answer_many(pairs), pairs, strict=True)
        ]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def say(question: str, route: Route) -> str:
        return right_answer(question) if route.retrieve else PAYLOAD

    folder = tmp_path_factory.mktemp("evaluations") / "one"
    hostile = Question("h", f"question {PAYLOAD}?", (PAYLOAD,), ("doc0.md",), Split.TEST)
    settings = EvalConfig(resamples=1000, latency_questions=1)
    evaluate(Routes(say), [*make_questions(24), hostile], ROUTES, folder, settings, Extras(RETRIEVAL))
    return folder / "report.html"


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The report, which must never complain, nor ask anybody for anything."""
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    page.set_default_timeout(60_000)
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda asked: (
            None if asked.url.startswith((report.as_uri(), "data:")) else complaints.append(asked.url)
        ),
    )
    page.goto(report.as_uri())
    yield page
    assert complaints == []
    assert page.title().startswith("openbook evaluation")
    context.close()


def shown(page: Any) -> list[str]:
    return [row.get_attribute("data-id") for row in page.locator("#answers tr[data-id]:visible").all()]


def test_answers_are_sorted_by_mouse_and_keyboard(page: Any) -> None:
    asked = shown(page)
    head = page.locator('th[data-key="3"] button')
    head.click()
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    assert shown(page)[0] == "h"
    head.focus()
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    assert shown(page)[-1] == "h"
    page.get_by_role("button", name="Clear").click()
    page.wait_for_function("!document.querySelector('th[aria-sort]')")
    assert shown(page) == asked


def test_answers_are_filtered_by_words_outcome_and_route(page: Any) -> None:
    page.get_by_label("Find").fill("question 17?")
    assert shown(page) == ["test-17"]
    assert page.get_by_role("status").inner_text() == "1 of 25 questions"
    page.get_by_label("Find").fill("")
    page.locator("#tools [name=route]").select_option(label="base")
    page.locator("#tools [name=outcome]").select_option("right")
    assert shown(page) == ["h"]
    page.locator("#tools [name=outcome]").select_option("wrong")
    assert len(shown(page)) == 24
    page.locator("#tools [name=outcome]").select_option("")
    page.get_by_label("routes differ").check()
    assert len(shown(page)) == 24


def test_passages_open_below_their_question_as_text(page: Any) -> None:
    button = page.get_by_role("button", name="Passages").first
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    assert PAYLOAD in page.locator(".passages").inner_text()
    assert "Shown to rag and hybrid" in page.locator(".passages").inner_text()
    button.click()
    assert page.locator(".passages").count() == 0


def test_shown_answers_are_saved_as_csv_without_formulas(page: Any) -> None:
    page.get_by_label("Find").fill("question")
    page.locator("#tools [name=route]").select_option(label="base")
    page.locator("#tools [name=outcome]").select_option("right")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["route"] for row in rows] == list(ROUTES)
    assert rows[0]["accepted answers"] == f"'{PAYLOAD}"
    assert rows[1]["passages"] == "doc0.md:0-40"
    assert {row["id"] for row in rows} == {"h"}


def test_every_plot_is_saved_as_png(page: Any) -> None:
    buttons = page.locator("[data-png]").all()
    assert len(buttons) >= 4
    for button in buttons:
        with page.expect_download() as download:
            button.click()
        content = Path(download.value.path()).read_bytes()
        assert content.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", content[16:24])
        assert (width, height > 300) == (1024, True)
        # An empty picture of that size takes about a tenth of this.
        assert len(content) > 8_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_fits_a_phone(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.get_by_label("Sort").select_option(label="rag, ascending")
    assert shown(page)[0] == "h"


def test_report_is_printed_in_light_colours_without_controls(page: Any) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("button:visible, nav:visible").count() == 0
