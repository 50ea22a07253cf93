"""One archive of all that a workspace cannot rebuild, made while it runs, and a workspace made from it."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from indexer.config import Workspace
from indexer.database import IndexDamaged, connect, reporting_damage
from indexer.files import fsync_folder
from indexer.locking import writer_lock

_FORMAT = "openbook-backup-1"
_MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 64 << 20
_DATA = PurePosixPath(".openbook/data")
_PASSING = ("-wal", "-shm", "-journal", ".lock")
"""Endings of files that belong to running processes."""


class BackupError(ValueError):
    """An archive that cannot be made or used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What an archive holds."""

    files: int
    bytes: int
    """Before compression."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = Field(ge=0)
    sha256: str


class _Manifest(BaseModel):
    format: str
    created: str
    files: dict[str, _Entry]


def backup(workspace: Workspace, file: Path, questions: Sequence[Path] = ()) -> BackupReport:
    """Write `file`: the data, openbook.toml and those of `questions` that lie in the workspace.

    Every database is copied as it is at one moment, whoever writes it; files that vanish meanwhile are left out.
    `file` appears when it is complete. Raises BackupError, IndexDamaged.
    """
    if file.exists():
        raise BackupError(f"{file}: there is such a file already; choose another name")
    if not workspace.data.is_dir():
        raise BackupError(f"{workspace.root}: holds no data yet; run `openbook index` first")
    file.parent.mkdir(parents=True, exist_ok=True)
    manifest = _Manifest(format=_FORMAT, created=datetime.now(UTC).isoformat(timespec="seconds"), files={})
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
        aside = Path(folder) / "archive"
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for path in _files(workspace, questions):
                name = path.relative_to(workspace.root).as_posix()
                source = path
                if path.suffix == ".sqlite":
                    source = Path(folder) / "copy.sqlite"
                    _copy_database(path, source)
                try:
                    manifest.files[name] = _add(archive, name, source)
                except FileNotFoundError:
                    continue
            archive.writestr(_MANIFEST, manifest.model_dump_json(indent=1))
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        os.link(aside, file)  # unlike a rename, never over a file that has come into being meanwhile
    fsync_folder(file.parent)
    return _report(manifest)


def restore(file: Path, workspace: Workspace, replace: bool = False) -> BackupReport:
    """Make the workspace what `file` holds.

    Everything is unpacked and checked beside it first, then renamed into place. A workspace that has data is refused,
    unless `replace`, which keeps them as `.openbook/data.replaced-N`. Raises BackupError, IndexBusy.
    """
    if not workspace.data.exists():
        return _restore(file, workspace, replace)
    if not replace:
        raise BackupError(f"{workspace.root}: has data already; restore into a new folder, or add --replace")
    with writer_lock(workspace):
        return _restore(file, workspace, replace)


def _restore(file: Path, workspace: Workspace, replace: bool) -> BackupReport:
    if not file.is_file():
        raise BackupError(f"{file}: no such file; name an archive that `openbook backup` wrote")
    with _passing_folder(workspace.data.parent / ".restoring") as aside:
        try:
            with zipfile.ZipFile(file) as archive:
                manifest = _read_manifest(archive, file, shutil.disk_usage(aside).free)
                for name, entry in manifest.files.items():
                    _extract(archive, name, entry, aside / name, file)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
            raise BackupError(
                f"{file}: not an archive that can be read ({error}); use another copy"
            ) from error
        except KeyError as error:
            raise BackupError(f"{file}: damaged, {error}; use another copy") from error
        (aside / _DATA).mkdir(parents=True, exist_ok=True)
        for name in manifest.files:
            if not PurePosixPath(name).is_relative_to(_DATA):
                _install(aside / name, workspace.root / name, replace)
        if workspace.data.exists():
            workspace.data.rename(_unused(workspace.data))
        (aside / _DATA).rename(workspace.data)  # last: until then the workspace has the data it had
        fsync_folder(workspace.data.parent)
    shutil.rmtree(workspace.cache, ignore_errors=True)  # derived from other data
    return _report(manifest)


