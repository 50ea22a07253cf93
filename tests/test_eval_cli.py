"""`openbook eval` and its sub-commands, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.eval import eval_command
from eval.answers import EvalError
from eval.config import EvalConfig
from eval.run import evaluate
from indexer.config import Workspace
from settings import ConfigError
from tests.fakes_eval import ROUTES, ScriptedRoutes, make_questions, right_answer


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "openbook.toml").write_text("[eval]\nresamples = 1000\n")
    lines = [
        {
            "id": q.id,
            "question": q.text,
            "answers": q.answers,
            "document_ids": q.document_ids,
            "split": q.split,
        }
        for q in make_questions(24)
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, right in (("0first", ("rag",)), ("1second", ("rag", "base"))):
        model = ScriptedRoutes(lambda q, route, right=right: right_answer(q) if route.name in right else "no")
        settings = EvalConfig(resamples=1000, latency_questions=1)
        evaluate(model, make_questions(24), ROUTES, Workspace(tmp_path).evaluations / name, settings)
    return tmp_path


def run(workspace: Path, *arguments: str) -> str:
    result = CliRunner().invoke(eval_command, [*arguments, "-w", str(workspace)], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.output


def test_list_names_every_evaluation(workspace: Path) -> None:
    assert [one["name"] for one in json.loads(run(workspace, "list", "--json"))] == ["0first", "1second"]
    assert "0first" in run(workspace, "list")


def test_compare_takes_names_and_folders(workspace: Path) -> None:
    said = run(workspace, "compare", "0f", str(Workspace(workspace).evaluations / "1second"))
    assert "base: 0.000 -> 1.000" in said
    found = json.loads(run(workspace, "compare", "0first", "1second", "--json"))
    assert {r["route"]: r["verdict"] for r in found["routes"]}["base"] == "better"
    with pytest.raises(EvalError, match="no evaluation is called 'third'"):
        run(workspace, "compare", "0first", "third")


def test_contrasts_of_unknown_routes_are_refused(workspace: Path) -> None:
    (workspace / "openbook.toml").write_text('[eval]\ncontrasts = [["rag", "wide"]]\n')
    with pytest.raises(ConfigError, match="unknown route 'wide'"):
        run(workspace)
    (workspace / "openbook.toml").write_text('[eval]\ncontrasts = [["auto", "rag"]]\n')
    with pytest.raises(EvalError, match=r"no answer from http://127\.0\.0\.1:9"):
        run(workspace, "--url", "http://127.0.0.1:9")
