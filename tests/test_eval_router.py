"""Learning on dev which route to take, and what that is worth on test."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli.eval import eval_command
from eval.answers import EvalError, read_answers
from eval.config import EvalConfig
from eval.router import ALWAYS_BEST, Lessons, Training, fold_of, train
from eval.router_commands import eval_router
from eval.router_result import ORACLE, RouterResult, Spent, format_router, router_result
from eval.scoring import provenance_of
from eval.statistics import Floats, clustered_standard_error
from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.corpus import Split
from indexer.readers import read_questions
from service.answering import Answerer
from service.assembly import open_answerer
from service.router import Router, RouterError, TrainedRouter, load_router, router_path
from service.routes import Route
from settings import ConfigError
from tests.fakes_eval import ROUTES, SETUP, make_questions
from tests.tiny import tiny_base

SETTINGS = EvalConfig(resamples=1000)


def lessons(
    decides: str | None, count: int = 120, split: Split = Split.DEV, seed: int = 0, gain: float = 0.3
) -> Lessons:
    """`rag` is a little better than `base` on the whole; where the fact `decides` is low, `base` is better by `gain`.

    All facts are noise of their own.
    """
    rng = np.random.default_rng(seed)
    names = ("dense", "words", "confidence_first")
    facts = [dict(zip(names, row, strict=True)) for row in rng.normal(size=(count, len(names))).tolist()]
    low = np.array([decides is not None and fact[decides] < 0 for fact in facts])
    base = 0.3 + rng.normal(0, 0.1, count)
    rag = base + np.where(low, -gain, 0.4) + rng.normal(0, 0.1, count)
    return Lessons(make_questions(count, split=split), facts, {"base": base, "rag": rag})


def chosen(training: Training, found: Lessons) -> list[str]:
    table = np.array([[facts[name] for name in training.setting.facts] for facts in found.facts])
    places = training.linear.choose(table.reshape(len(found.facts), len(training.setting.facts)))
    return [list(found.scores)[place] for place in places]


def test_router_learns_which_fact_decides() -> None:
    dev = lessons("dense")
    training = train(dev)
    assert not training.setting.asks_base, "the base model's confidence is noise and costs tokens"
    unseen = lessons("dense", seed=1)
    right = [max(unseen.scores, key=lambda name: unseen.scores[name][n]) for n in range(120)]
    taken = chosen(training, unseen)
    assert sum(a == b for a, b in zip(taken, right, strict=True)) > 0.8 * 120
    assert training.cross_validated > dev.scores["rag"].mean() + 0.1


def test_base_model_is_asked_only_if_its_confidence_decides() -> None:
    assert train(lessons("confidence_first")).setting.asks_base


def test_without_anything_to_go_by_the_best_route_is_always_taken() -> None:
    settings = [train(lessons(None, count=60, seed=seed)).setting for seed in range(8)]
    assert settings.count(ALWAYS_BEST) >= 7
    dev = lessons(None, count=60)
    assert set(chosen(train(dev), dev)) == {"rag"}


def test_cheaper_route_is_taken_among_equals() -> None:
    dev = lessons(None)
    same = replace(dev, scores={"cheap": dev.scores["rag"], "dear": dev.scores["rag"]})
    assert (same.best_route(), set(chosen(train(same), same))) == ("cheap", {"cheap"})


def test_same_lessons_give_the_same_router() -> None:
    one, other = train(lessons("dense")), train(lessons("dense"))
    assert one.linear.weights.tolist() == other.linear.weights.tolist()
    assert (one.setting, one.tried, one.cross_validated) == (
        other.setting,
        other.tried,
        other.cross_validated,
    )


def test_test_questions_are_refused() -> None:
    dev = lessons("dense")
    mixed = replace(dev, questions=[*dev.questions[1:], *make_questions(1, split=Split.TEST)])
    with pytest.raises(EvalError, match="test-0 is a test question; routers are trained on dev only"):
        train(mixed)


def test_too_little_to_learn_from_says_what_is_missing() -> None:
    dev = lessons("dense", count=10)
    with pytest.raises(EvalError, match="about 1 documents are too few"):
        train(replace(dev, questions=make_questions(10, documents=1, split=Split.DEV)))
    with pytest.raises(EvalError, match="only route base to take"):
        train(replace(dev, scores={"base": dev.scores["base"]}))


def test_documents_are_never_split_between_folds_and_folds_are_even() -> None:
    questions = make_questions(100, documents=23)
    folds = fold_of(questions)
    pairs = {(question.document_ids[0], fold) for question, fold in zip(questions, folds, strict=True)}
    assert len(pairs) == 23
    assert np.bincount(folds).tolist() == pytest.approx([20] * 5, abs=2)
    assert fold_of(make_questions(10, documents=3)).max() == 2


def test_standard_error_is_that_of_cluster_means_where_clusters_are_even() -> None:
    values, clusters = np.array([1.0, 1, 0, 0, 1, 0]), ["a", "a", "b", "b", "c", "c"]
    assert clustered_standard_error(values, clusters) == pytest.approx(0.5 / np.sqrt(3))
    assert clustered_standard_error(values, ["a"] * 6) == np.inf


def scored(dev: Lessons, test: Lessons, model: TrainedRouter | None = None) -> RouterResult:
    training = train(dev)
    spent = Spent(
        {"base": np.full(len(test.questions), 20.0), "rag": np.full(len(test.questions), 300.0)},
        {"base": np.full(len(test.questions), 0.1), "rag": np.full(len(test.questions), 0.5)},
        5.0,
        0.05,
    )
    routes = {name: ROUTES[name] for name in ("base", "rag")}
    provenance = provenance_of(test.questions, routes, SETTINGS, SETUP, "in batches")
    return router_result(model or as_served(training), training, dev, test, spent, SETTINGS, provenance)


def as_served(training: Training) -> TrainedRouter:
    weights: Floats = training.linear.weights
    return TrainedRouter(
        routes={"base": "b", "rag": "r"},
        probe=None,
        facts=list(training.setting.facts),
        means=training.linear.means.tolist(),
        scales=training.linear.scales.tolist(),
        weights={name: weights[:, place].tolist() for place, name in enumerate(("base", "rag"))},
        intercepts=dict(zip(("base", "rag"), training.linear.intercepts.tolist(), strict=True)),
        encoder=None,
        index_generation=1,
    )


def test_result_sets_auto_beside_every_route_and_the_best_choice() -> None:
    test = lessons("dense", split=Split.TEST, seed=1)
    result = scored(lessons("dense"), test)
    assert list(result.test) == ["base", "rag", "auto", ORACLE]
    means = {name: way.score.mean for name, way in result.test.items()}
    assert means["rag"] < means["auto"] < means[ORACLE]
    shares = [result.test[name].taken for name in ("base", "rag")]
    assert sum(filter(None, shares)) == pytest.approx(1)
    expected = 20 * (shares[0] or 0) + 300 * (shares[1] or 0) + 5
    assert result.test["auto"].tokens == pytest.approx(expected)
    assert (result.contrast.a, result.contrast.b) == ("auto", "rag")
    assert result.pays
    assert result.sentence.startswith("Routing pays: auto is better, +0.")
    assert "What a standard deviation more" in format_router(result)


def test_routing_that_does_not_pay_is_said_plainly() -> None:
    test = lessons(None, split=Split.TEST, seed=1)
    constant = scored(lessons(None), test)
    assert not constant.pays
    assert constant.contrast.non_inferior
    assert constant.sentence.startswith("Routing does not pay here: nothing on dev tells when to leave rag")
    assert "would gain" in constant.sentence
    misled = scored(lessons("dense"), test)  # what decided on dev decides nothing on test
    assert misled.contrast.verdict == "worse"
    assert misled.sentence.startswith("Routing does not pay here: auto is worse")


def test_best_single_route_is_chosen_on_dev_whatever_test_says() -> None:
    test = lessons("dense", split=Split.TEST, seed=1, gain=3.0)
    assert test.best_route() == "base"
    assert scored(lessons("dense"), test).best_on_dev == "rag"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Questions about six documents and a tiny base model on disk."""
    base = tiny_base()
    base.model.save_pretrained(tmp_path / "tiny")
    base.tokenizer.save_pretrained(tmp_path / "tiny")
    write_questions(tmp_path, {})
    return Workspace(tmp_path)


