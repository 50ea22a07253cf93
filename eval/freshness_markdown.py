"""What `openbook eval freshness` found, as Markdown: for the terminal and `freshness.md`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eval.freshness import ENOUGH, FreshnessResult, Moment
from eval.result import Measure


def format_freshness(result: FreshnessResult) -> str:
    """A table of the routes, and a list of what was done and what it cost."""
    return "\n".join([*_table(result), "", *(f"- {note}" for note in _notes(result))])


def _table(result: FreshnessResult) -> Iterator[str]:
    header = [
        "route",
        "old, before",
        "new, after",
        "old, after",
        "new / old before",
        "new - old before",
        "same words",
        "right in",
    ]
    header += ["retrained: new", "right in"] if result.retraining else []
    yield _row([*header, ""])
    yield _row(["---"] * (len(header) + 1))
    for name, route in result.routes.items():
        cells = [
            name,
            _share(route.before.old),
            _share(route.after.new),
            _share(route.after.old),
            "-" if route.kept is None else f"{route.kept:.2f}",
            _change(route.change),
            f"{route.unchanged:.0%}",
            _soon(route.after),
        ]
        if result.retraining:
            again = route.retrained
            cells += ["-", "-"] if again is None else [_share(again.new), _soon(again)]
        yield _row([*cells, route.state])


def _notes(result: FreshnessResult) -> Iterator[str]:
    sync, currency = result.sync, result.currency
    learned = sum(change.learned for change in result.changes)
    yield (
        f"{result.n} questions about {sync.documents} changed documents; shares of answers that hold the fact [95 % "
        f"CI]; fresh: new answers at least {ENOUGH} of the old ones before."
    )
    if learned:
        yield (
            f"{learned} of the questions, or nearly these, stand in train or dev: before the changes, what routes that "
            "learn from them score is not held out."
        )
    yield (
        f"Sync: {sync.seconds:.1f} s, {sync.chunks_embedded} chunks ({sync.tokens_embedded:,} tokens) embedded, "
        f"{sync.cost:.2g} {currency}."
    )
    for key, adapter in result.adapters.items():
        changed = (
            ""
            if adapter.changed_documents is None
            else f"{adapter.changed_documents} of its documents changed; "
        )
        took = (
            "what training it takes is not known"
            if adapter.training_seconds is None or adapter.training_cost is None
            else f"training it took {adapter.training_seconds:,.0f} s, {adapter.training_tokens or 0:,} tokens, "
            f"{adapter.training_cost:.2g} {currency}"
        )
        yield f"{key} ({', '.join(adapter.routes)}): {changed}{took}."
    if (again := result.retraining) is not None:
        yield (
            f"Trained again: {again.adapter}, {again.seconds:,.0f} s, {again.tokens:,} tokens, {again.cost:.2g} "
            f"{currency}; without {again.questions_left_out} questions that the changes bear on."
        )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _share(share: Measure) -> str:
    return f"{share.mean:.2f} [{share.ci[0]:.2f}, {share.ci[1]:.2f}]"


def _change(change: Measure) -> str:
    return f"{change.mean:+.2f} [{change.ci[0]:+.2f}, {change.ci[1]:+.2f}]"


def _soon(moment: Moment) -> str:
    if moment.seconds is None:
        return "never"
    return f"{moment.seconds.median:.1f} s (at most {moment.seconds.longest:.1f} s)"
