"""`openbook ask --route auto`: the trained router takes the route, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.serve import ask, open_routes
from indexer.config import Workspace
from service.answering import UnknownRoute
from service.config import routes_from_config
from service.router import RouterError, TrainedRouter, router_path
from settings import load_settings
from tests.tiny import tiny_base

WHO, HOW_HIGH = "Who built the oven?", "How high is the tower?"
SETTINGS = """
[model]
base = "tiny"
dtype = "float32"
[routes.brief]
prompt = "brief"
max_new_tokens = 6
[routes.plain]
prompt = "completion"
max_new_tokens = {tokens}
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Two routes from memory beside the standard ones, and a tiny base model on disk."""
    base = tiny_base()
    base.model.save_pretrained(tmp_path / "tiny")
    base.tokenizer.save_pretrained(tmp_path / "tiny")
    (tmp_path / "openbook.toml").write_text(SETTINGS.format(tokens=6))
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


def train(workspace: Workspace, **changes: Any) -> None:
    """Takes `brief` for questions about persons and `plain` for others, unless told otherwise."""
    settings, names = load_settings(workspace), ("brief", "plain")
    routes = routes_from_config(settings.routes)
    answerer = open_routes(workspace, settings, {name: routes[name] for name in names})
    given = {
        "routes": {name: answerer.lasting_identity(answerer.route(name)) for name in names},
        "probe": None,
        "facts": ["asks_person"],
        "means": [0.5],
        "scales": [0.5],
        "weights": {"brief": [1.0], "plain": [-1.0]},
        "intercepts": {"brief": 0.2, "plain": 0.2},
        "encoder": None,
        "index_generation": None,
    }
    path = router_path(workspace)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TrainedRouter.model_validate(given | changes).model_dump_json())


def asked(workspace: Workspace, question: str, *options: str) -> Result:
    arguments = [question, "--route", "auto", "--workspace", str(workspace.root), *options]
    return CliRunner().invoke(ask, arguments, standalone_mode=False)


@pytest.mark.parametrize(("question", "route"), [(WHO, "brief"), (HOW_HIGH, "plain")])
def test_auto_takes_the_route_that_fits_and_says_which(
    workspace: Workspace, question: str, route: str
) -> None:
    train(workspace)
    answer = json.loads(asked(workspace, question, "--json").stdout)
    assert (answer["route"], answer["question"]) == (route, question)
    assert f"  {route}: " in asked(workspace, question).stdout


def test_probed_confidence_decides(workspace: Workspace) -> None:
    for mean, route in ((-1000.0, "brief"), (1000.0, "plain")):
        train(workspace, probe="plain", facts=["confidence_mean"], means=[mean], scales=[1.0])
        answer = json.loads(asked(workspace, WHO, "--json").stdout)
        assert answer["route"] == route


def test_the_time_of_the_choice_counts(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    train(workspace)
    clock = SimpleNamespace(monotonic=iter((100.0, 107.5)).__next__)
    monkeypatch.setattr("service.router.time", clock)
    assert json.loads(asked(workspace, WHO, "--json").stdout)["timings_ms"]["total"] == 7500


def test_without_a_router_the_error_says_how_to_train_one(workspace: Workspace) -> None:
    error = asked(workspace, WHO).exception
    assert isinstance(error, UnknownRoute)
    assert "run `openbook eval router`" in str(error)


def test_routes_that_are_gone_or_have_changed_are_named(workspace: Workspace) -> None:
    train(workspace)
    config = workspace.config_file
    config.write_text(SETTINGS.format(tokens=7))
    changed = asked(workspace, WHO).exception
    assert isinstance(changed, RouterError)
    assert "route 'plain' has changed since" in str(changed)
    config.write_text(SETTINGS.format(tokens=6).partition("[routes.plain]")[0])
    gone = asked(workspace, WHO).exception
    assert isinstance(gone, RouterError)
    assert "trained with route 'plain', which is not among base, rag, tuned, hybrid, brief" in str(gone)
