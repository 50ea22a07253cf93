"""A folder of documents that may come from anywhere: which files in it are read, and reading them within limits."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from indexer.corpus import CorpusError


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to read, or something that cannot be and why (`problem`).

    `name` is its path below the folder, with `/`; a folder whose content is unknown ends in `/`.
    """

    name: str
    path: Path
    problem: str = ""


def list_files(folder: Path, suffixes: Collection[str]) -> Iterator[Entry]:
    """The visible files below `folder` with one of `suffixes`, in no order.

    Links are followed to files inside the folder, never out of it (what is indexed is shown to whoever asks) and
    never to folders (so there are no loops). Raises OSError if `folder` itself cannot be listed.
    """
    root = os.path.realpath(folder)
    below = [""]
    while below:
        prefix = below.pop()
        try:
            with os.scandir(os.path.join(root, prefix)) as entries:  # noqa: PTH118
                found = list(entries)
        except OSError as error:
            if not prefix:
                raise
            yield Entry(
                prefix, Path(root, prefix), f"cannot be listed ({error.strerror}); see its permissions"
            )
            continue
        for item in found:
            if item.name.startswith((".", "~$")):  # hidden, or the lock file of an office program
                continue
            name = prefix + item.name
            if item.is_symlink():
                yield from _follow(root, name, suffixes)
            elif item.is_dir(follow_symlinks=False):
                below.append(name + "/")
            elif _has_suffix(name, suffixes):
                yield Entry(name, Path(item.path))


def _follow(root: str, name: str, suffixes: Collection[str]) -> Iterator[Entry]:
    link = Path(root, name)
    try:
        target = Path(os.path.realpath(link, strict=True))
    except OSError as error:
        if error.errno == errno.ELOOP:
            yield Entry(name, link, "a link that leads to itself; remove it")
        elif _has_suffix(name, suffixes):
            yield Entry(name, link, f"a link to nothing ({error.strerror}); repair or remove it")
        return
    if target.is_dir():
        yield Entry(name, link, "a link to a folder, which is not followed; copy the folder here")
    elif _has_suffix(name, suffixes):
        inside = target.is_relative_to(root)
        yield Entry(name, target, "" if inside else "a link out of the documents folder; copy the file here")


def _has_suffix(name: str, suffixes: Collection[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122


def hash_file(path: Path, salt: bytes, max_bytes: int) -> str:
    """SHA-256 (hex) of `salt` and the content. Raises CorpusError like `read_file`."""
    with open_regular(path, max_bytes) as file:
        return hashlib.file_digest(file, lambda: hashlib.sha256(salt)).hexdigest()


def read_file(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file. Raises CorpusError, without the path, if it is none or holds too much."""
    with open_regular(path, max_bytes) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:  # it has grown since it was opened
        raise too_large(len(data), max_bytes)
    return data


@contextmanager
def open_regular(path: Path, max_bytes: int | None = None) -> Iterator[BufferedReader]:
    """Open a file for reading without ever waiting for it, as one would for a pipe. Raises CorpusError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise CorpusError(_NOT_REGULAR)
            if max_bytes is not None and status.st_size > max_bytes:
                raise too_large(status.st_size, max_bytes)
            with os.fdopen(handle, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(handle)
    except FileNotFoundError as error:
        raise CorpusError("vanished while it was being read; run again") from error
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EOPNOTSUPP):  # a socket
            raise CorpusError(_NOT_REGULAR) from error
        raise CorpusError(f"cannot be read ({error.strerror}); see its permissions") from error


def too_large(size: int, max_bytes: int) -> CorpusError:
    """The refusal of a document of `size` bytes."""
    return CorpusError(
        f"{size / (1 << 20):,.1f} MB, more than index.max_file_mb = {max_bytes >> 20}; split it or raise the limit"
    )


_NOT_REGULAR = "a pipe, socket or device, not a file; remove it"
