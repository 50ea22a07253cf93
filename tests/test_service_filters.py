"""Callers who may see only some documents are answered from those."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from indexer.metadata import Where
from service.app import create_app
from service.config import RouteConfig, ServeConfig
from service.model_thread import ModelThread
from service.routes import Route
from tests.fakes_service import ScriptedGenerator
from tests.fakes_workbench import answerer_of, make_workbench
from tests.tiny import tiny_base

TOWER = "How high is the tower?"


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator()


@pytest.fixture
def client(
    tmp_path: Path, generator: ScriptedGenerator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    monkeypatch.delenv("OPENBOOK_API_KEY", raising=False)
    bench = make_workbench(tmp_path)
    tables = {
        "rag": RouteConfig(k=3),
        "public": RouteConfig(retrieve=True, where={"level": ["open", "press"]}),
    }
    answerer = answerer_of(bench, generator, tiny_base(), tables)
    app = create_app(answerer, ModelThread(generator), ServeConfig(), bench)
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        for level in ("open", "press", "secret"):
            document = {"title": level, "text": f"The tower is {level}.", "metadata": {"level": level}}
            assert client.put(f"/v1/documents/{level}.md", json=document).status_code == 201
        yield client


def shown(answer: Any) -> set[str]:
    return {context["document_id"] for context in answer["contexts"]}


def test_answer_is_made_from_documents_that_fit_only(client: TestClient) -> None:
    body = {"question": TOWER, "route": "rag", "where": {"level": "secret"}}
    assert shown(client.post("/v1/answer", json=body).json()) == {"secret.md"}


def test_every_compared_route_is_restricted(client: TestClient) -> None:
    body = {"question": TOWER, "routes": ["rag", "base", "public"], "where": {"level": "open"}}
    results = client.post("/v1/compare", json=body).json()["results"]
    assert [shown(result["answer"]) for result in results] == [{"open.md"}, set(), {"open.md"}]


def test_chat_completion_is_restricted_by_an_extra_field(
    client: TestClient, generator: ScriptedGenerator
) -> None:
    generator.enqueue("the tower")
    messages = [{"role": "user", "content": TOWER}]
    body = {"model": "rag", "messages": messages, "where": {"level": ["open", "secret"]}}
    reply = client.post("/v1/chat/completions", json=body).json()
    assert {citation["document_id"] for citation in reply["citations"]} == {"open.md", "secret.md"}


def test_caller_cannot_widen_a_route(client: TestClient) -> None:
    body: dict[str, Any] = {"question": TOWER, "route": "public"}
    assert shown(client.post("/v1/answer", json=body).json()) == {"open.md", "press.md"}
    body["where"] = {"level": ["press", "secret"]}
    assert shown(client.post("/v1/answer", json=body).json()) == {"press.md"}
    body["where"] = {"level": "secret"}
    assert shown(client.post("/v1/answer", json=body).json()) == set()


def test_filter_with_an_impossible_value_is_refused(client: TestClient) -> None:
    body = {"question": TOWER, "route": "rag", "where": {"level": {"or": 1}}}
    assert client.post("/v1/answer", json=body).status_code == 400


@pytest.mark.parametrize(
    ("ours", "theirs", "both"),
    [
        ({}, {"year": 2026}, {"year": 2026}),
        ({"year": 2026}, {}, {"year": 2026}),
        ({"year": 2026}, {"draft": False}, {"year": 2026, "draft": False}),
        ({"year": [2025, 2026]}, {"year": 2026}, {"year": [2026]}),
        ({"draft": True}, {"draft": 1}, {"draft": []}),
    ],
)
def test_route_and_caller_must_both_agree(ours: Where, theirs: Where, both: Where) -> None:
    assert dict(Route("rag", retrieve=True, where=ours).restricted(theirs).where) == both


def test_more_values_than_the_index_can_compare_are_refused(client: TestClient) -> None:
    body = {"query": TOWER, "where": {"level": [1] * 300_000}}
    refused = client.post("/v1/index/search", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "where")
