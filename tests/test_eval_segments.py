"""Advice by kind of question."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from eval.config import EvalConfig
from eval.segments import segment_advice, segments
from indexer.corpus import Question
from tests.fakes_eval import make_questions

SETTINGS = EvalConfig(resamples=2000)


def questions() -> list[Question]:
    """60 about `guides/`, 60 about `prices/`; answers of the latter are numbers."""
    return [
        replace(
            q,
            document_ids=(f"{'guides' if n < 60 else 'prices'}/{n % 12}.md",),
            answers=("a clerk",) if n < 60 else (f"{n} marks",),
        )
        for n, q in enumerate(make_questions(120))
    ]


def test_segments_are_folders_and_kinds_of_answers() -> None:
    assert {name: len(places) for name, places in segments(questions()).items()} == {
        "about guides/": 60,
        "answer is a name or phrase": 60,
        "about prices/": 60,
        "answer is a number": 60,
    }
    assert segments(make_questions(30, documents=1)) == {}


def test_another_route_is_advised_where_it_is_clearly_better() -> None:
    rng = np.random.default_rng(0)
    rag = np.where(np.arange(120) < 60, 0.2, 0.9) + rng.normal(0, 0.05, 120)
    scores = {"hybrid": np.full(120, 0.7), "rag": rag}
    found = segment_advice(questions(), scores, "hybrid", SETTINGS)
    assert (found["about prices/"].use, found["about prices/"].differs) == ("rag", True)
    assert (found["about guides/"].use, found["about guides/"].differs) == ("hybrid", False)
    assert found["about prices/"].documents == 12


def test_chance_in_one_of_many_segments_is_no_advice() -> None:
    asked = questions()
    false = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scores = {name: rng.integers(0, 2, 120).astype(float) for name in ("base", "rag", "tuned", "hybrid")}
        found = segment_advice(asked, scores, "hybrid", SETTINGS)
        false += any(segment.differs for segment in found.values())
    assert false <= 6  # 5 % of 60, and room for chance
