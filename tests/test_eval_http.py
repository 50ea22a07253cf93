"""Scoring a service over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from eval.answers import EvalError
from eval.http_client import ATTEMPTS, HttpAsker
from eval.provenance import route_options
from service.app import create_app
from service.config import ServeConfig
from service.model_thread import ModelThread
from service.routes import Route
from tests.fakes_eval import ROUTES
from tests.fakes_service import ScriptedGenerator, make_answerer
from tests.tiny import tiny_adapter, tiny_base

PAIR = ("How high is the tower?", ROUTES["rag"])


def asker_of(handler: Callable[[httpx.Request], httpx.Response]) -> HttpAsker:
    return HttpAsker(httpx.Client(base_url="http://openbook", transport=httpx.MockTransport(handler)))


def test_answers_and_setup_come_from_a_real_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBOOK_API_KEY", raising=False)
    tiny_adapter(tmp_path, tiny_base())
    generator = ScriptedGenerator()
    config = ServeConfig()
    app = create_app(make_answerer(tmp_path, generator), ModelThread(generator, config.queue_size), config)
    with TestClient(app, "http://127.0.0.1") as service:

        def forward(request: httpx.Request) -> httpx.Response:
            got = service.request(
                request.method, request.url.path, content=request.content, headers=dict(request.headers)
            )
            return httpx.Response(got.status_code, content=got.content)

        client = httpx.Client(base_url="http://127.0.0.1", transport=httpx.MockTransport(forward))
        remote = HttpAsker(client)
        answers = remote.answer_many([("How high is the tower?", route) for route in ROUTES.values()])
        setup, routes = remote.setup, remote.routes()
        same, again = ([("How high?", route) for route in routes.values()] for _ in range(2))
        assert remote.keys(same) == HttpAsker(client).keys(again)
        with pytest.raises(EvalError, match=r"answered 404 for 'unheard-of': unknown route"):
            remote.answer_many([("How high?", replace(ROUTES["rag"], name="unheard-of"))])
    assert [answer.route for answer in answers] == list(ROUTES)
    assert answers[1].contexts[0].document_id == "folder/tower.md"
    assert setup.adapters == {"tuned": "mixed@1", "hybrid": "mixed@1"}
    assert (setup.base_model, setup.index_generation) == ("tiny", 7)
    assert {name: (r.retrieve, r.adapter) for name, r in routes.items()} == {
        name: (r.retrieve, r.adapter) for name, r in ROUTES.items()
    }
    assert route_options(routes["hybrid"], setup)["adapter"] == "mixed"


OUT_OF_ORDER = {"id": "tuned", "retrieve": False, "adapter": "lost", "identity": None}


def service_of(*entries: dict[str, object]) -> HttpAsker:
    return asker_of(lambda request: httpx.Response(200, json={"data": list(entries)}))


def test_answers_are_known_again_only_by_an_identity_that_the_service_publishes() -> None:
    silent = {"id": "rag", "retrieve": True}
    assert service_of(silent).keys([PAIR]) != service_of(silent).keys([PAIR])
    first, again, other = (
        service_of({**silent, "identity": identity}).keys([PAIR]) for identity in ("a", "a", "b")
    )
    assert first == again != other


def test_routes_are_those_that_the_service_has() -> None:
    asker = service_of({"id": "mine", "retrieve": True, "adapter": None, "k": 7}, {"id": "gpt"}, OUT_OF_ORDER)
    assert asker.routes() == {"mine": Route("mine", retrieve=True, k=7)}
    with pytest.raises(EvalError, match="lists no openbook route"):
        service_of({"id": "gpt"}).routes()


def test_a_busy_service_is_asked_again_but_not_for_ever() -> None:
    calls = []

    def busy(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        error = {"error": {"message": "64 requests are waiting"}}
        return httpx.Response(503, json=error, headers={"Retry-After": "0"})

    with pytest.raises(EvalError, match="answered 503 for 'rag': 64 requests are waiting"):
        asker_of(busy).answer_many([PAIR])
    assert len(calls) == ATTEMPTS


def test_something_else_at_the_address_is_named() -> None:
    with pytest.raises(EvalError, match="is it an openbook service"):
        asker_of(lambda request: httpx.Response(200, text="<html>hello</html>")).answer_many([PAIR])
    with pytest.raises(EvalError, match="answered 500 for 'rag': broken"):
        asker_of(lambda request: httpx.Response(500, text="broken\nmore")).answer_many([PAIR])


def test_nothing_at_the_address_says_what_to_start() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(EvalError, match=r"no answer from http://openbook.*openbook serve"):
        asker_of(refuse).answer_many([PAIR])
