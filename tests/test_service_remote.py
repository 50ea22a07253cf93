from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from indexer.config import RemoteConfig
from service.completions_client import RemoteError, RemoteUnavailable
from service.config import ServeConfig
from service.generation import GenerationRequest, Run
from service.model_thread import ModelThread
from service.remote import RemoteGenerator, served_name
from tests.fakes_completions import KEY, Behaviour, Fake, answers, event, says, sends
from tests.fakes_server import running, serving
from tests.fakes_service import make_answerer
from tests.tiny import tiny_adapter, tiny_base
from tuner.decoding import Decoded, DecodingCancelled, Sampling
from tuner.registry import AdapterError

REQUEST = GenerationRequest((1, 2, 3), None, Sampling(max_new_tokens=8, stop=("\n",)))


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Fake, str]]:
    fake = Fake()
    with running(fake.app(), log_level="critical") as url:
        yield fake, f"{url}/v1"


@pytest.fixture
def fake(server: tuple[Fake, str]) -> Fake:
    """The server with nothing behind it."""
    fake = server[0]
    fake.script.clear()
    fake.bodies.clear()
    fake.keys.clear()
    fake.most_under_way = 0
    fake.left.clear()
    return fake


@pytest.fixture
def url(server: tuple[Fake, str]) -> str:
    return server[1]


@pytest.fixture
def remote(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteGenerator]:
    monkeypatch.setenv("OPENBOOK_REMOTE_KEY", KEY)
    generator = RemoteGenerator(config_for(url), first_pause_seconds=0.01)
    yield generator
    generator.close()


def config_for(url: str, **settings: Any) -> RemoteConfig:
    return RemoteConfig(url=url, model="base", adapters={"mixed@3": "mixed-v3"}, **settings)


def failure(generator: RemoteGenerator) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        generator.generate([REQUEST])
    return caught.value


def test_prompt_is_sent_as_token_ids_with_the_sampling_of_the_request(
    remote: RemoteGenerator, fake: Fake
) -> None:
    how = Sampling(max_new_tokens=9, temperature=0.5, top_p=0.9, seed=7, stop=("\n",))
    remote.generate([GenerationRequest((5, 0, 7), "mixed@3", how)])
    assert fake.bodies == [
        {
            "model": "mixed-v3",
            "prompt": [5, 0, 7],
            "max_tokens": 9,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 7,
            "stop": ["\n"],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert fake.keys == [f"Bearer {KEY}"]


def test_a_server_is_told_to_go_on_where_its_model_would_end(remote: RemoteGenerator, fake: Fake) -> None:
    remote.generate([GenerationRequest((5, 0, 7), None, Sampling(9, ignore_eos=True))])
    assert fake.bodies[0]["ignore_eos"] is True


def test_answer_is_stripped_and_counted_by_the_server(remote: RemoteGenerator, fake: Fake) -> None:
    fake.script.append(answers(" a fine", " answer", " \n and more", finish="length", tokens=12))
    assert remote.generate([REQUEST]) == [Decoded("a fine answer", 3, 12, "length")]


def test_server_without_usage_counts_a_token_a_piece(remote: RemoteGenerator, fake: Fake) -> None:
    fake.script.append(answers("a", " b", " c", tokens=None))
    assert remote.generate([REQUEST])[0].completion_tokens == 3


def test_empty_answer_is_an_answer(remote: RemoteGenerator, fake: Fake) -> None:
    fake.script.append(answers(tokens=1))
    assert remote.generate([REQUEST])[0].text == ""


def test_logprobs_carry_token_ids_and_the_likeliest_first(remote: RemoteGenerator, fake: Fake) -> None:
    logprobs = {
        "tokens": ["token_id:4", "token_id:9"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{"token_id:4": -0.5, "token_id:2": -0.1, "token_id:1": -3.0}, None],
    }
    fake.script.append(sends(event("ab", logprobs=logprobs), event("", "stop")))
    [decoded] = remote.generate([GenerationRequest((1,), None, Sampling(logprobs=2))])
    assert fake.bodies[0]["logprobs"] == 2
    assert [(place.token, place.logprob) for place in decoded.logprobs] == [(4, -0.5), (9, -0.25)]
    assert [place.likeliest for place in decoded.logprobs] == [((2, -0.1), (4, -0.5)), ()]


def test_logprobs_without_token_ids_are_refused(remote: RemoteGenerator, fake: Fake) -> None:
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5]}
    fake.script.append(sends(event("a", logprobs=logprobs), event("", "stop")))
    with pytest.raises(RemoteError, match="return_tokens_as_token_ids"):
        remote.generate([GenerationRequest((1,), None, Sampling(logprobs=0))])


