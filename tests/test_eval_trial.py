"""`openbook eval freshness`: routes asked around the changes, and again with an adapter trained anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.eval import eval_command
from eval import freshness_commands
from eval.answers import EvalError
from eval.config import EvalConfig
from eval.freshness import FreshnessResult
from eval.freshness_commands import eval_freshness
from eval.trial import Trainer
from indexer.config import ModelConfig, Workspace
from indexer.corpus import Question, Split
from indexer.database import IndexMissing
from indexer.readers import read_questions
from settings import ConfigError
from tests.fakes import HashEncoder
from tests.fakes_changes import INDEX, LINE, indexed_workspace, texts, write_changes
from tests.fakes_eval import ROUTES
from tests.tiny import tiny_adapter, tiny_base
from tuner.base_model import load_base

SETTINGS = EvalConfig(resamples=1000)


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The workspace with questions, a tiny base model and an adapter."""
    workspace = indexed_workspace(tmp_path)
    monkeypatch.setattr(freshness_commands, "load_encoder", lambda ref: HashEncoder())
    lines = [
        {
            "question": "What is the rope of?",
            "answers": ["hemp"],
            "document_ids": ["bell.md"],
            "split": "train",
        },
        {
            "question": "What hour is it heard?",
            "answers": ["noon"],
            "document_ids": ["bell.md"],
            "split": "dev",
        },
    ]
    write_changes(workspace.root / "questions.jsonl", *lines)
    base = tiny_base()
    base.model.save_pretrained(workspace.root / "tiny")
    base.tokenizer.save_pretrained(workspace.root / "tiny")
    tiny_adapter(workspace.adapters, load_base(str(workspace.root / "tiny"), "float32"))
    write_changes(workspace.root / "changes.jsonl", LINE)
    return workspace


def run(workspace: Workspace, *names: str, trainer: Trainer | None = None, as_json: bool = True) -> None:
    model = ModelConfig(base=str(workspace.root / "tiny"), dtype="float32")
    routes = {name: replace(ROUTES[name], max_new_tokens=4, k=1) for name in names}
    eval_freshness(
        workspace, model, INDEX, SETTINGS, routes, workspace.root / "changes.jsonl", trainer, as_json
    )


def test_a_trial_is_printed_and_kept(trial: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    run(trial, "rag", "tuned")
    printed = capsys.readouterr()
    found = FreshnessResult.model_validate_json(printed.out)
    assert found.sync.documents == found.sync.chunks_embedded == 1
    assert found.routes["tuned"].state == "stale"
    assert found.routes["tuned"].unchanged == 1.0
    assert found.adapters["mixed@1"].routes == ["tuned"]
    assert found.changes[0].before.keys() == found.changes[0].after.keys() == {"rag", "tuned"}
    (folder,) = trial.evaluations.iterdir()
    assert json.loads((folder / "freshness.json").read_text()) == json.loads(printed.out)
    assert "| tuned |" in (folder / "freshness.md").read_text()


def test_an_adapter_is_trained_again_without_the_old_facts_and_asked(
    trial: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    learned: list[Question] = []

    def train(copy: Workspace, questions: Path) -> None:
        assert copy.root != trial.root
        assert "at dawn" in texts(copy)["bell.md"]
        learned.extend(read_questions(questions))
        print("training")
        tiny_adapter(copy.adapters, load_base(str(trial.root / "tiny"), "float32"), seed=7)

    run(trial, "rag", "tuned", trainer=Trainer("mixed", train))
    found = FreshnessResult.model_validate_json(capsys.readouterr().out)
    assert [q.text for q in learned if q.split is not Split.TEST] == ["What is the rope of?"]
    assert [q.text for q in learned if q.split is Split.TEST] == [LINE["question"]]
    assert found.retraining is not None
    assert found.retraining.questions_left_out == 1
    assert found.routes["tuned"].retrained is not None
    assert found.routes["rag"].retrained is None
    assert found.changes[0].retrained.keys() == {"tuned"}


def test_training_that_no_route_would_use_is_refused(trial: Workspace) -> None:
    with pytest.raises(EvalError, match="adapter 'other', which none of the routes tuned uses"):
        run(trial, "tuned", trainer=Trainer("other", lambda copy, questions: None))


def test_without_an_index_there_is_nothing_to_try(trial: Workspace) -> None:
    trial.database.unlink()
    with pytest.raises(IndexMissing, match="run `openbook index`"):
        run(trial, "base")


def test_the_command_names_unknown_routes_and_bad_files(tmp_path: Path) -> None:
    (tmp_path / "openbook.toml").write_text("")
    (tmp_path / "questions.jsonl").write_text(json.dumps({"question": "Who?", "answers": ["I"]}) + "\n")
    changes = write_changes(tmp_path / "changes.jsonl", "nonsense")

    def typed(*arguments: str) -> BaseException | None:
        arguments = ("freshness", str(changes), "-w", str(tmp_path), *arguments)
        return CliRunner().invoke(eval_command, list(arguments), standalone_mode=False).exception

    with pytest.raises(ConfigError, match="--route wide: unknown route; known: base, rag"):
        raise typed("--route", "wide") or AssertionError
    with pytest.raises(EvalError, match="line 1: not JSON"):
        raise typed("--route", "base") or AssertionError
