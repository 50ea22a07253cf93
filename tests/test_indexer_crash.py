"""What is left of the index when a sync is killed, the disk is full or the folder is read-only."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer import store
from indexer.config import Workspace
from indexer.database import IndexUnwritable, connect
from indexer.locking import IndexBusy, writer_lock
from indexer.sync import sync
from indexer.verify import verify
from tests.crashing import content
from tests.fakes import HashEncoder

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def root() -> Iterator[Path]:
    """A workspace that another user can reach, with an index and documents that differ from it."""
    root = Path(tempfile.mkdtemp(prefix="openbook-"))
    root.chmod(0o755)
    documents = root / "workspace" / "documents"
    documents.mkdir(parents=True)
    (documents / "lamp.md").write_text("# Lamp\n\n## Light\n\nThe lamp glows amber.\n\n## Care\n\nDust it.\n")
    (documents / "bell.md").write_text("# Bell\n\nThe bell rings at noon.\n")
    run(root / "workspace")
    (documents / "bell.md").unlink()
    (documents / "lamp.md").write_text("# Lamp\n\n## Light\n\nThe lamp glows red.\n\n## Care\n\nDust it.\n")
    (documents / "cup.md").write_text(
        "# Cup\n\nIt holds water.\n" + "\n".join(f"Drop {n}." for n in range(400))
    )
    yield root / "workspace"
    shutil.rmtree(root)


def run(root: Path) -> None:
    sync(Workspace(root), root / "documents", HashEncoder(), 32)


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # so that it can be forked
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **threads},
        check=False,
        capture_output=True,
        text=True,
    )


def has_replaceable_sqlite() -> bool:
    try:
        ctypes.CDLL("libsqlite3.so.0")
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_replaceable_sqlite(), reason="SQLite is part of this Python")
def test_killed_at_any_write_the_index_is_the_one_before_or_after(root: Path, tmp_path: Path) -> None:
    (root / "documents" / "cup.md").write_text("# Cup\n\nIt holds water.\n")
    code = "import sys; from pathlib import Path; from tests.crashing import main; main(*map(Path, sys.argv[1:3]), 9)"
    process = python(code, root, tmp_path)
    assert process.returncode == 0, process.stderr
    points = [json.loads(line) for line in process.stdout.splitlines()]
    kinds = Counter(point["name"] for point in points)
    assert len(points) >= 30
    assert {
        "after fsync",
        "before replace",
        "after replace",
        "between two writes",
        "after unlink",
    } <= kinds.keys()
    assert {point["found"] for point in points} == {"before", "after"}
    assert all(point["repaired"] for point in points)


FAILING_SYNC = """
import os, resource, signal, sys
from pathlib import Path
from indexer.config import Workspace
from indexer.sync import sync
from tests.fakes import HashEncoder

root, trouble = Path(sys.argv[1]), sys.argv[2]
if trouble == "read-only":
    for folder in (root, *root.rglob("*")):
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    if os.geteuid() == 0:
        os.setuid(65534)
else:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(trouble), int(trouble)))
try:
    sync(Workspace(root), root / "documents", HashEncoder(), 32)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("limit", [0, 5_000, 60_000, 150_000])
def test_full_disk_is_named_and_the_index_stays_as_it_was(root: Path, limit: int) -> None:
    before = content(root)
    process = python(FAILING_SYNC, root, limit)
    assert process.stdout.startswith("IndexUnwritable "), process.stderr
    assert "free some disk space" in process.stdout
    assert content(root) == before
    run(root)
    assert content(root) != before


def test_database_that_may_not_grow_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(root)

    def connect_to_full_disk(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 1}")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(store, "connect", connect_to_full_disk)
        with pytest.raises(IndexUnwritable, match=r"database or disk is full.*free some disk space"):
            run(root)
    assert content(root) == before


def test_read_only_workspace_is_named_and_the_index_stays_as_it_was(root: Path) -> None:
    before = content(root)
    process = python(FAILING_SYNC, root, "read-only")
    assert process.stdout.startswith("IndexUnwritable "), process.stderr
    assert "see its permissions" in process.stdout or "writable" in process.stdout
    for path in (root, *root.rglob("*")):
        path.chmod(0o755)
    assert content(root) == before


def test_lock_names_its_holder_and_is_free_once_that_is_dead(root: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from indexer.config import Workspace\n"
        "from indexer.locking import writer_lock\n"
        "with writer_lock(Workspace(Path(sys.argv[1]))):\n    print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, root], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(IndexBusy, match=f"openbook process {holder.pid} is writing the index"):
            run(root)
        holder.send_signal(signal.SIGKILL)
    run(root)
    assert verify(Workspace(root)).generation == 2


def test_patient_writer_waits_for_its_turn(root: Path) -> None:
    workspace = Workspace(root)
    with writer_lock(workspace), pytest.raises(IndexBusy), writer_lock(workspace, patience_seconds=0.05):
        pass
    with writer_lock(workspace, patience_seconds=0.05):
        pass
