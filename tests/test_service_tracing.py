from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.testclient import TestClient

from cli.serve import open_tracing
from service.app import create_app
from service.config import ServeConfig
from service.model_thread import ModelThread
from service.tracing import Tracing
from settings import ConfigError
from tests.fakes_service import ScriptedGenerator, make_answerer
from tests.tiny import tiny_adapter, tiny_base

TOWER = {"question": "How high is the tower?", "route": "hybrid"}


pytestmark = pytest.mark.usefixtures("no_key")


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator()


@pytest.fixture
def client(
    tmp_path: Path, generator: ScriptedGenerator, exporter: InMemorySpanExporter
) -> Iterator[TestClient]:
    tiny_adapter(tmp_path, tiny_base())
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = create_app(
        make_answerer(tmp_path, generator), ModelThread(generator), ServeConfig(), tracing=Tracing(provider)
    )
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def attributes(span: ReadableSpan) -> Mapping[str, object]:
    return dict(span.attributes or {})


def test_a_request_holds_its_retrieval_and_its_generation(
    client: TestClient, generator: ScriptedGenerator, exporter: InMemorySpanExporter
) -> None:
    generator.enqueue("88 metres")
    answer = client.post("/v1/answer", json=TOWER, headers={"X-Request-ID": "r-1"}).json()
    found = spans(exporter)
    assert set(found) == {"POST /v1/answer", "retrieval index", "text_completion mixed@1"}
    request, retrieval, generation = (found[name] for name in sorted(found))
    assert request.kind is SpanKind.SERVER
    for child in (retrieval, generation):
        assert child.parent is not None
        assert child.parent.span_id == request.context.span_id
        assert request.start_time <= child.start_time <= child.end_time <= request.end_time
    assert retrieval.end_time <= generation.start_time
    assert attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/v1/answer",
        "http.response.status_code": 200,
        "openbook.request_id": "r-1",
    }
    assert attributes(retrieval) == {
        "gen_ai.operation.name": "retrieval",
        "gen_ai.provider.name": "openbook",
        "gen_ai.data_source.id": "index",
        "gen_ai.request.top_k": 1.0,
        "openbook.route": "hybrid",
        "openbook.queries": 1,
        "openbook.passages": 1,
        "openbook.index.generation": 7,
    }
    timed = {"openbook.queue_ms", "openbook.first_token_ms"}
    assert {key: value for key, value in attributes(generation).items() if key not in timed} == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "openbook",
        "gen_ai.request.model": "mixed@1",
        "gen_ai.response.model": "mixed@1",
        "gen_ai.request.max_tokens": 32,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.usage.input_tokens": answer["prompt_tokens"],
        "gen_ai.usage.output_tokens": answer["completion_tokens"],
        "gen_ai.response.finish_reasons": ("stop",),
        "openbook.route": "hybrid",
    }


def test_no_span_holds_a_question_a_passage_an_answer_or_the_name_of_a_document(
    client: TestClient, exporter: InMemorySpanExporter
) -> None:
    client.post("/v1/answer", json={**TOWER, "stream": True}).read()
    client.post("/v1/compare", json={"question": TOWER["question"]})
    client.get("/v1/documents/folder/tower.md")
    client.get("/v1/nonsense/secret-name")
    written = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert written
    for text in ("tower", "steps", "scripted", "secret-name"):
        assert text not in written


def test_a_stream_ends_its_request_after_the_generation(
    client: TestClient, exporter: InMemorySpanExporter
) -> None:
    client.post("/v1/answer", json={**TOWER, "route": "base", "stream": True}).read()
    found = spans(exporter)
    assert set(found) == {"POST /v1/answer", "text_completion tiny"}
    generation, request = found["text_completion tiny"], found["POST /v1/answer"]
    assert generation.parent is not None
    assert generation.parent.span_id == request.context.span_id
    assert generation.end_time <= request.end_time


def test_a_request_joins_the_trace_of_its_caller(client: TestClient, exporter: InMemorySpanExporter) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    client.post("/v1/answer", json=TOWER, headers={"traceparent": f"00-{trace}-{parent}-01"})
    for span in exporter.get_finished_spans():
        assert f"{span.context.trace_id:032x}" == trace
    assert f"{spans(exporter)['POST /v1/answer'].parent.span_id:016x}" == parent


def test_a_failed_generation_is_an_error_of_its_kind_without_its_message(
    client: TestClient, generator: ScriptedGenerator, exporter: InMemorySpanExporter
) -> None:
    generator.enqueue(RuntimeError("the tower fell"))
    assert client.post("/v1/answer", json={**TOWER, "route": "base"}).status_code == 500
    found = spans(exporter)
    for name in ("text_completion tiny", "POST /v1/answer"):
        assert attributes(found[name])["error.type"] == "RuntimeError"
        assert found[name].status.status_code is StatusCode.ERROR
        assert "tower" not in found[name].to_json()


def test_health_checks_leave_no_spans(client: TestClient, exporter: InMemorySpanExporter) -> None:
    client.get("/healthz")
    client.get("/metrics")
    assert exporter.get_finished_spans() == ()


def test_spans_are_sent_to_the_endpoint_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    tracing = open_tracing()
    tracing.tracer.start_span("retrieval index").end()
    tracing.close()
    collector.shutdown()
    collector.server_close()
    [(path, body)] = received
    assert path == "/v1/traces"
    assert b"retrieval index" in body
    assert b"openbook" in body


def test_tracing_without_its_packages_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "service.tracing", None)
    with pytest.raises(ConfigError, match=r"openbook\[otel\]"):
        open_tracing()
