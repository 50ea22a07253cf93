"""Readers and writers at once, another encoder, and databases of earlier versions."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from indexer.config import Workspace
from indexer.database import IndexMissing
from indexer.encoding import Passage, Vectors
from indexer.retriever import Index
from indexer.snapshot import Snapshot
from indexer.sync import SyncReport, sync
from indexer.verify import verify
from tests.fakes import HashEncoder


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "lamp.md").write_text("# Lamp\n\nThe lamp glows amber.\n")
    (tmp_path / "documents" / "bell.md").write_text("# Bell\n\n## Use\n\nIt rings.\n\n## Care\n\nOil it.\n")
    return Workspace(tmp_path)


def run(workspace: Workspace, encoder: HashEncoder | None = None) -> SyncReport:
    return sync(workspace, workspace.root / "documents", encoder or HashEncoder(dim=16), 32)


@pytest.fixture
def workspace_in_memory() -> Iterator[Workspace]:
    """Where 200 syncs do not wait for a disk, if there is such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        (Path(folder) / "documents").mkdir()
        yield Workspace(Path(folder))


def test_eight_readers_see_one_generation_each_while_200_are_published(
    workspace_in_memory: Workspace,
) -> None:
    """Every generation says its number in two documents; a reader must find the same number in both."""
    workspace = workspace_in_memory
    folder = workspace.root / "documents"

    def write(number: int) -> None:
        for name in ("a", "b"):
            (folder / f"{name}.md").write_text(f"# {name}\n\nThis is number {number}.\n")

    write(1)
    run(workspace)
    index = Index.open(workspace, HashEncoder(dim=16))
    problems: list[str] = []
    seen: set[int] = set()
    done = threading.Event()

    def read() -> None:
        try:
            while not done.wait(0.01):  # leaves time for the writer
                retriever = index.retriever()
                for _ in range(3):
                    hits = retriever.search(["This is number"], 4)[0]
                    numbers = {hit.chunk.text for hit in hits if hit.chunk.document_id in ("a.md", "b.md")}
                    if numbers != {f"This is number {retriever.generation}."}:
                        problems.append(f"generation {retriever.generation}: {numbers}")
                seen.add(retriever.generation)
        except Exception as error:
            problems.append(repr(error))

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    try:
        for number in range(2, 202):
            write(number)
            assert run(workspace).generation == number
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert problems == []
    assert len(seen) > 3
    assert index.retriever().generation == 201
    verify(workspace)


class Stopping(HashEncoder):
    """Is interrupted at its second batch."""

    def __init__(self, id: str) -> None:  # noqa: A002
        super().__init__(dim=32, id=id)
        self.batches = 0

    def encode_passages(self, passages: Sequence[Passage]) -> list[Vectors]:
        self.batches += 1
        if self.batches == 2:
            raise KeyboardInterrupt
        return super().encode_passages(passages)


