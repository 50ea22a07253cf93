"""One training run of an adapter at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class TuneBusy(RuntimeError):
    """Another process is training this adapter."""


@contextmanager
def tune_lock(folder: Path, adapter: str) -> Iterator[None]:
    """Be the only one who trains `adapter`; ends with the process, however it ends. Raises TuneBusy."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"tune-{adapter}.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise TuneBusy(
                f"process {file.read().strip() or '?'} is training adapter {adapter!r} here; wait for it to end, or "
                "set another name in tune.adapter"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
