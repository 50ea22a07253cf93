from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from indexer.locking import writer_lock
from service.workbench import Workbench
from tests.fakes_service import ScriptedGenerator
from tests.fakes_workbench import TOWER, ask, error_code
from tests.hostile import pdf

TIDES = {
    "title": "Tide table",
    "text": "High water at the pier is at 06:40.",
    "metadata": {"year": 2026, "draft": False},
}


pytestmark = pytest.mark.usefixtures("no_key")


def test_put_document_is_in_the_next_answer_and_deleted_in_none(client: TestClient) -> None:
    question = "When is high water at the pier?"
    put = client.put("/v1/documents/tides/2026.md", json=TIDES)
    assert (put.status_code, put.json()["created"], put.json()["generation"]) == (201, True, 2)
    answer = ask(client, question=question)
    assert answer["generation"] == 2
    assert answer["contexts"][0]["document_id"] == "tides/2026.md"
    assert client.get("/v1/documents/tides/2026.md").json()["metadata"] == TIDES["metadata"]

    assert client.put("/v1/documents/tides/2026.md", json={**TIDES, "text": "Closed."}).status_code == 200
    assert client.get("/v1/documents/tides/2026.md").json()["text"] == "Closed."

    assert client.delete("/v1/documents/tides/2026.md").json()["generation"] == 4
    assert client.get("/v1/documents/tides/2026.md").status_code == 404
    shown = {context["document_id"] for context in ask(client, question=question)["contexts"]}
    assert "tides/2026.md" not in shown


def test_uploaded_file_goes_through_the_guarded_parser(client: TestClient) -> None:
    page = b"<html><head><title>Ferry</title></head><body><p>The ferry leaves at nine.</p></body></html>"
    assert client.put("/v1/documents/ferry.html", content=page).status_code == 201
    document = client.get("/v1/documents/ferry.html").json()
    assert "The ferry leaves at nine." in document["text"]
    assert "<p>" not in document["text"]


def test_file_full_of_brackets_is_no_deep_json(client: TestClient) -> None:
    text = "# Brackets\n\n" + "[" * 5000
    assert client.put("/v1/documents/brackets.md", content=text.encode()).status_code == 201


@pytest.mark.parametrize(
    ("path", "content", "status", "code"),
    [
        ("broken.pdf", b"not a pdf", 400, "invalid_document"),
        ("scan.pdf", pdf(b""), 400, "invalid_document"),
        ("program.exe", b"MZ", 400, "invalid_document"),
        ("binary.md", b"\xff\xfe\x00", 400, "invalid_document"),
        ("empty.md", b"", 400, "invalid_document"),
        ("..%2F..%2Fetc%2Fpasswd.md", b"text", 400, "invalid_document"),
        ("a%00b.md", b"text", 400, "invalid_document"),
        ("large.md", b"x" * 300_000, 413, "request_entity_too_large"),
        ("tower.md%2F..%2Fbell.md", b"text", 400, "invalid_document"),
    ],
)
def test_upload_that_cannot_be_used_is_refused_in_words(
    client: TestClient, path: str, content: bytes, status: int, code: str
) -> None:
    assert error_code(client, "PUT", f"/v1/documents/{path}", content=content) == (status, code)
    assert client.get("/v1/index").json()["generation"] == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"title": "no text"}, "text"),
        ({"text": "x", "colour": "red"}, "colour"),
        ({"text": "x", "metadata": {"a": [1]}}, "metadata"),
        ("not JSON", None),
    ],
)
def test_document_with_wrong_fields_names_the_field(client: TestClient, body: Any, param: str | None) -> None:
    content = json.dumps(body) if isinstance(body, dict) else body
    response = client.put("/v1/documents/a.md", content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_documents_of_the_folder_change_with_their_files_only(client: TestClient) -> None:
    for method, body in (("PUT", TIDES), ("DELETE", None)):
        code = error_code(client, method, "/v1/documents/harbour.md", json=body)
        assert code == (409, "document_of_folder")
    assert error_code(client, "DELETE", "/v1/documents/none.md") == (404, "document_not_found")


def test_document_put_during_a_sync_is_to_be_put_again_later(client: TestClient, bench: Workbench) -> None:
    with writer_lock(bench.workspace):
        for method, body in (("PUT", TIDES), ("DELETE", None)):
            response = client.request(method, "/v1/documents/tides.md", json=body)
            assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
            assert "is writing the index" in response.json()["error"]["message"]
    assert client.put("/v1/documents/tides.md", json=TIDES).status_code == 201


def test_documents_are_listed_by_the_page(client: TestClient) -> None:
    client.put("/v1/documents/tides.md", json=TIDES)
    first = client.get("/v1/documents", params={"limit": 2}).json()
    rest = client.get("/v1/documents", params={"limit": 2, "offset": 2}).json()
    listed = [document["id"] for page in (first, rest) for document in page["documents"]]
    assert listed == ["bakery.md", "folder/tower.md", "harbour.md", "tides.md"]
    assert (first["total"], rest["offset"], rest["documents"][1]["owner"]) == (4, 2, "api")
    found = client.get("/v1/documents", params={"q": "TIDE"}).json()
    assert [(d["id"], d["chunks"], d["characters"]) for d in found["documents"]] == [
        ("tides.md", 1, len(str(TIDES["text"])))
    ]


def test_index_status_says_what_a_sync_would_find(client: TestClient, bench: Workbench) -> None:
    fresh = client.get("/v1/index").json()
    assert (fresh["generation"], fresh["documents"], fresh["stale"]) == (1, 3, False)
    client.put("/v1/documents/tides.md", json=TIDES)
    (bench.documents / "bakery.md").unlink()
    (bench.documents / "new.md").write_text("A new one.")
    status = client.get("/v1/index").json()
    assert (status["documents"], status["stale"]) == (4, True)
    assert (status["changed"], status["removed"]) == (["new.md"], ["bakery.md"])


def test_search_shows_passages_without_a_model_and_can_be_restricted(
    client: TestClient, generator: ScriptedGenerator
) -> None:
    client.put("/v1/documents/tides.md", json=TIDES)
    found = client.post("/v1/index/search", json={"query": TOWER, "k": 2}).json()
    assert found["generation"] == 2
    assert found["hits"][0]["document_id"] == "folder/tower.md"
    assert len(found["hits"]) == 2
    restricted = client.post("/v1/index/search", json={"query": TOWER, "where": {"year": 2026}}).json()
    assert {hit["document_id"] for hit in restricted["hits"]} == {"tides.md"}
    assert generator.history == []
