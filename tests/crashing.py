"""Kills a sync at its writes to the disk: `python -m tests.crashing TEMPLATE SCRATCH STRIDE` reports JSON lines.

STRIDE 1 takes every point; a larger one only some of the many writes of SQLite. The syncs are forked from one
process, because importing FAISS again for each of them would take most of the time.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from indexer.config import Workspace
from indexer.database import IndexDamaged
from indexer.snapshot import Snapshot
from indexer.sync import sync
from indexer.verify import verify
from tests.fakes import HashEncoder

SQLITE_CALLS = {  # names as in SQLite's table of replaceable system calls
    "pwrite": (ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64),
    "pwrite64": (ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64),
    "write": (ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t),
    "ftruncate": (ctypes.c_int, ctypes.c_int, ctypes.c_int64),
    "unlink": (ctypes.c_int, ctypes.c_char_p),
}


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("iVersion", ctypes.c_int),
        ("szOsFile", ctypes.c_int),
        ("mxPathname", ctypes.c_int),
        ("pointers", ctypes.c_void_p * 16),  # pNext, zName, pAppData, twelve methods, xCurrentTimeInt64
        ("xSetSystemCall", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)),
        ("xGetSystemCall", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)),
    ]


class Killer:
    """Names the steps in a file, and kills the process at the last one allowed."""

    def __init__(self, last: int, log: Path) -> None:
        self.last = last
        self.log = log
        self.count = 0
        self.keep: list[Any] = []  # what SQLite would call after it was collected

    def step(self, name: str) -> None:
        self.count += 1
        with self.log.open("a") as file:
            file.write(f"{name}\n")
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.step(f"before {name}")
            result = call(*arguments, **named)
            self.step(f"after {name}")
            return result

        return wrapped

    def arm(self) -> bool:
        """Watch what Python and SQLite do; False if this SQLite cannot be reached."""
        for name in ("fsync", "replace"):
            setattr(os, name, self.around(name, getattr(os, name)))
        fdopen = os.fdopen

        def fdopen_in_halves(*arguments: Any, **named: Any) -> Any:
            file = fdopen(*arguments, **named)
            return _Halves(file, self) if isinstance(file, io.BufferedWriter) else file

        os.fdopen = fdopen_in_halves
        try:
            library = ctypes.CDLL("libsqlite3.so.0")
        except OSError:
            return False
        library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        vfs = library.sqlite3_vfs_find(None)
        for name, types in SQLITE_CALLS.items():
            prototype = ctypes.CFUNCTYPE(*types, use_errno=True)
            if address := vfs.contents.xGetSystemCall(ctypes.addressof(vfs.contents), name.encode()):
                watched = prototype(self.around(name, prototype(address)))
                self.keep.append(watched)
                pointer = ctypes.cast(watched, ctypes.c_void_p)
                vfs.contents.xSetSystemCall(ctypes.addressof(vfs.contents), name.encode(), pointer)
        return True


class _Halves:
    def __init__(self, file: Any, killer: Killer) -> None:
        self._file = file
        self._killer = killer

    def __enter__(self) -> _Halves:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        self._killer.step("between two writes")
        self._file.write(data[len(data) // 2 :])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def run_sync(root: Path) -> None:
    sync(Workspace(root), root / "documents", HashEncoder(), 32)


def content(root: Path) -> str:
    """All that a reader can see, and whether the parts agree."""
    try:
        verify(Workspace(root))
    except IndexDamaged as error:
        return f"damaged: {error}"
    with closing(Snapshot(Workspace(root).database)) as snapshot:
        chunks = [(chunk.document_id, chunk.text) for chunk in snapshot.all_chunks()]
        documents = [(d.id, d.title, d.text) for d in snapshot.documents().values()]
        return json.dumps([snapshot.meta.generation, snapshot.meta.corpus_hash, chunks, documents])


def crash(template: Path, root: Path, last: int) -> list[str]:
    """Sync a copy and be killed at step `last` (0: never); returns the steps taken."""
    shutil.copytree(template, root)
    log = root / "steps"
    if (child := os.fork()) == 0:
        with contextlib.redirect_stderr(io.StringIO()):
            if not Killer(last, log).arm():
                os._exit(3)
            run_sync(root)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != (-signal.SIGKILL if last else 0):
        raise RuntimeError(f"the sync ended with {status}")
    return log.read_text().splitlines()


def main(template: Path, scratch: Path, stride: int) -> None:
    before = content(shutil.copytree(template, scratch / "before"))
    steps = crash(template, scratch / "after", 0)
    after = content(scratch / "after")
    if before == after:
        raise RuntimeError("there is nothing to sync")
    for last, name in enumerate(steps, start=1):
        if "pwrite" in name and last % stride:
            continue
        root = scratch / str(last)
        crash(template, root, last)
        found = content(root)
        run_sync(root)
        state = "before" if found == before else "after" if found == after else found
        print(json.dumps({"name": name, "found": state, "repaired": content(root) == after}))
        shutil.rmtree(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
