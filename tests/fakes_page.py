"""What tests of the page have in common: a service to open it on, and what people do there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.config import RouteConfig, ServeConfig
from service.generation import LocalGenerator
from service.model_thread import ModelThread
from tests.fakes_server import serving
from tests.fakes_workbench import answerer_of, make_workbench
from tests.tiny import tiny_base
from tuner.registry import Registry

PATIENCE_MS = 60_000
SHOTS = os.environ.get("OPENBOOK_SHOTS")
"""A folder for screenshots, if somebody wants to look at the page."""
PHONE, DESKTOP = (
    {"width": 390, "height": 844},
    {"width": 1280, "height": 900},
)


@contextmanager
def tiny_service(root: Path) -> Iterator[str]:
    """The URL of a service with the tiny model, which asks for no key."""
    bench = make_workbench(root)
    base = tiny_base()
    tables = {name: RouteConfig(max_new_tokens=12) for name in ("base", "tuned")}
    tables |= {name: RouteConfig(max_new_tokens=12, k=2) for name in ("rag", "hybrid")}
    answerer = answerer_of(bench, LocalGenerator(base, Registry(bench.workspace.adapters)), base, tables)
    with serving(answerer, ModelThread(answerer.generator), ServeConfig(), bench) as url:
        yield url


def ask(page: Any, question: str) -> None:
    page.get_by_role("textbox", name="Question").fill(question)
    page.keyboard.press("Enter")
    page.locator(".best:visible").nth(3).wait_for()


def write_evaluation(root: Path) -> None:
    folder = root / ".openbook" / "data" / "evaluations" / "abc123"
    folder.mkdir(parents=True)
    means = {"base": 0.011, "rag": 0.218, "tuned": 0.065, "hybrid": 0.369}
    routes = {
        name: {
            "n": 147,
            "metrics": {
                "f1": {"mean": mean, "ci": [mean - 0.079, mean + 0.088]},
                "exact_match": {"mean": mean * 0.85, "ci": [0.0, 1.0]},
            },
            "latency_ms": {"p50": 576.0, "p95": 900.0},
        }
        for name, mean in means.items()
    }
    verdict = {
        "recommended": "hybrid",
        "reason": "hybrid is the best by 0.151 (f1), more than the margin of 0.03.",
    }
    (folder / "result.json").write_text(json.dumps({"routes": routes, "verdict": verdict}))
    (folder / "report.html").write_text("<!doctype html><title>Report</title><p>All of it.</p>")