def test_text_streams_through_before_the_answer_is_whole(remote: RemoteGenerator, fake: Fake) -> None:
    fake.script.append(answers("one ", "two ", "three", wait=0.05))
    run, seen = Run(REQUEST), set()
    remote.admit([run])
    deadline = time.monotonic() + 5
    while run.decoded is None:
        assert time.monotonic() < deadline
        remote.step()
        seen.add(run.text)
    assert {"one", "one two", "one two three"} <= seen
    assert run.text == run.decoded.text


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_busy_server_is_asked_again(remote: RemoteGenerator, fake: Fake, status: int) -> None:
    fake.script.extend([says(status), says(status)])
    assert remote.generate([REQUEST])[0].text == "a fine answer"
    assert len(fake.bodies) == 3


def test_server_that_stays_busy_is_unavailable_and_says_when_to_come_back(
    remote: RemoteGenerator, fake: Fake
) -> None:
    fake.script.extend([*[says(503)] * 3, says(503, **{"Retry-After": "7"})])
    error = failure(remote)
    assert isinstance(error, RemoteUnavailable)
    assert error.retry_after_seconds == 7
    assert "answered 503" in str(error)
    assert len(fake.bodies) == 4


def test_pauses_grow_differ_and_honour_what_the_server_asks() -> None:
    generator = RemoteGenerator(config_for("http://127.0.0.1:1/v1"))
    pauses = [generator._client._pause_seconds(tries, 0.0) for tries in (0, 1, 2, 2)]
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1.0 <= pauses[2] <= 2.0
    assert pauses[2] != pauses[3]
    assert generator._client._pause_seconds(0, 10.0) > 10.0
    assert generator._client._pause_seconds(0, 3600.0) == 30.0
    generator.close()


@pytest.mark.parametrize("lines", [(), ("data: {}\n\n",)])
def test_connection_lost_before_the_first_token_is_tried_again(
    remote: RemoteGenerator, fake: Fake, lines: tuple[str, ...]
) -> None:
    fake.script.append(sends(*lines, then=RuntimeError("falls over")))
    assert remote.generate([REQUEST])[0].text == "a fine answer"
    assert len(fake.bodies) == 2


@pytest.mark.parametrize("then", [RuntimeError("falls over"), None])
def test_connection_lost_after_the_first_token_is_not(
    remote: RemoteGenerator, fake: Fake, then: Exception | None
) -> None:
    fake.script.append(sends(event("half an ans"), then=then))
    assert "broke off in the middle of an answer" in str(failure(remote))
    assert len(fake.bodies) == 1


def test_server_that_is_down_is_unavailable() -> None:
    generator = RemoteGenerator(config_for("http://127.0.0.1:1/v1", retries=1), first_pause_seconds=0.01)
    error = failure(generator)
    generator.close()
    assert isinstance(error, RemoteUnavailable)
    assert "http://127.0.0.1:1/v1 cannot be reached" in str(error)