def test_old_encoder_answers_until_the_new_index_is_complete(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(workspace)
    old = Index.open(workspace, HashEncoder(dim=16))
    held = old.retriever()
    monkeypatch.setattr("indexer.sync._VECTORS_PER_COMMIT", 1)
    with pytest.raises(KeyboardInterrupt):
        run(workspace, Stopping("new"))
    assert old.retriever() is held
    assert (
        Index.open(workspace, HashEncoder(dim=16)).retriever().search(["amber lamp"], 1)[0][0].chunk.title
        == "Lamp"
    )

    report = run(workspace, HashEncoder(dim=32, id="new"))
    assert (report.generation, report.chunks, report.chunks_embedded) == (2, 3, 2)
    assert held.search(["amber lamp"], 1)[0][0].chunk.title == "Lamp"  # for as long as somebody holds it
    with pytest.raises(IndexMissing, match="built with encoder new, but hash-encoder is configured"):
        old.retriever()
    new = Index.open(workspace, HashEncoder(dim=32, id="new")).retriever()
    assert new.search(["amber lamp"], 1)[0][0].chunk.title == "Lamp"
    verify(workspace)


SCHEMA_1 = """
    CREATE TABLE meta (
        generation INTEGER NOT NULL, encoder_id TEXT NOT NULL, chunk_tokens INTEGER NOT NULL,
        chunking_version INTEGER NOT NULL, corpus_hash TEXT NOT NULL,
        vectors_generation INTEGER, vectors_checksum TEXT
    );
    CREATE TABLE documents (
        id TEXT PRIMARY KEY, title TEXT NOT NULL, text TEXT NOT NULL,
        source_hash TEXT NOT NULL, content_hash TEXT NOT NULL
    );
    CREATE TABLE vectors (key TEXT PRIMARY KEY, vector BLOB NOT NULL);
    CREATE TABLE chunks (
        id INTEGER PRIMARY KEY AUTOINCREMENT, document_id TEXT NOT NULL REFERENCES documents (id),
        heading TEXT NOT NULL, start_offset INTEGER NOT NULL, end_offset INTEGER NOT NULL,
        vector_key TEXT NOT NULL REFERENCES vectors (key)
    );
    CREATE INDEX chunks_by_document ON chunks (document_id);
    CREATE INDEX chunks_by_vector ON chunks (vector_key);
    CREATE VIRTUAL TABLE words USING fts5 (
        title, heading, text, tokenize = 'porter unicode61 remove_diacritics 2'
    );
    INSERT INTO meta VALUES (7, 'hash-encoder', 32, 1, 'old', NULL, NULL);
    INSERT INTO documents VALUES ('old.md', 'Old', 'It is old.', 'x', 'x');
    INSERT INTO chunks VALUES (1, 'old.md', '', 0, 10, 'k');
    INSERT INTO words (rowid, title, heading, text) VALUES (1, 'Old', '', 'It is old.');
    PRAGMA user_version = 1;
"""


def test_an_index_of_the_schema_before_overlap_goes_on_with_none_and_embeds_nothing(
    workspace: Workspace,
) -> None:
    before = run(workspace)
    with closing(sqlite3.connect(workspace.database)) as connection:
        connection.executescript("ALTER TABLE meta DROP COLUMN overlap_tokens; PRAGMA user_version = 3;")
    with pytest.raises(IndexMissing, match="run `openbook index`"):
        Index.open(workspace, HashEncoder(dim=16))
    after = run(workspace)
    assert (after.generation, after.chunks, after.chunks_embedded) == (before.generation, before.chunks, 0)
    with closing(Snapshot(workspace.database)) as snapshot:
        assert snapshot.meta.making.overlap_tokens == 0
    verify(workspace)


def test_database_of_the_first_version_is_brought_forward(workspace: Workspace) -> None:
    workspace.data.mkdir(parents=True)
    vector = np.ones(16, dtype="<f4") / 4
    with closing(sqlite3.connect(workspace.database)) as connection:
        connection.executescript(SCHEMA_1)
        connection.execute("INSERT INTO vectors VALUES ('k', ?), ('never used', ?)", (vector.tobytes(),) * 2)
        connection.commit()
    with pytest.raises(IndexMissing, match="run `openbook index`"):
        Index.open(workspace, HashEncoder(dim=16))
    report = run(workspace)
    assert (report.generation, report.added, report.removed) == (8, 2, 1)
    with closing(Snapshot(workspace.database)) as snapshot:
        assert set(snapshot.documents()) == {"bell.md", "lamp.md"}
        assert {stored.owner for stored in snapshot.stored().values()} == {"folder"}
    verify(workspace)


def test_migration_that_is_interrupted_changes_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(workspace)
    broken = "CREATE TABLE half (id); SELECT no_such_function();"
    with monkeypatch.context() as patch:
        from indexer import database

        patch.setattr(database, "_MIGRATIONS", (*database._MIGRATIONS, broken))
        with pytest.raises(sqlite3.OperationalError, match="no_such_function"):
            run(workspace)
    verify(workspace)
