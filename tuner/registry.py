"""Adapters on disk: immutable versions with manifests, and one promoted version a name."""

from __future__ import annotations

import errno
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel as Schema
from pydantic import ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from indexer.files import fsync_files, fsync_folder, hash_files, write_atomically
from tuner.gates import Gates

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_DELETED = ".deleted"
_ASIDE = ".new."
_ABANDONED_SECONDS = 3600.0
_TAKEN = re.compile(r"\d+(\.deleted)?")


class AdapterError(ValueError):
    """An adapter that is unknown, damaged or not for this base model."""


class Manifest(Schema):
    """Where an adapter comes from: enough to reproduce it and to refuse it where it does not belong."""

    model_config = ConfigDict(extra="forbid")

    base_model: str
    base_model_hash: str
    corpus_hash: str
    corpus_generation: int
    questions_hash: str
    prompt_hash: str
    recipe: str
    method: str
    settings: dict[str, Any]
    seed: int
    rows: dict[str, int]
    tokens: int
    steps: int
    seconds: float
    dev_scores: dict[str, float]
    weights_hash: str
    versions: dict[str, str]
    created: str


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One immutable version of an adapter."""

    name: str
    version: int
    path: Path
    manifest: Manifest

    @property
    def key(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


class Registry:
    """Adapters below one folder: `<name>/<version>/` with PEFT's own files, and `<name>/promoted.json`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Every adapter with at least one complete version."""
        if not self.root.is_dir():
            return []
        return sorted(
            folder.name for folder in self.root.iterdir() if folder.is_dir() and self.versions(folder.name)
        )

    def versions(self, name: str) -> list[int]:
        """Complete versions of `name`, oldest first."""
        folder = self.root / name
        if not _NAME.fullmatch(name) or not folder.is_dir():
            return []
        return sorted(
            int(p.name) for p in folder.iterdir() if p.name.isdigit() and (p / "manifest.json").is_file()
        )

    def promoted(self, name: str) -> int | None:
        """The version that routes naming just `name` use; none if that is not known, as the file is damaged."""
        pointer = self.root / name / "promoted.json"
        if not pointer.is_file():
            return None
        try:
            return int(json.loads(pointer.read_text())["version"])
        except (ValueError, KeyError, TypeError):
            return None

    def resolve(self, ref: str) -> AdapterVersion:
        """`name` for its promoted version, `name@3` for that one. Raises AdapterError."""
        name, version = self._locate(ref)
        path = self.root / name / str(version)
        try:
            manifest = Manifest.model_validate_json((path / "manifest.json").read_text())
        except (OSError, ValidationError) as error:
            raise AdapterError(
                f"adapter {name}@{version} has no readable manifest.json; train it again, or remove it with "
                f"`openbook adapters delete {name}@{version}`"
            ) from error
        return AdapterVersion(name, version, path, manifest)

    def _locate(self, ref: str) -> tuple[str, int]:
        """Name and version; the files may be damaged. Raises AdapterError."""
        name, _, wanted = ref.partition("@")
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.names()) or "none yet"
            raise AdapterError(f"unknown adapter {name!r} (known: {known}); train it with `openbook tune`")
        if wanted and (not wanted.isdigit() or int(wanted) not in versions):
            raise AdapterError(
                f"adapter {name!r} has no version {wanted!r}; it has {', '.join(map(str, versions))}"
            )
        version = int(wanted) if wanted else self.promoted(name)
        if version is None:
            raise AdapterError(
                f"no version of adapter {name!r} is promoted; run `openbook adapters promote {name}@{versions[-1]}`"
            )
        return name, version

    def add(self, name: str, write: Callable[[Path], None], manifest: Mapping[str, Any]) -> AdapterVersion:
        """Publish a new version in one rename; `write` puts its files into the folder it is given.

        Versions of deleted adapters are never given again. Raises AdapterError.
        """
        if not _NAME.fullmatch(name):
            raise AdapterError(f"adapter name {name!r} is not lower-case letters, digits and hyphens")
        home = self.root / name
        home.mkdir(parents=True, exist_ok=True)
        _sweep(home)
        aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=home))
        try:
            write(aside)
            complete = Manifest.model_validate({**manifest, "weights_hash": adapter_hash(aside)})
            require_sound_tensors(aside / "adapter_model.safetensors")
            (aside / "manifest.json").write_text(complete.model_dump_json(indent=2))
            aside.chmod(0o755)
            fsync_files(aside)
            version = self._publish(home, aside)
        except SafetensorError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise OSError(f"cannot write adapter {name!r} to {home}: {error}") from error
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        return AdapterVersion(name, version, home / str(version), complete)

    def promote(self, name: str, version: int) -> None:
        """Make `version` the one that routes use; atomic."""
        self.resolve(f"{name}@{version}")
        write_atomically(self.root / name / "promoted.json", json.dumps({"version": version}))

    def record_gates(self, adapter: AdapterVersion, gates: Gates) -> None:
        """Keep what the gates found beside the adapter."""
        write_atomically(adapter.path / "gates.json", json.dumps(asdict(gates), indent=2))

    def gates(self, adapter: AdapterVersion) -> Gates | None:
        """What the gates found, or None if the adapter has not been measured."""
        file = adapter.path / "gates.json"
        if not file.is_file():
            return None
        found = json.loads(file.read_text())
        return Gates(tuple(found["failures"]), found["figures"], found.get("conditions", ""))

    def delete(self, ref: str) -> str:
        """Remove a version's files for good, damaged or not; its key. Raises AdapterError for the promoted one."""
        name, version = self._locate(ref)
        key, path = f"{name}@{version}", self.root / name / str(version)
        if self.promoted(name) == version:
            raise AdapterError(
                f"{key} is promoted; promote another version before you delete it"
                if len(self.versions(name)) > 1
                else f"{key} is promoted and the only version; routes with adapter {name!r} need it"
            )
        # Its number stays taken: whoever remembers `name@version` must never get other weights under it.
        write_atomically(path.with_name(f"{version}{_DELETED}"), "")
        gone = path.with_name(f".{version}.gone")
        path.rename(gone)
        fsync_folder(gone.parent)
        shutil.rmtree(gone, ignore_errors=True)  # what cannot be removed now goes with the next version
        return key

    def _publish(self, home: Path, aside: Path) -> int:
        while True:
            taken = [int(p.name.removesuffix(_DELETED)) for p in home.iterdir() if _TAKEN.fullmatch(p.name)]
            version = max(taken, default=0) + 1
            try:
                aside.rename(home / str(version))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue  # another process published this number meanwhile
            fsync_folder(home)
            return version


