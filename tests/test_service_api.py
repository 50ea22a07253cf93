from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.admission import Overloaded
from service.answering import Answerer
from service.app import create_app
from service.config import RouteConfig, ServeConfig
from service.generation import GenerationRequest
from service.guard import ExposureError
from service.live import LiveAnswerer
from service.model_thread import ModelThread
from tests.fakes_service import ScriptedGenerator, make_answerer
from tests.tiny import tiny_adapter, tiny_base
from tuner.decoding import Sampling

TOWER = "How high is the tower?"
REQUEST = GenerationRequest((1, 2, 3), None, Sampling())


pytestmark = pytest.mark.usefixtures("no_key")


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator()


@pytest.fixture
def answerer(tmp_path: Path, generator: ScriptedGenerator) -> Answerer:
    tiny_adapter(tmp_path, tiny_base())
    return make_answerer(tmp_path, generator)


@pytest.fixture
def client(answerer: Answerer) -> Iterator[TestClient]:
    with connect(answerer, ServeConfig(queue_size=4, max_body_bytes=20_000)) as client:
        yield client


def connect(answerer: Answerer, config: ServeConfig, base_url: str = "http://127.0.0.1") -> TestClient:
    app = create_app(answerer, ModelThread(answerer.generator, config.queue_size), config)
    return TestClient(app, base_url, raise_server_exceptions=False)


def test_answer_carries_everything_about_itself(client: TestClient, generator: ScriptedGenerator) -> None:
    generator.enqueue("88 metres")
    response = client.post("/v1/answer", json={"question": TOWER, "route": "hybrid"})
    assert response.status_code == 200
    body = response.json()
    assert body["answer"] == "88 metres"
    assert body["route"] == "hybrid"
    assert (body["base_model"], body["adapter"], body["generation"]) == ("tiny", "mixed@1", 7)
    assert [citation["document_id"] for citation in body["citations"]] == ["folder/tower.md"]
    assert len(body["contexts"]) == 1
    assert set(body["timings_ms"]) == {"queue", "retrieve", "generate", "total"}
    assert body["timings_ms"]["total"] >= body["timings_ms"]["generate"]


def test_compare_asks_every_route_in_order(client: TestClient) -> None:
    body = client.post("/v1/compare", json={"question": TOWER}).json()
    assert [result["route"] for result in body["results"]] == ["base", "rag", "tuned", "hybrid"]
    assert all(result["answer"]["route"] == result["route"] for result in body["results"])


def test_compare_takes_the_names_of_as_many_routes_as_there_are(
    tmp_path: Path, generator: ScriptedGenerator
) -> None:
    tables = {f"wide{n}": RouteConfig(retrieve=True) for n in range(40)}
    with connect(make_answerer(tmp_path, generator, tables=tables), ServeConfig()) as client:
        names = [route["id"] for route in client.get("/v1/models").json()["data"]]  # as the page does
        response = client.post("/v1/compare", json={"question": TOWER, "routes": names})
    assert [result["route"] for result in response.json()["results"]] == names


def test_compare_reports_a_route_that_cannot_answer_beside_those_that_can(
    tmp_path: Path, generator: ScriptedGenerator
) -> None:
    with connect(make_answerer(tmp_path / "no-adapters", generator), ServeConfig()) as client:
        body = client.post("/v1/compare", json={"question": TOWER, "routes": ["tuned", "rag"]}).json()
    tuned, rag = body["results"]
    assert tuned["answer"] is None
    assert tuned["error"]["code"] == "adapter_unavailable"
    assert "openbook tune" in tuned["error"]["message"]
    assert rag["error"] is None
    assert rag["answer"]["answer"] == "scripted answer"


