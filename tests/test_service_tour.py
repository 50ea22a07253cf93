"""The stock `openai` client against a real server over the tiny model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from openai import OpenAI

from service.answering import Answerer
from service.config import ServeConfig
from service.model_thread import ModelThread
from tests.fakes_server import serving, tiny_answerer

ROUTES = ["base", "rag", "tuned", "hybrid"]
QUESTIONS = [
    "How high is the tower?",
    "Who built the oven?",
    "When does the harbour open?",
    "How many steps are there?",
    "What does the bakery sell?",
    "Which boats need a pilot?",
]


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    return tiny_answerer(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def url(answerer: Answerer) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBOOK_API_KEY", "sesame")
        thread = ModelThread(answerer.generator, queue_size=64)
        with serving(answerer, thread, ServeConfig(max_new_tokens=64)) as url:
            yield url


@pytest.fixture(scope="module")
def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="sesame", max_retries=0, timeout=60)


def ask(client: OpenAI, route: str, question: str = QUESTIONS[0], **settings: object):
    return client.chat.completions.create(
        model=route,
        messages=[{"role": "user", "content": question}],
        **settings,  # type: ignore[call-overload]
    )


def test_models_are_the_routes_with_their_options(client: OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert list(models) == ROUTES
    hybrid, base = models["hybrid"].model_extra, models["base"].model_extra
    assert hybrid is not None
    assert base is not None
    assert (hybrid["root"], hybrid["parent"], base["root"], base["parent"]) == ("mixed", "tiny", "tiny", None)
    assert (hybrid["retrieve"], hybrid["k"], hybrid["adapter"], hybrid["prompt"]) == (
        True,
        2,
        "mixed",
        "trained",
    )
    assert len({model.model_extra["identity"] for model in models.values() if model.model_extra}) == 4


@pytest.mark.parametrize("route", ROUTES)
def test_streamed_text_is_the_text_and_usage_adds_up(client: OpenAI, route: str) -> None:
    whole = ask(client, route)
    chunks = list(ask(client, route, stream=True, stream_options={"include_usage": True}))
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(pieces) > 1
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert (whole.usage.completion_tokens == 24) == (whole.choices[0].finish_reason == "length")


def test_stop_string_is_neither_in_the_text_nor_in_the_stream(client: OpenAI) -> None:
    full = ask(client, "base").choices[0].message.content
    assert full is not None
    stop = full[4:7]
    pieces = [c.choices[0].delta.content or "" for c in ask(client, "base", stop=[stop], stream=True)]
    assert "".join(pieces) == full[: full.index(stop)].strip()


def test_explicit_nulls_are_like_absence(client: OpenAI) -> None:
    names = (
        "temperature top_p max_tokens max_completion_tokens seed stop n stream stream_options logprobs"
        " top_logprobs tools response_format frequency_penalty presence_penalty logit_bias user"
    )
    plain = ask(client, "rag").choices[0].message.content
    nulls = ask(client, "rag", extra_body=dict.fromkeys(names.split()))
    assert nulls.choices[0].message.content == plain


def test_choices_differ_by_seed_and_repeat_with_it(client: OpenAI) -> None:
    settings = {"n": 3, "temperature": 1.0, "seed": 7}
    first, again = ask(client, "tuned", **settings), ask(client, "tuned", **settings)
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [choice.message.content for choice in again.choices]
    assert first.usage.prompt_tokens == ask(client, "tuned").usage.prompt_tokens
    streamed = ["", "", ""]
    for chunk in ask(client, "tuned", stream=True, **settings):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_log_probabilities_are_those_of_the_chosen_tokens(client: OpenAI) -> None:
    choice = ask(client, "base", logprobs=True, top_logprobs=3, max_tokens=5).choices[0]
    assert len(choice.logprobs.content) == 5
    for place in choice.logprobs.content:
        assert place.logprob <= 0
        assert len(place.top_logprobs) == 3
        # Greedy: the chosen token is the likeliest.
        assert place.top_logprobs[0].logprob == pytest.approx(place.logprob)
    said = bytes(byte for place in choice.logprobs.content for byte in place.bytes)
    assert (
        said.decode(errors="replace").strip() == choice.message.content
    )  # each token of this model is a byte
    plain = client.completions.create(model="base", prompt=QUESTIONS[0], logprobs=2, max_tokens=5)
    assert plain.choices[0].logprobs.token_logprobs == pytest.approx(
        [place.logprob for place in choice.logprobs.content], abs=1e-4
    )


def test_completions_answer_every_prompt(client: OpenAI) -> None:
    whole = client.completions.create(model="rag", prompt=QUESTIONS[:2], n=2)
    assert len(whole.choices) == 4
    expected = [ask(client, "rag", question).choices[0].message.content for question in QUESTIONS[:2]]
    assert [choice.text for choice in whole.choices] == [expected[0], expected[0], expected[1], expected[1]]
    streamed = [""] * 4
    for chunk in client.completions.create(model="rag", prompt=QUESTIONS[:2], n=2, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == [choice.text for choice in whole.choices]


def test_embeddings_are_the_encoders_however_they_are_packed(client: OpenAI, answerer: Answerer) -> None:
    texts = ["rye bread", "a tower"]
    packed = client.embeddings.create(model="hash-encoder", input=texts)
    plain = client.embeddings.create(model="hash-encoder", input=texts, encoding_format="float")
    assert answerer.encoder is not None
    for i, expected in enumerate(answerer.encoder.encode_queries(texts).tolist()):
        assert packed.data[i].embedding == pytest.approx(expected)
        assert plain.data[i].embedding == pytest.approx(expected)
    assert packed.usage.prompt_tokens == 4
    many = [f"text {n}" for n in range(40)]
    batched = client.embeddings.create(model="hash-encoder", input=many).data
    assert [item.index for item in batched] == list(range(40))
    expected = answerer.encoder.encode_queries(many).tolist()
    assert [item.embedding for item in batched] == [pytest.approx(vector) for vector in expected]
    with pytest.raises(openai.NotFoundError, match="this service has 'hash-encoder'"):
        client.embeddings.create(model="rag", input="x")
    with pytest.raises(openai.BadRequestError, match="vectors of 256 numbers") as caught:
        client.embeddings.create(model="hash-encoder", input="x", dimensions=3)
    assert caught.value.param == "dimensions"


def test_errors_are_the_clients_own(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        ask(client, "gpt")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        ask(client, "base", "why " * 5000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as longer:
        ask(client, "base", "why" * 100_000, stream=True)
    assert longer.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as bad:
        ask(client, "base", max_tokens=-1)
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(openai.AuthenticationError) as stranger:
        client.with_options(api_key="wrong").models.list()
    assert stranger.value.code == "invalid_api_key"


def test_follow_up_question_is_retrieved_with_what_it_leans_on(client: OpenAI) -> None:
    turns = [
        {"role": "user", "content": "Who built the oven of the bakery?"},
        {"role": "assistant", "content": "Ada Lindqvist"},
        {"role": "user", "content": "And when did she build it?"},
    ]
    reply = client.chat.completions.create(model="rag", messages=turns, max_tokens=1)  # type: ignore[arg-type]
    alone = ask(client, "rag", "And when did she build it?", max_tokens=1)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens > alone.usage.prompt_tokens


def test_mixed_concurrent_load_answers_as_single_requests_do(client: OpenAI) -> None:
    asked = [(route, question) for question in QUESTIONS for route in ROUTES] * 2
    single = {pair: ask(client, *pair).choices[0].message.content for pair in set(asked)}

    def streamed(pair: tuple[str, str]) -> str:
        return "".join(c.choices[0].delta.content or "" for c in ask(client, *pair, stream=True))

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(streamed, asked))
    assert together == [single[pair] for pair in asked]
    assert len(set(single.values())) > len(QUESTIONS)  # routes and questions do differ


def test_comparison_streams_every_route_as_it_comes(url: str) -> None:
    headers = {"Authorization": "Bearer sesame"}
    body = {"question": QUESTIONS[0], "routes": ["base", "hybrid"], "stream": True}
    with httpx.stream("POST", f"{url}/v1/compare", json=body, headers=headers, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    events = [httpx.Response(200, content=line).json() for line in lines[:-1]]
    whole = httpx.post(
        f"{url}/v1/compare", json={**body, "stream": False}, headers=headers, timeout=60
    ).json()
    for result in whole["results"]:
        own = [event for event in events if event["route"] == result["route"]]
        assert [own[0]["type"], own[-1]["type"]] == ["contexts", "answer"]
        assert own[0]["contexts"] == result["answer"]["contexts"]
        assert "".join(e["text"] for e in own if e["type"] == "text") == result["answer"]["answer"]
        assert own[-1]["answer"]["answer"] == result["answer"]["answer"]


def test_client_that_leaves_a_stream_ends_its_generation(url: str, answerer: Answerer) -> None:
    async def leave() -> None:
        body = {"question": QUESTIONS[0], "route": "base", "stream": True}
        async with (
            httpx.AsyncClient(headers={"Authorization": "Bearer sesame"}) as client,
            client.stream("POST", f"{url}/v1/answer", json=body) as response,
        ):
            await anext(response.aiter_lines())

    before = failures(url, "base")
    for _ in range(3):  # a short answer may end before its client has left
        asyncio.run(leave())
    httpx.get(f"{url}/readyz", headers={"Authorization": "Bearer sesame"}).raise_for_status()
    generator = answerer.generator
    for _ in range(500):
        if not generator._runs:  # type: ignore[attr-defined]
            break
        httpx.get(f"{url}/healthz")
    assert not generator._runs  # type: ignore[attr-defined]
    assert failures(url, "base") >= before


def failures(url: str, route: str) -> float:
    page = httpx.get(f"{url}/metrics", headers={"Authorization": "Bearer sesame"}).text
    lines = [line for line in page.splitlines() if line.startswith("openbook:request_failure_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if f'route="{route}"' in line)
