"""A workspace in one file and back, and archives that must not be trusted."""

from __future__ import annotations

import json
import sqlite3
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.backup import backup_command, restore_command
from indexer.backup import BackupError, backup, restore
from indexer.config import Workspace
from indexer.corpus import Document
from indexer.database import IndexDamaged
from indexer.documents import put_document
from indexer.locking import IndexBusy, writer_lock
from indexer.retriever import Index
from indexer.sync import sync
from indexer.verify import verify
from tests.fakes import HashEncoder


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "old")
    (workspace.root / "documents").mkdir(parents=True)
    (workspace.root / "documents" / "bell.md").write_text("# Bell\n\nThe bell rings at noon.\n")
    workspace.config_file.write_text("[index]\n")
    (workspace.root / "questions.jsonl").write_text('{"question": "?", "answers": []}\n')
    sync(workspace, workspace.root / "documents", HashEncoder(), 32)
    put_document(workspace, Document("fern", "Fern", "The fern wants shade."), HashEncoder(), 32)
    adapter = workspace.adapters / "mixed" / "1"
    adapter.mkdir(parents=True)
    (adapter / "weights.safetensors").write_bytes(b"\x00\x01" * 5000)
    (adapter / ".half-written").write_text("x")
    return workspace


@pytest.fixture
def archive(workspace: Workspace, tmp_path: Path) -> Path:
    file = tmp_path / "backup.zip"
    backup(workspace, file, [workspace.root / "questions.jsonl", tmp_path / "elsewhere.jsonl"])
    return file


def test_restored_workspace_answers_like_the_one_backed_up(archive: Path, tmp_path: Path) -> None:
    new = Workspace(tmp_path / "new")
    report = restore(archive, new)
    assert report.files == 4
    assert verify(new).documents == 2
    assert Index.open(new, HashEncoder()).retriever().search(["fern"], 1)[0][0].chunk.document_id == "fern"
    names = {path.relative_to(new.root).as_posix() for path in new.root.rglob("*") if path.is_file()}
    assert names >= {
        "openbook.toml",
        "questions.jsonl",
        ".openbook/data/adapters/mixed/1/weights.safetensors",
    }
    assert not any("half-written" in name or "restoring" in name for name in names)


def test_commands_say_what_was_saved_and_restored(workspace: Workspace, tmp_path: Path) -> None:
    file, new = str(tmp_path / "b.zip"), str(tmp_path / "new")
    saved = CliRunner().invoke(backup_command, ["-w", str(workspace.root), file], catch_exceptions=False)
    assert ": 4 files, " in saved.output
    restored = CliRunner().invoke(restore_command, ["-w", new, "--json", file], catch_exceptions=False)
    assert json.loads(restored.output)["files"] == 4
    assert verify(Workspace(Path(new))).documents == 2


def test_backup_of_a_workspace_that_is_written_is_one_generation(
    workspace: Workspace, tmp_path: Path
) -> None:
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            put_document(workspace, Document("count", "", f"Number {number}."), HashEncoder(), 32)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            backup(workspace, tmp_path / f"{number}.zip")
    finally:
        done.set()
        writer.join()
    for number in range(3):
        new = Workspace(tmp_path / f"new{number}")
        restore(tmp_path / f"{number}.zip", new)
        verify(new)


def test_backup_overwrites_nothing_and_leaves_nothing_half_done(
    workspace: Workspace, archive: Path, tmp_path: Path
) -> None:
    with pytest.raises(BackupError, match="there is such a file already"):
        backup(workspace, archive)
    connection = sqlite3.connect(workspace.database)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = workspace.database.read_bytes()
    workspace.database.write_bytes(data[:4096] + b"\xff" * 4096 + data[8192:])
    with pytest.raises(IndexDamaged):
        backup(workspace, tmp_path / "broken.zip")
    assert not list(tmp_path.glob("*broken*"))
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(BackupError, match="holds no data yet"):
        backup(Workspace(tmp_path / "none"), tmp_path / "none.zip")


def test_workspace_with_data_is_replaced_only_if_told_and_the_old_data_are_kept(
    workspace: Workspace, archive: Path
) -> None:
    workspace.config_file.write_text("[index]\nchunk_tokens = 64\n")
    put_document(workspace, Document("oak", "Oak", "The oak is old."), HashEncoder(), 32)
    with pytest.raises(BackupError, match="has data already"):
        restore(archive, workspace)
    restore(archive, workspace, replace=True)
    assert verify(workspace).documents == 2
    assert workspace.config_file.read_text() == "[index]\n"
    assert (workspace.root / "openbook.toml.replaced-1").read_text() == "[index]\nchunk_tokens = 64\n"
    assert (workspace.root / ".openbook" / "data.replaced-1" / "index.sqlite").is_file()


def test_a_workspace_that_is_being_written_is_not_replaced(workspace: Workspace, archive: Path) -> None:
    with writer_lock(workspace), pytest.raises(IndexBusy):
        restore(archive, workspace, replace=True)
    assert verify(workspace).documents == 2


def rewritten(archive: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(archive) as old:
        files = {name: old.read(name) for name in old.namelist()}
    change(files)
    path = archive.with_name("changed.zip")
    with zipfile.ZipFile(path, "w") as new:
        for name, data in files.items():
            new.writestr(name, data)
    return path


def add(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        manifest = json.loads(files["manifest.json"])
        digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
        manifest["files"][name] = {"size": 1, "sha256": digest}
        files["manifest.json"] = json.dumps(manifest).encode()
        files[name] = b"a"

    return change


def bomb(files: dict[str, bytes]) -> None:
    files["openbook.toml"] = b"\0" * 50_000_000


def flip(files: dict[str, bytes]) -> None:
    files["openbook.toml"] = b"[serve]\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add("../evil"), "never has"),
        (add("/etc/evil"), "never has"),
        (add("a/../../evil"), "never has"),
        (add("a\\..\\evil"), "never has"),
        (add(".bashrc"), "never has"),
        (add(".openbook/cache/vectors.faiss"), "never has"),
        (flip, "openbook.toml is damaged"),
        (bomb, "openbook.toml is damaged"),
        (lambda files: files.pop("questions.jsonl"), "other files than its manifest"),
        (lambda files: files.update(extra=b"x"), "other files than its manifest"),
        (lambda files: files.pop("manifest.json"), "not a backup of openbook"),
        (lambda files: files.update({"manifest.json": b"{}"}), "is damaged"),
        (
            lambda files: files.update({"manifest.json": b'{"format": "x", "created": "", "files": {}}'}),
            "another openbook",
        ),
    ],
)
def test_archive_that_is_not_right_is_refused_and_writes_nothing(
    archive: Path, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    new = Workspace(archive.with_name("new"))
    with pytest.raises(BackupError, match=message):
        restore(rewritten(archive, change), new)
    assert not new.root.exists()
    assert not archive.with_name("evil").exists()


def test_archive_that_is_not_there_is_named_and_nothing_made(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match=r"absent\.zip: no such file"):
        restore(tmp_path / "absent.zip", Workspace(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_folder_that_was_there_before_a_restoration_that_failed_is_left_as_it_was(
    archive: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    with pytest.raises(BackupError):
        restore(rewritten(archive, flip), Workspace(folder))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("size", [0, 100, -1])
def test_truncated_archive_is_refused(archive: Path, size: int) -> None:
    broken = archive.with_name("broken.zip")
    broken.write_bytes(archive.read_bytes()[:size])
    with pytest.raises(BackupError, match=r"not an archive that can be read|damaged"):
        restore(broken, Workspace(archive.with_name("new")))
