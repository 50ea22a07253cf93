"""Answers drawn several times: variance of decoding apart from that of questions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from eval.config import EvalConfig
from eval.markdown import markdown_report
from eval.repeats import SampledAsker, repeats_result
from eval.run import Extras, Repeats, evaluate
from tests.fakes_eval import ROUTES, SETUP, ScriptedRoutes, make_questions, right_answer
from tests.fakes_service import ScriptedGenerator, make_answerer
from tests.tiny import tiny_adapter, tiny_base

PAIRS = [("How high is the tower?", ROUTES["rag"]), ("Who built the oven?", ROUTES["hybrid"])]


def test_every_question_of_every_repeat_is_drawn_with_its_own_seed(tmp_path: Path) -> None:
    base, generator = tiny_base(), ScriptedGenerator()
    tiny_adapter(tmp_path, base)
    answerer = make_answerer(tmp_path, generator, base)
    askers = [SampledAsker(answerer, SETUP, 0.7, repeat) for repeat in range(3)]
    for asker in askers:
        asker.answer_many(PAIRS)
    sampling = [request.sampling for batch in generator.history for request in batch]
    assert {one.temperature for one in sampling} == {0.7}
    assert {one.max_new_tokens for one in sampling} == {32}
    assert len({one.seed for one in sampling}) == 6
    keys = [key for asker in askers for key in asker.keys(PAIRS)]
    assert len(set(keys)) == 6
    assert SampledAsker(answerer, SETUP, 0.7, 0).keys(PAIRS) == keys[:2]


def test_variance_is_split_between_questions_and_decoding() -> None:
    questions = make_questions(4, documents=4)
    scores = np.array([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    found = repeats_result(scores, questions, 0.7, 1000, 0)
    assert found.mean == 0.375
    assert found.standard_deviation_runs == pytest.approx(0.25 / math.sqrt(2))
    # within: one of four questions varies with variance 0.5; between: means 1, 0, 0.5, 0 have variance 0.171875
    assert found.share_of_decoding == pytest.approx(0.125 / (0.125 + 0.171875))
    assert repeats_result(np.ones((3, 4)), questions, 0.7, 1000, 0).share_of_decoding == 0.0


def test_repeats_are_scored_beside_the_usual_answers_and_kept(tmp_path: Path) -> None:
    questions, routes = make_questions(24), {"rag": ROUTES["rag"]}
    settings = EvalConfig(resamples=1000, latency_questions=1)
    drawn = [
        ScriptedRoutes(lambda text, route, n=n: right_answer(text) if text != f"question {n}?" else "no")
        for n in range(3)
    ]
    extras = Extras(repeats=Repeats(drawn, 0.7))
    usual = ScriptedRoutes(lambda text, route: right_answer(text))
    evaluation = evaluate(usual, questions, routes, tmp_path, settings, extras)
    assert evaluation.result.repeats["rag"].mean == pytest.approx(23 / 24)
    assert evaluation.result.repeats["rag"].standard_deviation_runs == 0.0
    assert evaluation.result.routes["rag"].metrics["f1"].mean == 1.0
    assert "3 runs at temperature 0.7" in markdown_report(evaluation.result)
    asked = [len(asker.calls) for asker in drawn]
    assert evaluate(usual, questions, routes, tmp_path, settings, extras).result == evaluation.result
    assert [len(asker.calls) for asker in drawn] == asked
