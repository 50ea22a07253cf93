from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from eval.sequential import analyse
from indexer.corpus import CorpusError
from indexer.readers import read_questions
from service.app import create_app
from service.config import ServeConfig
from service.experiments import ExperimentConflict, Experiments, arm_at, assign
from service.keys import Scope, new_key
from service.model_thread import ModelThread
from tests.fakes_service import ScriptedGenerator
from tests.fakes_workbench import answerer_of, make_workbench
from tests.tiny import tiny_base

HALVES = {"rag": 0.5, "base": 0.5}
TRIAL = {"name": "trial", "routes": HALVES}
QUESTION = "How high is the tower?"


pytestmark = pytest.mark.usefixtures("no_key")


@pytest.fixture
def experiments(tmp_path: Path) -> Iterator[Experiments]:
    experiments = Experiments(tmp_path / "experiments.sqlite", analyse)
    yield experiments
    experiments.close()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with connect(tmp_path, ServeConfig()) as client:
        yield client


def connect(root: Path, config: ServeConfig) -> TestClient:
    generator, bench = ScriptedGenerator(), make_workbench(root)
    experiments = Experiments(bench.workspace.data / "experiments.sqlite", analyse)
    answerer = answerer_of(bench, generator, tiny_base(), {})
    app = create_app(answerer, ModelThread(generator), config, bench, experiments=experiments)
    return TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)


def ask(client: TestClient, user: str | None = None, **more: Any) -> Any:
    body = {"question": QUESTION, "route": "experiment:trial", "user": user, **more}
    return client.post("/v1/answer", json=body).json()


def rate(client: TestClient, answer_id: str, rating: str) -> int:
    return client.post("/v1/feedback", json={"answer": answer_id, "rating": rating}).status_code


def arms(client: TestClient) -> dict[str, Any]:
    return {arm["route"]: arm for arm in client.get("/v1/experiments/trial").json()["arms"]}


def test_users_keep_their_arm_and_are_split_as_asked(experiments: Experiments) -> None:
    trial = experiments.create("trial", {"rag": 0.8, "base": 0.2}, 0.05, 0.05)
    first = {str(n): assign(trial, str(n), None).arm for n in range(300)}
    again = {str(n): assign(trial, str(n), None).arm for n in range(300)}
    assert first == again
    assert 0.7 < sum(arm == "rag" for arm in first.values()) / 300 < 0.9
    other = experiments.create("other", {"rag": 0.8, "base": 0.2}, 0.05, 0.05)
    assert first != {str(n): assign(other, str(n), None).arm for n in range(300)}


def test_a_key_without_users_is_one_user_and_nobody_is_a_new_one_each_time(experiments: Experiments) -> None:
    trial = experiments.create("trial", HALVES, 0.05, 0.05)
    assert len({assign(trial, None, "app").arm for _ in range(20)}) == 1
    assert len({assign(trial, None, None).arm for _ in range(60)}) == 2


def test_shares_are_scaled_and_rounding_leaves_nobody_out(experiments: Experiments) -> None:
    assert experiments.create("trial", {"a": 0.1, "b": 0.3}, 0.05, 0.05).shares == pytest.approx(
        {"a": 0.25, "b": 0.75}
    )
    assert arm_at({"a": 0.1, "b": 0.2}, 0.9999) == "b"


def test_the_first_word_of_a_user_counts(experiments: Experiments) -> None:
    trial = experiments.create("trial", HALVES, 0.05, 0.05)
    one, two = assign(trial, "u", None), assign(trial, "u", None)
    experiments.expose(one)
    experiments.expose(two)
    first = experiments.record(one.id, good=True)
    assert first is not None
    assert first.counts
    second = experiments.record(two.id, good=False)
    assert second is not None
    assert not second.counts
    assert experiments.record(one.id, good=False) is None
    counts = experiments.counts(trial)[one.arm]
    assert (counts.users, counts.requests, counts.ratings, counts.counted, counts.good) == (1, 2, 2, 1, 1)


