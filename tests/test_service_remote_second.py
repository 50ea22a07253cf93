"""A second openbook as the server: the same model, adapter and arithmetic, so the same answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from cli.serve import ask as ask_command
from cli.serve import available_routes, open_routes
from eval.config import EvalConfig
from eval.local import open_local
from indexer.config import IndexConfig, ModelConfig, RemoteConfig, Workspace
from indexer.readers import read_questions
from service.answer import Answer
from service.answering import Answerer
from service.assembly import base_identity
from service.config import ServeConfig, routes_from_config
from service.model_thread import ModelThread
from service.remote import RemoteGenerator
from settings import load_settings
from tests.fakes_server import serving, tiny_answerer
from tests.tiny import tiny_adapter, tiny_base
from tuner.decoding import Sampling
from tuner.registry import AdapterError, Registry
from tuner.trained_on import TrainedOn, question_hash

KEY = "sk-hidden-0451"
QUESTIONS = ["How high is the tower?", "Who built the oven?", "When does the harbour open?", "Why?"]
ROUTES = ["base", "rag", "tuned", "hybrid"]


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    answerer = tiny_answerer(tmp_path_factory.mktemp("second"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECOND_KEY", KEY)
        config = ServeConfig(api_key_env="SECOND_KEY", max_new_tokens=64)
        with serving(answerer, ModelThread(answerer.generator, queue_size=256), config) as url:
            yield f"{url}/v1"


@pytest.fixture
def through_second(second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answerer]:
    """The routes of `tiny_answerer`, with the model behind the second service."""
    monkeypatch.setenv("SECOND_KEY", KEY)
    answerer = tiny_answerer(tmp_path)
    answerer.generator = RemoteGenerator(at_second(second))
    yield answerer
    answerer.generator.close()


def at_second(second: str) -> RemoteConfig:
    return RemoteConfig(url=second, model="base", adapters={"mixed": "tuned"}, api_key_env="SECOND_KEY")


def told(answer: Answer) -> tuple[object, ...]:
    return answer.answer, answer.prompt_tokens, answer.completion_tokens, answer.finish_reason, answer.adapter


def test_every_route_answers_as_with_the_model_here(through_second: Answerer, tmp_path: Path) -> None:
    local = tiny_answerer(tmp_path)
    pairs = [(question, name) for question in QUESTIONS for name in ROUTES]
    asked = [(question, local.route(name)) for question, name in pairs]
    far, near = through_second.answer_many(asked), local.answer_many(asked)
    assert list(map(told, far)) == list(map(told, near))
    assert len({answer.answer for answer in near}) > len(QUESTIONS)


def test_drawn_answers_their_stops_and_log_probabilities_are_those_of_the_model_here(
    through_second: Answerer, tmp_path: Path
) -> None:
    local = tiny_answerer(tmp_path)
    [greedy] = local.generator.generate(
        [p.request for p in local.prepare([(QUESTIONS[0], local.route("base"))])]
    )
    stop = greedy.text[3:5]
    for how in (
        Sampling(max_new_tokens=12, temperature=1.0, seed=3, logprobs=3),
        Sampling(max_new_tokens=20, stop=(stop,), logprobs=0),
    ):
        prepared = local.prepare([(QUESTIONS[0], local.route(name)) for name in ("base", "hybrid")], how)
        requests = [one.request for one in prepared]
        near, far = local.generator.generate(requests), through_second.generator.generate(requests)
        for one, other in zip(near, far, strict=True):
            assert (other.text, other.completion_tokens, other.finish_reason) == (
                one.text,
                one.completion_tokens,
                one.finish_reason,
            )
            assert [place.token for place in other.logprobs] == [place.token for place in one.logprobs]
            for place, same in zip(one.logprobs, other.logprobs, strict=True):
                assert same.logprob == pytest.approx(place.logprob, abs=1e-5)
                assert [t for t, _ in same.likeliest] == [t for t, _ in place.likeliest]


def test_token_prompts_that_the_model_cannot_read_are_refused(second: str) -> None:
    for prompt, said in (([1, 10**6], "token 1000000"), ([1] * 5000, "5000 tokens"), ([], "prompt")):
        response = httpx.post(
            f"{second}/completions",
            json={"model": "base", "prompt": prompt},
            headers={"Authorization": f"Bearer {KEY}"},
        )
        assert response.status_code == 400
        assert said in response.json()["error"]["message"]


@pytest.fixture
def workspace(tmp_path: Path, second: str, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An `openbook.toml` that names the second service, a tokenizer without weights, and an adapter."""
    monkeypatch.setenv("SECOND_KEY", KEY)
    base = tiny_base()
    base.tokenizer.save_pretrained(tmp_path / "tiny")
    base.model.config.save_pretrained(tmp_path / "tiny")
    (tmp_path / "questions.jsonl").write_text(
        '{"question": "How?", "answers": ["so"], "document_ids": ["a"], "split": "test"}\n'
    )
    (tmp_path / "openbook.toml").write_text(
        f"""
        [model]
        base = "{tmp_path / "tiny"}"
        [model.remote]
        url = "{second}"
        model = "base"
        adapters = {{mixed = "tuned"}}
        api_key_env = "SECOND_KEY"
        context_tokens = 1000
        [routes.other]
        adapter = "other"
        """
    )
    workspace = Workspace(tmp_path)
    for name in ("mixed", "other"):
        tiny_adapter(workspace.adapters, base, name)
    return workspace


