"""Proof that the parts of the index agree: documents, chunks, full text, vectors and FAISS."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from indexer.config import Workspace
from indexer.database import DAMAGE_REMEDY, IndexDamaged
from indexer.files import hash_text
from indexer.locking import writer_lock
from indexer.snapshot import Snapshot
from indexer.store import Store
from indexer.vectors import open_vectors, read_vectors

_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The size of an index in which everything agrees."""

    generation: int
    documents: int
    chunks: int


def verify(workspace: Workspace) -> VerifyReport:
    """Check that SQLite, full text and FAISS hold the same chunks, so that nothing deleted can be retrieved.

    Raises `IndexDamaged` naming what disagrees; the database is left as it is. A FAISS file that is missing or
    damaged is no damage: it is rebuilt, here as at any start.
    """
    with closing(Snapshot(workspace.database)) as snapshot:
        problems = snapshot.contradictions() + _hash_problems(snapshot) + _full_text_problems(workspace)
        problems = problems or _faiss_problems(workspace, snapshot)
        if problems:
            raise IndexDamaged(f"{workspace.database}: {'; '.join(problems)}; {DAMAGE_REMEDY}")
        documents, chunks = snapshot.sizes()
        return VerifyReport(snapshot.meta.generation, documents, chunks)


def _hash_problems(snapshot: Snapshot) -> list[str]:
    """Whether each text, and the list of them, is still what its hash says."""
    stored = snapshot.stored()
    hashes = {
        name: hash_text(document.title, document.text) for name, document in snapshot.documents().items()
    }
    problems = []
    if differing := sum(hashes[name] != stored[name].content_hash for name in hashes):
        problems.append(f"{differing} documents that differ from their hash")
    elif snapshot.meta.corpus_hash != hash_text(*(part for pair in sorted(hashes.items()) for part in pair)):
        problems.append("a document too many or too few for the hash of the corpus")
    return problems


def _full_text_problems(workspace: Workspace) -> list[str]:
    with writer_lock(workspace, _PATIENCE_SECONDS), closing(Store(workspace.database)) as store:
        try:
            store.check_full_text()
        except sqlite3.DatabaseError as error:
            return [f"the full-text index differs from its text ({error})"]
    return []


def _faiss_problems(workspace: Workspace, snapshot: Snapshot) -> list[str]:
    ids, vectors = snapshot.chunk_vectors()
    # As the file is, if it claims to be of this generation; then as a search has it, up to date and rid of old vectors.
    for opened in (read_vectors(workspace, snapshot), open_vectors(workspace, snapshot, tidy=True)):
        if opened is None:
            continue
        if not np.array_equal(indexed_ids := opened.chunk_ids(), ids):
            differing = set(ids.tolist()) ^ set(indexed_ids.tolist())
            return [
                f"FAISS and SQLite hold different vectors ({len(differing)} chunks are in only one of them)"
            ]
        if not opened.holds(ids, vectors):
            return ["vectors in FAISS differ from those in SQLite"]
    return []
