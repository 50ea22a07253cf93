"""Answers and the passages they rest on; retrieval by ir-measures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from eval.config import EvalConfig
from eval.grounding import grounding, similarity_scores, vectors_for
from eval.markdown import markdown_report
from eval.run import Extras, evaluate
from indexer.corpus import Evidence, Question, Split
from indexer.retrieval_metrics import first_ranks, ndcg_at, reciprocal_rank, retrieval_scores
from indexer.snapshot import Chunk
from tests.fakes import HashEncoder
from tests.fakes_eval import ROUTES, ScriptedRoutes, make_answer, make_context, make_questions, right_answer

SETTINGS = EvalConfig(resamples=1000, latency_questions=1)
ASKED = Question(
    "q", "How long?", ("30 hours",), ("flood.md",), Split.TEST, (Evidence("flood.md", 100, 140),)
)
GOLD = make_context("flood.md", 100, 200, "The tube is aired. It takes 30 hours.")
OTHER = make_context("tariff.md", 0, 100, "A Wren takes 30 hours.")


def test_answers_are_grounded_and_cited_where_passages_hold_them() -> None:
    answer = replace(
        make_answer("How long?", ROUTES["rag"], "30 hours", [GOLD, OTHER]), citations=(GOLD, OTHER)
    )
    vectors = vectors_for(HashEncoder(), [ASKED], {"rag": [answer]})
    found = grounding([ASKED], [answer], SETTINGS, vectors)
    assert (found.n, found.lexical.mean, found.citation_precision.mean, found.citation_recall.mean) == (
        1,
        1.0,
        0.5,
        1.0,
    )
    # "30 hours" has 2 words of the 4 in "It takes 30 hours."
    assert found.semantic.mean == pytest.approx(2 / math.sqrt(2 * 4))
    assert similarity_scores([ASKED], [answer], vectors).tolist() == [pytest.approx(1.0)]


def test_silence_and_answers_without_passages_are_not_judged() -> None:
    silent = make_answer("How long?", ROUTES["rag"], "I don't know.", [GOLD])
    bare = make_answer("How long?", ROUTES["base"], "30 hours")
    assert grounding([ASKED, ASKED], [silent, bare], SETTINGS, None) is None


def test_a_set_of_labels_is_scored_beside_the_majority(tmp_path: Path) -> None:
    labels = ["yes", "yes", "no"]
    questions = [replace(q, answers=(labels[n % 3],)) for n, q in enumerate(make_questions(30))]
    gold = {q.text: q.answers[0] for q in questions}
    model = ScriptedRoutes(lambda text, route: f"{gold[text]}, it is" if route.retrieve else "yes")
    evaluation = evaluate(model, questions, ROUTES, tmp_path, SETTINGS, Extras(encoder=HashEncoder()))
    result = evaluation.result
    assert result.multiple_choice.majority_share == pytest.approx(2 / 3)
    assert result.routes["rag"].metrics["multiple_choice"].mean == 1.0
    assert result.routes["base"].metrics["multiple_choice"].mean == pytest.approx(2 / 3)
    assert result.routes["base"].metrics["semantic_similarity"].mean >= 2 / 3
    assert "Always saying 'yes' is right on 0.667" in markdown_report(result)


def test_other_answers_are_no_labels(tmp_path: Path) -> None:
    model = ScriptedRoutes(lambda text, route: right_answer(text))
    result = evaluate(model, make_questions(30), ROUTES, tmp_path, SETTINGS).result
    assert result.multiple_choice is None
    assert "multiple_choice" not in result.routes["rag"].metrics


def chunk(document_id: str, start: int = 0, end: int = 10) -> Chunk:
    return Chunk(0, document_id, document_id, "", start, end, "x" * (end - start))


def test_retrieval_by_ir_measures_agrees_with_the_formulas() -> None:
    chunks = [chunk(name) for name in ("a", "b", "c", "b", "d")]
    questions = [
        Question(str(n), "?", ("x",), gold, Split.TEST) for n, gold in enumerate([("b",), ("a", "d"), ("z",)])
    ]
    found = retrieval_scores([(question, chunks) for question in questions])
    ranks = [
        first_ranks(q.document_ids, chunks, lambda gold, one: one.document_id == gold) for q in questions
    ]
    assert found["recall@1"] == pytest.approx((0 + 1 / 2 + 0) / 3)
    assert found["recall@5"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["mrr"] == pytest.approx(sum(map(reciprocal_rank, ranks)) / 3)
    assert found["ndcg@10"] == pytest.approx(sum(ndcg_at(10, one) for one in ranks) / 3)
    assert "evidence_mrr" not in found


def test_evidence_is_scored_apart_and_the_unanswerable_not_at_all() -> None:
    chunks = [chunk("a"), chunk("b", 0, 10), chunk("b", 10, 20)]
    asked = Question("1", "?", ("x",), ("b",), Split.TEST, (Evidence("b", 12, 18),))
    silent = Question("2", "?", (), ("c",), Split.TEST)
    found = retrieval_scores([(asked, chunks), (silent, chunks)])
    assert (found["mrr"], found["evidence_mrr"]) == (pytest.approx(1 / 2), pytest.approx(1 / 3))
    assert retrieval_scores([(silent, chunks)]) == {}
