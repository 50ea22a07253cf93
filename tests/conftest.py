"""Fixtures that several test files share; what they need is imported when one is asked for, not with every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from service.answering import Answerer
    from service.workbench import Workbench
    from tests.fakes_service import ScriptedGenerator


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is started now asks for no key, whatever the environment of the tests has."""
    monkeypatch.delenv("OPENBOOK_API_KEY", raising=False)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium for all tests of a file; they are skipped where there is none."""
    from tests.chromium import chromium

    with chromium() as opened:
        yield opened


@pytest.fixture
def page_url(tmp_path: Path, no_key: None) -> Iterator[str]:
    """Where the page of a service with the tiny model is."""
    from tests.fakes_page import tiny_service

    with tiny_service(tmp_path) as url:
        yield url


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    from tests.fakes_workbench import make_workbench

    return make_workbench(tmp_path)


@pytest.fixture
def generator() -> ScriptedGenerator:
    from tests.fakes_service import ScriptedGenerator

    return ScriptedGenerator()


@pytest.fixture
def answerer(bench: Workbench, generator: ScriptedGenerator) -> Answerer:
    """Over the workbench; `rag` shows three passages."""
    from service.config import RouteConfig
    from tests.fakes_workbench import answerer_of
    from tests.tiny import tiny_base

    return answerer_of(bench, generator, tiny_base(), {"rag": RouteConfig(k=3)})


@pytest.fixture
def client(bench: Workbench, answerer: Answerer) -> Iterator[TestClient]:
    """Of a service that looks after the workbench, with bounds that tests can reach."""
    from service.config import ServeConfig
    from tests.fakes_workbench import connect

    with connect(bench, answerer, ServeConfig(max_body_bytes=20_000, max_upload_bytes=200_000)) as client:
        yield client
