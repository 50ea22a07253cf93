"""The page in a real browser against a real server: skipped where there is no Chromium or no Playwright."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.config import ServeConfig
from service.generation import LocalGenerator
from service.model_thread import ModelThread
from service.router import Router, TrainedRouter
from tests.fakes_page import DESKTOP, PATIENCE_MS, SHOTS, ask, write_evaluation
from tests.fakes_server import running, serving
from tests.fakes_service import ScriptedGenerator
from tests.fakes_workbench import answerer_of, make_workbench
from tests.tiny import tiny_base
from tuner.registry import Registry

REFUSED = "the server responded with a status of 400"
"""What Chromium itself says about an upload that the service refuses."""
INERT = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


@pytest.fixture
def page(browser: Any, page_url: str) -> Iterator[Any]:
    """The page, which must never complain, nor ask anybody else for anything."""
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    page.on(
        "console",
        lambda said: (
            complaints.append(said.text)
            if said.type in ("error", "warning") and REFUSED not in said.text
            else None
        ),
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda asked: complaints.append(asked.url) if not asked.url.startswith((page_url, "data:")) else None,
    )
    page.goto(page_url)
    yield page
    context.close()
    assert complaints == []


def test_question_is_answered_by_four_routes_as_they_stream_and_a_passage_opens_in_its_document(
    page: Any,
) -> None:
    page.evaluate(WATCH_ANSWERS)
    ask(page, "How high is the tower?")
    seen = page.evaluate("window.seen")
    assert {name: len(texts) > 3 for name, texts in seen.items()} == dict.fromkeys(
        ("base", "rag", "tuned", "hybrid"), True
    )
    assert page.locator("article.route h2").all_inner_texts() == ["base", "rag", "tuned", "hybrid"]
    assert page.locator("article.route .facts").count() == 4
    rag = page.locator("article.route", has=page.get_by_role("heading", name="rag"))
    assert "token" in rag.locator(".facts").inner_text()

    rag.locator(".passage").first.click()
    mark = page.locator("#reader mark")
    mark.wait_for()
    assert mark.inner_text() == "The tower is 88 metres high and has 412 steps."
    page.keyboard.press("Escape")
    assert not page.locator("#reader").is_visible()
    assert rag.locator(".passage").first.evaluate("element => element === document.activeElement")


def test_better_answer_is_picked_and_exported(page: Any, page_url: str) -> None:
    ask(page, "How high is the tower?")
    page.get_by_role("button", name="Good answer of rag").click()
    page.get_by_text("Thank you, kept.").wait_for()
    page.get_by_role("button", name="rag answered best").click()
    page.get_by_text("Kept: rag answered best.").wait_for()
    assert page.get_by_role("button", name="rag answered best").get_attribute("aria-pressed") == "true"
    with page.expect_download() as download:
        page.get_by_role("button", name="Export it as preference pairs").click()
    lines = Path(download.value.path()).read_text().splitlines()
    chosen = {json.loads(line)["chosen"][0]["content"] for line in lines}
    assert len(lines) == 3
    assert len(chosen) == 1


def test_auto_has_a_card_that_says_what_it_may_take_and_what_it_took(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENBOOK_API_KEY", raising=False)
    bench, base = make_workbench(tmp_path), tiny_base()
    generator = LocalGenerator(base, Registry(bench.workspace.adapters))
    answerer, names = answerer_of(bench, generator, base, {}), ("base", "rag")
    trained = TrainedRouter(
        routes={name: answerer.lasting_identity(answerer.route(name)) for name in names},
        probe=None,
        facts=["asks_amount"],
        means=[0.5],
        scales=[0.5],
        weights={"base": [-1.0], "rag": [1.0]},
        intercepts={"base": 0.2, "rag": 0.2},
        encoder=None,
        index_generation=None,
    )
    app = create_app(answerer, ModelThread(generator), ServeConfig(), bench, Router(trained, answerer))
    with running(app) as url:
        context = browser.new_context(viewport=DESKTOP)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(url)
        ask(page, "How high is the tower?")
        auto = page.locator("article.route", has=page.get_by_role("heading", name="auto"))
        assert "takes what fits: base, rag" in auto.inner_text()
        assert auto.locator(".facts").inner_text().split("\n")[:2] == ["Took", "rag"]
        assert page.locator("article.route", has_text="Took").count() == 1
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/auto.png", full_page=True)
        page.get_by_role("button", name="auto answered best").click()
        page.get_by_text("Kept: auto answered best.").wait_for()
        with page.expect_download() as download:
            page.get_by_role("button", name="Export it as preference pairs").click()
        lines = Path(download.value.path()).read_text().splitlines()
        assert len(lines) == 3, "one for each of the other answers; that of rag is its own"
        context.close()


def test_added_document_is_in_the_next_answer_and_its_html_is_inert(page: Any) -> None:
    page.get_by_role("link", name="Documents").click()
    page.get_by_text("Up to date").wait_for()
    page.get_by_role("textbox", name="Text", exact=True).fill(
        f"Zanzibar tide: high water is at 06:40. {INERT}"
    )
    page.get_by_role("textbox", name="Name", exact=True).fill("tides/zanzibar.md")
    page.get_by_role("textbox", name="Title (optional)").fill("Zanzibar <b>tides</b>")
    page.get_by_role("button", name="Add text").click()
    page.get_by_text("Added tides/zanzibar.md.").wait_for()
    page.get_by_text("generation 2").wait_for()

    page.get_by_role("link", name="Ask", exact=True).click()
    ask(page, "Zanzibar tide high water?")
    passage = page.locator("article.route .passage", has_text="Zanzibar <b>tides</b>").first
    passage.click()
    page.locator("#reader mark").wait_for()
    assert INERT in page.locator("#reader-text").inner_text()
    assert page.locator("#reader-text img, #reader-text script").count() == 0
    assert page.title() == "openbook"
    page.keyboard.press("Escape")

    page.get_by_role("link", name="Documents").click()
    page.get_by_role("button", name="Delete Zanzibar").click()
    page.get_by_role("button", name="Delete", exact=True).last.click()
    page.get_by_text("Deleted tides/zanzibar.md.").wait_for()
    page.get_by_role("button", name="Delete Zanzibar").wait_for(state="detached")
    assert page.locator("#document-list li").count() == 3


def test_file_is_uploaded_and_one_that_cannot_be_read_is_told_in_words(page: Any) -> None:
    page.get_by_role("link", name="Documents").click()
    files = page.get_by_label("Or choose files")
    files.set_input_files(
        {"name": "ferry.txt", "mimeType": "text/plain", "buffer": b"The ferry leaves at nine."}
    )
    page.get_by_text("Added ferry.txt.").wait_for()
    files.set_input_files({"name": "broken.pdf", "mimeType": "application/pdf", "buffer": b"not a PDF"})
    page.locator("#add-status.problem", has_text="broken.pdf:").wait_for()
    assert page.locator("#document-list li").count() == 4


def test_sync_shows_changed_files_and_what_it_did(page: Any, tmp_path: Path) -> None:
    (tmp_path / "documents" / "pier.md").write_text("# Pier\n\nThe pier is long.\n")
    page.get_by_role("link", name="Documents").click()
    page.get_by_text("1 file new or changed: pier.md").wait_for()
    page.get_by_role("button", name="Sync the folder").click()
    page.get_by_text("Synced: 1 added, 0 changed, 0 removed.").wait_for()


def test_adapters_show_their_curve_and_are_put_to_use(page: Any) -> None:
    page.get_by_role("link", name="Adapters").click()
    page.get_by_role("img", name="Training of mixed@2: loss from 3.00 to 0.60").wait_for()
    page.get_by_role("button", name="Use in routes: mixed@2").click()
    page.get_by_text("Routes with adapter mixed now use mixed@2.").wait_for()
    page.get_by_role("button", name="Load into memory: mixed@2").click()
    page.get_by_text("mixed@2 is in memory.").wait_for()


def test_evaluation_is_started_and_its_report_opens(page: Any, tmp_path: Path, page_url: str) -> None:
    page.get_by_role("link", name="Evaluations").click()
    page.get_by_text("No evaluation yet.").wait_for()
    write_evaluation(tmp_path)
    page.get_by_role("button", name="Start an evaluation").click()
    page.get_by_role("heading", name="Use hybrid").wait_for()
    page.get_by_role("cell", name="0.369 [0.290, 0.457]").wait_for()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Report of evaluation").click()
    opened.value.wait_for_load_state()
    assert opened.value.title() == "Report"


def test_key_is_asked_for_once_and_kept_for_the_tab(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBOOK_API_KEY", "sesame")
    bench = make_workbench(tmp_path)
    generator = ScriptedGenerator()
    answerer = answerer_of(bench, generator, tiny_base(), {})
    with serving(answerer, ModelThread(generator), ServeConfig(), bench) as url:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(url)
        page.get_by_role("button", name="Not now").click()
        page.get_by_text("Send a key of this service").wait_for()
        page.get_by_role("button", name="Key", exact=True).click()
        page.get_by_label("Key", exact=True).fill("wrong")
        page.get_by_role("button", name="Use key").click()
        page.get_by_text("The key was not accepted.").wait_for()
        page.get_by_label("Key", exact=True).fill("sesame")
        page.get_by_role("button", name="Use key").click()
        page.get_by_role("heading", name="hybrid").wait_for()
        page.reload()
        page.get_by_role("heading", name="hybrid").wait_for()
        assert not page.locator("#key-dialog").is_visible()
        context.close()


WATCH_ANSWERS = """
() => {
  window.seen = {};
  new MutationObserver(() => {
    for (const card of document.querySelectorAll("article.route")) {
      const texts = (window.seen[card.querySelector("h2").textContent] ??= []);
      const text = card.querySelector(".answer").textContent;
      if (texts.at(-1) !== text) texts.push(text);
    }
  }).observe(document.querySelector("#routes"), { childList: true, characterData: true, subtree: true });
}
"""
"""Keeps what each card has shown one after the other."""
