from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI
from starlette.testclient import TestClient

from service.app import create_app
from service.config import RouteConfig, ServeConfig
from service.model_thread import ModelThread
from tests.fakes_service import FailsLater, ScriptedGenerator, make_answerer
from tests.tiny import tiny_adapter, tiny_base

ASK = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "How high is the tower?"}]


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator()


@pytest.fixture
def client(tmp_path: Path, generator: ScriptedGenerator, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAI]:
    monkeypatch.setenv("OPENBOOK_API_KEY", "sesame")
    tiny_adapter(tmp_path, tiny_base())
    routes = {"rag": RouteConfig(k=3), "lines": RouteConfig(prompt="completion")}
    answerer = make_answerer(tmp_path, generator, tables=routes)
    app = create_app(answerer, ModelThread(generator), ServeConfig(max_new_tokens=100))
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as http_client:
        yield OpenAI(api_key="sesame", base_url="http://127.0.0.1/v1", http_client=http_client, max_retries=0)


def test_stock_client_gets_an_answer_with_usage_and_citations(
    client: OpenAI, generator: ScriptedGenerator
) -> None:
    generator.enqueue("88 metres")
    completion = client.chat.completions.create(model="hybrid", messages=ASK)
    [choice] = completion.choices
    assert choice.message.content == "88 metres"
    assert choice.finish_reason == "stop"
    assert completion.model == "hybrid"
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + 2
    assert choice.message.annotations is not None
    [annotation] = choice.message.annotations
    assert annotation.type == "url_citation"
    assert annotation.url_citation.url == "/v1/documents/folder/tower.md#char=0,46"
    assert (annotation.url_citation.start_index, annotation.url_citation.end_index) == (0, len("88 metres"))
    assert completion.model_extra is not None
    assert completion.model_extra["citations"][0]["document_id"] == "folder/tower.md"


def test_stock_client_lists_the_routes(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["base", "rag", "tuned", "hybrid", "lines"]
    assert client.models.retrieve("rag").id == "rag"


def test_sampling_settings_reach_the_generator(client: OpenAI, generator: ScriptedGenerator) -> None:
    client.chat.completions.create(
        model="base",
        messages=ASK,
        temperature=0.7,
        top_p=0.9,
        max_completion_tokens=5,
        seed=3,
        stop=["\n"],
        user="me",
    )
    sampling = generator.history[0][0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.7, 0.9, 3)
    assert (sampling.max_new_tokens, sampling.stop) == (5, ("\n",))


def test_answers_of_full_length_end_neither_with_the_model_nor_with_the_route(
    client: OpenAI, generator: ScriptedGenerator
) -> None:
    for more in ({}, {"ignore_eos": True}):
        client.chat.completions.create(model="lines", messages=ASK, stop=["END"], extra_body=more)
        client.completions.create(model="lines", prompt="How high?", stop=["END"], extra_body=more)
    samplings = [request.sampling for batch in generator.history for request in batch]
    usual, whole = (False, ("END", "\n")), (True, ("END",))
    assert [(s.ignore_eos, s.stop) for s in samplings] == [usual, usual, whole, whole]


def test_settings_left_out_mean_the_routes_length_and_greedy(
    client: OpenAI, generator: ScriptedGenerator
) -> None:
    client.chat.completions.create(model="base", messages=ASK)
    sampling = generator.history[0][0].sampling
    assert (sampling.temperature, sampling.max_new_tokens) == (0.0, 32)


def test_last_user_message_is_the_question(client: OpenAI, generator: ScriptedGenerator) -> None:
    parts = [{"type": "text", "text": "What does the bakery sell?"}]
    turns = [*ASK, {"role": "assistant", "content": "88 metres"}, {"role": "user", "content": parts}]
    client.chat.completions.create(model="base", messages=turns)  # type: ignore[arg-type]
    prompt = tiny_base().tokenizer.decode(generator.history[0][0].prompt)
    assert "What does the bakery sell?" in prompt
    assert "tower" not in prompt


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"max_tokens": 101}, "max_tokens"),
        ({"max_completion_tokens": 101}, "max_completion_tokens"),
        ({"temperature": 3.0}, "temperature"),
        ({"n": 9}, "n"),
        ({"n": 10**9}, "n"),
        ({"n": 0}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stop": ["a"] * 100_000}, "stop"),
        ({"stop": "a" * 257}, "stop"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [{"role": "system", "content": "hello"}]}, "messages"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    client: OpenAI, settings: dict[str, object], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "base", "messages": ASK, **settings})  # type: ignore[call-overload]
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", r'"messages": [{"role": "user", "content": "Who is \ud83d?"}]'),
        (
            "chat/completions",
            r'"messages": [{"role": "user", "content": [{"type": "text", "text": "\ud83d"}]}]',
        ),
        ("completions", r'"prompt": "Who is \ud83d?"'),
        ("completions", r'"prompt": ["Who?", "Who is \ud83d?"]'),
    ],
)
def test_half_an_emoji_is_refused(client: OpenAI, path: str, body: str) -> None:
    headers = {"Authorization": "Bearer sesame", "Content-Type": "application/json"}
    answer = client._client.post(
        f"{client.base_url}{path}", content='{"model": "base", ' + body + "}", headers=headers
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].split(".")[0] in ("messages", "prompt")


def test_unknown_model_and_wrong_key_raise_the_clients_own_exceptions(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="known: base, rag, tuned, hybrid") as caught:
        client.chat.completions.create(model="gpt", messages=ASK)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_error_after_the_first_byte_is_an_event_that_the_client_raises(
    client: OpenAI, generator: ScriptedGenerator
) -> None:
    generator.enqueue(FailsLater("88 metres and then"))
    stream = client.chat.completions.create(model="base", messages=ASK, stream=True)
    pieces: list[str] = []
    with pytest.raises(openai.APIError, match="its log says why") as caught:
        pieces.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(pieces) == "88 metres"
    assert caught.value.code == "internal_error"


def test_end_of_a_stream_carries_the_citations(client: OpenAI, generator: ScriptedGenerator) -> None:
    generator.enqueue("88 metres")
    *_, last = client.chat.completions.create(model="hybrid", messages=ASK, stream=True)
    assert last.choices[0].finish_reason == "stop"
    assert last.model_extra is not None
    assert [c["document_id"] for c in last.model_extra["citations"]] == ["folder/tower.md"]
    assert last.choices[0].delta.model_extra is not None
    [annotation] = last.choices[0].delta.model_extra["annotations"]
    assert annotation["url_citation"]["url"] == "/v1/documents/folder/tower.md#char=0,46"