def write_questions(root: Path, answers: dict[str, str]) -> None:
    lines = [
        {
            "id": f"{split}{n}",
            "question": f"What is item {n} of {split}?",
            "answers": [answers.get(f"{split}{n}", f"thing {n}")],
            "document_ids": [f"doc{n}.md"],
            "split": split,
        }
        for split in ("dev", "test")
        for n in range(6)
    ]
    (root / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


PAIR = {
    name: Route(name, retrieve=False, prompt=prompt, max_new_tokens=6)
    for name, prompt in (("brief", "brief"), ("plain", "completion"))
}


def trained_in(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> tuple[RouterResult, bytes]:
    eval_router(workspace, model_of(workspace), SETTINGS, PAIR, as_json=True, index_settings=IndexConfig())
    result = RouterResult.model_validate_json(capsys.readouterr().out)
    return result, router_path(workspace).read_bytes()


def model_of(workspace: Workspace) -> ModelConfig:
    return ModelConfig(base=str(workspace.root / "tiny"), dtype="float32")


def said(workspace: Workspace, split: str) -> dict[str, list[str]]:
    """What the routes answered, by question."""
    [path, *_] = workspace.evaluations.glob(f"*/{split}-answers.jsonl")
    found: dict[str, list[str]] = {}
    for record in read_answers(path).values():
        found.setdefault(record.question_id, []).append(record.answer.answer)
    return found


def served(workspace: Workspace, routes: dict[str, Route]) -> Answerer:
    questions = read_questions(workspace.root / "questions.jsonl")
    return open_answerer(workspace, model_of(workspace), routes, questions, IndexConfig())


def test_router_is_trained_kept_scored_and_fits_the_routes_that_are_served(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    result, kept = trained_in(workspace, capsys)
    assert (result.dev.questions, result.test_questions) == (6, 6)
    [folder] = workspace.evaluations.iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "auto.json",
        "router.json",
        "router.md",
        "dev-answers.jsonl",
        "test-answers.jsonl",
    }
    assert (folder / "auto.json").read_bytes() == kept
    assert trained_in(workspace, capsys) == (result, kept), "again, from the answers kept"

    trained = load_router(router_path(workspace))
    assert trained is not None
    router = Router(trained, served(workspace, PAIR))
    assert router.choose(router.facts("What is item 3 of dev?", None)).name in PAIR
    changed = {**PAIR, "brief": replace(PAIR["brief"], max_new_tokens=7)}
    with pytest.raises(RouterError, match="route 'brief' has changed since"):
        Router(trained, served(workspace, changed))


def test_answers_to_test_questions_never_reach_training(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    trained_in(workspace, capsys)
    right = {name: texts[0] for split in ("dev", "test") for name, texts in said(workspace, split).items()}
    on_dev = {name: text for name, text in right.items() if name.startswith("dev")}
    write_questions(workspace.root, on_dev)
    before, router = trained_in(workspace, capsys)
    write_questions(workspace.root, right)
    after, router_again = trained_in(workspace, capsys)
    assert max(way.score.mean for way in after.test.values()) > max(
        w.score.mean for w in before.test.values()
    )
    assert max(load_router(router_path(workspace)).intercepts.values()) > 0
    assert router_again == router
    assert after.dev == before.dev


def test_unknown_route_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "openbook.toml").write_text("")
    outcome = CliRunner().invoke(
        eval_command, ["router", "--route", "wide", "-w", str(tmp_path)], standalone_mode=False
    )
    assert isinstance(outcome.exception, ConfigError)
    assert "--route wide: unknown route; known: base, rag" in str(outcome.exception)


def test_workspace_without_dev_questions_says_how_to_get_some(workspace: Workspace) -> None:
    path = workspace.root / "questions.jsonl"
    path.write_text(path.read_text().replace('"split": "dev"', '"split": "train"'))
    with pytest.raises(EvalError, match='answerable dev question; give some `"split": "dev"`'):
        eval_router(
            workspace, model_of(workspace), SETTINGS, PAIR, as_json=True, index_settings=IndexConfig()
        )
