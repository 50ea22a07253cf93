"""The FAISS side of the index: exact and clustered, behind the database by a little, and never believed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from indexer import vectors as module
from indexer.config import Workspace
from indexer.encoding import Ids, Vectors
from indexer.faiss_part import FLAT_ROWS, Kind, Part, choose_kind
from indexer.retriever import Index
from indexer.snapshot import Snapshot
from indexer.sync import sync
from indexer.vectors import VectorIndex, open_vectors
from indexer.verify import verify
from tests.fakes import HashEncoder

KINDS: tuple[Kind, ...] = ("flat", "ivf", "ivf-sq8")


def make_vectors(count: int, seed: int = 0) -> Vectors:
    """Three to a chunk, near each other."""
    generator = np.random.default_rng(seed)
    chunks = np.repeat(generator.standard_normal((-(-count // 3), 32)), 3, axis=0)[:count]
    vectors = chunks + 0.3 * generator.standard_normal((count, 32))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def chunk_ids(count: int) -> Ids:
    return np.arange(count, dtype=np.int64) // 3 + 10


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return make_vectors(3000)


def exact(queries: Vectors, vectors: Vectors, ids: Ids, k: int) -> list[set[int]]:
    return [set(ids[row].tolist()) for row in np.argsort(-(queries @ vectors.T), axis=1)[:, :k]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_finds_about_what_an_exact_search_finds(kind: Kind, vectors: Vectors) -> None:
    ids = chunk_ids(len(vectors))
    index = VectorIndex.build(ids, vectors, kind)
    queries = make_vectors(90, seed=1)
    found = index.search(queries, 30)
    shared = [len(set(a) & b) / len(b) for a, b in zip(found, exact(queries, vectors, ids, 30), strict=True)]
    assert np.mean(shared) >= 0.95
    assert all(list(scores.values()) == sorted(scores.values(), reverse=True) for scores in found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_with_several_vectors_is_found_once_by_its_best(kind: Kind, vectors: Vectors) -> None:
    index = VectorIndex.build(chunk_ids(len(vectors)), vectors, kind)
    found = index.search(vectors[7:8], 3)[0]
    assert next(iter(found)) == 7 // 3 + 10
    assert found[12] == pytest.approx(1.0, abs=0.02)
    assert len(found) <= 3


@pytest.mark.parametrize("kind", KINDS)
def test_filtered_search_is_exact_however_few_chunks_fit(kind: Kind, vectors: Vectors) -> None:
    ids = chunk_ids(len(vectors))
    index = VectorIndex.build(ids, vectors, kind)
    among = np.asarray([11, 500, 900], dtype=np.int64)
    found = index.search(make_vectors(9, seed=2), 9, among)
    assert all(set(scores) == {11, 500, 900} for scores in found)
    assert index.search(vectors[:2], 9, np.empty(0, dtype=np.int64)) == [{}, {}]


@pytest.mark.parametrize("kind", KINDS)
def test_changes_beside_the_file_are_seen_and_what_is_gone_is_not(kind: Kind, vectors: Vectors) -> None:
    ids = chunk_ids(len(vectors))
    new_ids, new = chunk_ids(6) + 5000, make_vectors(6, seed=3)
    gone = np.isin(ids, [10, 11, 12])
    index = VectorIndex(Part.build(ids, vectors, kind), "", Part.build(new_ids, new, "flat"), ~gone)
    queries = np.concatenate([vectors[:9], new])
    found = index.search(queries, 50)
    assert not {10, 11, 12} & set().union(*found)
    assert [next(iter(scores)) for scores in found[9:]] == new_ids.tolist()
    assert not index.search(vectors[:1], 9, np.asarray([10, 11], dtype=np.int64))[0]

    left_ids, left = np.concatenate([ids[~gone], new_ids]), np.concatenate([vectors[~gone], new])
    assert index.holds(left_ids, left)
    assert not index.holds(ids, vectors)
    left[-1] *= -1
    assert not index.holds(left_ids, left)


@pytest.mark.parametrize("kind", KINDS)
def test_file_is_read_back_as_it_was(kind: Kind, vectors: Vectors) -> None:
    ids = chunk_ids(len(vectors))
    data = Part.build(ids, vectors, kind).to_bytes()
    part = Part.from_bytes(data)
    assert part.kind == kind
    index = VectorIndex(part, "")
    assert index.holds(ids, vectors)
    changed = vectors.copy()
    changed[1234, 5] += 0.1
    assert not index.holds(ids, changed)


def test_kind_follows_the_size_unless_it_is_given() -> None:
    assert choose_kind("auto", FLAT_ROWS) == "flat"
    assert choose_kind("auto", FLAT_ROWS + 1) == "ivf"
    assert choose_kind("ivf-sq8", 3) == "ivf-sq8"
    assert choose_kind("ivf", 0) == "flat"


def test_a_few_vectors_can_be_clustered_too() -> None:
    index = VectorIndex.build(chunk_ids(4), make_vectors(4), "ivf")
    assert set(index.search(make_vectors(4), 4)[0]) == {10, 11}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Eight documents, under an index that is rewritten only when half of it has changed."""
    monkeypatch.setattr(module, "REWRITE_ROWS", 0)
    monkeypatch.setattr(module, "REWRITE_SHARE", 0.5)
    (tmp_path / "documents").mkdir()
    for number in range(8):
        write(Workspace(tmp_path), number, f"The pump of station {number} hums.")
    publish(Workspace(tmp_path))
    return Workspace(tmp_path)


