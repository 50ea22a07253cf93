"""What an adapter has seen: its documents and questions by hash, kept beside its weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from indexer.corpus import Question
from indexer.files import hash_text
from indexer.splits import words
from tuner.registry import AdapterError, AdapterVersion

log = logging.getLogger("openbook.tuner")

_FILE = "trained_on.json"
_NAMED = 5


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """Hashes by id: of each document's title and text, of each train or dev question's words."""

    documents: dict[str, str]
    questions: dict[str, str]

    def write(self, folder: Path) -> None:
        """Put it among an adapter's files."""
        (folder / _FILE).write_text(json.dumps(asdict(self), indent=1, sort_keys=True))


@dataclass(frozen=True, slots=True)
class Staleness:
    """Ids of documents that are no longer as the adapter saw them."""

    changed: tuple[str, ...]
    removed: tuple[str, ...]
    added: tuple[str, ...]

    def describe(self, generation: int) -> str:
        """One line, empty if nothing has changed."""
        parts = [
            f"{len(ids)} document{'' if len(ids) == 1 else 's'} {what} since ({_named(ids)})"
            for ids, what in ((self.changed, "changed"), (self.removed, "removed"), (self.added, "added"))
            if ids
        ]
        if not parts:
            return ""
        warning = (
            "; these facts may be old" if self.changed or self.removed else "; it knows nothing of these"
        )
        return f"trained on generation {generation}; {', '.join(parts)}{warning}"


def read_trained_on(adapter: AdapterVersion) -> TrainedOn | None:
    """What the adapter has seen; None for one that was imported or trained before this was recorded."""
    file = adapter.path / _FILE
    return TrainedOn(**json.loads(file.read_text())) if file.is_file() else None


def staleness(adapter: AdapterVersion, content_hashes: Mapping[str, str]) -> Staleness | None:
    """How the documents differ from those the adapter saw; None if that is not known."""
    if (seen := read_trained_on(adapter)) is None:
        return None
    then, now = seen.documents, content_hashes
    return Staleness(
        changed=tuple(sorted(i for i in then.keys() & now.keys() if then[i] != now[i])),
        removed=tuple(sorted(then.keys() - now.keys())),
        added=tuple(sorted(now.keys() - then.keys())),
    )


def refuse_seen_questions(adapter: AdapterVersion, test: Iterable[Question]) -> None:
    """Raise AdapterError if the adapter was trained or chosen on one of these test questions.

    That happens when splits change after training. Questions count as the same by their words, whatever their id.
    An adapter of which it is not known is let pass with a warning.
    """
    if (seen := read_trained_on(adapter)) is None:
        log.warning(
            "adapter %s: what it was trained on is not known, so it may have seen test questions", adapter.key
        )
        return
    hashes = set(seen.questions.values())
    if known := [q.id for q in test if question_hash(q) in hashes]:
        raise AdapterError(
            f"adapter {adapter.key} was trained on {len(known)} of the test questions ({_named(known)}): the splits "
            "have changed since; train it again with `openbook tune`"
        )


def question_hash(question: Question) -> str:
    """Identity of a question by its words."""
    return hash_text(*sorted(words(question.text)))


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_NAMED]) + (", …" if len(ids) > _NAMED else "")
