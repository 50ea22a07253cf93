from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from cli.serve import keys as keys_command
from service.app import create_app
from service.config import ServeConfig
from service.keys import KeyFileError, Scope, find_key, new_key, read_key_file
from service.model_thread import ModelThread
from service.rate_limit import RateLimit
from tests.fakes_service import ScriptedGenerator, make_answerer

QUESTION = {"question": "How high is the tower?", "route": "rag"}


pytestmark = pytest.mark.usefixtures("no_key")


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, str]:
    """Two keys, and the file that holds their hashes."""
    reader, admin = new_key("page", Scope.READER), new_key("ops", Scope.ADMIN)
    (tmp_path / "keys").write_text(f"# who may ask\n{reader[1].line()}\n\n{admin[1].line()}\n")
    return {"reader": reader[0], "admin": admin[0]}


def connect(tmp_path: Path, **settings: object) -> TestClient:
    generator = ScriptedGenerator()
    config = ServeConfig.model_validate(settings)
    app = create_app(make_answerer(tmp_path / "adapters", generator), ModelThread(generator), config)
    return TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture
def client(tmp_path: Path, secrets: dict[str, str]) -> Iterator[TestClient]:
    with connect(tmp_path, keys_file=str(tmp_path / "keys"), host="0.0.0.0") as client:
        yield client


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_with_keys_everything_but_health_and_the_page_is_closed(client: TestClient) -> None:
    for path in (
        "/v1/models",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/nothing",
        "/v1/documents/x",
        "/static",
    ):
        assert client.get(path).status_code == 401, path
    for path in ("/healthz", "/", "/static/page.js"):
        assert client.get(path).status_code == 200, path
    assert client.post("/healthz").status_code == 401


def test_reader_asks_and_only_an_admin_changes(client: TestClient, secrets: dict[str, str]) -> None:
    reader, admin = bearer(secrets["reader"]), bearer(secrets["admin"])
    assert client.post("/v1/answer", json=QUESTION, headers=reader).status_code == 200
    assert client.get("/v1/models", headers=reader).status_code == 200
    refused = client.delete("/v1/documents/x", headers=reader)
    assert refused.status_code == 403
    assert "scope admin" in refused.json()["error"]["message"]
    assert client.post("/v1/anything", headers=reader).status_code == 403
    assert client.delete("/v1/documents/x", headers=admin).status_code == 405


def test_file_of_keys_holds_no_key(tmp_path: Path, secrets: dict[str, str]) -> None:
    text = (tmp_path / "keys").read_text()
    assert not any(secret in text for secret in secrets.values())
    found = read_key_file(tmp_path / "keys")
    assert [(key.name, key.scope) for key in found] == [("page", "reader"), ("ops", "admin")]
    assert find_key(found, secrets["admin"]) == found[1]
    assert find_key(found, secrets["admin"][:-1]) is None
    assert find_key(found, "") is None


@pytest.mark.parametrize(
    "line", ["page reader", "page owner " + "0" * 64, "page reader XYZ", "a/b reader " + "0" * 64]
)
def test_bad_line_in_a_file_of_keys_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "keys").write_text(f"# comment\n{line}\n")
    with pytest.raises(KeyFileError, match="keys:2: expected"):
        read_key_file(tmp_path / "keys")


def test_no_two_keys_have_one_name(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"page reader {'0' * 64}\n\npage admin {'1' * 64}\n")
    with pytest.raises(KeyFileError, match="keys:3: another key is called 'page' already"):
        read_key_file(tmp_path / "keys")


