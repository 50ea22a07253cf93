from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from indexer.config import RemoteConfig
from indexer.database import IndexUnwritable
from indexer.sync import sync
from service.answering import Answerer
from service.config import RouteConfig, ServeConfig
from service.generation import LocalGenerator
from service.keys import Scope, new_key
from service.remote import RemoteGenerator
from service.workbench import Workbench, open_workbench
from tests.fakes import HashEncoder
from tests.fakes_service import ScriptedGenerator
from tests.fakes_workbench import (
    CHUNK_TOKENS,
    REPORT,
    TOWER,
    answerer_of,
    ask,
    connect,
    error_code,
    make_workbench,
)
from tests.tiny import tiny_base
from tuner.registry import Registry

pytestmark = pytest.mark.usefixtures("no_key")


def test_adapters_show_which_one_routes_use_and_promotion_changes_the_next_answer(client: TestClient) -> None:
    adapters = client.get("/v1/adapters").json()["adapters"]
    assert [(a["name"], a["version"], a["promoted"], a["loaded"]) for a in adapters] == [
        ("mixed", 1, True, False),
        ("mixed", 2, False, False),
    ]
    assert ask(client, "tuned")["adapter"] == "mixed@1"
    assert client.post("/v1/adapters/mixed/2/promote").json()["promoted"]
    assert ask(client, "tuned")["adapter"] == "mixed@2"
    assert error_code(client, "POST", "/v1/adapters/mixed/9/promote") == (404, "adapter_unavailable")


def test_damaged_adapter_does_not_hide_the_others(
    client: TestClient, bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    (bench.workspace.adapters / "mixed" / "1" / "manifest.json").write_text("{")
    assert [a["version"] for a in client.get("/v1/adapters").json()["adapters"]] == [2]
    assert "adapter mixed@1 is not listed" in caplog.text


def test_adapter_that_a_server_holds_is_promoted_if_the_configuration_names_it(bench: Workbench) -> None:
    config = RemoteConfig(url="http://127.0.0.1:9/v1", model="base", adapters={"mixed@2": "second"})
    elsewhere = replace(tiny_base(), hash="of-the-server")
    tables = {"tuned": RouteConfig(adapter="mixed")}
    answerer = answerer_of(bench, RemoteGenerator(config), tiny_base(), tables)
    answerer.base = elsewhere
    with connect(bench, answerer, ServeConfig()) as client:
        assert client.post("/v1/adapters/mixed/2/promote").json()["promoted"]
        assert error_code(client, "POST", "/v1/adapters/mixed/1/promote") == (404, "adapter_unavailable")
    answerer.generator.close()


def test_training_curve_is_what_was_recorded(client: TestClient) -> None:
    points = client.get("/v1/adapters/mixed/2/curve").json()["points"]
    assert [point["step"] for point in points] == [10, 20, 30, 40, 50]
    assert client.get("/v1/adapters/mixed/1/curve").json() == {"points": []}


def test_adapters_go_into_memory_and_out_of_it_between_tokens(bench: Workbench) -> None:
    base = tiny_base()
    generator = LocalGenerator(base, Registry(bench.workspace.adapters))
    tables = {name: RouteConfig(max_new_tokens=8) for name in ("tuned", "base")}
    with connect(bench, answerer_of(bench, generator, base, tables), ServeConfig()) as client:
        before = ask(client, "tuned")["answer"], ask(client, "base")["answer"]
        assert generator.adapters.loaded == ("mixed@1",)
        assert client.post("/v1/adapters/mixed/2/load").json()["loaded"]
        assert not client.post("/v1/adapters/mixed/1/unload").json()["loaded"]
        assert not client.post("/v1/adapters/mixed/2/unload").json()["loaded"]
        assert generator.adapters.loaded == ()
        assert (ask(client, "tuned")["answer"], ask(client, "base")["answer"]) == before


def test_new_documents_and_promotions_fail_no_question_under_way(bench: Workbench) -> None:
    base = tiny_base()
    generator = LocalGenerator(base, Registry(bench.workspace.adapters))
    tables = {name: RouteConfig(max_new_tokens=8, k=1) for name in ("tuned", "hybrid", "rag", "base")}
    with connect(bench, answerer_of(bench, generator, base, tables), ServeConfig()) as client:
        alone = {version: ask_by_version(client, version) for version in (1, 2)}
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, client, ("tuned", "hybrid")[n % 2]) for n in range(32)]
            for n in range(6):
                client.put(f"/v1/documents/n{n}.md", json={"text": f"Number {n} is no tower."})
                client.post(f"/v1/adapters/mixed/{n % 2 + 1}/promote")
            answers = [one.result() for one in asked]
    for answer in answers:
        if answer["route"] == "tuned":
            assert answer["answer"] == alone[int(answer["adapter"][-1])]
        else:
            assert answer["generation"] in range(1, 8)


