"""What the sub-commands print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from indexer import commands
from indexer.config import IndexConfig, ModelConfig, Workspace
from tests.fakes import HashEncoder


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(commands, "load_encoder", lambda ref: HashEncoder())
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "bell.md").write_text("# Bell\n\n## Use\n\nThe bell rings at noon.\n")
    (tmp_path / "documents" / "bad.pdf").write_bytes(b"x")
    return Workspace(tmp_path)


def test_sync_says_what_changed_and_what_was_skipped(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.index_sync(workspace, IndexConfig(), ModelConfig(), as_json=False)
    output = capsys.readouterr()
    assert (
        "documents: 1 added, 0 changed, 0 removed, 0 unchanged\nchunks: 1, 1 of them embedded now"
        in output.out
    )
    assert "skipped bad.pdf: " in output.err


def test_json_output_is_one_object(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    commands.index_sync(workspace, IndexConfig(), ModelConfig(), as_json=True)
    assert json.loads(capsys.readouterr().out)["added"] == 1
    commands.index_verify(workspace, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"generation": 1, "documents": 1, "chunks": 1}
    commands.index_search(workspace, IndexConfig(), ModelConfig(), "bell", 3, as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["chunk"]["text"] == "The bell rings at noon."


def test_search_shows_place_scores_and_text(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    commands.index_sync(workspace, IndexConfig(), ModelConfig(), as_json=False)
    commands.index_verify(workspace, as_json=False)
    commands.index_search(workspace, IndexConfig(), ModelConfig(), "bell", 3, as_json=False)
    output = capsys.readouterr().out
    assert "generation 1: 1 documents and 1 chunks, the same in SQLite, full text and FAISS" in output
    assert "[1] Bell (bell.md, 16-39; dense 0." in output
    assert "    Use\n    The bell rings at noon.\n" in output


def test_search_gives_a_terminal_nothing_to_obey(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.root / "c.jsonl").write_text(
        '{"id": "a", "title": "T\\u001b[2J", "text": "Bell \\u001b[31m"}\n'
    )
    settings = IndexConfig(documents=Path("c.jsonl"))
    commands.index_sync(workspace, settings, ModelConfig(), as_json=False)
    commands.index_search(workspace, IndexConfig(), ModelConfig(), "bell", 1, as_json=False)
    output = capsys.readouterr().out
    assert "Bell \\x1b[31m" in output
    assert "\x1b" not in output
