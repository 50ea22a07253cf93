"""`openbook eval`: every route asked the same held-out questions."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from cli.options import json_option, workspace_option
from indexer.config import Workspace
from service.config import routes_from_config
from settings import ConfigError, Settings, load_settings


@click.command("eval")
@workspace_option
@json_option
@click.option("--url", help="Score a running service instead of answering in this process.")
@click.option("--select/--no-select", default=True, help="Choose prompts and k on the dev questions first.")
@click.option(
    "--fail-under", multiple=True, metavar="METRIC=NUMBER", help="Exit 1 if the winner scores less."
)
def eval_command(
    workspace: Workspace, as_json: bool, url: str | None, select: bool, fail_under: Sequence[str]
) -> None:
    """Ask every route the test questions and give a verdict."""
    evaluate_routes(workspace, load_settings(workspace), url, select, fail_under, as_json)


def evaluate_routes(
    workspace: Workspace,
    settings: Settings,
    url: str | None,
    select: bool,
    fail_under: Sequence[str],
    as_json: bool,
) -> None:
    """Evaluate every route of the settings, over HTTP if `url` is given."""
    from eval.commands import eval_run

    routes = routes_from_config(settings.routes)
    for name in {name for pair in settings.eval.contrasts for name in pair} - routes.keys():
        raise ConfigError(f"eval.contrasts names the unknown route {name!r}; known: {', '.join(routes)}")
    key = os.environ.get(settings.serve.api_key_env)
    eval_run(workspace, settings.model, settings.eval, routes, url, key, select, fail_under, as_json)