def ask_by_version(client: TestClient, version: int) -> str:
    client.post(f"/v1/adapters/mixed/{version}/promote")
    answer = ask(client, "tuned")
    assert answer["adapter"] == f"mixed@{version}"
    return str(answer["answer"])


def test_sync_and_evaluation_are_jobs(client: TestClient) -> None:
    for path, kind in (("/v1/index/sync", "sync"), ("/v1/evaluations", "evaluation")):
        started = client.post(path)
        assert (started.status_code, started.json()["kind"]) == (202, kind)
        job = ended(client, started.headers["Location"])
        assert (job["state"], job["result"], job["done"], job["total"]) == ("done", REPORT, 3, 7)
    assert [job["kind"] for job in client.get("/v1/jobs").json()["jobs"]] == ["evaluation", "sync"]


def test_jobs_are_cancelled(tmp_path: Path) -> None:
    bench = make_workbench(tmp_path, "import time; time.sleep(600)")
    answerer = answerer_of(bench, ScriptedGenerator(), tiny_base(), {})
    with connect(bench, answerer, ServeConfig()) as client:
        job_id = client.post("/v1/evaluations").json()["id"]
        assert client.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
        assert error_code(client, "GET", "/v1/jobs/abc") == (404, "job_not_found")


def test_finished_evaluations_are_read_with_their_report(client: TestClient, bench: Workbench) -> None:
    assert client.get("/v1/evaluations").json() == {"evaluations": []}
    folder = bench.workspace.evaluations / "abc123"
    folder.mkdir(parents=True)
    result = {"routes": {"rag": {"n": 12}}, "verdict": {"recommended": "rag", "reason": "it reads"}}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "report.html").write_text("<title>Report</title><script>alert(1)</script>")
    for name, text in (("dead", "{"), ("beef", "{}")):
        (bench.workspace.evaluations / name).mkdir()
        (bench.workspace.evaluations / name / "result.json").write_text(text)
    [listed] = client.get("/v1/evaluations").json()["evaluations"]
    assert (listed["name"], listed["questions"], listed["recommended"]) == ("abc123", 12, "rag")
    assert client.get("/v1/evaluations/abc123").json()["result"] == result
    report = client.get("/v1/evaluations/abc123/report")
    assert "<title>Report</title>" in report.text
    assert "sandbox" in report.headers["Content-Security-Policy"]
    for path in ("/v1/evaluations/ffff", "/v1/evaluations/ffff/report"):
        assert error_code(client, "GET", path) == (404, "evaluation_not_found")


def test_jobs_of_a_workspace_run_the_command_line(tmp_path: Path) -> None:
    """The real commands, which here have no openbook.toml to read."""
    made = make_workbench(tmp_path)
    made.close()
    bench = open_workbench(made.workspace, made.index)
    answerer = answerer_of(bench, ScriptedGenerator(), tiny_base(), {})
    with connect(bench, answerer, ServeConfig()) as client:
        job = ended(client, client.post("/v1/index/sync").headers["Location"])
    assert job["state"] == "failed"
    assert "no openbook.toml" in job["error"]


def test_feedback_names_answers_and_is_exported(client: TestClient, generator: ScriptedGenerator) -> None:
    generator.enqueue("88 metres", "blue")
    good, bad = ask(client), ask(client, "base")
    given = client.post("/v1/feedback", json={"preferred": good["id"], "rejected": bad["id"]})
    assert given.status_code == 201
    assert client.post("/v1/feedback", json={"answer": good["id"], "rating": "good"}).status_code == 201
    export = client.get("/v1/feedback/export")
    [line] = export.text.splitlines()
    assert json.loads(line)["chosen"] == [{"role": "assistant", "content": "88 metres"}]
    assert export.headers["Content-Type"].startswith("application/x-ndjson")
    code = error_code(client, "POST", "/v1/feedback", json={"answer": "never", "rating": "bad"})
    assert code == (404, "answer_not_found")
    twice = {"preferred": good["id"], "rejected": good["id"]}
    assert error_code(client, "POST", "/v1/feedback", json=twice) == (400, "invalid_feedback")