def _sweep(home: Path) -> None:
    """Remove what killed processes left: versions half deleted, and half written ones that nobody writes any more."""
    for left in [*home.glob(".*.gone"), *home.glob(f"{_ASIDE}*")]:
        with suppress(FileNotFoundError):  # published or removed by another process meanwhile
            if left.name.endswith(".gone") or time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def check_adapter(adapter: AdapterVersion, base_model: str, base_model_hash: str) -> None:
    """Refuse an adapter trained for another base model, or whose weights are not the ones it was saved with."""
    if adapter.manifest.base_model_hash != base_model_hash:
        raise AdapterError(
            f"adapter {adapter.key} was trained for base model {adapter.manifest.base_model!r}, "
            f"not for {base_model!r}; set model.base accordingly or train it again with `openbook tune`"
        )
    if adapter_hash(adapter.path) != adapter.manifest.weights_hash:
        raise AdapterError(
            f"the weights of adapter {adapter.key} are damaged; train it again with `openbook tune`"
        )


def require_sound_tensors(file: Path) -> None:
    """Raise AdapterError if the file has no tensors, or one with a number that is none."""
    try:
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
            broken = [name for name in names if not bool(tensors.get_tensor(name).isfinite().all())]
    except SafetensorError as error:
        raise AdapterError(f"{file} is not a whole safetensors file: {error}") from error
    if not names:
        raise AdapterError(f"{file.name} has no weights in it")
    if broken:
        raise AdapterError(
            f"{len(broken)} of {len(names)} tensors in {file.name} hold NaN or infinite numbers (the first: "
            f"{broken[0]}); such an adapter cannot answer"
        )


def adapter_hash(folder: Path) -> str:
    """Identity of an adapter's weights and configuration. Raises AdapterError if a file is missing."""
    files = [folder / "adapter_config.json", folder / "adapter_model.safetensors"]
    for file in files:
        if not file.is_file():
            pickled = " (a .bin file can run code when it is opened)" if any(folder.glob("*.bin")) else ""
            raise AdapterError(f"{file} is missing; only PEFT adapters in safetensors are loaded{pickled}")
    return hash_files(files)
