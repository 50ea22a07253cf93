"""How likely a route finds the accepted answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.config import EvalConfig
from eval.gold_likelihood import gold_log_likelihoods
from eval.run import Extras, evaluate
from indexer.corpus import Question, Split
from service.generation import LocalGenerator
from tests.fakes_eval import ROUTES, ScriptedRoutes, make_questions, right_answer
from tests.fakes_service import make_answerer
from tests.tiny import tiny_adapter, tiny_base
from tuner.registry import Registry

ASKED = Question("q", "How high is the tower?", ("88 metres", "it is 88 m"), ("folder/tower.md",), Split.TEST)


def test_the_likeliest_accepted_answer_counts_per_token_after_the_prompt_of_the_route(tmp_path: Path) -> None:
    base = tiny_base()
    tiny_adapter(tmp_path, base)
    generator = LocalGenerator(base, Registry(tmp_path))
    answerer = make_answerer(tmp_path, generator, base)
    route = replace(ROUTES["rag"], prompt="completion")
    (found,) = gold_log_likelihoods(answerer, generator, [ASKED], route)

    (prepared,) = answerer.prepare([(ASKED.text, route)])
    prompt = list(prepared.request.prompt)
    by_hand = []
    for answer in ASKED.answers:
        scored = base.tokenizer(f" {answer}")["input_ids"]
        with torch.no_grad():
            logits = base.model(input_ids=torch.tensor([[*prompt, *scored]])).logits[0].log_softmax(dim=-1)
        picked = [float(logits[len(prompt) - 1 + n, token]) for n, token in enumerate(scored)]
        by_hand.append(sum(picked) / len(picked))
    assert found == pytest.approx(max(by_hand), rel=1e-4)

    (tuned,) = gold_log_likelihoods(answerer, generator, [ASKED], ROUTES["hybrid"])
    (plain,) = gold_log_likelihoods(answerer, generator, [ASKED], replace(ROUTES["hybrid"], adapter=None))
    assert tuned != pytest.approx(plain, rel=1e-3)


def test_likelihoods_are_among_the_metrics_of_a_route(tmp_path: Path) -> None:
    model = ScriptedRoutes(lambda text, route: right_answer(text))
    settings = EvalConfig(resamples=1000, latency_questions=1)
    extras = Extras(likelihoods={"rag": -np.linspace(1, 3, 24)})
    result = evaluate(model, make_questions(24), {"rag": ROUTES["rag"]}, tmp_path, settings, extras).result
    measured = result.routes["rag"].metrics["gold_log_likelihood"]
    assert measured.mean == pytest.approx(-2.0)
    assert measured.ci[0] < -2 < measured.ci[1] < 0


def test_one_answer_that_is_next_to_impossible_is_not_taken_for_the_only_wrong_one(tmp_path: Path) -> None:
    model = ScriptedRoutes(lambda text, route: right_answer(text))
    settings = EvalConfig(resamples=1000, latency_questions=1)
    likelihoods = np.full(24, -1.0)
    likelihoods[5] = -61.0
    extras = Extras(likelihoods={"rag": likelihoods})
    result = evaluate(model, make_questions(24), {"rag": ROUTES["rag"]}, tmp_path, settings, extras).result
    measured = result.routes["rag"].metrics["gold_log_likelihood"]
    assert measured.mean == pytest.approx(-3.5)
    # The standard error is that of one of twelve documents, 60 / 24, times the t of 11 degrees of freedom.
    assert measured.ci == pytest.approx((-3.5 - 2.5 * 2.201, 0.0), abs=0.01)