def test_silent_server_is_given_up(fake: Fake, url: str) -> None:
    fake.script.append(answers("one", "two", wait=3.0))
    generator = RemoteGenerator(config_for(url, timeout_seconds=0.2))
    assert "silent for 0.2 s" in str(failure(generator))
    generator.close()
    assert len(fake.bodies) == 1


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (says(401), "refused the key (401); is OPENBOOK_REMOTE_KEY set"),
        (says(403), "refused the key (403)"),
        (says(404), "has no model 'base'; it has base, mixed-v3"),
        (says(400), "model.remote.context_tokens"),
        (says(500), "answered 500"),
        (says(307, Location="http://127.0.0.1:1/"), "answered 307"),
        (lambda _, __: JSONResponse({"choices": []}), "did not stream"),
        (sends("data: {'no json\n\n"), "no completion event"),
        (sends('data: {"choices": "none"}\n\n'), "no completion event"),
        (sends(event("a"), 'data: {"error": {"message": "engine died"}}\n\n'), "failed in the middle"),
        (answers("a", finish="abort"), "ended an answer with 'abort'"),
    ],
)
def test_what_goes_wrong_is_said_without_texts_and_keys(
    remote: RemoteGenerator,
    fake: Fake,
    caplog: pytest.LogCaptureFixture,
    behaviour: Behaviour,
    said: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    fake.script.append(behaviour)
    error = failure(remote)
    assert not isinstance(error, RemoteUnavailable)
    assert said in str(error)
    for words in (str(error), repr(error.__cause__), caplog.text):
        assert KEY not in words
        assert "secret question" not in words
    assert len(fake.bodies) == 1


def test_cancelled_run_closes_its_connection_and_others_go_on(remote: RemoteGenerator, fake: Fake) -> None:
    fake.script.extend([answers("one", "two", wait=20.0), answers("fine")])
    leaving, staying = Run(REQUEST), Run(REQUEST)
    remote.admit([leaving])
    while not leaving.text:
        remote.step()
    leaving.cancelled = True
    remote.admit([staying])
    while staying.decoded is None:
        remote.step()
    assert fake.left.wait(5)
    assert leaving.decoded is None


def test_batch_ends_when_nobody_wants_it(remote: RemoteGenerator, fake: Fake) -> None:
    fake.script.append(answers("one", "two", wait=20.0))
    with pytest.raises(DecodingCancelled):
        remote.generate([REQUEST], cancelled=lambda: bool(fake.under_way))
    assert fake.left.wait(5)


def test_no_more_connections_are_used_than_allowed(fake: Fake, url: str) -> None:
    fake.script.extend([answers("x", wait=0.02)] * 12)
    generator = RemoteGenerator(config_for(url, connections=3))
    assert len(generator.generate([REQUEST] * 12)) == 12
    generator.close()
    assert fake.most_under_way == 3


def test_adapters_go_by_version_then_by_name() -> None:
    config = RemoteConfig(url="http://h/v1", model="base", adapters={"mixed": "any", "mixed@3": "third"})
    assert [served_name(config, key) for key in (None, "mixed@2", "mixed@3")] == ["base", "any", "third"]
    with pytest.raises(AdapterError, match=r"calls adapter other@1; it names mixed, mixed@3"):
        served_name(config, "other@1")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000/v1", "ftp://host/v1", "http://user:secret@host/v1", "http://"]
)
def test_urls_that_cannot_be_used_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        RemoteConfig(url=url, model="base")


@pytest.fixture
def front(remote: RemoteGenerator, tmp_path: Path) -> Iterator[str]:
    """A service whose model is the fake."""
    base = tiny_base()
    tiny_adapter(tmp_path, base)
    answerer = make_answerer(tmp_path, remote, base)
    with serving(answerer, ModelThread(remote), ServeConfig()) as url:
        yield url


def ask(url: str, route: str = "base", **more: object) -> httpx.Response:
    body = {"question": "How high is the tower?", "route": route, **more}
    return httpx.post(f"{url}/v1/answer", json=body, timeout=20)


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [([says(503)] * 4, 503, "remote_unavailable"), ([says(401)], 502, "remote_failed")],
)
def test_failures_are_error_objects(
    front: str, fake: Fake, script: list[Behaviour], status: int, code: str
) -> None:
    fake.script.extend(script)
    response = ask(front)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert ("Retry-After" in response.headers) == (status == 503)
    assert ask(front).json()["answer"] == "a fine answer"


def test_one_broken_answer_spoils_no_other(front: str, fake: Fake) -> None:
    fake.script.extend([answers("a", " b", " c", wait=0.3), sends(event("half"), then=RuntimeError("falls"))])
    statuses: list[int] = []
    first = threading.Thread(target=lambda: statuses.append(ask(front).status_code))
    first.start()
    while not fake.bodies:
        time.sleep(0.01)
    assert ask(front).status_code == 502
    first.join()
    assert statuses == [200]
    assert len(fake.bodies) == 2


def test_failure_in_mid_stream_is_an_error_event(front: str, fake: Fake) -> None:
    fake.script.append(sends(event("half an ans"), then=RuntimeError("falls over")))
    lines = [line for line in ask(front, stream=True).text.splitlines() if line]
    assert '"half an ans"' in lines[-3]
    assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "remote_failed"
    assert lines[-1] == "data: [DONE]"


def test_route_whose_adapter_the_server_lacks_says_so(front: str, fake: Fake) -> None:
    response = ask(front, "tuned")  # mixed@1 is promoted; the server is said to have mixed@3
    assert response.status_code == 404
    assert "model.remote.adapters" in response.json()["error"]["message"]
    assert fake.bodies == []
