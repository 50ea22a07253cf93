"""One writer of the index at a time, across processes and threads of this machine."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

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
    with _open(workspace.data / "index.lock") as file:
        deadline = time.monotonic() + patience_seconds
        while not _acquire(file):
            if time.monotonic() >= deadline:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise IndexBusy(
                    f"{workspace.root}: {holder} is writing the index; wait for it to end or stop it"
                )
            time.sleep(_POLL_SECONDS)
        file.truncate(0)
        file.write(f"openbook process {os.getpid()}\n")
        file.flush()
        yield


def _open(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")
    except OSError as error:
        raise IndexUnwritable(
            f"{error.filename}: cannot be written ({error.strerror}); see its permissions"
        ) from error


def _acquire(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