def test_nothing_is_kept_of_names_and_after_the_stop(experiments: Experiments, tmp_path: Path) -> None:
    trial = experiments.create("trial", HALVES, 0.05, 0.05)
    exposure = assign(trial, "ada@example.com", "secret-app")
    experiments.expose(exposure)
    experiments.stop("trial", "rag")
    assert experiments.record(exposure.id, good=True) is None
    with pytest.raises(ExperimentConflict):
        experiments.stop("trial", "rag")
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("experiments.sqlite*"))
    assert b"ada@example.com" not in stored
    assert b"secret-app" not in stored


KILLED = """
import sys, time
from pathlib import Path
from eval.sequential import analyse
from service.experiments import Experiments, assign
experiments = Experiments(Path(sys.argv[1]), analyse)
trial = experiments.create("trial", {"rag": 0.5, "base": 0.5}, 0.05, 0.05)
exposure = assign(trial, "ada", None)
experiments.expose(exposure)
experiments.record(exposure.id, good=True)
print(exposure.arm, flush=True)
time.sleep(600)
"""


def test_experiments_survive_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "experiments.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        arm = child.stdout.readline().strip()
        os.kill(child.pid, signal.SIGKILL)
    again = Experiments(path, analyse)
    trial = again.get("trial")
    assert assign(trial, "ada", None).arm == arm
    assert (again.counts(trial)[arm].good, again.counts(trial)[arm].requests) == (1, 1)
    again.close()
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_traffic_is_split_feedback_comes_in_and_the_stop_keeps_clients_served(client: TestClient) -> None:
    created = client.post("/v1/experiments", json=TRIAL)
    assert (created.status_code, created.json()["model"]) == (201, "experiment:trial")
    assert created.headers["Location"] == "/v1/experiments/trial"
    for n in range(48):
        answer = ask(client, f"user {n}")
        assert rate(client, answer["id"], "good" if answer["route"] == "base" else "bad") == 201
    counted = arms(client)
    assert sum(arm["counted"] for arm in counted.values()) == 48
    assert (counted["rag"]["good"], counted["base"]["good"]) == (0, counted["base"]["counted"])
    found = client.get("/v1/experiments/trial").json()
    assert (found["advice"], found["leading"]) == ("better", ["base"])
    assert found["summary"] == "stop: base is better than every other route"
    stopped = client.post("/v1/experiments/trial/stop").json()
    assert (stopped["state"], stopped["successor"]) == ("stopped", "base")
    assert {ask(client, f"user {n}")["route"] for n in range(6)} == {"base"}
    assert client.get("/v1/experiments").json()["experiments"][0]["state"] == "stopped"
    page = client.get("/metrics").text
    assert 'openbook:experiment_outcomes_total{experiment="trial",outcome="bad",route="rag"}' in page


def test_openai_clients_name_the_experiment_as_model_and_the_reply_in_feedback(client: TestClient) -> None:
    client.post("/v1/experiments", json=TRIAL)
    body = {"model": "experiment:trial", "user": "ada", "messages": [{"role": "user", "content": QUESTION}]}
    replies = [client.post("/v1/chat/completions", json=body).json() for _ in range(3)]
    assert len({reply["model"] for reply in replies}) == 1
    assert replies[0]["model"] in HALVES
    assert rate(client, replies[0]["id"], "bad") == 201
    streamed = client.post("/v1/chat/completions", json={**body, "stream": True}).text
    event = json.loads(streamed.splitlines()[0].removeprefix("data: "))
    assert rate(client, event["id"], "good") == 201
    counted = arms(client)[replies[0]["model"]]
    assert (counted["requests"], counted["ratings"], counted["counted"], counted["good"]) == (4, 2, 1, 0)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/answer", {"question": QUESTION, "route": "experiment:trial"}, 200),
        ("/v1/answer", {"question": QUESTION, "route": "experiment:trial", "stream": True}, 200),
        ("/v1/answer", {"question": "tower " * 1300, "route": "experiment:trial"}, 400),
        ("/v1/completions", {"model": "experiment:trial", "prompt": QUESTION, "stream": True}, 200),
        ("/v1/completions", {"model": "experiment:trial", "prompt": [10**6]}, 400),
    ],
)
def test_requests_count_once_they_are_accepted(
    client: TestClient, path: str, body: dict[str, Any], status: int
) -> None:
    client.post("/v1/experiments", json=TRIAL)
    assert client.post(path, json=body).status_code == status
    assert sum(arm["requests"] for arm in arms(client).values()) == (status == 200)


