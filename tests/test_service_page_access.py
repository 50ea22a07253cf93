"""Whether the page can be read and used on any screen, in a real browser: skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes_page import DESKTOP, PATIENCE_MS, PHONE, SHOTS, ask, write_evaluation


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_every_view_fits_has_labels_and_can_be_read(
    browser: Any, page_url: str, tmp_path: Path, scheme: str, size: dict[str, int]
) -> None:
    write_evaluation(tmp_path)
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(page_url)
    ask(page, "How high is the tower?")
    for view, ready in (
        ("ask", ".best"),
        ("documents", "#document-list li"),
        ("adapters", ".chart svg"),
        ("evaluations", ".scores table"),
    ):
        page.goto(f"{page_url}#{view}")
        page.locator(ready).first.wait_for()
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/{view}-{size['width']}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert page.evaluate(UNLABELLED) == []
        assert page.evaluate(FAINT) == []
    context.close()


UNLABELLED = """
() => [...document.querySelectorAll("button, input, textarea, a, progress")]
  .filter((element) => element.checkVisibility())
  .filter((element) => !(element.getAttribute("aria-label") || element.labels?.length || element.textContent.trim()))
  .map((element) => element.outerHTML)
"""
"""Controls that say nothing about themselves."""

FAINT = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgba(colour).map((part) => linear(part / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (rgba(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest(":disabled, noscript, script")) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) faint.push(`${element.tagName} ${element.className}: ${ratio.toFixed(2)}`);
  }
  return faint;
}
"""
"""Texts with less contrast than WCAG AA asks for."""
