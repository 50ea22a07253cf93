"""The ceiling: routes shown exactly the passages that hold the answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.asking import LocalAsker
from eval.config import EvalConfig
from eval.examples import examples
from eval.oracle import gold_chunks, with_gold_passages
from eval.run import Extras, Oracle, evaluate
from indexer.corpus import Evidence, Question, Split
from indexer.snapshot import Chunk
from tests.fakes_eval import ROUTES, SETUP, ScriptedRoutes, make_answer, make_questions, right_answer
from tests.fakes_service import FakeIndex, ScriptedGenerator, make_answerer
from tests.tiny import tiny_adapter, tiny_base

CHUNKS = [
    Chunk(1, "a.md", "A", "", 0, 50, "Nothing of use."),
    Chunk(2, "a.md", "A", "", 50, 100, "It takes 30 hours."),
    Chunk(3, "b.md", "B", "", 0, 50, "It takes 30 hours elsewhere."),
]


def question(text: str, answers=("30 hours",), documents=("a.md",), evidence=()) -> Question:
    return Question(text, text, answers, documents, Split.TEST, evidence)


def test_gold_is_the_evidence_or_else_the_first_chunk_with_the_answer() -> None:
    found = gold_chunks(
        [
            question("by answer"),
            question("by evidence", evidence=(Evidence("a.md", 40, 100), Evidence("b.md", 0, 20))),
            question("not there", answers=("two days",)),
            question("unanswerable", answers=()),
        ],
        CHUNKS,
    )
    assert {text: [chunk.id for chunk in chunks] for text, chunks in found.items()} == {
        "by answer": [2],
        "by evidence": [2, 3],
    }


def test_the_oracle_is_shown_the_gold_passages_and_nothing_else(tmp_path: Path) -> None:
    base = tiny_base()
    tiny_adapter(tmp_path, base)
    answerer = make_answerer(tmp_path, ScriptedGenerator(), base, FakeIndex())
    oracle = with_gold_passages(answerer, 7, {"How long?": CHUNKS[1:2]})
    (answer,) = oracle.answer_many([("How long?", ROUTES["hybrid"])])
    assert [context.text for context in answer.contexts] == ["It takes 30 hours."]
    assert answer.generation == 7
    (usual,) = answerer.answer_many([("How long?", ROUTES["hybrid"])])
    assert len(usual.contexts) == 3
    keys = [LocalAsker(who, SETUP).keys([("How long?", ROUTES["hybrid"])]) for who in (answerer, oracle)]
    assert keys[0] != keys[1]


def test_what_retrieval_loses_is_the_oracle_less_the_route(tmp_path: Path) -> None:
    questions = make_questions(40, documents=20)
    half = {q.text for q in questions[:20]}
    asker = ScriptedRoutes(lambda text, route: right_answer(text) if text in half else "no")
    ceiling = Oracle(ScriptedRoutes(lambda text, route: right_answer(text)), questions[:30])
    ceiling.asker.keys = lambda pairs: [f"oracle {text} {route.name}" for text, route in pairs]
    routes = {name: ROUTES[name] for name in ("base", "rag")}
    settings = EvalConfig(resamples=1000, latency_questions=1)
    result = evaluate(asker, questions, routes, tmp_path, settings, Extras(oracle=ceiling)).result
    assert set(result.oracle) == {"rag"}
    assert (result.oracle["rag"].n, result.oracle["rag"].score.mean) == (30, 1.0)
    assert result.oracle["rag"].lost.mean == pytest.approx(1 / 3)

    again = ScriptedRoutes(lambda text, route: "never asked")
    again.keys = ceiling.asker.keys
    assert (
        evaluate(
            asker, questions, routes, tmp_path, settings, Extras(oracle=Oracle(again, questions[:30]))
        ).result
        == result
    )
    assert again.calls == []


def test_where_a_route_was_shown_the_gold_its_answer_is_the_oracles(tmp_path: Path) -> None:
    questions = make_questions(12)
    asker = ScriptedRoutes(lambda text, route: right_answer(text))
    settings = EvalConfig(resamples=1000, latency_questions=1)
    oracle = Oracle(ScriptedRoutes(lambda text, route: "never asked"), questions)
    result = evaluate(
        asker, questions, {"rag": ROUTES["rag"]}, tmp_path, settings, Extras(oracle=oracle)
    ).result
    assert result.oracle["rag"].lost.mean == 0.0
    assert oracle.asker.calls == []


def test_examples_name_what_the_other_route_said() -> None:
    asked = [question("How long?")]
    said = {"base": "30 hours", "rag": "two days", "tuned": "a week", "hybrid": "30 hours"}
    answers = {name: [make_answer("How long?", ROUTES[name], text)] for name, text in said.items()}
    found = examples(asked, ROUTES, answers)
    assert [(e.route, e.instead) for e in found["retrieval_hurt"]] == [("rag", "base: 30 hours")]
    assert [(e.route, e.instead) for e in found["adapter_hurt"]] == [("tuned", "base: 30 hours")]
