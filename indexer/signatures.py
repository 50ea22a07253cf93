"""Files that were not touched are not read again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from indexer.folder import hash_file

_RACY_NANOSECONDS = 2_000_000_000
"""A file changed twice within one tick of its file system's clock looks the same after both; FAT's lasts 2 s."""


class FileHashes:
    """Hashes of files: remembered while size, times and inode are the same, else computed.

    `known` and `seen` map a file's name to its signature and hash; `seen` is what to give the next one as `known`.
    """

    def __init__(
        self, known: Mapping[str, tuple[str, str]] | None = None, clock: Callable[[], int] = time.time_ns
    ) -> None:
        """`clock` gives the time in nanoseconds."""
        self._known = known or {}
        self._clock = clock
        self.seen: dict[str, tuple[str, str]] = {}

    def hash_file(self, name: str, path: Path, salt: bytes, max_bytes: int) -> str:
        """SHA-256 (hex) of `salt` and the content of a regular file. Raises CorpusError if it is none or too large."""
        started = self._clock()
        before = _stat(path)
        if before is None or before.st_size > max_bytes:
            return hash_file(path, salt, max_bytes)  # which says what is wrong with it
        signature = salt.decode() + ":".join(
            str(part)
            for part in (before.st_dev, before.st_ino, before.st_size, before.st_mtime_ns, before.st_ctime_ns)
        )
        known = self._known.get(name)
        if known and known[0] == signature:
            self.seen[name] = known
            return known[1]
        digest = hash_file(path, salt, max_bytes)
        if max(before.st_mtime_ns, before.st_ctime_ns) < started - _RACY_NANOSECONDS:
            self.seen[name] = (signature, digest)
        return digest


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None
