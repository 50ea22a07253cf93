"""What an answer is known by: everything the model reads, and nothing else."""

from __future__ import annotations

import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from eval.asking import BATCH, LocalAsker
from eval.config import EvalConfig
from eval.run import evaluate
from service.routes import Route
from tests.fakes_eval import ROUTES, SETUP, ScriptedRoutes, make_questions, right_answer
from tests.fakes_service import DOCUMENTS, FakeIndex, ScriptedGenerator, make_answerer
from tests.tiny import tiny_adapter, tiny_base

QUESTIONS = ("When does the harbour open?", "Who built the oven?", "How high is the tower?")
ROUTES_OF_ONE = {name: replace(route, k=1) for name, route in ROUTES.items()}


def keys(root: Path, documents=DOCUMENTS, setup=SETUP, routes=ROUTES_OF_ONE) -> dict[tuple[str, str], str]:
    base = tiny_base()
    if not (root / "mixed").exists():
        tiny_adapter(root, base)
    answerer = make_answerer(root, ScriptedGenerator(), base, FakeIndex(documents))
    asker = LocalAsker(answerer, setup)
    pairs = [(question, route) for route in routes.values() for question in QUESTIONS]
    found = asker.keys(pairs)
    return {(route.name, question): key for (question, route), key in zip(pairs, found, strict=True)}


def changed(before: dict[tuple[str, str], str], after: dict[tuple[str, str], str]) -> set[tuple[str, str]]:
    return {place for place in before if before[place] != after[place]}


def test_an_edited_document_changes_the_answers_that_read_the_edit(tmp_path: Path) -> None:
    before = keys(tmp_path)
    edited = [replace(d, text=d.text.replace("88 metres", "90 metres")) for d in DOCUMENTS]
    tower = QUESTIONS[2]
    assert changed(before, keys(tmp_path, edited)) == {("rag", tower), ("hybrid", tower)}
    assert len(set(before.values())) == len(before)


def test_another_adapter_changes_the_answers_of_its_routes(tmp_path: Path) -> None:
    retrained = replace(SETUP, adapter_hashes={"tuned": "new", "hybrid": "new"})
    assert changed(keys(tmp_path), keys(tmp_path, setup=retrained)) == {
        (name, question) for name in ("tuned", "hybrid") for question in QUESTIONS
    }


@pytest.mark.parametrize("change", [{"prompt": "completion"}, {"max_new_tokens": 8}])
def test_another_prompt_or_setting_changes_the_answers_of_its_route(tmp_path: Path, change) -> None:
    routes = {**ROUTES_OF_ONE, "rag": replace(ROUTES_OF_ONE["rag"], **change)}
    assert changed(keys(tmp_path), keys(tmp_path, routes=routes)) == {("rag", q) for q in QUESTIONS}


def test_more_passages_change_only_what_retrieves(tmp_path: Path) -> None:
    routes: dict[str, Route] = {name: replace(route, k=2) for name, route in ROUTES.items() if route.retrieve}
    before = {place: key for place, key in keys(tmp_path).items() if place[0] in routes}
    assert len(changed(before, keys(tmp_path, routes=routes))) == len(before)


def run(folder: Path, killed_on: str = "") -> int:
    """How many answers were asked for; the process dies at question 80 of the route `killed_on`."""

    def say(question: str, route: Route) -> str:
        if route.name == killed_on and question == "question 80?":
            os.kill(os.getpid(), signal.SIGKILL)
        return right_answer(question) if route.retrieve else "nonsense"

    model = ScriptedRoutes(say)
    evaluate(model, make_questions(90), ROUTES, folder, EvalConfig(resamples=1000, latency_questions=2))
    return sum(map(len, model.calls))


def killed_run(folder: Path, killed_on: str) -> int:
    """The signal that ended a process that evaluates into `folder`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child uses no thread but its own
        child = os.fork()
    if child == 0:
        run(folder, killed_on)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def test_a_killed_run_goes_on_and_ends_in_the_same_result(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert killed_run(killed, "rag") == signal.SIGKILL
    assert not (killed / "result.json").exists()
    kept = len((killed / "answers.jsonl").read_text().splitlines())
    assert kept == 90 + 2 + BATCH
    warm_ups = 2
    assert run(killed) == 4 * 90 - kept + warm_ups
    assert run(whole) == 4 * 90 + 4
    for name in ("result.json", "answers.jsonl", "report.md", "report.html"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
