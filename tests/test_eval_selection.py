"""Prompt options are chosen on dev questions, within a declared budget, and kept while they fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eval.selection import (
    CONTEXTS,
    EXAMPLES,
    PROMPTS,
    Selection,
    candidates,
    load_selection,
    select_prompts,
)
from indexer.corpus import Split
from service.routes import Route
from tests.fakes_eval import ROUTES, SETUP, ScriptedRoutes, make_questions, right_answer

DEV = make_questions(30, split=Split.DEV)


def only_brief_with_k3(question: str, route: Route) -> str:
    return right_answer(question) if route.prompt == "brief" and route.k == 3 else "nonsense"


def select(path: Path, model: ScriptedRoutes, routes=ROUTES, dev=DEV, setup=SETUP) -> dict[str, Route]:
    return select_prompts(model.answer_many, dev, routes, "f1", setup, path)


def test_the_grid_leaves_an_adapter_its_prompt() -> None:
    assert len(candidates(ROUTES["rag"])) == len(PROMPTS) * len(EXAMPLES) * len(CONTEXTS)
    assert len(candidates(ROUTES["base"])) == len(PROMPTS) * len(EXAMPLES)
    assert {(c.prompt, c.examples) for c in candidates(ROUTES["hybrid"])} == {("trained", 0)}
    assert candidates(ROUTES["tuned"]) == [ROUTES["tuned"]]


def test_the_best_candidate_wins_and_ties_go_to_fewer_prompt_tokens(tmp_path: Path) -> None:
    chosen = select(tmp_path / "selection.json", ScriptedRoutes(only_brief_with_k3))
    assert (chosen["rag"].prompt, chosen["rag"].k, chosen["rag"].examples) == ("brief", 3, 0)
    assert chosen["base"].examples == 0
    assert chosen["hybrid"].k == 1
    assert chosen["tuned"] == ROUTES["tuned"]


def test_only_the_best_two_answer_every_question_and_none_answers_twice(tmp_path: Path) -> None:
    model = ScriptedRoutes(only_brief_with_k3)
    select(tmp_path / "selection.json", model, routes={"rag": ROUTES["rag"]})
    asked = [pair for call in model.calls for pair in call]
    assert len(asked) == len(set(asked)) == 8 * 5 + 3 * 5 + 2 * 20
    kept = Selection.model_validate_json((tmp_path / "selection.json").read_bytes()).routes["rag"]
    assert kept.answers == len(asked)
    assert sorted(candidate.n for candidate in kept.candidates) == [5] * 5 + [10] * 1 + [30] * 2
    assert kept.chosen.score == 1.0


def test_a_search_is_kept_while_it_fits(tmp_path: Path) -> None:
    path = tmp_path / "selection.json"
    first = select(path, ScriptedRoutes(only_brief_with_k3))
    again = ScriptedRoutes(only_brief_with_k3)
    assert select(path, again) == first == load_selection(path, DEV, ROUTES, "f1", SETUP)
    assert again.calls == []


def test_a_search_on_other_ground_is_not_applied(tmp_path: Path) -> None:
    path = tmp_path / "selection.json"
    select(path, ScriptedRoutes(only_brief_with_k3))
    assert load_selection(path, DEV[1:], ROUTES, "f1", SETUP) == ROUTES
    assert load_selection(path, DEV, ROUTES, "exact_match", SETUP) == ROUTES
    assert load_selection(path, DEV, ROUTES, "f1", replace(SETUP, base_model_hash="other")) == ROUTES
    assert load_selection(tmp_path / "none.json", DEV, ROUTES, "f1", SETUP) == ROUTES
    path.write_text("{}")
    assert load_selection(path, DEV, ROUTES, "f1", SETUP) == ROUTES


def test_a_new_adapter_only_repeats_the_search_of_its_routes(tmp_path: Path) -> None:
    path = tmp_path / "selection.json"
    select(path, ScriptedRoutes(only_brief_with_k3))
    again = ScriptedRoutes(only_brief_with_k3)
    select(path, again, setup=replace(SETUP, adapter_hashes={"tuned": "new", "hybrid": "new"}))
    assert {route.name for call in again.calls for _, route in call} == {"hybrid"}


def test_a_search_for_some_routes_keeps_those_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "selection.json"
    everything = select(path, ScriptedRoutes(only_brief_with_k3))
    before = Selection.model_validate_json(path.read_bytes()).routes
    changed = replace(ROUTES["base"], max_new_tokens=8)
    select(path, ScriptedRoutes(only_brief_with_k3), routes={"base": changed})
    after = Selection.model_validate_json(path.read_bytes()).routes
    assert {name: after[name] for name in ("rag", "hybrid")} == {n: before[n] for n in ("rag", "hybrid")}
    assert load_selection(path, DEV, {"rag": ROUTES["rag"]}, "f1", SETUP) == {"rag": everything["rag"]}


def test_without_dev_questions_routes_stay_as_they_are(tmp_path: Path) -> None:
    assert select(tmp_path / "selection.json", ScriptedRoutes(only_brief_with_k3), dev=[]) == ROUTES
    assert not (tmp_path / "selection.json").exists()
