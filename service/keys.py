"""API keys: who may ask, and who may also change things. Only hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from service.config import ServeConfig

_NAME = re.compile(r"[\w.-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class KeyFileError(ValueError):
    """A file of keys that cannot be used; the message names the line."""


class Scope(StrEnum):
    """What a key allows."""

    READER = "reader"
    """Asking and looking."""
    ADMIN = "admin"
    """Everything."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key by its SHA-256: keys are long and random, so nothing is won by a slow hash."""

    name: str
    scope: Scope
    digest: str

    def line(self) -> str:
        """As it stands in a file of keys."""
        return f"{self.name} {self.scope} {self.digest}"


def new_key(name: str, scope: Scope) -> tuple[str, Key]:
    """A fresh secret and what is kept of it. Raises KeyFileError if the name cannot stand in a file of keys."""
    if not _NAME.fullmatch(name):
        raise KeyFileError(f"key name {name!r} is not 1 to 64 letters, digits, dots, hyphens and underscores")
    secret = f"ob-{secrets.token_urlsafe(32)}"
    return secret, Key(name, scope, _digest(secret))


def read_keys(config: ServeConfig) -> list[Key]:
    """The key in the environment (an admin's) and those in the file. Raises KeyFileError."""
    keys = []
    if secret := os.environ.get(config.api_key_env):
        keys.append(Key("environment", Scope.ADMIN, _digest(secret)))
    if config.keys_file is not None:
        keys += read_key_file(Path(config.keys_file))
    return keys


def read_key_file(path: Path) -> list[Key]:
    """The keys in a file, each with a name of its own; empty lines and comments (`#`) are passed over.

    Raises KeyFileError.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"cannot read serve.keys_file {path} ({type(error).__name__})") from error
    keys: dict[str, Key] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key = _parse(line, f"{path}:{number}")
        if key.name in keys:
            raise KeyFileError(
                f"{path}:{number}: another key is called {key.name!r} already; choose another name"
            )
        keys[key.name] = key
    if not keys:
        raise KeyFileError(f"serve.keys_file {path} has no keys; add a line of `openbook keys new`")
    return list(keys.values())


def find_key(keys: Sequence[Key], secret: str) -> Key | None:
    """The key that `secret` belongs to; takes equally long whichever it is, or if it is none."""
    digest, found = _digest(secret), None
    for key in keys:
        if hmac.compare_digest(digest, key.digest):
            found = key
    return found


def _parse(line: str, place: str) -> Key:
    name, scope, digest, *more = [*line.split(), "", "", ""]
    if any(more) or not _NAME.fullmatch(name) or scope not in set(Scope) or not _DIGEST.fullmatch(digest):
        raise KeyFileError(f"{place}: expected `NAME reader|admin SHA256`, as `openbook keys new` prints it")
    return Key(name, Scope(scope), digest)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
