"""Making the index equal the documents: what changes, what is embedded, what survives a crash."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from indexer.config import Workspace
from indexer.corpus import CorpusError
from indexer.database import IndexDamaged, IndexMissing
from indexer.encoding import EncoderError, Passage, Vectors
from indexer.locking import IndexBusy, writer_lock
from indexer.retriever import Index
from indexer.sync import SyncReport, sync
from indexer.verify import verify
from tests.fakes import HashEncoder

CHUNK_TOKENS = 32


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "lamp.md").write_text(
        "# Lamp\n\n## Light\n\nThe lamp glows amber.\n\n## Care\n\nDust it weekly.\n"
    )
    (folder / "bell.md").write_text("# Bell\n\nThe bell rings at noon.\n")
    return Workspace(tmp_path)


def run(
    workspace: Workspace, encoder: HashEncoder | None = None, chunk_tokens: int = CHUNK_TOKENS
) -> SyncReport:
    return sync(workspace, workspace.root / "documents", encoder or HashEncoder(), chunk_tokens)


def counts(report: SyncReport) -> tuple[int, int, int, int]:
    return report.added, report.changed, report.removed, report.unchanged


def write(workspace: Workspace, name: str, text: str | bytes) -> None:
    path = workspace.root / "documents" / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def test_first_sync_adds_everything_as_generation_1(workspace: Workspace) -> None:
    report = run(workspace)
    assert (report.generation, counts(report)) == (1, (2, 0, 0, 0))
    assert (report.chunks, report.chunks_embedded, report.skipped) == (3, 3, ())
    assert verify(workspace).chunks == 3


def test_unchanged_sync_keeps_the_generation_and_embeds_nothing(workspace: Workspace) -> None:
    run(workspace)
    encoder = HashEncoder()
    report = run(workspace, encoder)
    assert (report.generation, counts(report), report.chunks) == (1, (0, 0, 0, 2), 3)
    assert encoder.encoded == []


def test_only_the_changed_chunk_is_embedded(workspace: Workspace) -> None:
    run(workspace)
    write(workspace, "lamp.md", "# Lamp\n\n## Light\n\nThe lamp glows amber.\n\n## Care\n\nDust it daily.\n")
    encoder = HashEncoder()
    report = run(workspace, encoder)
    assert (report.generation, counts(report), report.chunks_embedded) == (2, (0, 1, 0, 1), 1)
    assert encoder.encoded == ["Lamp > Care\nDust it daily."]
    verify(workspace)


def test_equal_text_is_embedded_once(workspace: Workspace) -> None:
    run(workspace)
    write(workspace, "copy.md", "# Bell\n\nThe bell rings at noon.\n")
    report = run(workspace)
    assert (report.added, report.chunks, report.chunks_embedded) == (1, 4, 0)


def test_removed_document_leaves_no_trace(workspace: Workspace) -> None:
    write(workspace, "secret.md", "# Vault\n\nThe password is xylophone.\n")
    run(workspace)
    (workspace.root / "documents" / "secret.md").unlink()
    report = run(workspace)
    assert (report.generation, counts(report), report.chunks) == (2, (0, 0, 1, 2), 3)
    assert b"xylophon" not in workspace.database.read_bytes()
    verify(workspace)


def test_document_that_cannot_be_read_is_skipped_and_its_last_version_kept(workspace: Workspace) -> None:
    run(workspace)
    write(workspace, "bell.md", b"\xff\xfe broken")
    write(workspace, "new.pdf", b"not a pdf")
    report = run(workspace)
    assert (report.generation, counts(report)) == (1, (0, 0, 0, 2))
    assert [document_id for document_id, _ in report.skipped] == ["bell.md", "new.pdf"]
    assert "not UTF-8" in report.skipped[0][1]
    write(workspace, "bell.md", "# Bell\n\nIt is silent now.\n")
    assert run(workspace).changed == 1


def test_empty_corpus_is_refused_and_deletes_nothing(workspace: Workspace) -> None:
    run(workspace)
    for path in (workspace.root / "documents").iterdir():
        path.unlink()
    with pytest.raises(CorpusError, match="holds no documents"):
        run(workspace)
    write(workspace, "broken.pdf", b"x")
    with pytest.raises(CorpusError, match="not one document can be read"):
        run(workspace)
    assert verify(workspace).documents == 2


def test_another_chunk_size_or_encoder_makes_all_chunks_anew(workspace: Workspace) -> None:
    long = " ".join(f"Sentence number {n} is here." for n in range(20))
    write(workspace, "long.md", f"# Long\n\n{long}\n")
    before = run(workspace)
    after = run(workspace, chunk_tokens=64)
    assert (after.generation, counts(after)) == (2, (0, 0, 0, 3))
    assert after.chunks < before.chunks
    other = run(workspace, HashEncoder(dim=64, id="other"), chunk_tokens=64)
    assert (other.generation, other.chunks_embedded) == (3, other.chunks)
    verify(workspace)


def test_another_overlap_makes_a_new_generation_beside_the_old_which_answers_until_the_swap(
    workspace: Workspace,
) -> None:
    long = " ".join(f"Sentence number {n} is here." for n in range(20))
    write(workspace, "long.md", f"# Long\n\n{long}\n")
    documents = workspace.root / "documents"
    plain = run(workspace)
    held = Index.open(workspace, HashEncoder()).retriever()
    report = sync(workspace, documents, HashEncoder(), CHUNK_TOKENS, overlap_tokens=8)
    assert (report.generation, counts(report)) == (2, (0, 0, 0, 3))
    assert report.chunks > plain.chunks
    assert held.generation == 1
    assert len(held.snapshot.all_chunks()) == plain.chunks
    assert held.search(["sentence number 7"], 1)[0][0].chunk.document_id == "long.md"
    new = Index.open(workspace, HashEncoder()).retriever()
    assert new.snapshot.meta.making.overlap_tokens == 8
    spans = [(c.start, c.end) for c in new.snapshot.all_chunks() if c.document_id == "long.md"]
    assert all(start < end for (_, end), (start, _) in pairwise(spans))
    assert sync(workspace, documents, HashEncoder(), CHUNK_TOKENS, overlap_tokens=8).generation == 2
    verify(workspace)


def test_chunks_longer_than_the_encoder_reads_are_refused(workspace: Workspace) -> None:
    with pytest.raises(EncoderError, match="chunk_tokens is 300, but hash-encoder reads only 256"):
        run(workspace, chunk_tokens=300)


def test_second_writer_is_told_so(workspace: Workspace) -> None:
    with writer_lock(workspace), pytest.raises(IndexBusy, match=f"openbook process {os.getpid()} is writing"):
        run(workspace)


def test_jsonl_corpus_is_synced_by_content(workspace: Workspace) -> None:
    path = workspace.root / "corpus.jsonl"
    path.write_text('{"id": "a", "text": "One."}\n{"id": "b", "text": "Two."}\n')
    sync(workspace, path, HashEncoder(), CHUNK_TOKENS)
    path.write_text('{"id": "b", "text": "Two!"}\n{"id": "c", "text": "One."}\n')
    assert counts(sync(workspace, path, HashEncoder(), CHUNK_TOKENS)) == (1, 1, 1, 0)


def test_database_that_is_none_is_reported_as_damaged(workspace: Workspace) -> None:
    run(workspace)
    workspace.database.write_bytes(b"not a database " * 1000)
    with pytest.raises(IndexDamaged, match="move it aside, then restore a backup"):
        run(workspace)
    with pytest.raises(IndexDamaged, match="move it aside, then restore a backup"):
        Index.open(workspace, HashEncoder())


def test_database_of_a_newer_version_is_refused(workspace: Workspace) -> None:
    run(workspace)
    connection = sqlite3.connect(workspace.database)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(IndexMissing, match="newer openbook"):
        run(workspace)
    with pytest.raises(IndexMissing, match="newer openbook"):
        Index.open(workspace, HashEncoder())


def test_full_text_of_a_newer_sqlite_is_named(workspace: Workspace) -> None:
    run(workspace)
    connection = sqlite3.connect(workspace.database)
    connection.execute("UPDATE words_config SET v = 99 WHERE k = 'version'")
    connection.commit()
    connection.close()
    with pytest.raises(IndexMissing, match="written by a newer SQLite than"):
        Index.open(workspace, HashEncoder()).retriever().search(["lamp"], 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("DELETE FROM words WHERE rowid = 1", "1 chunks missing from the full text"),
        ("UPDATE words SET text = 'other' WHERE rowid = 1", "1 full-text rows that differ"),
        ("INSERT INTO words (rowid, text) VALUES (99, 'ghost')", "1 full-text rows of deleted chunks"),
        ("UPDATE vectors SET vector = zeroblob(length(vector))", "vectors in FAISS differ"),
        (
            "DELETE FROM chunks WHERE id = 3; DELETE FROM words WHERE rowid = 3;"
            "DELETE FROM vectors WHERE key NOT IN (SELECT vector_key FROM chunks)",
            "different vectors .1 chunks are in only one of them.",
        ),
        ("DELETE FROM vectors", "3 chunks without a vector"),
        (
            "DELETE FROM chunks WHERE id = 3; DELETE FROM words WHERE rowid = 3",
            "1 vectors that nothing needs",
        ),
        ("DELETE FROM documents WHERE id = 'bell.md'", "1 chunks of deleted documents"),
        (
            "UPDATE documents SET text = replace(text, 'noon', 'nine')",
            "1 documents that differ from their hash",
        ),
        ("UPDATE meta SET corpus_hash = ''", "a document too many or too few"),
        ("UPDATE words SET title = 'Cup' WHERE rowid = 1", "1 full-text rows that differ"),
        ("INSERT INTO metadata VALUES ('gone', 'k', '1')", "1 values of metadata of deleted documents"),
        ("DELETE FROM words_data WHERE id > 10", "full-text index"),
    ],
)
def test_verify_names_what_disagrees(workspace: Workspace, damage: str, message: str) -> None:
    run(workspace)
    connection = sqlite3.connect(workspace.database)
    connection.executescript(damage)
    connection.close()
    with pytest.raises(IndexDamaged, match=message):
        verify(workspace)


class Killed(HashEncoder):
    """Stops at its third batch."""

    def encode_passages(self, passages: Sequence[Passage]) -> list[Vectors]:
        if len(self.encoded) == 2:
            raise KeyboardInterrupt
        return super().encode_passages(passages)


def test_interrupted_embedding_goes_on_where_it_was(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.sync._VECTORS_PER_COMMIT", 1)
    with pytest.raises(KeyboardInterrupt):
        run(workspace, Killed())
    with pytest.raises(IndexMissing):
        Index.open(workspace, HashEncoder())
    report = run(workspace)
    assert (report.chunks, report.chunks_embedded) == (3, 1)


def test_damaged_database_is_left_for_its_owner(workspace: Workspace) -> None:
    run(workspace)
    data = workspace.database.read_bytes()
    broken = data[:4096] + b"\xff" * 8192 + data[12288:]
    workspace.database.write_bytes(broken)
    with pytest.raises(IndexDamaged, match="move it aside, then restore a backup"):
        verify(workspace)
    assert workspace.database.read_bytes() == broken