def test_feedback_after_a_restart_still_counts(tmp_path: Path) -> None:
    with connect(tmp_path, ServeConfig()) as client:
        client.post("/v1/experiments", json=TRIAL)
        answer = ask(client, "ada")
    with connect(tmp_path, ServeConfig()) as client:
        assert rate(client, answer["id"], "good") == 201
        assert arms(client)[answer["route"]]["good"] == 1
        assert rate(client, "0" * 24, "good") == 404


def test_continued_token_ids_are_no_question_that_failed(client: TestClient) -> None:
    client.post("/v1/experiments", json=TRIAL)
    body = {"model": "experiment:trial", "prompt": [1, 2, 3]}
    assert rate(client, client.post("/v1/completions", json=body).json()["id"], "bad") == 201
    assert client.get("/v1/experiments/trial/failures").text == ""


def test_failures_are_refused_as_questions_until_a_person_answers_them(
    client: TestClient, tmp_path: Path
) -> None:
    client.post("/v1/experiments", json=TRIAL)
    for user in ("ada", "ben"):
        rate(client, ask(client, user)["id"], "bad")
    other = client.post("/v1/answer", json={"question": "Who built it?", "route": "rag"}).json()
    rate(client, other["id"], "bad")
    export = client.get("/v1/experiments/trial/failures").text
    [line] = [json.loads(line) for line in export.splitlines()]
    assert (line["question"], line["split"], line["quarantined"]) == (QUESTION, "dev", True)
    assert "answers" not in line
    file = tmp_path / "quarantine.jsonl"
    file.write_text(export)
    with pytest.raises(CorpusError, match="no `answers`"):
        read_questions(file)
    file.write_text(json.dumps({**line, "answers": ["88 metres"]}))
    [question] = read_questions(file)
    assert question.split == "dev"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/experiments/none", None, 404, "experiment_not_found"),
        ("POST", "/v1/experiments/none/stop", None, 404, "experiment_not_found"),
        ("GET", "/v1/experiments/none/failures", None, 404, "experiment_not_found"),
        ("POST", "/v1/experiments", TRIAL, 409, "experiment_conflict"),
        ("POST", "/v1/experiments", {"name": "x", "routes": {"rag": 1, "none": 1}}, 404, "model_not_found"),
        ("POST", "/v1/experiments", {"name": "x", "routes": {"rag": 1}}, 400, "invalid_value"),
        ("POST", "/v1/experiments", {"name": "X Y", "routes": HALVES}, 400, "invalid_value"),
        ("POST", "/v1/experiments", {"name": "x", "routes": {"rag": 0, "base": 1}}, 400, "invalid_value"),
        ("POST", "/v1/experiments/trial/stop", {"route": "hybrid"}, 404, "model_not_found"),
        ("POST", "/v1/answer", {"question": "Q", "route": "experiment:none"}, 404, "experiment_not_found"),
    ],
)
def test_bad_requests_are_refused_in_words(
    client: TestClient, method: str, path: str, body: object, status: int, code: str
) -> None:
    client.post("/v1/experiments", json=TRIAL)
    response = client.request(method, path, json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_only_admins_start_stop_and_see_what_others_asked(tmp_path: Path) -> None:
    reader, reader_key = new_key("reader", Scope.READER)
    admin, admin_key = new_key("admin", Scope.ADMIN)
    (tmp_path / "keys").write_text(f"{reader_key.line()}\n{admin_key.line()}\n")
    with connect(tmp_path, ServeConfig(keys_file=str(tmp_path / "keys"))) as client:

        def status(secret: str, method: str, path: str, body: object = None) -> int:
            headers = {"Authorization": f"Bearer {secret}"}
            return client.request(method, path, json=body, headers=headers).status_code

        for method, path, body in (
            ("POST", "/v1/experiments", TRIAL),
            ("GET", "/v1/experiments/trial/failures", None),
            ("POST", "/v1/experiments/trial/stop", None),
        ):
            assert status(reader, method, path, body) == 403
            assert status(admin, method, path, body) < 300
        assert status(reader, "GET", "/v1/experiments/trial") == 200