def test_missing_or_empty_file_of_keys_does_not_open_the_service(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot read"):
        connect(tmp_path, keys_file=str(tmp_path / "nothing"))
    (tmp_path / "empty").write_text("# none yet\n")
    with pytest.raises(KeyFileError, match="has no keys"):
        connect(tmp_path, keys_file=str(tmp_path / "empty"))


def test_keys_command_prints_the_line_for_the_file(tmp_path: Path) -> None:
    result = CliRunner().invoke(keys_command, ["new", "page", "--scope", "admin"])
    assert result.exit_code == 0
    (tmp_path / "keys").write_text(result.stdout)
    [key] = read_key_file(tmp_path / "keys")
    secret = result.stderr.split()[-1]
    assert (key.name, key.scope, find_key([key], secret)) == ("page", Scope.ADMIN, key)


def test_each_key_has_its_own_rate(tmp_path: Path, secrets: dict[str, str]) -> None:
    with connect(tmp_path, keys_file=str(tmp_path / "keys"), requests_per_minute=2) as client:
        reader, admin = bearer(secrets["reader"]), bearer(secrets["admin"])
        assert [client.get("/v1/models", headers=reader).status_code for _ in range(3)] == [200, 200, 429]
        refused = client.get("/v1/models", headers=reader)
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert client.get("/v1/models", headers=admin).status_code == 200
        assert client.get("/healthz").status_code == 200


def test_rate_fills_again_with_time() -> None:
    now = 0.0
    limit = RateLimit(60, lambda: now)
    assert [limit.seconds_to_wait("a") for _ in range(60)] == [0.0] * 60
    assert limit.seconds_to_wait("a") == pytest.approx(1.0)
    assert limit.seconds_to_wait("b") == 0.0
    now = 1.5
    assert limit.seconds_to_wait("a") == 0.0
    assert limit.seconds_to_wait("a") == pytest.approx(0.5)


def test_other_pages_may_call_only_if_they_are_named(tmp_path: Path) -> None:
    origin = {"Origin": "https://app.example"}
    with connect(tmp_path) as client:
        assert "Access-Control-Allow-Origin" not in client.get("/healthz", headers=origin).headers
    with connect(tmp_path, cors_origins=["https://app.example"]) as client:
        allowed = client.get("/healthz", headers=origin).headers["Access-Control-Allow-Origin"]
        assert allowed == "https://app.example"
        other = client.get("/healthz", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in other.headers


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999"])
def test_other_pages_cannot_change_a_service_without_keys(tmp_path: Path, origin: str) -> None:
    with connect(tmp_path) as client:
        asked = client.post("/v1/answer", json=QUESTION, headers={"Origin": origin})
        assert (asked.status_code, asked.json()["error"]["code"]) == (403, "forbidden")
        own = client.post("/v1/answer", json=QUESTION, headers={"Origin": "http://127.0.0.1"})
        assert own.status_code == 200
    with connect(tmp_path, cors_origins=[origin]) as client:
        assert client.post("/v1/answer", json=QUESTION, headers={"Origin": origin}).status_code == 200


def test_failure_that_nobody_foresaw_is_a_500_like_any_other_response(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator = ScriptedGenerator(RuntimeError("secret words of a prompt"))
    thread = ModelThread(generator)
    app = create_app(make_answerer(tmp_path / "adapters", generator), thread, ServeConfig())
    caplog.set_level(logging.INFO)
    with TestClient(app, "http://127.0.0.1") as client:
        response = client.post("/v1/answer", json=QUESTION)
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal_error"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["X-Request-ID"]
        assert 'endpoint="/v1/answer",method="POST",status="500"' in client.get("/metrics").text
    [failed] = [r for r in caplog.records if r.message.startswith("request failed: RuntimeError")]
    assert "secret words" not in failed.message


def test_every_response_carries_security_headers_and_an_id(client: TestClient) -> None:
    for response in (client.get("/healthz"), client.get("/v1/models"), client.get("/")):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert len(response.headers["X-Request-ID"]) == 32
    assert client.get("/healthz", headers={"X-Request-ID": "mine-1"}).headers["X-Request-ID"] == "mine-1"
    forged = client.get("/healthz", headers={"X-Request-ID": 'x" evil'})
    assert "evil" not in forged.headers["X-Request-ID"]


def test_access_log_says_who_did_what_without_text_or_keys(
    client: TestClient, secrets: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "openbook.access")
    client.post("/v1/answer", json=QUESTION, headers=bearer(secrets["reader"]))
    client.get("/v1/documents/secret-name.md", headers=bearer(secrets["reader"]))
    client.get("/v1/models", headers=bearer("ob-wrong"))
    lines = [json.loads(r.message) for r in caplog.records if r.name == "openbook.access"]
    assert [(e["method"], e["endpoint"], e["status"], e["key"]) for e in lines] == [
        ("POST", "/v1/answer", 200, "page"),
        ("GET", "/v1/documents/{document_id:path}", 404, "page"),
        ("GET", "other", 401, None),
    ]
    for hidden in ("tower", "secret-name", "ob-wrong", *secrets.values()):
        assert hidden not in caplog.text


def test_metrics_count_by_route_and_status_without_text(client: TestClient, secrets: dict[str, str]) -> None:
    headers = bearer(secrets["reader"])
    for _ in range(2):
        client.post("/v1/answer", json=QUESTION, headers=headers)
    client.post("/v1/answer", json={**QUESTION, "route": "tuned"}, headers=headers)
    page = client.get("/metrics", headers=headers).text
    for line in (
        'openbook:http_requests_total{endpoint="/v1/answer",method="POST",status="200"} 2.0',
        'openbook:http_requests_total{endpoint="/v1/answer",method="POST",status="404"} 1.0',
        'openbook:request_success_total{finished_reason="stop",route="rag"} 2.0',
        'openbook:request_failure_total{error="AdapterError",route="tuned"} 1.0',
        'openbook:generation_tokens_total{route="rag"} 4.0',
        "openbook:index_generation 7.0",
        "openbook:num_requests_waiting 0.0",
        "openbook:time_to_first_token_seconds_count 2.0",
        "openbook:retrieval_time_seconds_count 2.0",
    ):
        assert line in page
    assert "tower" not in page
