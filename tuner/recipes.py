"""The rows of a whole run, and what they amount to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tuner.config import TuneConfig
from tuner.examples import Row, RowBuilder
from tuner.train import Plan


class RecipeError(ValueError):
    """A recipe that leaves nothing to train on; the message names the remedy."""


def build_rows(builder: RowBuilder, settings: TuneConfig) -> list[Row]:
    """All rows of a run: every pass of every kind, as the recipe asks."""
    randomness = builder.randomness
    rows: list[Row] = []
    if settings.recipe != "open-book":
        for _ in range(settings.document_passes):
            rows += builder.document_rows(randomness)
        for _ in range(settings.cloze_passes):
            rows += builder.cloze_rows(randomness)
        for _ in range(settings.section_passes):
            rows += builder.section_rows()
        for _ in range(settings.pattern_passes):
            rows += builder.pattern_rows()
        for _ in range(settings.closed_book_passes):
            rows += builder.closed_book_rows()
    if settings.recipe != "closed-book":
        for _ in range(settings.open_book_passes):
            rows += builder.open_book_rows(randomness)
    if not rows:
        raise RecipeError("every pass of the recipe is 0: there is nothing to train on; raise one in [tune]")
    return rows


def format_plan(rows: Sequence[Row], plan: Plan) -> str:
    """Rows and tokens by kind, before training starts."""
    counts: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for row in rows:
        counts[row.kind] += 1
        tokens[row.kind] += len(row)
    lines = [f"  {kind:<12} {counts[kind]:>6} rows {tokens[kind]:>9,} tokens" for kind in sorted(counts)]
    total = f"  {'in all':<12} {len(rows):>6} rows {plan.tokens:>9,} tokens, {len(plan.batches)} steps"
    return "\n".join(["training rows:", *lines, total])
