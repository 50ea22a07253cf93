"""`openbook eval` from a workspace on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.answers import EvalError
from eval.commands import eval_run
from eval.config import EvalConfig
from eval.local import selected_routes, selection_path
from eval.run import evaluate
from eval.selection import Selection
from eval.thresholds import BelowThreshold, Threshold, check_thresholds, parse_threshold
from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.encoding import load_encoder
from indexer.sync import sync
from service.routes import Route
from tests.fakes_eval import ROUTES, ScriptedRoutes, make_questions, right_answer
from tests.tiny import tiny_adapter, tiny_base
from tuner.base_model import load_base
from tuner.registry import AdapterError

SETTINGS = EvalConfig(resamples=1000, latency_questions=2)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Twelve questions (four a split) and a tiny base model on disk."""
    lines = [
        {
            "question": f"What is item {n}?",
            "answers": [f"thing {n}"],
            "document_ids": ["items.md"],
            "split": split,
        }
        for n, split in enumerate(["train", "dev", "test"] * 4)
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    base = tiny_base()
    base.model.save_pretrained(tmp_path / "tiny")
    base.tokenizer.save_pretrained(tmp_path / "tiny")
    return Workspace(tmp_path)


def run(
    workspace: Workspace,
    routes: dict[str, Route],
    fail_under=(),
    as_json=True,
    select=True,
    plan=False,
    repeats=0,
) -> None:
    model = ModelConfig(base=str(workspace.root / "tiny"), dtype="float32")
    eval_run(
        workspace,
        model,
        SETTINGS,
        routes,
        None,
        None,
        select,
        fail_under,
        plan,
        repeats,
        as_json,
        IndexConfig(),
    )


def test_routes_without_retrieval_need_no_index(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run(workspace, {"base": Route("base", retrieve=False, prompt="brief", max_new_tokens=4)})
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["routes"]["base"]["n"] == 4
    assert result["verdict"]["recommended"] == "base"
    assert "4 answerable test questions about 1 documents" in printed.err
    assert json.loads((workspace.data / "selection.json").read_text())["routes"]["base"]["answers"] > 0
    (folder,) = workspace.evaluations.iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "answers.jsonl",
        "result.json",
        "report.md",
        "report.html",
    }


def test_the_options_that_were_chosen_are_found_again_without_loading_a_model(workspace: Workspace) -> None:
    base = Route("base", retrieve=False, prompt="brief", max_new_tokens=4)
    routes = {"base": base, "tuned": ROUTES["tuned"]}
    model = ModelConfig(base=str(workspace.root / "tiny"), dtype="float32")
    assert selected_routes(workspace, model, SETTINGS, routes, IndexConfig()) == routes

    run(workspace, {"base": base})
    kept = Selection.model_validate_json(selection_path(workspace).read_bytes())
    assert selected_routes(workspace, model, SETTINGS, routes, IndexConfig()) == {
        **routes,
        **kept.apply({"base": base}),
    }


def test_an_unknown_adapter_is_reported_before_anything_is_loaded(workspace: Workspace) -> None:
    with pytest.raises(AdapterError, match="openbook tune"):
        run(workspace, {"tuned": Route("tuned", retrieve=False, adapter="mixed")})


def test_a_workspace_without_test_questions_says_how_to_get_some(workspace: Workspace) -> None:
    path = workspace.root / "questions.jsonl"
    path.write_text(path.read_text().replace('"split": "test"', '"split": "train"'))
    with pytest.raises(EvalError, match='"split": "test"'):
        run(workspace, {"base": ROUTES["base"]})


@pytest.mark.model
def test_the_four_routes_are_scored_on_one_workspace(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = workspace.root / "documents"
    documents.mkdir()
    (documents / "items.md").write_text("\n\n".join(f"Item {n} is thing {n}." for n in range(12)))
    model = ModelConfig()
    sync(workspace, documents, load_encoder(model.encoder), 64)
    tiny_adapter(workspace.adapters, load_base(str(workspace.root / "tiny"), "float32"))
    run(workspace, dict(ROUTES), as_json=False, select=False)
    printed = capsys.readouterr().out
    assert "Use " in printed
    assert "hybrid - rag" in printed
    (folder,) = workspace.evaluations.iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert result["retrieval"]["recall@1"] == 1.0
    assert result["provenance"]["index_generation"] == 1


@pytest.mark.parametrize("text", ["f1", "f1=", "f1=high", "f1=1.5", "f1=nan", "f1=-1", "speed=0.5", ""])
def test_a_threshold_that_cannot_be_read_names_the_remedy(text: str) -> None:
    with pytest.raises(EvalError, match=r"like f1=0\.6"):
        parse_threshold(text)


def test_thresholds_apply_to_the_recommended_route(tmp_path: Path) -> None:
    model = ScriptedRoutes(lambda question, route: right_answer(question) if route.retrieve else "nonsense")
    result = evaluate(model, make_questions(20), ROUTES, tmp_path, SETTINGS).result
    check_thresholds(result, [parse_threshold("f1=0.9")])
    assert parse_threshold("exact_match=1") == Threshold("exact_match", 1.0)
    low = result.model_copy(update={"verdict": result.verdict.model_copy(update={"recommended": "base"})})
    with pytest.raises(BelowThreshold, match=r"f1 of base is 0\.000, below 0\.9"):
        check_thresholds(low, [Threshold("f1", 0.9), Threshold("containment", 0.0)])


def test_a_plan_asks_little_and_leaves_nothing(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run(workspace, {"base": Route("base", retrieve=False, prompt="brief", max_new_tokens=4)}, plan=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["questions"], found["routes"]["base"]["missing"]) == (4, 4)
    assert found["routes"]["base"]["seconds"] > 0
    assert not workspace.evaluations.exists()


@pytest.mark.parametrize("contrasts", [[["rag", "rag"]], [["rag", "base"], ["base", "rag"]]])
def test_contrasts_that_make_no_sense_are_refused(contrasts: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="contrast"):
        EvalConfig.model_validate({"contrasts": contrasts})
