"""Which rows are trained on together, and in which order."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from indexer.files import hash_json
from tuner.config import TuneConfig
from tuner.examples import Row, RowKind

_READING = (RowKind.OPEN_BOOK, RowKind.ABSTENTION, RowKind.REFRESHER)
_ROWS_IN_WINDOW = 512


@dataclass(frozen=True, slots=True)
class Plan:
    """The batches of a whole run, in order; a pure function of rows, settings and seed."""

    batches: list[list[Row]]
    reading: int = 0
    """How many of the last batches teach reading; they have a learning rate of their own."""

    @property
    def facts(self) -> int:
        """How many batches come before those."""
        return len(self.batches) - self.reading

    @property
    def tokens(self) -> int:
        """Real tokens, without padding."""
        return sum(map(count_tokens, self.batches))

    @property
    def identity(self) -> str:
        """Hash of every token in order: a checkpoint is continued only on the very same plan."""
        return hash_json([[[row.prompt, row.completion] for row in batch] for batch in self.batches])


def plan_batches(rows: Sequence[Row], settings: TuneConfig) -> Plan:
    """First all rows that teach what the documents say, then those that teach to read passages.

    Facts want large steps and many of them; answering from a passage is a small turn of what the model can do
    already, which large steps ruin.
    """
    facts = [row for row in rows if row.kind not in _READING]
    if all(row.kind is RowKind.REPLAY for row in facts):  # general texts belong to whatever is learned
        facts = []
    reading = _batches([row for row in rows if row.kind in _READING or not facts], settings)
    return Plan([*_batches(facts, settings), *reading], len(reading))


def _batches(rows: Sequence[Row], settings: TuneConfig) -> list[list[Row]]:
    """Shuffle all rows, then group those of similar length within windows of the shuffled order.

    So little of a batch is padding, and yet kinds and lengths alternate.
    """
    randomness = random.Random(settings.seed)
    shuffled = list(rows)
    randomness.shuffle(shuffled)
    batches: list[list[Row]] = []
    for start in range(0, len(shuffled), _ROWS_IN_WINDOW):
        window = sorted(shuffled[start : start + _ROWS_IN_WINDOW], key=len)
        cut = list(_cut(window, settings.tokens_per_step))
        randomness.shuffle(cut)
        batches.extend(cut)
    return batches


def count_tokens(batch: Sequence[Row]) -> int:
    """Real tokens, without padding."""
    return sum(len(row) for row in batch)


def _cut(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Batches of rows (sorted by length) whose padded size stays within `tokens`."""
    batch: list[Row] = []
    for row in rows:
        if batch and len(row) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
