"""What is known of a document beside its text, and the filters that restrict a search by it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence

from indexer.corpus import CorpusError, Document
from indexer.files import hash_text

Value = str | float | bool
Where = Mapping[str, Value | Sequence[Value]]
"""A filter: every key must have the value, or one of the values, given. A document without the key never fits."""

_MAX_KEYS = 64
_MAX_CHARACTERS = 1024


def check_metadata(metadata: Mapping[str, object]) -> dict[str, Value]:
    """The metadata if a document may have it; raises CorpusError naming the key that is at fault."""
    if len(metadata) > _MAX_KEYS:
        raise CorpusError(f"metadata: {len(metadata)} keys, more than {_MAX_KEYS}; remove some")
    checked: dict[str, Value] = {}
    for key, value in metadata.items():
        if not isinstance(value, str | bool | int | float):
            raise CorpusError(
                f"metadata.{key}: {type(value).__name__} is not possible; use a string, a number or true/false"
            )
        if not key or len(key) > _MAX_CHARACTERS or (isinstance(value, str) and len(value) > _MAX_CHARACTERS):
            raise CorpusError(f"metadata.{key[:40]}: keys and values need 1 to {_MAX_CHARACTERS} characters")
        if "\0" in f"{key}{value}" or not math.isfinite(value if isinstance(value, float) else 0):
            raise CorpusError(f"metadata.{key!r}: holds a NUL character or is not a finite number; change it")
        checked[key] = value
    return checked


def hash_document(document: Document) -> str:
    """SHA-256 (hex) of all that is known of a document but its id."""
    return hash_text(
        document.title, document.text, *(part for pair in encode(document.metadata) for part in pair)
    )


def encode(metadata: Mapping[str, Value]) -> list[tuple[str, str]]:
    """Keys and values as the index keeps them: equal values have equal texts."""
    return [(key, encode_value(value)) for key, value in sorted(metadata.items())]


def encode_value(value: Value) -> str:
    """JSON, with 2.0 written as 2."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


def decode(pairs: Iterable[tuple[str, str]]) -> dict[str, Value]:
    """The reverse of `encode`."""
    return {key: json.loads(value) for key, value in pairs}


def chunks_where(where: Where) -> tuple[str, list[str]]:
    """An SQL query, and its parameters, for the ids of the chunks of all documents that fit.

    Raises CorpusError if a value cannot be one.
    """
    conditions, parameters = [], []
    for key, wanted in where.items():
        several = wanted if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
        values = [check_metadata({key: value})[key] for value in several]
        marks = ", ".join("?" * len(values))
        conditions.append(
            f"document_id IN (SELECT document_id FROM metadata WHERE key = ? AND value IN ({marks}))"  # noqa: S608
        )
        parameters += [key, *(encode_value(value) for value in values)]
    return f"SELECT id FROM chunks WHERE {' AND '.join(conditions) or 'TRUE'}", parameters  # noqa: S608