def write(workspace: Workspace, number: int, text: str) -> None:
    (workspace.root / "documents" / f"{number}.md").write_text(f"# {number}\n\n{text}\n")


def publish(workspace: Workspace) -> None:
    sync(workspace, workspace.root / "documents", HashEncoder(), 32)


def vectors_file(workspace: Workspace) -> Path:
    return workspace.cache / "vectors.faiss"


def test_one_changed_document_does_not_rewrite_the_file(workspace: Workspace) -> None:
    before = vectors_file(workspace).read_bytes()
    write(workspace, 3, "A violet comet crossed the sky.")
    (workspace.root / "documents" / "5.md").unlink()
    publish(workspace)
    assert vectors_file(workspace).read_bytes() == before
    retriever = Index.open(workspace, HashEncoder()).retriever()
    hits = retriever.search(["violet comet", "the pump of station 5 hums"], k=10)
    assert hits[0][0].chunk.document_id == "3.md"
    assert {hit.chunk.document_id for hit in hits[1]} == {f"{n}.md" for n in (0, 1, 2, 3, 4, 6, 7)}


def test_verify_rids_the_file_of_deleted_vectors(workspace: Workspace) -> None:
    (workspace.root / "documents" / "5.md").unlink()
    publish(workspace)
    size = vectors_file(workspace).stat().st_size
    assert verify(workspace).documents == 7
    assert vectors_file(workspace).stat().st_size < size


def test_file_is_rewritten_once_much_of_it_has_changed(workspace: Workspace) -> None:
    before = vectors_file(workspace).read_bytes()
    for number in range(5):
        write(workspace, number, f"Comet {number}.")
    publish(workspace)
    assert vectors_file(workspace).read_bytes() != before


def test_running_process_reads_an_unchanged_file_once(workspace: Workspace) -> None:
    index = Index.open(workspace, HashEncoder())
    before = index.retriever().vectors.file
    write(workspace, 3, "A violet comet crossed the sky.")
    publish(workspace)
    vectors_file(workspace).unlink()
    after = index.retriever()
    assert after.vectors.file is before
    assert after.search(["violet comet"], k=1)[0][0].chunk.document_id == "3.md"


def test_older_reader_uses_the_file_of_a_newer_generation(workspace: Workspace) -> None:
    with closing(Snapshot(workspace.database)) as old:
        for number in range(8):
            write(workspace, number, f"Comet {number}.")
        publish(workspace)
        newer = vectors_file(workspace).read_bytes()
        index = open_vectors(workspace, old)
        assert index.holds(*old.chunk_vectors())
        assert vectors_file(workspace).read_bytes() == newer


def test_file_of_another_kind_than_asked_for_is_rebuilt(workspace: Workspace) -> None:
    with closing(Snapshot(workspace.database)) as snapshot:
        assert open_vectors(workspace, snapshot).file.kind == "flat"
        assert open_vectors(workspace, snapshot, "ivf").file.kind == "ivf"
        assert open_vectors(workspace, snapshot).file.kind == "ivf"
        assert open_vectors(workspace, snapshot, "auto").file.kind == "flat"


def test_foreign_file_is_set_aside_unread(workspace: Workspace) -> None:
    vectors_file(workspace).write_bytes(b"IxMp" * 999)
    with closing(Snapshot(workspace.database)) as snapshot:
        index = open_vectors(workspace, snapshot)
        assert index.holds(*snapshot.chunk_vectors())
    assert vectors_file(workspace).with_suffix(".damaged").read_bytes() == b"IxMp" * 999


def test_sync_chooses_the_kind_again(workspace: Workspace) -> None:
    for text, kind in (("A comet.", "ivf"), ("A planet.", "auto")):
        write(workspace, 3, text)
        sync(workspace, workspace.root / "documents", HashEncoder(), 32, kind=kind)
        with closing(Snapshot(workspace.database)) as snapshot:
            assert open_vectors(workspace, snapshot).file.kind == ("ivf" if kind == "ivf" else "flat")
