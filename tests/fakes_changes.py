"""Document changes and a workspace to try them on."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from eval.changes import Change
from indexer.config import IndexConfig, Workspace
from indexer.corpus import Document
from indexer.documents import put_document
from indexer.snapshot import Snapshot
from indexer.sync import sync
from tests.fakes import HashEncoder

CHUNK_TOKENS = 32
INDEX = IndexConfig(chunk_tokens=CHUNK_TOKENS)
LINE = {
    "id": "c1",
    "document_id": "bell.md",
    "find": "at noon",
    "replace": "at dawn",
    "question": "When does the bell ring?",
    "answer_before": "noon",
    "answer_after": "dawn",
}


def change(**other: str) -> Change:
    return Change(**{**LINE, **other}, place="changes.jsonl, line 1")


def write_changes(path: Path, *lines: dict[str, str] | str) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def indexed_workspace(folder: Path) -> Workspace:
    """Text files, a file of JSON lines and a document that was put, all indexed."""
    documents = folder / "documents"
    (documents / "garden").mkdir(parents=True)
    (documents / "bell.md").write_text(
        "# Bell\n\nThe bell rings at noon.\n\n# Rope\n\nIts rope is of hemp.\n"
    )
    (documents / "garden" / "oak.txt").write_text("The oak is old. The oak is tall.\n")
    rows = [{"id": 1, "text": "Ferns want shade."}, {"id": 2, "text": "Moss wants rain."}]
    (documents / "plants.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    workspace = Workspace(folder)
    sync(workspace, documents, HashEncoder(), CHUNK_TOKENS)
    put_document(workspace, Document("note", "Note", "Lea keeps the key."), HashEncoder(), CHUNK_TOKENS)
    return workspace


def texts(workspace: Workspace) -> dict[str, str]:
    with closing(Snapshot(workspace.database)) as snapshot:
        return {name: document.text for name, document in snapshot.documents().items()}
