"""Single documents put and deleted, and searches restricted by what is known of documents."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest

from indexer.config import Workspace
from indexer.corpus import CorpusError, Document, Owner
from indexer.database import IndexMissing
from indexer.documents import DocumentOfFolder, DocumentUnknown, Written, delete_document, put_document
from indexer.encoding import EncoderError
from indexer.locking import IndexBusy, writer_lock
from indexer.metadata import Where
from indexer.retriever import Hit, Index
from indexer.snapshot import Snapshot
from indexer.sync import SyncReport, sync
from indexer.verify import verify
from tests.fakes import HashEncoder

FERN = Document("fern", "Fern", "# Fern\n\nThe fern wants shade.\n\n# Water\n\nWater it daily.\n")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "bell.md").write_text("# Bell\n\nThe bell rings at noon.\n")
    run(Workspace(tmp_path))
    return Workspace(tmp_path)


def run(workspace: Workspace) -> SyncReport:
    return sync(workspace, workspace.root / "documents", HashEncoder(), 32)


def put(workspace: Workspace, document: Document, encoder: HashEncoder | None = None) -> Written:
    return put_document(workspace, document, encoder or HashEncoder(), 32)


def find(workspace: Workspace, query: str, k: int = 5, where: Where | None = None) -> list[Hit]:
    return Index.open(workspace, HashEncoder()).retriever().search([query], k, where)[0]


def found(workspace: Workspace, query: str, k: int = 5, where: Where | None = None) -> list[str]:
    return [hit.chunk.document_id for hit in find(workspace, query, k, where)]


def test_put_document_is_found_replaced_and_deleted(workspace: Workspace) -> None:
    assert put(workspace, FERN) == Written(2, created=True, chunks_embedded=2)
    assert found(workspace, "fern shade", k=1) == ["fern"]
    changed = Document("fern", "Fern", FERN.text.replace("shade", "sunshine"))
    encoder = HashEncoder()
    assert put(workspace, changed, encoder) == Written(3, created=False, chunks_embedded=1)
    assert encoder.encoded == ["Fern\nThe fern wants sunshine."]
    assert delete_document(workspace, "fern") == Written(4, created=False, chunks_embedded=0)
    assert found(workspace, "The fern wants sunshine.") == ["bell.md"]
    assert verify(workspace).documents == 1


def test_document_put_again_unchanged_makes_no_generation(workspace: Workspace) -> None:
    put(workspace, FERN)
    assert put(workspace, FERN).generation == 2
    with_year = Document("fern", "Fern", FERN.text, {"year": 2026})
    assert put(workspace, with_year) == Written(3, created=False, chunks_embedded=0)


def test_put_document_survives_a_folder_sync(workspace: Workspace) -> None:
    put(workspace, FERN)
    (workspace.root / "documents" / "bell.md").write_text("# Bell\n\nIt is silent.\n")
    report = run(workspace)
    assert (report.changed, report.removed, report.unchanged) == (1, 0, 0)
    with closing(Snapshot(workspace.database)) as snapshot:
        owners = {name: stored.owner for name, stored in snapshot.stored().items()}
    assert owners == {"bell.md": Owner.FOLDER, "fern": Owner.API}


def test_put_document_is_cut_anew_with_all_others(workspace: Workspace) -> None:
    put(workspace, FERN)
    other = HashEncoder(id="other")
    with pytest.raises(
        IndexMissing,
        match="made with hash-encoder and chunks of 32 tokens, not other and chunks of 32 tokens",
    ):
        put(workspace, FERN, other)
    sync(workspace, workspace.root / "documents", other, 32)
    assert put(workspace, FERN, other).generation == 3
    assert verify(workspace).documents == 2


def test_file_and_put_document_cannot_have_one_id(workspace: Workspace) -> None:
    with pytest.raises(DocumentOfFolder, match=r"'bell.md' is a file of the documents folder"):
        put(workspace, Document("bell.md", "", "Other text."))
    with pytest.raises(DocumentOfFolder, match=r"'bell.md' is a file of the documents folder"):
        delete_document(workspace, "bell.md")
    put(workspace, Document("rose.md", "", "The rose is red."))
    (workspace.root / "documents" / "rose.md").write_text("The rose is white.")
    [(name, reason)] = run(workspace).skipped
    assert name == "rose.md"
    assert "a document put through the API has this id" in reason
    assert "red" in find(workspace, "rose", 1)[0].chunk.text


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (Document("../x", "", "Text."), "holds a `..` step"),
        (Document("", "", "Text."), "its name is empty"),
        (Document("x", "", " \n"), "text: empty"),
        (Document("x", "", "a\0b"), "NUL"),
        (Document("x", "", "Text.", {"tags": ["a"]}), "metadata.tags: list is not possible"),  # type: ignore[dict-item]
        (Document("x", "", "Text.", {"size": float("nan")}), "not a finite number"),
    ],
)
def test_document_that_cannot_be_kept_is_refused(
    workspace: Workspace, document: Document, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        put(workspace, document)


def test_chunks_longer_than_the_encoder_reads_are_refused(workspace: Workspace) -> None:
    with pytest.raises(EncoderError, match="chunk_tokens is 300"):
        put_document(workspace, FERN, HashEncoder(), 300)


def test_unknown_document_cannot_be_deleted(workspace: Workspace) -> None:
    with pytest.raises(DocumentUnknown, match="there is no document 'oak'"):
        delete_document(workspace, "oak")


def test_first_document_may_come_without_a_folder_and_the_last_may_go(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert put(workspace, FERN).generation == 1
    assert found(workspace, "shade", k=1) == ["fern"]
    delete_document(workspace, "fern")
    assert found(workspace, "shade") == []
    assert verify(workspace).documents == 0
    assert put(workspace, FERN).created


def test_writers_wait_for_each_other(workspace: Workspace) -> None:
    with writer_lock(workspace), pytest.raises(IndexBusy):
        put_document(workspace, FERN, HashEncoder(), 32, patience_seconds=0.0)
    problems: list[Exception] = []

    def put_several(first: int) -> None:
        try:
            for number in range(first, first + 3):
                put(workspace, Document(f"d{number}", "", f"Number {number}."))
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=put_several, args=(first,)) for first in (0, 10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert verify(workspace).documents == 10
    assert verify(workspace).generation == 10


@pytest.fixture
def plants(workspace: Workspace) -> Workspace:
    """Fifty documents that a query finds first, and two that only a filter brings up."""
    lines = [
        f'{{"id": "oak{n}", "text": "oak tree oak", "metadata": {{"team": "a", "n": {n}}}}}'
        for n in range(50)
    ]
    lines += ['{"id": "ash", "text": "A tree.", "metadata": {"team": "b", "n": 1, "public": true}}']
    lines += ['{"id": "elm", "text": "Another tree.", "metadata": {"team": "b", "n": 1.5}}']
    (workspace.root / "documents" / "plants.jsonl").write_text("\n".join(lines))
    run(workspace)
    return workspace


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"team": "b"}, {"ash", "elm"}),
        ({"team": "b", "public": True}, {"ash"}),
        ({"team": "b", "n": [1.0, 1.5]}, {"ash", "elm"}),
        ({"n": 1}, {"ash", "oak1"}),
        ({"n": "1"}, set()),
        ({"n": True}, set()),
        ({"public": 1}, set()),
        ({"team": []}, set()),
        ({"unknown": "b"}, set()),
        ({"team": "b') OR 1=1 --"}, set()),
    ],
)
def test_filter_restricts_the_search_itself(plants: Workspace, where: Where, expected: set[str]) -> None:
    names = found(plants, "oak tree oak", 2, where)
    assert {name.removeprefix("plants.jsonl#") for name in names} == expected
    for hit in find(plants, "oak tree oak", 2, where):
        assert hit.dense is not None
        assert hit.bm25 is not None


def test_filter_leaves_k_results_if_there_are_so_many(plants: Workspace) -> None:
    assert len(found(plants, "A tree.", 30, {"team": "a"})) == 30
    assert found(plants, "A tree.", 1) == ["plants.jsonl#ash"]


def test_filter_that_cannot_be_one_is_refused(plants: Workspace) -> None:
    with pytest.raises(CorpusError, match=r"metadata.team: dict is not possible"):
        find(plants, "tree", 2, {"team": {"gt": 3}})  # type: ignore[dict-item]


def test_front_matter_of_a_file_can_be_filtered_by_and_offsets_are_of_the_text_below_it(
    workspace: Workspace,
) -> None:
    path = workspace.root / "documents" / "quay.md"
    path.write_text("---\nteam: harbour\npublic: true\n---\n\n# Quay\n\nThe quay has seven bollards.\n")
    run(workspace)
    [hit] = find(workspace, "bollards", 5, {"team": "harbour", "public": True})
    document = Index.open(workspace, HashEncoder()).document("quay.md")
    assert document is not None
    assert (document.title, document.text) == ("Quay", "# Quay\n\nThe quay has seven bollards.\n")
    assert document.text[hit.chunk.start : hit.chunk.end] == "The quay has seven bollards."
    assert "harbour" not in hit.chunk.text
    path.write_text(path.read_text().replace("harbour", "yard"))
    assert run(workspace).changed == 1
    assert find(workspace, "bollards", 5, {"team": "harbour"}) == []
    assert len(find(workspace, "bollards", 5, {"team": "yard"})) == 1


def test_changed_metadata_is_a_change_that_embeds_nothing(plants: Workspace) -> None:
    path = plants.root / "documents" / "plants.jsonl"
    path.write_text(path.read_text().replace('"team": "b", "n": 1, ', '"team": "c", "n": 1, '))
    report = run(plants)
    assert (report.changed, report.chunks_embedded) == (1, 0)
    assert found(plants, "tree", 5, {"team": "c"}) == ["plants.jsonl#ash"]
    document = Index.open(plants, HashEncoder()).document("plants.jsonl#ash")
    assert document is not None
    assert document.metadata == {"team": "c", "n": 1, "public": True}
