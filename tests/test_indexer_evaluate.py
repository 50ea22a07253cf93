"""Retrieval scored alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from indexer import commands
from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.corpus import CorpusError, Split
from indexer.sync import sync
from tests.fakes import HashEncoder


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(commands, "load_encoder", lambda ref: HashEncoder())
    (tmp_path / "documents").mkdir()
    for name in ("bell", "cup", "lamp"):
        (tmp_path / "documents" / f"{name}.md").write_text(f"# {name}\n\nThe {name} is here.\n")
    sync(Workspace(tmp_path), tmp_path / "documents", HashEncoder(), 32)
    lines = [
        {"question": "the bell", "answers": ["x"], "document_ids": ["bell.md"], "split": "dev"},
        {"question": "the cup", "answers": ["x"], "document_ids": ["lamp.md"], "split": "dev"},
        {"question": "the moon", "answers": [], "document_ids": ["lamp.md"], "split": "dev"},
        {"question": "the lamp", "answers": ["x"], "split": "train"},
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Workspace(tmp_path)


def test_answerable_questions_with_gold_are_scored(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.index_eval(
        workspace, IndexConfig(), ModelConfig(), workspace.root / "questions.jsonl", Split.DEV, as_json=True
    )
    report = json.loads(capsys.readouterr().out)
    assert (report["generation"], report["split"], report["questions"]) == (1, "dev", 2)
    assert (report["metrics"]["recall@1"], report["metrics"]["recall@3"]) == (0.5, 1.0)
    commands.index_eval(
        workspace, IndexConfig(), ModelConfig(), workspace.root / "questions.jsonl", Split.DEV, as_json=False
    )
    assert "recall@1             0.500" in capsys.readouterr().out


def test_split_without_gold_names_the_remedy(workspace: Workspace) -> None:
    with pytest.raises(CorpusError, match="of split train names document_ids"):
        commands.index_eval(
            workspace,
            IndexConfig(),
            ModelConfig(),
            workspace.root / "questions.jsonl",
            Split.TRAIN,
            as_json=False,
        )


def test_beir_folder_is_indexed_and_scored(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "beir"
    commands.index_export_beir(workspace, workspace.root / "questions.jsonl", folder)
    assert capsys.readouterr().out == f"3 documents and 3 questions in {folder}\n"
    other = Workspace(tmp_path / "other")
    assert sync(other, folder / "corpus.jsonl", HashEncoder(), 32).added == 3
    commands.index_eval(other, IndexConfig(), ModelConfig(), folder, Split.DEV, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["questions"] == 3
    assert report["metrics"]["recall@3"] == 1.0
