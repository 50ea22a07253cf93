"""Document changes reach a copy of the workspace, and never the workspace itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.answers import EvalError
from eval.changes import Change
from eval.scratch import Applied, Scratch, scratch_copy
from indexer.config import Workspace
from indexer.corpus import Document
from indexer.documents import put_document
from indexer.parsing import Parser
from indexer.sync import sync
from tests.fakes import HashEncoder
from tests.fakes_changes import CHUNK_TOKENS, INDEX, change, indexed_workspace, texts


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return indexed_workspace(tmp_path)


def files(folder: Path) -> dict[Path, bytes]:
    """Of all files but those that SQLite makes for readers."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


def apply(scratch: Scratch, *changes: Change, encoder: HashEncoder | None = None) -> Applied:
    encoder = encoder or HashEncoder()
    with Parser(1) as parser:
        scratch.settle(encoder, INDEX, parser)
        return scratch.apply(scratch.edits(changes), encoder, INDEX, parser)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([change(document_id="../bell.md")], r"line 1: no document '../bell.md' is indexed"),
        ([change(find="at night")], "line 1: 'bell.md' does not hold the text to find"),
        ([change(document_id="garden/oak.txt", find="The oak")], "holds the text to find 2 times"),
        ([change(document_id="note", find="Lea drops")], "line 1: 'note' does not hold"),
        ([change(), change()], "line 1: 'bell.md' does not hold"),
    ],
)
def test_a_change_that_fits_no_document_is_named(
    workspace: Workspace, changes: list[Change], said: str
) -> None:
    with (
        scratch_copy(workspace, workspace.root / "documents") as scratch,
        pytest.raises(EvalError, match=said),
    ):
        scratch.edits(changes)


def test_documents_that_are_no_text_or_gone_cannot_be_changed(workspace: Workspace) -> None:
    documents = workspace.root / "documents"
    (documents / "bell.md").write_bytes(b"\xff\xfe at noon")
    (documents / "garden" / "oak.txt").unlink()
    with scratch_copy(workspace, documents) as scratch:
        with pytest.raises(EvalError, match=r"line 1: 'bell.md' is no text file"):
            scratch.edits([change()])
        with pytest.raises(EvalError, match=r"line 1: the file of 'garden/oak.txt' is gone"):
            scratch.edits([change(document_id="garden/oak.txt")])


def test_changes_reach_the_copy_and_never_the_workspace(workspace: Workspace) -> None:
    before = files(workspace.root)
    changes = [
        change(),
        change(find="hemp", replace="silk"),
        change(document_id="plants.jsonl#2", find="rain", replace="sun"),
        change(document_id="note", find="Lea", replace="Ada"),
    ]
    with scratch_copy(workspace, workspace.root / "documents") as scratch:
        applied = apply(scratch, *changes)
        after = texts(scratch.workspace)
    assert applied.documents == 3
    assert "rings at dawn" in after["bell.md"]
    assert "of silk" in after["bell.md"]
    assert after["plants.jsonl#1"] == "Ferns want shade."
    assert after["plants.jsonl#2"] == "Moss wants sun."
    assert after["note"] == "Ada keeps the key."
    assert files(workspace.root) == before
    assert not scratch.workspace.root.exists()


def test_only_what_the_changes_made_is_embedded_and_counted(workspace: Workspace) -> None:
    documents = workspace.root / "documents"
    (documents / "new.md").write_text("# New\n\nNot indexed yet.\n")
    encoder = HashEncoder()
    with scratch_copy(workspace, documents) as scratch:
        applied = apply(scratch, change(), encoder=encoder)
    assert encoder.encoded == ["New\nNot indexed yet.", "Bell\nThe bell rings at dawn."]
    assert applied.chunks_embedded == 1
    assert applied.tokens_embedded == encoder.count_tokens(encoder.encoded[-1])
    assert applied.seconds > 0


def test_one_file_of_json_lines_can_be_the_documents(tmp_path: Path) -> None:
    documents = tmp_path / "all.jsonl"
    documents.write_text(
        '{"_id": "a", "text": "rings at noon"}\nbroken\n{"id": "b", "text": "rings at noon"}'
    )
    workspace = Workspace(tmp_path)
    sync(workspace, documents, HashEncoder(), CHUNK_TOKENS)
    with scratch_copy(workspace, documents) as scratch:
        apply(scratch, change(document_id="a"))
        assert texts(scratch.workspace) == {"a": "rings at dawn", "b": "rings at noon"}


def test_documents_put_through_the_api_need_no_folder(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    put_document(workspace, Document("note", "Note", "The bell rings at noon."), HashEncoder(), CHUNK_TOKENS)
    with scratch_copy(workspace, tmp_path / "documents") as scratch:
        assert apply(scratch, change(document_id="note")).chunks_embedded == 1
        assert texts(scratch.workspace) == {"note": "The bell rings at dawn."}


def test_a_document_that_the_changes_break_is_named(workspace: Workspace) -> None:
    emptied = change(document_id="garden/oak.txt", find="The oak is old. The oak is tall.\n", replace=" ")
    with (
        scratch_copy(workspace, workspace.root / "documents") as scratch,
        pytest.raises(EvalError, match=r"'garden/oak.txt' cannot be read after the changes: holds no text"),
    ):
        apply(scratch, emptied)