def test_cited_document_can_be_fetched(client: TestClient) -> None:
    assert client.get("/v1/documents/folder/tower.md").json() == {
        "id": "folder/tower.md",
        "title": "Tower",
        "text": "The tower is 88 metres high and has 412 steps.",
        "metadata": {},
    }


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/answer", {"question": TOWER, "route": "nope"}, 404, "model_not_found"),
        ("POST", "/v1/compare", {"question": TOWER, "routes": ["rag", "nope"]}, 404, "model_not_found"),
        ("POST", "/v1/answer", {"question": "  ", "route": "rag"}, 400, "invalid_value"),
        ("POST", "/v1/answer", {"question": TOWER, "route": "rag", "k": 3}, 400, "invalid_value"),
        ("POST", "/v1/answer", {"question": "why " * 1900, "route": "rag"}, 400, "context_length_exceeded"),
        ("POST", "/v1/answer", {"question": "why " * 9000, "route": "rag"}, 413, "request_entity_too_large"),
        ("GET", "/v1/answer", None, 405, "method_not_allowed"),
        ("GET", "/v1/nothing", None, 404, "not_found"),
        ("GET", "/v1/documents/nothing.md", None, 404, "document_not_found"),
        ("GET", "/v1/models/nope", None, 404, "model_not_found"),
    ],
)
def test_every_error_is_an_error_object(
    client: TestClient, method: str, path: str, body: object, status: int, code: str
) -> None:
    response = client.request(method, path, json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["message"]


def test_invalid_json_names_the_place(client: TestClient) -> None:
    response = client.post("/v1/answer", content=b"{", headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_body_without_declared_length_is_bounded_too(client: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    response = client.post("/v1/answer", content=endless(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413


def test_exception_in_the_model_is_a_500_without_details_and_the_next_request_works(
    client: TestClient, generator: ScriptedGenerator
) -> None:
    generator.enqueue(RuntimeError("secret detail"))
    response = client.post("/v1/answer", json={"question": TOWER, "route": "rag"})
    assert response.status_code == 500
    assert "secret detail" not in response.text
    assert response.json()["error"]["type"] == "server_error"
    assert client.post("/v1/answer", json={"question": TOWER, "route": "rag"}).status_code == 200


def test_full_queue_is_a_503_that_says_when_to_retry(
    answerer: Answerer, generator: ScriptedGenerator
) -> None:
    generator.hold()
    thread = ModelThread(generator, queue_size=1, batch_tokens=1)
    running = thread.submit([REQUEST])
    assert generator.started.wait(5)
    waiting = thread.submit([REQUEST])
    with TestClient(create_app(answerer, thread, ServeConfig()), "http://127.0.0.1") as client:
        response = client.post("/v1/answer", json={"question": TOWER, "route": "base"})
        generator.release()
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert response.json()["error"]["code"] == "overloaded"
    assert running.result(5).decoded[0].text == waiting.result(5).decoded[0].text == "scripted answer"


def test_comparison_of_which_no_route_has_room_is_a_503(
    answerer: Answerer, generator: ScriptedGenerator
) -> None:
    generator.hold()
    thread = ModelThread(generator, queue_size=1, batch_tokens=1)
    thread.submit([REQUEST])
    assert generator.started.wait(5)
    thread.submit([REQUEST])
    with TestClient(create_app(answerer, thread, ServeConfig()), "http://127.0.0.1") as client:
        response = client.post("/v1/compare", json={"question": TOWER})
        generator.release()
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1


def test_question_beyond_the_model_is_refused_before_it_is_searched_for(
    client: TestClient, answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*_: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr("service.answering.retrieve", search)
    question = "t" * answerer.base.max_prompt_tokens  # a token each
    response = client.post("/v1/answer", json={"question": question, "route": "rag"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_work_that_a_client_left_behind_still_counts_until_it_ends(
    answerer: Answerer, generator: ScriptedGenerator
) -> None:
    prepare, going, started = answerer.prepare, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        started.set()
        assert going.wait(5)
        return prepare(*arguments)

    answerer.prepare = slow  # type: ignore[method-assign]
    live = LiveAnswerer(answerer, ModelThread(generator, queue_size=1), 5)

    async def leave_and_ask() -> None:
        leaving = asyncio.create_task(live.begin([TOWER], answerer.route("rag")))
        await asyncio.to_thread(started.wait, 5)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        with pytest.raises(Overloaded):
            await live.begin([TOWER], answerer.route("rag"))
        going.set()
        while live.preparing:
            await asyncio.sleep(0.001)
        assert await (await live.begin([TOWER], answerer.route("rag"))).told()

    asyncio.run(leave_and_ask())
    live.model_thread.close()


def test_answer_that_takes_too_long_is_a_504_and_is_given_up(
    answerer: Answerer, generator: ScriptedGenerator
) -> None:
    generator.hold()
    with connect(answerer, ServeConfig(timeout_seconds=0.05)) as client:
        response = client.post("/v1/answer", json={"question": TOWER, "route": "rag"})
        assert response.status_code == 504
        assert generator.cancelled.wait(5)
        generator.release()


def test_generation_stops_when_the_client_leaves(answerer: Answerer, generator: ScriptedGenerator) -> None:
    generator.hold()
    thread = ModelThread(generator)
    app = create_app(answerer, thread, ServeConfig())
    body = b'{"question": "How high is the tower?", "route": "rag"}'
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/answer",
        "raw_path": b"/v1/answer",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    sent = iter([{"type": "http.request", "body": body, "more_body": False}])
    statuses: list[int] = []

    async def receive() -> dict[str, object]:
        for message in sent:
            return message
        await asyncio.to_thread(generator.started.wait, 5)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(int(str(message["status"])))

    async def request() -> bool:
        await app(scope, receive, send)  # type: ignore[arg-type]
        # Within the loop: when it ends, it cancels whatever still runs.
        return await asyncio.to_thread(generator.cancelled.wait, 5)

    assert asyncio.run(request())
    assert statuses == [499]
    generator.release()
    thread.close()


def test_health_and_readiness(answerer: Answerer) -> None:
    thread = ModelThread(answerer.generator)
    with TestClient(create_app(answerer, thread, ServeConfig()), "http://127.0.0.1") as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").status_code == 200
        thread.close()
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503


def test_shutdown_closes_the_model_thread(answerer: Answerer) -> None:
    thread = ModelThread(answerer.generator)
    with TestClient(create_app(answerer, thread, ServeConfig()), "http://127.0.0.1"):
        assert thread.ready()
    assert not thread.ready()


def test_listening_beyond_this_machine_without_a_key_is_refused(answerer: Answerer) -> None:
    with pytest.raises(ExposureError, match=r"'0\.0\.0\.0' without a key: set .* OPENBOOK_API_KEY"):
        connect(answerer, ServeConfig(host="0.0.0.0"))


def test_with_a_key_only_requests_that_carry_it_pass(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBOOK_API_KEY", "sesame")
    with connect(answerer, ServeConfig(host="0.0.0.0"), "http://openbook.example") as client:
        for headers in ({}, {"Authorization": "Bearer sesam"}, {"Authorization": "Basic sesame"}):
            refused = client.get("/v1/models", headers=headers)
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"] == "Bearer"
            assert "error" in refused.json()
        assert client.get("/v1/models", headers={"Authorization": "Bearer sesame"}).status_code == 200
        assert client.post("/v1/answer", json={"question": TOWER, "route": "rag"}).status_code == 401
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 401


@pytest.mark.parametrize(
    ("host", "status"), [("evil.example", 403), ("[::1]:8080", 200), ("localhost:8080", 200)]
)
def test_without_a_key_foreign_host_names_are_refused(client: TestClient, host: str, status: int) -> None:
    assert client.get("/v1/models", headers={"Host": host}).status_code == status


def test_page_is_served_and_may_only_run_its_own_script(client: TestClient) -> None:
    page = client.get("/")
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    for name in ("page.js", "page.css"):
        assert f"/static/{name}" in page.text
        assert client.get(f"/static/{name}").status_code == 200
    script = client.get("/static/page.js").text
    assert not any(
        unsafe in script for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write")
    )
