"""One writer of the index at a time, across processes and threads of this machine."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from indexer.config import Workspace
from indexer.database import IndexUnwritable

_POLL_SECONDS = 0.02


class IndexBusy(RuntimeError):
    """Another process, or another thread of this one, is writing the index."""


@contextmanager
def writer_lock(workspace: Workspace, patience_seconds: float = 0.0) -> Iterator[None]:
    """Be the only writer of the index; raises `IndexBusy`, naming the holder, if somebody else stays for so long.

    The operating system gives the lock back when the holder ends, however it ends, so a dead writer's is free. It
    is not reliable on network file systems, and neither is SQLite's.
    """
    handle = _open(workspace.data / "index.lock")
    try:
        deadline = time.monotonic() + patience_seconds
        while not _acquire(handle):
            if time.monotonic() >= deadline:
                holder = os.pread(handle, 100, 0).decode(errors="replace").strip() or "another process"
                raise IndexBusy(
                    f"{workspace.root}: {holder} is writing the index; wait for it to end or stop it"
                )
            time.sleep(_POLL_SECONDS)
        with suppress(OSError):  # the disk is full; the name is only a courtesy
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"openbook process {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise IndexUnwritable(
            f"{error.filename}: cannot be written ({error.strerror}); see its permissions"
        ) from error


def _acquire(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