@contextmanager
def _passing_folder(folder: Path) -> Iterator[Path]:
    """Make `folder` and what it lies in; of these, what is empty afterwards is taken away again."""
    shutil.rmtree(folder, ignore_errors=True)  # of a restoration that was interrupted
    made = [parent for parent in folder.parents if not parent.exists()]
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # it has something in it: the restored data
                parent.rmdir()


def _files(workspace: Workspace, questions: Iterable[Path]) -> Iterator[Path]:
    for path in (workspace.config_file, *questions):
        if path.is_file() and path.is_relative_to(workspace.root):
            yield path
    for path in sorted(workspace.data.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(workspace.data).parts)
        if path.is_file() and not path.is_symlink() and not hidden and not path.name.endswith(_PASSING):
            yield path


def _copy_database(path: Path, copy: Path) -> None:
    copy.unlink(missing_ok=True)
    with reporting_damage(path), closing(connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        problem = target.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise IndexDamaged(f"{path}: damaged ({problem}); restore an earlier backup")


def _add(archive: zipfile.ZipFile, name: str, path: Path) -> _Entry:
    with path.open("rb") as source, archive.open(name, "w", force_zip64=True) as target:
        return _copy(source, target)


def _copy(source: IO[bytes], target: IO[bytes], limit: int | None = None) -> _Entry:
    """Copy all, or a little more than `limit` bytes if there are more."""
    digest, size = hashlib.sha256(), 0
    while block := source.read(1 << 20):
        digest.update(block)
        target.write(block)
        size += len(block)
        if limit is not None and size > limit:
            break
    return _Entry(size=size, sha256=digest.hexdigest())


def _read_manifest(archive: zipfile.ZipFile, file: Path, free: int) -> _Manifest:
    names = archive.namelist()
    if _MANIFEST not in names or archive.getinfo(_MANIFEST).file_size > _MAX_MANIFEST_BYTES:
        raise BackupError(f"{file}: not a backup of openbook; use a file that `openbook backup` wrote")
    try:
        manifest = _Manifest.model_validate_json(archive.read(_MANIFEST))
    except ValidationError as error:
        raise BackupError(f"{file}: its {_MANIFEST} is damaged; use another copy") from error
    if manifest.format != _FORMAT:
        raise BackupError(f"{file}: written by another openbook ({manifest.format[:40]}); use that one")
    if sorted(names) != sorted([*manifest.files, _MANIFEST]):
        raise BackupError(f"{file}: holds other files than its manifest says; use another copy")
    for name in manifest.files:
        _require_safe(name, file)
    if (needed := sum(entry.size for entry in manifest.files.values())) > free:
        raise BackupError(f"{file}: needs {needed >> 20} MB, but {free >> 20} MB are free; make room")
    return manifest


def _require_safe(name: str, file: Path) -> None:
    """Refuse a name that leads out of the workspace, or to a place in it that is not for us to write."""
    path = PurePosixPath(name)
    inside = not path.is_absolute() and str(path) == name and not {"..", "."} & set(path.parts)
    hidden = any(part.startswith(".") for part in path.parts) and not path.is_relative_to(_DATA)
    if not inside or hidden or path == _DATA or "\\" in name or "\0" in name:
        raise BackupError(f"{file}: holds the name {name[:80]!r}, which a backup never has; do not use it")


def _extract(archive: zipfile.ZipFile, name: str, entry: _Entry, target: Path, file: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(name) as source, target.open("xb") as written:
        found = _copy(source, written, entry.size)
        written.flush()
        os.fsync(written.fileno())
    if found != entry:
        raise BackupError(f"{file}: {name} is damaged; use another copy")


def _install(new: Path, place: Path, replace: bool) -> None:
    if place.exists() and place.read_bytes() != new.read_bytes():
        if not replace:
            raise BackupError(f"{place}: is there already and differs; move it away, or add --replace")
        place.rename(_unused(place))
    place.parent.mkdir(parents=True, exist_ok=True)
    new.rename(place)


def _unused(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.name}.replaced-{number}")).exists():
        number += 1
    return name


def _report(manifest: _Manifest) -> BackupReport:
    return BackupReport(len(manifest.files), sum(entry.size for entry in manifest.files.values()))
