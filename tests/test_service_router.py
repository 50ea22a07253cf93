"""`auto`: the route is taken for each question by a trained router, over HTTP as by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from starlette.testclient import TestClient

from indexer.config import Workspace
from indexer.retriever import Hit
from indexer.snapshot import Chunk
from service.answering import Answerer
from service.app import create_app
from service.config import RouteConfig, RouteNameError, ServeConfig, routes_from_config
from service.generation import LocalGenerator
from service.model_thread import ModelThread
from service.router import (
    Router,
    RouterError,
    TrainedRouter,
    confidence_facts,
    load_router,
    question_facts,
    retrieval_facts,
    router_path,
)
from tests.fakes_service import ScriptedGenerator, make_answerer
from tests.tiny import tiny_adapter, tiny_base
from tuner.decoding import Decoded, TokenLogprob
from tuner.registry import Registry

WHO, HOW_HIGH = "Who built the oven?", "How high is the tower?"


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator()


@pytest.fixture
def answerer(tmp_path: Path, generator: ScriptedGenerator, monkeypatch: pytest.MonkeyPatch) -> Answerer:
    monkeypatch.delenv("OPENBOOK_API_KEY", raising=False)
    tiny_adapter(tmp_path, tiny_base())
    return make_answerer(tmp_path, generator)


def trained(answerer: Answerer, **changes: Any) -> TrainedRouter:
    """Takes rag for questions about persons and base for others."""
    names = ("base", "rag")
    given = {
        "routes": {name: answerer.lasting_identity(answerer.route(name)) for name in names},
        "probe": None,
        "facts": ["asks_person"],
        "means": [0.5],
        "scales": [0.5],
        "weights": {"base": [-1.0], "rag": [1.0]},
        "intercepts": {"base": 0.2, "rag": 0.2},
        "encoder": "fake-encoder",
        "index_generation": 7,
    }
    return TrainedRouter.model_validate(given | changes)


@contextmanager
def serving(answerer: Answerer, router: Router | None) -> Iterator[TestClient]:
    app = create_app(answerer, ModelThread(answerer.generator), ServeConfig(), None, router)
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(answerer: Answerer) -> Iterator[TestClient]:
    with serving(answerer, Router(trained(answerer), answerer)) as client:
        yield client


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(("question", "route"), [(WHO, "rag"), (HOW_HIGH, "base")])
def test_answer_names_the_route_that_was_taken(client: TestClient, question: str, route: str) -> None:
    body = client.post("/v1/answer", json={"question": question, "route": "auto"}).json()
    assert body["route"] == route
    assert len(body["contexts"]) == (3 if route == "rag" else 0)


def test_streams_work_with_auto(client: TestClient, generator: ScriptedGenerator) -> None:
    generator.enqueue("Ada Lindqvist")
    reply = client.post("/v1/answer", json={"question": WHO, "route": "auto", "stream": True})
    first, *pieces, last = events(reply.text)
    assert (first["type"], first["route"]) == ("contexts", "rag")
    assert "".join(piece["text"] for piece in pieces) == last["answer"]["answer"] == "Ada Lindqvist"


def test_stock_client_streams_and_sees_the_route_as_the_model(
    client: TestClient, generator: ScriptedGenerator
) -> None:
    stock = OpenAI(api_key="none", base_url="http://127.0.0.1/v1", http_client=client, max_retries=0)
    generator.enqueue("Ada Lindqvist", "Ada Lindqvist")
    asked: Any = {"model": "auto", "messages": [{"role": "user", "content": WHO}]}
    whole = stock.chat.completions.create(**asked)
    assert (whole.model, whole.choices[0].message.content) == ("rag", "Ada Lindqvist")
    chunks = list(stock.chat.completions.create(**asked, stream=True))
    assert {chunk.model for chunk in chunks} == {"rag"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Ada Lindqvist"
    assert stock.completions.create(model="auto", prompt=HOW_HIGH).model == "base"


def test_auto_is_listed_with_the_routes_it_takes(client: TestClient) -> None:
    listed = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert list(listed) == ["base", "rag", "tuned", "hybrid", "auto"]
    assert listed["auto"]["routes"] == ["base", "rag"]
    assert listed["auto"]["stale"] == ""
    assert client.get("/v1/models/auto").json() == listed["auto"]


def test_auto_is_compared_beside_routes_where_it_is_named(
    client: TestClient, generator: ScriptedGenerator
) -> None:
    body = {"question": WHO, "routes": ["base", "auto", "rag"]}
    results = client.post("/v1/compare", json=body).json()["results"]
    assert [(one["route"], one["answer"]["route"]) for one in results] == [
        ("base", "base"),
        ("auto", "rag"),
        ("rag", "rag"),
    ]
    assert results[1]["answer"]["contexts"] == results[2]["answer"]["contexts"]
    everything = client.post("/v1/compare", json={"question": WHO}).json()["results"]
    assert [one["route"] for one in everything] == ["base", "rag", "tuned", "hybrid"]

    seen = events(client.post("/v1/compare", json={**body, "stream": True}).text)
    of_auto = [event for event in seen if event["route"] == "auto"]
    assert of_auto[0]["type"] == "contexts"
    assert of_auto[-1]["answer"]["route"] == "rag"
    assert {event["route"] for event in seen} == {"base", "auto", "rag"}


def test_comparison_with_auto_keeps_to_the_filter(
    answerer: Answerer, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def search(query: str, k: int, where: object) -> tuple[int, list[Hit]]:
        asked.append(where)
        return 7, []

    monkeypatch.setattr(answerer, "search", search)
    model = trained(answerer, facts=["dense"])
    with serving(answerer, Router(model, answerer)) as client:
        body = {"question": WHO, "routes": ["auto"], "where": {"team": "ovens"}}
        [result] = client.post("/v1/compare", json=body).json()["results"]
    assert result["error"] is None
    assert asked == [{"team": "ovens"}]


@pytest.mark.parametrize("prompt", [[WHO, HOW_HIGH], [5, 6, 7]])
def test_auto_takes_one_question_at_a_time(client: TestClient, prompt: list[Any]) -> None:
    reply = client.post("/v1/completions", json={"model": "auto", "prompt": prompt})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "prompt"


def test_question_beyond_the_model_is_refused_before_anything_is_searched_for(
    client: TestClient, answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*_: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr(Router, "facts", search)
    question = "t" * answerer.base.max_prompt_tokens  # a token each
    response = client.post("/v1/answer", json={"question": question, "route": "auto"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_unknown_routes_are_reported_as_ever(answerer: Answerer, client: TestClient) -> None:
    chat = {"messages": [{"role": "user", "content": WHO}]}

    def errors(client: TestClient, name: str) -> list[Any]:
        replies = [
            client.post("/v1/answer", json={"question": WHO, "route": name}),
            client.post("/v1/chat/completions", json={"model": name, **chat}),
            client.post("/v1/compare", json={"question": WHO, "routes": ["base", name]}),
            client.get(f"/v1/models/{name}"),
        ]
        assert [reply.status_code for reply in replies] == [404] * 4
        return [reply.json()["error"] for reply in replies]

    with_router = errors(client, "nope")
    assert with_router[0]["message"] == "unknown route 'nope'; known: base, rag, tuned, hybrid"
    other = make_answerer(Path("no-adapters"), ScriptedGenerator())
    with serving(other, None) as without:
        assert errors(without, "nope") == with_router
        for error in errors(without, "auto"):
            assert error["code"] == "model_not_found"
            assert "run `openbook eval router`" in error["message"]


def test_confidence_of_the_probe_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBOOK_API_KEY", raising=False)
    base = tiny_base()
    answerer = make_answerer(tmp_path, LocalGenerator(base, Registry(tmp_path)), base)
    sure = {"probe": "base", "facts": ["confidence_mean"], "scales": [1.0]}
    for mean, route in ((-1000.0, "rag"), (1000.0, "base")):
        model = trained(answerer, means=[mean], **sure)
        with serving(answerer, Router(model, answerer)) as client:
            body = client.post("/v1/answer", json={"question": WHO, "route": "auto"}).json()
            metrics = client.get("/metrics").text
        assert body["route"] == route
        assert body["timings_ms"]["total"] > body["timings_ms"]["generate"]
        assert 'request_success_total{finished_reason="stop",route="base"}' not in metrics or route == "base"


def test_constant_router_neither_searches_nor_probes(
    answerer: Answerer, generator: ScriptedGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant = trained(answerer, facts=[], means=[], scales=[], weights={"base": [], "rag": []})
    router = Router(constant, answerer)
    monkeypatch.setattr(answerer, "search", None)
    assert router.choose(router.facts(WHO, None)).name == "base", "the first of equals"
    assert router.probe is None


def test_router_trained_on_other_routes_is_refused(tmp_path: Path, answerer: Answerer) -> None:
    model = trained(answerer)
    wider = make_answerer(tmp_path, answerer.generator, tables={"rag": RouteConfig(k=9)})
    with pytest.raises(RouterError, match=r"route 'rag' has changed since .* run `openbook eval router`"):
        Router(model, wider)
    same = model.routes["base"]
    renamed = trained(
        answerer,
        routes={"base": same, "deep": "y"},
        weights={"base": [0], "deep": [0]},
        intercepts={"base": 0, "deep": 0},
    )
    with pytest.raises(RouterError, match="trained with route 'deep', which is not among base, rag"):
        Router(renamed, answerer)


def test_adapter_promoted_while_serving_makes_auto_a_conflict(tmp_path: Path, answerer: Answerer) -> None:
    names = ("base", "tuned")
    model = trained(
        answerer,
        routes={name: answerer.lasting_identity(answerer.route(name)) for name in names},
        weights={"base": [-1.0], "tuned": [1.0]},
        intercepts={"base": 0.0, "tuned": 0.0},
    )
    with serving(answerer, Router(model, answerer)) as client:
        ask = {"question": WHO, "route": "auto"}
        assert client.post("/v1/answer", json=ask).json()["route"] == "tuned"
        before = client.get("/v1/models/auto").json()["identity"]
        tiny_adapter(tmp_path, tiny_base(), seed=1)
        reply = client.post("/v1/answer", json=ask)
        both = client.post("/v1/compare", json={"question": WHO, "routes": ["auto", "base"]}).json()
        after = client.get("/v1/models/auto").json()["identity"]
    assert reply.status_code == 409
    assert reply.json()["error"]["code"] == "router_stale"
    assert "route 'tuned' has changed" in reply.json()["error"]["message"]
    assert [one["error"] and one["error"]["code"] for one in both["results"]] == ["router_stale", None]
    assert before
    assert after is None


def test_router_outlasts_edits_of_documents_and_says_that_they_changed(answerer: Answerer) -> None:
    router = Router(trained(answerer, index_generation=4), answerer)
    assert router.choose(router.facts(WHO, None)).name == "rag"
    assert router.stale() == "trained over generation 4 of the documents, which are at 7"


def test_file_that_is_damaged_or_does_not_fit_together_is_refused(tmp_path: Path, answerer: Answerer) -> None:
    path = router_path(Workspace(tmp_path))
    assert load_router(path) is None
    model = trained(answerer)
    path.parent.mkdir(parents=True)
    path.write_text(model.model_dump_json())
    assert load_router(path) == model
    for changes in (
        {"facts": ["mood"]},
        {"means": []},
        {"probe": "hybrid"},
        {"scales": [0.0]},
        {"routes": {}},
    ):
        path.write_text(json.dumps(model.model_dump() | changes))
        with pytest.raises(RouterError, match="run `openbook eval router`"):
            load_router(path)


def test_no_route_may_be_called_auto() -> None:
    with pytest.raises(RouteNameError, match="use another name"):
        routes_from_config({"auto": RouteConfig()})


def hits(*scores: tuple[float, float | None, float | None], documents: Sequence[str] = "aab") -> list[Hit]:
    return [
        Hit(Chunk(n, document, "", "", 0, 1, "x"), *score)
        for n, (score, document) in enumerate(zip(scores, documents, strict=False))
    ]


def test_retrieval_facts_say_how_far_ahead_the_first_is_and_whether_searches_agree() -> None:
    agreed: Mapping[str, float] = retrieval_facts(hits((1.0, 0.8, 10.0), (0.7, 0.5, 5.0), (0.3, None, 1.0)))
    assert (agreed["dense"], agreed["dense_gap"]) == (0.8, pytest.approx(0.3))
    assert (agreed["bm25_gap"], agreed["fused_gap"]) == (0.5, pytest.approx(0.3))
    assert (agreed["same_first"], agreed["same_document"]) == (1.0, pytest.approx(2 / 3))
    assert retrieval_facts(hits((0.9, 0.8, 1.0), (0.8, 0.7, 9.0)))["same_first"] == 0.0
    assert set(retrieval_facts([]).values()) == {0.0}


def test_question_facts_see_length_shape_and_names() -> None:
    facts = question_facts("When did Ada Lindqvist sell 31 loaves?")
    assert (facts["asks_time"], facts["asks_person"], facts["numbers"]) == (1.0, 0.0, 1.0)
    assert facts["names"] == pytest.approx(2 / 7)
    assert question_facts("Is it open?")["asks_yes_no"] == 1.0
    assert question_facts("") == dict.fromkeys(facts, 0.0)


def test_confidence_is_that_of_the_first_token_and_of_the_mean() -> None:
    said = Decoded("a b", 3, 2, "stop", (TokenLogprob(1, -0.5, ()), TokenLogprob(2, -1.5, ())))
    assert confidence_facts(said) == {"confidence_first": -0.5, "confidence_mean": -1.0}
    assert set(confidence_facts(None).values()) == {0.0}