def test_ask_uses_the_server_that_the_configuration_names(workspace: Workspace) -> None:
    arguments = ["-w", str(workspace.root), "--json", "--route", "tuned", "How high is the tower?"]
    result = CliRunner().invoke(ask_command, arguments, catch_exceptions=False)
    answer = json.loads(result.stdout)
    assert answer["answer"]
    assert answer["adapter"] == "mixed@1"


def test_serve_leaves_out_what_the_server_lacks_and_holds_no_weights(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings(workspace)
    routes = available_routes(workspace, settings)
    assert list(routes) == ROUTES
    assert "route 'other' is left out: model.remote.adapters does not say" in capsys.readouterr().err
    answerer = open_routes(workspace, settings, {name: routes[name] for name in ("base", "tuned")})
    assert answerer.base.model is None
    assert answerer.base.max_prompt_tokens == 1000
    assert isinstance(answerer.generator, RemoteGenerator)
    with serving(answerer, ModelThread(answerer.generator), settings.serve) as url:
        body = {"question": QUESTIONS[0], "route": "tuned"}
        response = httpx.post(f"{url}/v1/answer", json=body, timeout=20)
        assert response.json()["finish_reason"] in ("stop", "length")
    answerer.generator.close()


def test_evaluations_ask_the_server_and_are_told_apart_from_those_of_other_models(
    workspace: Workspace, second: str
) -> None:
    settings = load_settings(workspace)
    routes = {name: routes_from_config({})[name] for name in ("base", "tuned")}
    opened = open_local(workspace, settings.model, EvalConfig(), routes, 0, settings.index)
    [answer] = opened.answerer.answer_many([("How high is the tower?", routes["tuned"])])
    assert answer.adapter == "mixed@1"
    assert second in opened.setup.source
    elsewhere = at_second(second).model_copy(update={"model": "another"})
    changed = ModelConfig(base=settings.model.base, remote=elsewhere)
    assert base_identity(changed) != base_identity(settings.model) == opened.setup.base_model_hash
    assert isinstance(opened.answerer.generator, RemoteGenerator)
    opened.answerer.generator.close()


def test_evaluation_of_an_adapter_that_was_trained_on_a_test_question_is_refused(
    workspace: Workspace,
) -> None:
    path = workspace.resolve(EvalConfig().questions)
    path.write_text(json.dumps({"question": "How wide is the tube?", "answers": ["9 cm"], "split": "test"}))
    [seen] = read_questions(path)
    adapter = Registry(workspace.adapters).resolve("mixed")
    TrainedOn({}, {"t1": question_hash(seen)}).write(adapter.path)
    with pytest.raises(AdapterError, match="mixed@1 was trained on 1 of the test questions"):
        open_local(
            workspace,
            load_settings(workspace).model,
            EvalConfig(),
            {"tuned": routes_from_config({})["tuned"]},
            0,
            IndexConfig(),
        )
