"""The rows of a whole run, and what they amount to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tuner.batches import Plan
from tuner.config import TuneConfig
from tuner.examples import Row, RowBuilder, RowKind


class RecipeError(ValueError):
    """A recipe that leaves nothing to train on; the message names the remedy."""


def build_rows(builder: RowBuilder, settings: TuneConfig, replay: Sequence[str] = ()) -> list[Row]:
    """All rows of a run: every pass of every kind, as the recipe asks, and general texts of `replay` among them."""
    randomness = builder.randomness
    rows: list[Row] = []
    # Reading comes last, and what is not asked meanwhile is soon forgotten.
    refreshed = (
        settings.recipe == "mixed" and settings.closed_book_passes > 0 and settings.open_book_passes > 0
    )
    if settings.recipe != "open-book":
        for _ in range(settings.document_passes):
            rows += builder.document_rows(randomness)
        for _ in range(settings.cloze_passes):
            rows += builder.cloze_rows(randomness)
        for _ in range(settings.section_passes):
            rows += builder.section_rows()
        for _ in range(settings.pattern_passes):
            rows += builder.pattern_rows()
        for _ in range(settings.closed_book_passes - refreshed):
            rows += builder.closed_book_rows()
    if settings.recipe != "closed-book":
        for _ in range(settings.open_book_passes):
            rows += builder.open_book_rows(randomness)
    if refreshed:
        rows += builder.closed_book_rows(RowKind.REFRESHER)
    if not rows:
        raise RecipeError("every pass of the recipe is 0: there is nothing to train on; raise one in [tune]")
    if replay:
        share = settings.replay_share
        rows += builder.replay_rows(replay, round(len(rows) * share / (1 - share)), randomness)
    return rows


def read_replay(file: Path) -> list[str]:
    """The general texts of a `.jsonl`. Raises RecipeError that names the line."""
    try:
        # Not splitlines(): JSON may hold what that takes for the end of a line.
        lines = file.read_text("utf-8-sig").split("\n")
    except OSError as error:
        raise RecipeError(f"tune.replay: {file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"tune.replay: {file} is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from error
    texts = []
    for number, line in enumerate(lines, start=1):
        try:
            text = json.loads(line)["text"] if line.strip() else ""
        except (ValueError, KeyError, TypeError) as error:
            raise RecipeError(f'tune.replay: line {number} of {file} is not {{"text": "…"}}') from error
        texts += [text] if isinstance(text, str) and text.strip() else []
    if not texts:
        raise RecipeError(f"tune.replay: {file} has no texts")
    return texts


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
