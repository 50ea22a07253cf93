"""Searching: what is found, by whom, and from which generation."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from indexer.commands import index_search
from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.database import IndexMissing
from indexer.encoding import CachedQueries, Passage
from indexer.retriever import Index
from indexer.snapshot import Snapshot
from indexer.sync import sync
from indexer.verify import verify
from tests.fakes import HashEncoder

DOCUMENTS = {
    "lamp.md": "# Lamp\n\n## Light\n\nThe lamp glows amber while a capsule is on its way.\n",
    "bell.md": "# Bell\n\nThe bell rings at noon and is made of bronze.\n",
    "cup.md": "# Cup\n\nThe cup holds one litre of cold water.\n",
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "documents").mkdir()
    for name, text in DOCUMENTS.items():
        (tmp_path / "documents" / name).write_text(text)
    publish(Workspace(tmp_path))
    return Workspace(tmp_path)


def publish(workspace: Workspace) -> None:
    sync(workspace, workspace.root / "documents", HashEncoder(), 32)


def found(index: Index, query: str, k: int = 10) -> list[str]:
    return [hit.chunk.document_id for hit in index.retriever().search([query], k)[0]]


def test_hits_carry_the_exact_span_its_context_and_both_scores(workspace: Workspace) -> None:
    index = Index.open(workspace, HashEncoder())
    hit = index.retriever().search(["Which colour does the lamp glow?"], k=1)[0][0]
    chunk = hit.chunk
    assert (chunk.document_id, chunk.title, chunk.heading) == ("lamp.md", "Lamp", "Light")
    assert (
        chunk.text
        == DOCUMENTS["lamp.md"][chunk.start : chunk.end]
        == "The lamp glows amber while a capsule is on its way."
    )
    assert hit.score == pytest.approx(1.0)  # the best of both searches
    assert hit.dense is not None
    assert 0 < hit.dense <= 1
    assert hit.bm25 is not None
    assert hit.bm25 > 0


def test_queries_are_searched_in_one_batch_and_in_order(workspace: Workspace) -> None:
    encoder = HashEncoder()
    retriever = Index.open(workspace, encoder).retriever()
    results = retriever.search(["cold water", "bronze bell", "cold water"], k=2)
    assert [hits[0].chunk.document_id for hits in results] == ["cup.md", "bell.md", "cup.md"]
    assert [len(hits) for hits in results] == [2, 2, 2]
    assert encoder.encoded == ["cold water", "bronze bell"]
    retriever.search(["bronze bell"], k=2)
    assert encoder.encoded == ["cold water", "bronze bell"]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?",
        'what\'s "this" - AND (NOT) it* OR',
        "NEAR(bell, 2)",
        "bell:",
        "\u00b2 _ \u94c3",
        "bell " * 3000,
    ],
)
def test_any_text_is_a_legal_query(workspace: Workspace, query: str) -> None:
    assert len(found(Index.open(workspace, HashEncoder()), query)) == 3


def test_keyword_search_stems_words(workspace: Workspace) -> None:
    hits = Index.open(workspace, HashEncoder()).retriever().search(["ringing glowed"], k=3)[0]
    assert {hit.chunk.document_id for hit in hits if hit.bm25} == {"bell.md", "lamp.md"}


def test_chunk_is_found_by_one_of_its_sentences(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    filler = " ".join(f"Filler number {n} says nothing of use." for n in range(20))
    (tmp_path / "documents" / "long.md").write_text(
        f"# Long\n\n{filler} The gasket is amber throughout. {filler}\n"
    )
    (tmp_path / "documents" / "short.md").write_text(
        "# Short\n\nThe gasket of Friday was replaced by another.\n"
    )
    encoder = HashEncoder(max_tokens=1000)
    sync(Workspace(tmp_path), tmp_path / "documents", encoder, 1000)
    hits = Index.open(Workspace(tmp_path), encoder).retriever().search(["the gasket is amber"], k=2)[0]
    assert [hit.chunk.document_id for hit in hits] == ["long.md", "short.md"]
    assert hits[0].dense is not None
    assert hits[0].dense > 0.8


def test_nothing_is_asked_and_nothing_found(workspace: Workspace) -> None:
    retriever = Index.open(workspace, HashEncoder()).retriever()
    assert retriever.search([], k=3) == []
    with pytest.raises(ValueError, match="k is 0"):
        retriever.search(["bell"], k=0)


def test_index_that_was_never_built_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(IndexMissing, match="run `openbook index`"):
        Index.open(Workspace(tmp_path), HashEncoder())
    assert not (tmp_path / ".openbook").exists()


def test_index_of_another_encoder_is_refused(workspace: Workspace) -> None:
    with pytest.raises(IndexMissing, match="built with encoder hash-encoder, but other is configured"):
        Index.open(workspace, HashEncoder(id="other"))


def test_new_generation_is_seen_by_new_retrievers_only(workspace: Workspace) -> None:
    index = Index.open(workspace, HashEncoder())
    old = index.retriever()
    assert index.retriever() is old
    (workspace.root / "documents" / "bell.md").write_text("# Bell\n\nThe bell is made of glass.\n")
    publish(workspace)
    new = index.retriever()
    assert (old.generation, new.generation) == (1, 2)
    assert old.corpus_hash != new.corpus_hash
    assert old.search(["bell"], k=1)[0][0].chunk.text == "The bell rings at noon and is made of bronze."
    assert new.search(["bell"], k=1)[0][0].chunk.text == "The bell is made of glass."


def test_deleted_document_is_never_retrieved(workspace: Workspace) -> None:
    index = Index.open(workspace, HashEncoder())
    assert "bell.md" in found(index, "bronze bell")
    (workspace.root / "documents" / "bell.md").unlink()
    publish(workspace)
    assert "bell.md" not in found(index, "bronze bell")
    assert "bell.md" not in found(index, "The bell rings at noon and is made of bronze.")
    assert index.document("bell.md") is None
    assert set(index.documents()) == {"lamp.md", "cup.md"}


def test_corpus_hash_depends_on_the_documents_only(workspace: Workspace) -> None:
    index = Index.open(workspace, HashEncoder())
    first = index.retriever().corpus_hash
    (workspace.root / "documents" / "new.md").write_text("# New\n\nNew.\n")
    publish(workspace)
    assert index.retriever().corpus_hash != first
    (workspace.root / "documents" / "new.md").unlink()
    publish(workspace)
    assert (index.retriever().generation, index.retriever().corpus_hash) == (3, first)


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "foreign", "stale"])
def test_faiss_file_that_is_not_right_is_rebuilt(workspace: Workspace, damage: str) -> None:
    path = workspace.cache / "vectors.faiss"
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "stale":
        (workspace.root / "documents" / "new.md").write_text("# New\n\nNew.\n")
        publish(workspace)
        path.write_bytes(data)
    else:
        path.write_bytes(
            {"truncated": data[:-7], "flipped": data[:-1] + bytes([data[-1] ^ 1]), "foreign": b"IxMp" * 99}[
                damage
            ]
        )
    index = Index.open(workspace, HashEncoder())
    assert found(index, "bronze bell", k=1) == ["bell.md"]
    verify(workspace)
    assert (path.read_bytes() == data) == (damage != "stale")


def test_read_only_cache_does_not_stop_a_search(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    (workspace.cache / "vectors.faiss").unlink()
    workspace.cache.rmdir()
    workspace.cache.write_text("in the way")
    assert found(Index.open(workspace, HashEncoder()), "bronze bell", k=1) == ["bell.md"]
    assert "cannot be kept" in caplog.text


def test_threads_never_see_a_mixture_of_generations(workspace: Workspace) -> None:
    index = Index.open(workspace, HashEncoder())
    bell = workspace.root / "documents" / "bell.md"
    texts = {1: "The bell rings at noon and is made of bronze."}
    problems: list[str] = []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            retriever = index.retriever()
            text = retriever.search(["the bell"], k=1)[0][0].chunk.text
            if text != texts[retriever.generation]:
                problems.append(text)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for generation in range(2, 8):
            texts[generation] = f"The bell rang {generation} times."
            bell.write_text(f"# Bell\n\n{texts[generation]}\n")
            publish(workspace)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert problems == []
    assert index.retriever().generation == 7


def test_cached_queries_forget_the_oldest() -> None:
    encoder = HashEncoder()
    queries = CachedQueries(encoder, capacity=2)
    first = queries.encode(["a", "b"])
    assert np.array_equal(queries.encode(["b", "a", "b"]), first[[1, 0, 1]])
    queries.encode(["c"])
    queries.encode(["b"])
    assert encoder.encoded == ["a", "b", "c", "b"]


@pytest.mark.model
def test_bundled_encoder_finds_meaning_and_search_command_prints_it(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    from indexer.encoding import load_encoder

    encoder = load_encoder("bundled:all-minilm-l6-v2")
    assert (encoder.dim, encoder.max_tokens) == (384, 254)
    assert encoder.count_tokens("The bell rings.") == 4
    vectors = encoder.encode_queries(["A bell rings.", "The chime sounds.", "Water is wet."])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    passage = Passage("Clock\nA bell rings. Water is wet.", ((6, 20), (21, 34)))
    whole, bell, water = encoder.encode_passages([passage])[0]
    assert bell @ vectors[0] > whole @ vectors[0] > water @ vectors[0]
    # Passages may be encoded in bfloat16, questions never are.
    assert encoder.encode_queries([passage.text])[0] @ whole == pytest.approx(1.0, abs=1e-4)
    sync(workspace, workspace.root / "documents", encoder, 160)
    index_search(workspace, IndexConfig(), ModelConfig(), "drinking vessel", 1, as_json=False)
    assert capsys.readouterr().out.startswith("[1] Cup (cup.md, ")


def test_document_is_read_to_its_end_while_the_index_moves_on(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index.open(workspace, HashEncoder())
    read = Snapshot.document

    def read_late(snapshot: Snapshot, document_id: str) -> object:
        (workspace.root / "documents" / "new.md").write_text("# New\n\nThe kettle is blue.\n")
        publish(workspace)
        index.retriever()  # as another thread would
        return read(snapshot, document_id)

    monkeypatch.setattr(Snapshot, "document", read_late)
    document = index.document("cup.md")
    assert document is not None
    assert "one litre" in document.text
