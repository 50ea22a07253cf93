"""An evaluation from questions to files, and going on after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from eval.answers import AnswerLog, EvalError, read_answers
from eval.config import EvalConfig
from eval.result import load_result
from eval.run import Evaluation, Extras, evaluate
from indexer.corpus import Question, Split
from service.routes import Route
from tests.fakes_eval import ROUTES, SETUP, ScriptedRoutes, make_questions, right_answer

SETTINGS = EvalConfig(resamples=1000, latency_questions=2)
QUESTIONS = [*make_questions(60), Question("u", "question of no avail?", (), ("doc0.md",), Split.TEST)]


def say(question: str, route: Route) -> str:
    """Routes that retrieve are right, the others wrong; hybrid also knows when to keep silent."""
    if "no avail" in question:
        return "I don't know." if route.name == "hybrid" else "answer none"
    return right_answer(question) if route.retrieve else "nonsense"


def run(folder: Path, model: ScriptedRoutes, **changes) -> Evaluation:
    given = {"questions": QUESTIONS, "routes": ROUTES, "settings": SETTINGS}
    return evaluate(model, folder=folder, **(given | changes))


def test_result_follows_the_published_schema(tmp_path: Path) -> None:
    run(tmp_path, ScriptedRoutes(say), extras=Extras(retrieval={"recall@1": 0.9}))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["schema"] == 1
    assert result["routes"]["rag"]["n"] == 61
    assert result["routes"]["rag"]["metrics"]["f1"] == {
        "mean": 1.0,
        "ci": [pytest.approx(0.735, abs=0.01), 1.0],
    }
    assert result["routes"]["base"]["metrics"]["exact_match"]["mean"] == 0.0
    assert result["routes"]["rag"]["latency_ms"] == {"p50": 10.0, "p95": 10.0, "n": 2}
    assert result["routes"]["rag"]["tokens"] == {"prompt": 300.0, "completion": 5.0}
    assert result["retrieval"] == {"recall@1": 0.9}
    assert [(c["a"], c["b"]) for c in result["contrasts"]] == [
        ("rag", "base"),
        ("tuned", "base"),
        ("hybrid", "rag"),
        ("hybrid", "tuned"),
    ]
    assert result["verdict"]["recommended"] == "rag"
    assert result["provenance"]["adapters"] == {"tuned": "mixed@1", "hybrid": "mixed@1"}
    assert load_result(tmp_path / "result.json").model_dump(mode="json") == result


def test_abstention_is_scored_apart_from_the_answerable_questions(tmp_path: Path) -> None:
    routes = run(tmp_path, ScriptedRoutes(say)).result.routes
    assert routes["hybrid"].abstention.recall.mean == 1.0
    assert routes["hybrid"].abstention.precision == 1.0
    assert routes["rag"].abstention.recall.mean == 0.0
    assert routes["rag"].abstention.precision is None
    assert routes["rag"].metrics["f1"].mean == routes["hybrid"].metrics["f1"].mean == 1.0


def test_first_questions_are_timed_alone_after_a_warm_up(tmp_path: Path) -> None:
    model = ScriptedRoutes(say)
    run(tmp_path, model, routes={"rag": ROUTES["rag"]})
    assert [len(call) for call in model.calls] == [1, 1, 1, 61 - 2]
    assert model.calls[0] == model.calls[1]


def test_a_finished_run_is_not_asked_again_and_gives_the_same_result(tmp_path: Path) -> None:
    first = run(tmp_path, ScriptedRoutes(say))
    again = ScriptedRoutes(say)
    assert run(tmp_path, again).result == first.result
    assert again.calls == []


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    class PowerCutError(Exception):
        pass

    def say_until_tuned(question: str, route: Route) -> str:
        if route.name == "tuned":
            raise PowerCutError
        return say(question, route)

    with pytest.raises(PowerCutError):
        run(tmp_path, ScriptedRoutes(say_until_tuned))
    with (tmp_path / "answers.jsonl").open("ab") as file:
        file.write(b'{"key": "cut sho')  # the crash came in the middle of a line
    assert not (tmp_path / "result.json").exists()

    resumed = ScriptedRoutes(say)
    run(tmp_path, resumed)
    assert {route.name for call in resumed.calls for _, route in call} == {"tuned", "hybrid"}
    assert len(read_answers(tmp_path / "answers.jsonl")) == 61 * 4


def test_only_what_changed_is_asked_again(tmp_path: Path) -> None:
    run(tmp_path, ScriptedRoutes(say))
    retrained = replace(SETUP, adapter_hashes={"tuned": "other", "hybrid": "other"})
    again = ScriptedRoutes(say, retrained)
    run(tmp_path, again)
    assert {route.name for call in again.calls for _, route in call} == {"tuned", "hybrid"}

    reindexed = ScriptedRoutes(say, replace(retrained, corpus_hash="changed"))
    run(tmp_path, reindexed)
    assert {route.name for call in reindexed.calls for _, route in call} == {"rag", "hybrid"}


def test_answers_of_an_earlier_run_are_used_for_a_new_one(tmp_path: Path) -> None:
    run(tmp_path / "first", ScriptedRoutes(say))
    again = ScriptedRoutes(say)
    deeper = Route("deep", retrieve=True, k=10)
    run(
        tmp_path / "second",
        again,
        routes={**ROUTES, "deep": deeper},
        settings=SETTINGS.model_copy(update={"margin": 0.05}),
        earlier=[tmp_path / "first" / "answers.jsonl"],
    )
    assert {route.name for call in again.calls for _, route in call} == {"deep"}


def test_contrasts_of_routes_that_are_not_run_are_left_out(tmp_path: Path) -> None:
    subset = {name: ROUTES[name] for name in ("base", "rag")}
    result = run(tmp_path, ScriptedRoutes(say), routes=subset).result
    assert [(c.a, c.b) for c in result.contrasts] == [("rag", "base")]


def test_a_run_without_answerable_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="none of the 1 questions has an answer"):
        run(tmp_path, ScriptedRoutes(say), questions=QUESTIONS[-1:])


def test_a_damaged_result_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(EvalError, match="run `openbook eval` again"):
        load_result(tmp_path / "result.json")


def test_answers_survive_the_way_through_the_file(tmp_path: Path) -> None:
    run(tmp_path, ScriptedRoutes(say))
    path = tmp_path / "answers.jsonl"
    before = path.read_bytes()
    AnswerLog(path).rewrite(read_answers(path).values())
    assert path.read_bytes() == before


def test_an_index_that_moves_during_the_run_stops_it(tmp_path: Path) -> None:
    class Moving(ScriptedRoutes):
        def answer_many(self, pairs):
            return [
                replace(answer, generation=answer.generation and 2) if len(self.calls) > 3 else answer
                for answer in super().answer_many(pairs)
            ]

    with pytest.raises(EvalError, match=r"generation 1 to 2.*run it again"):
        run(tmp_path, Moving(say), routes={"rag": ROUTES["rag"]})
    assert {record.answer.generation for record in read_answers(tmp_path / "answers.jsonl").values()} == {1}
