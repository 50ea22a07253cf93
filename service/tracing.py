"""Optional OpenTelemetry spans of requests, retrievals and generations, by its conventions for generative AI.

Spans hold names from the configuration, counts and times: never text, prompts, names of documents, or keys.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.admission import Generated
from service.answer import Prepared

TRACED_PREFIX = "/v1/"
"""Health checks, metrics and the page would only be noise."""
PROVIDER = "openbook"
DATA_SOURCE = "index"


class Tracing:
    """Makes the spans of one service; what is current where they begin becomes their parent."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self.tracer = provider.get_tracer("openbook")

    def retrieved(self, prepared: Sequence[Prepared]) -> None:
        """One retrieval has been made, for all of `prepared` together."""
        retrieving = [one for one in prepared if one.route.retrieve]
        if not retrieving:
            return
        first = retrieving[0]
        since = int((time.monotonic() - first.retrieve_started) * 1e9)
        started = time.time_ns() - since
        span = self.tracer.start_span(
            f"retrieval {DATA_SOURCE}",
            start_time=started,
            attributes={
                "gen_ai.operation.name": "retrieval",
                "gen_ai.provider.name": PROVIDER,
                "gen_ai.data_source.id": DATA_SOURCE,
                "gen_ai.request.top_k": float(first.route.k),
                "openbook.route": first.route.name,
                "openbook.queries": len(retrieving),
                "openbook.passages": sum(len(one.contexts) for one in retrieving),
                "openbook.index.generation": first.generation or 0,
            },
        )
        span.end(started + int(first.retrieve_ms * 1e6))

    def follow(self, future: Future[Generated], prepared: Sequence[Prepared], base_model: str) -> None:
        """A span from now until the generator has answered all of `prepared`, failed, or been given up."""
        route, request = prepared[0].route, prepared[0].request
        model, sampling = request.adapter or base_model, request.sampling
        attributes: dict[str, AttributeValue] = {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": model,
            "gen_ai.response.model": model,
            "gen_ai.request.max_tokens": sampling.max_new_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "openbook.route": route.name,
        }
        if len(prepared) > 1:
            attributes["gen_ai.request.choice.count"] = len(prepared)
        span = self.tracer.start_span(f"text_completion {model}", attributes=attributes)
        future.add_done_callback(lambda done: _end(span, done))

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()


class TraceRequests:
    """ASGI middleware: a span for every request to the API, within the caller's trace if it names one."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracer = tracing.tracer
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; the span ends with the last byte of the response."""
        if scope["type"] != "http" or not scope["path"].startswith(TRACED_PREFIX):
            await self._app(scope, receive, send)
            return
        status = 0

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        method = scope["method"]
        context = self._propagator.extract(dict(Headers(scope=scope)))
        attributes = {"http.request.method": method, "openbook.request_id": _request_id(scope)}
        with self._tracer.start_as_current_span(
            method,
            context,
            SpanKind.SERVER,
            attributes,
            # A message of an exception may quote what was asked.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            failure = None
            try:
                await self._app(scope, receive, send_noting_status)
            except BaseException as error:
                failure = type(error).__name__
                raise
            finally:
                _describe(span, method, scope, status, failure)


def open_tracing(environment: Mapping[str, str] = os.environ) -> Tracing:
    """Spans sent in batches by OTLP over HTTP, to where the standard variables (`OTEL_EXPORTER_OTLP_...`) say."""
    resource = Resource.create({"service.name": environment.get("OTEL_SERVICE_NAME", "openbook")})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _end(span: Span, future: Future[Generated]) -> None:
    if future.cancelled():
        _fail(span, "cancelled")
    elif error := future.exception():
        _fail(span, type(error).__name__)
    else:
        generated = future.result()
        span.set_attributes(
            {
                "gen_ai.usage.input_tokens": sum(one.prompt_tokens for one in generated.decoded),
                "gen_ai.usage.output_tokens": sum(one.completion_tokens for one in generated.decoded),
                "gen_ai.response.finish_reasons": [one.finish_reason for one in generated.decoded],
                "openbook.queue_ms": generated.queue_ms,
                "openbook.first_token_ms": generated.first_token_ms,
            }
        )
    span.end()


def _describe(span: Span, method: str, scope: Scope, status: int, failure: str | None) -> None:
    """Name the span by the endpoint's template: the path holds names of documents."""
    endpoint = getattr(scope.get("route"), "path", None) or "other"
    span.update_name(f"{method} {endpoint}")
    span.set_attribute("http.route", endpoint)
    if status:
        span.set_attribute("http.response.status_code", status)
    if failure or status >= 500:
        _fail(span, failure or str(status))


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def _request_id(scope: Scope) -> str:
    return str(scope.get("state", {}).get("request_id", ""))
