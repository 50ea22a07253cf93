"""Scoring a service over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from eval.answers import EvalError
from eval.attribution import Outcome, outcome
from eval.commands import format_evaluation
from eval.compare import compare_evaluations
from eval.config import EvalConfig
from eval.http_client import ATTEMPTS, HttpAsker
from eval.provenance import route_options
from eval.run import evaluate
from indexer.corpus import Question, Split
from service.answering import Answerer
from service.app import create_app
from service.config import ServeConfig
from service.model_thread import ModelThread
from service.router import Router, TrainedRouter
from service.routes import Route
from tests.fakes_eval import ROUTES, make_answer
from tests.fakes_service import ScriptedGenerator, make_answerer
from tests.tiny import tiny_adapter, tiny_base

PAIR = ("How high is the tower?", ROUTES["rag"])


def asker_of(handler: Callable[[httpx.Request], httpx.Response]) -> HttpAsker:
    return HttpAsker(httpx.Client(base_url="http://openbook", transport=httpx.MockTransport(handler)))


@contextmanager
def service_at(answerer: Answerer, router: Router | None = None) -> Iterator[httpx.Client]:
    """A client of a real service, without a network."""
    config = ServeConfig()
    thread = ModelThread(answerer.generator, config.queue_size)
    with TestClient(create_app(answerer, thread, config, None, router), "http://127.0.0.1") as service:

        def forward(request: httpx.Request) -> httpx.Response:
            got = service.request(
                request.method, request.url.path, content=request.content, headers=dict(request.headers)
            )
            return httpx.Response(got.status_code, content=got.content)

        yield httpx.Client(base_url="http://127.0.0.1", transport=httpx.MockTransport(forward))


def test_answers_and_setup_come_from_a_real_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBOOK_API_KEY", raising=False)
    tiny_adapter(tmp_path, tiny_base())
    with service_at(make_answerer(tmp_path, ScriptedGenerator())) as client:
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


@pytest.fixture
def routed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Answerer, Router]:
    """Routes, and a router that takes `hybrid` for questions about persons and `base` for others."""
    monkeypatch.delenv("OPENBOOK_API_KEY", raising=False)
    tiny_adapter(tmp_path, tiny_base())
    answerer, names = make_answerer(tmp_path, ScriptedGenerator()), ("base", "hybrid")
    trained = TrainedRouter(
        routes={name: answerer.lasting_identity(answerer.route(name)) for name in names},
        probe=None,
        facts=["asks_person"],
        means=[0.5],
        scales=[0.5],
        weights={"base": [-1.0], "hybrid": [1.0]},
        intercepts={"base": 0.2, "hybrid": 0.2},
        encoder="fake-encoder",
        index_generation=7,
    )
    return answerer, Router(trained, answerer)


def test_auto_is_scored_as_a_route_and_what_it_took_is_told(
    tmp_path: Path, routed: tuple[Answerer, Router]
) -> None:
    texts = [f"{word} item {n}?" for n in range(4) for word in ("Who made", "How high is", "Where is")]
    questions = [
        Question(f"q{n}", text, ("scripted answer",), (f"doc{n % 4}.md",), Split.TEST)
        for n, text in enumerate(texts)
    ]
    settings = EvalConfig(resamples=1000, latency_questions=1, contrasts=(("auto", "hybrid"),))
    with service_at(*routed) as client:
        remote = HttpAsker(client)
        found = evaluate(remote, questions, remote.routes(), tmp_path / "run", settings)
        folder = tmp_path / "again"
        again = evaluate(
            HttpAsker(client),
            questions,
            remote.routes(),
            folder,
            settings,
            earlier=[tmp_path / "run" / "answers.jsonl"],
        )
    assert list(found.result.routes) == ["base", "rag", "tuned", "hybrid", "auto"]
    assert found.result.routes["auto"].taken == {"base": pytest.approx(2 / 3), "hybrid": pytest.approx(1 / 3)}
    assert found.result.routes["hybrid"].taken == {}
    assert [(c.a, c.b, c.difference) for c in found.result.contrasts] == [("auto", "hybrid", 0.0)]
    assert found.result.attribution["auto"].against == {}, "it differs from others in more than one thing"
    assert found.result.provenance.routes["auto"]["routes"] == ["base", "hybrid"]
    told = "auto took base for 67%, hybrid for 33% of the questions."
    assert told in format_evaluation(found)
    assert told in (tmp_path / "run" / "report.html").read_text()
    assert again.result.routes == found.result.routes, "the same answers, known by what `auto` stands for"
    compared = compare_evaluations(tmp_path / "run", folder, questions, settings)
    assert [one.route for one in compared.routes] == list(found.result.routes)


def test_auto_that_no_longer_fits_its_routes_is_left_out(
    tmp_path: Path, routed: tuple[Answerer, Router]
) -> None:
    with service_at(*routed) as client:
        before = HttpAsker(client).routes()
        tiny_adapter(tmp_path, tiny_base(), seed=1)
        after = HttpAsker(client).routes()
    assert before["auto"] == Route("auto", retrieve=True, adapter="mixed")
    assert list(after) == ["base", "rag", "tuned", "hybrid"]


def test_wrong_answers_of_auto_are_explained_by_the_route_that_was_taken() -> None:
    question = Question("q", "How high?", ("88 metres",), ("tower.md",), Split.TEST)
    explained = {name: outcome(question, make_answer("How high?", ROUTES[name], "no")) for name in ROUTES}
    assert explained["rag"] == explained["hybrid"] == Outcome.RETRIEVAL_MISS
    assert explained["base"] == explained["tuned"] == Outcome.NOT_KNOWN


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