def test_feedback_follows_documents_that_the_command_line_deletes(
    client: TestClient, bench: Workbench, generator: ScriptedGenerator
) -> None:
    generator.enqueue("88 metres", "blue")
    rated, remembered = ask(client), ask(client)
    other = ask(client, "base")
    assert client.post("/v1/feedback", json={"preferred": rated["id"], "rejected": other["id"]}).is_success
    (bench.documents / "folder" / "tower.md").unlink()
    sync(bench.workspace, bench.documents, HashEncoder(), CHUNK_TOKENS)
    code = error_code(client, "POST", "/v1/feedback", json={"answer": remembered["id"], "rating": "good"})
    assert code == (404, "answer_not_found")
    until(lambda: not list(bench.feedback.pairs()))
    kept = {"answer": other["id"], "rating": "good"}
    assert client.post("/v1/feedback", json=kept).is_success


def test_feedback_follows_documents_that_went_before_the_service_started(
    bench: Workbench, answerer: Answerer
) -> None:
    answers = answerer.answer_many([(TOWER, answerer.route(name)) for name in ("rag", "base")])
    bench.feedback.prefer(answers[0], replace(answers[1], answer="blue"))
    assert len(list(bench.feedback.pairs())) == 1
    (bench.documents / "folder" / "tower.md").unlink()
    sync(bench.workspace, bench.documents, HashEncoder(), CHUNK_TOKENS)
    with connect(bench, answerer, ServeConfig()):
        until(lambda: not list(bench.feedback.pairs()))


def test_feedback_follows_again_after_an_index_that_could_not_be_read(
    bench: Workbench, answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow, failures = Workbench.follow_index, [IndexUnwritable("disk I/O error")]

    def follow_or_fail(bench: Workbench, followed: str | None = None) -> str:
        if failures:
            raise failures.pop()
        return follow(bench, followed)

    monkeypatch.setattr(Workbench, "follow_index", follow_or_fail)
    monkeypatch.setattr("service.app.WATCH_SECONDS", 0.05)
    answers = answerer.answer_many([(TOWER, answerer.route(name)) for name in ("rag", "base")])
    bench.feedback.prefer(answers[0], replace(answers[1], answer="blue"))
    (bench.documents / "folder" / "tower.md").unlink()
    sync(bench.workspace, bench.documents, HashEncoder(), CHUNK_TOKENS)
    with connect(bench, answerer, ServeConfig()):
        until(lambda: not list(bench.feedback.pairs()))
    assert not failures


def test_readers_look_and_rate_and_only_admins_change_things(
    bench: Workbench, answerer: Answerer, tmp_path: Path
) -> None:
    reader, key = new_key("reader", Scope.READER)
    admin, admin_key = new_key("admin", Scope.ADMIN)
    keys = tmp_path / "keys"
    keys.write_text(f"{key.line()}\n{admin_key.line()}\n")
    with connect(bench, answerer, ServeConfig(keys_file=str(keys))) as client:

        def status(secret: str, method: str, path: str, body: object = None) -> int:
            headers = {"Authorization": f"Bearer {secret}"}
            return client.request(method, path, json=body, headers=headers).status_code

        for path in ("/v1/documents", "/v1/index", "/v1/adapters", "/v1/jobs", "/v1/evaluations"):
            assert status(reader, "GET", path) == 200
            assert client.get(path).status_code == 401
        assert status(reader, "POST", "/v1/index/search", {"query": TOWER}) == 200
        for method, path, body in (
            ("PUT", "/v1/documents/a.md", {"text": "High water at noon."}),
            ("DELETE", "/v1/documents/a.md", None),
            ("POST", "/v1/index/sync", None),
            ("POST", "/v1/evaluations", None),
            ("POST", "/v1/adapters/mixed/2/promote", None),
            ("GET", "/v1/feedback/export", None),
        ):
            assert status(reader, method, path, body) == 403
            assert status(admin, method, path, body) < 300


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ended(client: TestClient, location: str) -> Any:
    deadline = time.monotonic() + 60
    while (job := client.get(location).json())["state"] in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return job
