from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from schemathesis.specs.openapi.schemas import OpenApiSchema
from starlette.types import ASGIApp, Receive, Scope, Send

from eval.sequential import analyse
from service.app import create_app
from service.config import ServeConfig
from service.experiments import Experiments
from service.model_thread import ModelThread
from tests.fakes_service import ScriptedGenerator
from tests.fakes_workbench import answerer_of, make_workbench
from tests.tiny import tiny_base

KEY = {"Authorization": "Bearer sesame"}
OPERATIONS = (
    "POST /v1/answer",
    "POST /v1/compare",
    "GET /v1/documents/{document_id}",
    "GET /v1/documents",
    "PUT /v1/documents/{document_id}",
    "DELETE /v1/documents/{document_id}",
    "GET /v1/index",
    "POST /v1/index/sync",
    "POST /v1/index/search",
    "GET /v1/adapters",
    "GET /v1/adapters/{name}/{version}/curve",
    "POST /v1/adapters/{name}/{version}/promote",
    "POST /v1/adapters/{name}/{version}/load",
    "POST /v1/adapters/{name}/{version}/unload",
    "GET /v1/jobs",
    "GET /v1/jobs/{job_id}",
    "POST /v1/jobs/{job_id}/cancel",
    "POST /v1/evaluations",
    "GET /v1/evaluations",
    "GET /v1/evaluations/{name}",
    "GET /v1/evaluations/{name}/report",
    "POST /v1/feedback",
    "GET /v1/feedback/export",
    "POST /v1/experiments",
    "GET /v1/experiments",
    "GET /v1/experiments/{name}",
    "POST /v1/experiments/{name}/stop",
    "GET /v1/experiments/{name}/failures",
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/embeddings",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
)


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenApiSchema]:
    root = tmp_path_factory.mktemp("workspace")
    generator = ScriptedGenerator()
    bench = make_workbench(root)
    bench.jobs.start()
    thread = ModelThread(generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBOOK_API_KEY", "sesame")
        experiments = Experiments(root / "experiments.sqlite", analyse)
        answerer = answerer_of(bench, generator, tiny_base(), {})
        app = create_app(answerer, thread, ServeConfig(), bench, experiments=experiments)
    yield schemathesis.openapi.from_asgi("/openapi.json", kept_running(app), headers=KEY)
    thread.close()
    bench.close()
    experiments.close()


def kept_running(app: ASGIApp) -> ASGIApp:
    """`app` without its shutdown: schemathesis starts and stops the application for every request."""

    async def endpoints(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})

    return endpoints


def test_all_endpoints_are_described(described: OpenApiSchema) -> None:
    found = [result.ok().label for result in described.get_all_operations()]
    assert sorted(found) == sorted(OPERATIONS)


@pytest.mark.parametrize("label", OPERATIONS)
def test_every_response_is_as_openapi_json_says(described: OpenApiSchema, label: str) -> None:
    [operation] = [r.ok() for r in described.get_all_operations() if r.ok().label == label]
    # That a chat has a user message and asks for no more tokens than configured, or that bytes are a PDF, a schema
    # cannot say.
    unsaid = "completions" in label or label.startswith("PUT")
    skipped = [positive_data_acceptance] if unsaid else []

    @given(case=operation.as_strategy())
    @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=KEY, excluded_checks=skipped)

    check()
