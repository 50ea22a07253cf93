"""Documents and questions: what they are. `indexer.readers` reads them from disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class CorpusError(ValueError):
    """A document or question file that cannot be used; the message names the place and the remedy."""


class Split(StrEnum):
    """What a question may be used for; `test` is held out from everything but the final scoring."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


class Owner(StrEnum):
    """Who put a document into the index, and so who changes and removes it."""

    FOLDER = "folder"
    API = "api"


@dataclass(frozen=True, slots=True)
class Document:
    """One source text; `id` is the path relative to the documents folder (or the `id` of a JSON line)."""

    id: str
    title: str
    text: str
    metadata: Mapping[str, str | float | bool] = field(default_factory=dict, hash=False)
    """What a search can be restricted to; `indexer.metadata` says what is allowed."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The span `document.text[start:end]` that supports an answer."""

    document_id: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its accepted answers; no answers means that the corpus does not answer it."""

    id: str
    text: str
    answers: tuple[str, ...]
    document_ids: tuple[str, ...]
    split: Split
    evidence: tuple[Evidence, ...] = ()
    synthetic: bool = False
    """Whether it was made from the documents instead of asked by somebody; said wherever scores are shown."""

    @property
    def answerable(self) -> bool:
        """Whether the corpus answers it."""
        return bool(self.answers)
