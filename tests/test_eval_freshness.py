"""How routes answer once documents change: with the old fact or the new, how soon, and at what cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eval.config import EvalConfig, Prices
from eval.freshness import Asked, adapter_freshness, route_freshness, says, sync_cost
from eval.scratch import Applied
from service.routes import Route
from tests.fakes_changes import change
from tests.fakes_eval import ROUTES, make_answer
from tests.tiny import tiny_adapter, tiny_base

SETTINGS = EvalConfig(resamples=1000)
CHANGES = [
    change(
        id=f"c{n}", document_id=f"{n}.md", question=f"{n}?", answer_before=f"old{n}", answer_after=f"new{n}"
    )
    for n in range(10)
]


@pytest.mark.parametrize(
    ("answer", "wanted", "other", "held"),
    [
        ("It rings at dawn.", "dawn", "noon", True),
        ("It rings at dawning.", "dawn", "noon", False),
        ("1,860", "1,860 marks", "2,145 marks", True),
        ("marks", "1,860 marks", "2,145 marks", False),
        ("Gwil", "Gwil Matheson", "Tamsin Ferrier", False),
        ("6 or 7 days", "6 or 7 days", "7 days", True),
        ("6 or 7 days", "7 days", "6 or 7 days", False),
        ("7 days", "7 days", "6 or 7 days", True),
    ],
)
def test_an_answer_holds_a_fact_by_the_words_that_tell_it_from_the_other(
    answer: str, wanted: str, other: str, held: bool
) -> None:
    assert says(answer, wanted, other) is held


def asked(route: Route, words: str, waited: float | None = None, milliseconds: float = 10.0) -> Asked:
    """Route `route` answers change n by the nth of `words` and n."""
    answers = [
        make_answer(f"{n}?", route, f"{word}{n}", milliseconds=milliseconds)
        for n, word in enumerate(words.split())
    ]
    return Asked({route.name: answers}, waited)


@pytest.mark.parametrize(
    ("route", "before", "after", "state", "kept"),
    [
        ("rag", "old old old old old no no no no no", "new new new new no no no no no no", "fresh", 0.8),
        ("rag", "old old old old old no no no no no", "new new new old no no no no no no", "partly", 0.6),
        ("rag", "old old no no no no no no no no", "old old no no no no no no no no", "stale", 0.0),
        ("tuned", "no no no no no no no no no no", "no no no no no no no no no no", "stale", None),
        ("base", "no no no no no no no no no no", "no no no no no no no no no no", "unaffected", None),
    ],
)
def test_a_route_is_judged_by_the_share_of_right_answers_it_keeps(
    route: str, before: str, after: str, state: str, kept: float | None
) -> None:
    one = ROUTES[route]
    found = route_freshness({route: one}, CHANGES, asked(one, before), asked(one, after, 2.0), None, SETTINGS)
    assert found[route].state == state
    assert found[route].kept == (None if kept is None else pytest.approx(kept))
    assert found[route].change.mean == pytest.approx((after.count("new") - before.count("old")) / 10)
    assert found[route].before.seconds is None
    same = sum(a == b for a, b in zip(before.split(), after.split(), strict=True))
    assert found[route].unchanged == pytest.approx(same / 10)


def test_time_until_right_counts_from_the_edit() -> None:
    rag = ROUTES["rag"]
    before, after = (
        asked(rag, "old " * 10),
        asked(rag, "new " * 9 + "old", waited=2.0, milliseconds=500.0),
    )
    retrained = asked(rag, "new " * 10, waited=60.0, milliseconds=500.0)
    found = route_freshness({"rag": rag}, CHANGES, before, after, retrained, SETTINGS)["rag"]
    assert found.before.old.mean == found.before.score.mean == 1.0
    assert found.after.new.mean == found.after.score.mean == pytest.approx(0.9)
    assert found.after.old.mean == pytest.approx(0.1)
    assert found.after.seconds is not None
    assert (found.after.seconds.n, found.after.seconds.longest) == (9, 2.5)
    assert found.retrained is not None
    assert found.retrained.seconds is not None
    assert found.retrained.seconds.median == 60.5


def test_costs_are_seconds_times_prices(tmp_path: Path) -> None:
    prices = Prices(machine_hour=3.6, training_hour=7.2)
    assert sync_cost(Applied(2.0, 3, 4, 500), prices).cost == pytest.approx(0.002)
    adapter = tiny_adapter(tmp_path, tiny_base())
    unknown = adapter_freshness(adapter, ["tuned"], None, prices)
    assert (unknown.training_seconds, unknown.training_cost) == (None, None)
    trained = replace(adapter, manifest=adapter.manifest.model_copy(update={"seconds": 10.0, "tokens": 900}))
    known = adapter_freshness(trained, ["tuned"], 3, prices)
    assert (known.training_seconds, known.training_tokens, known.changed_documents) == (10.0, 900, 3)
    assert known.training_cost == pytest.approx(0.02)
