"""`openbook eval`: every route asked the same held-out questions, and what earlier evaluations say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import json_option, workspace_option
from eval.perturbations import Kind
from indexer.config import Workspace
from indexer.corpus import Split
from service.config import routes_from_config
from service.routes import AUTO, Route
from settings import ConfigError, Settings, load_settings

if TYPE_CHECKING:
    from eval.trial import Trainer


@click.group("eval", invoke_without_command=True)
@workspace_option
@json_option
@click.option("--url", help="Score a running service instead of answering in this process.")
@click.option("--select/--no-select", default=True, help="Choose prompts and k on the dev questions first.")
@click.option(
    "--fail-under", multiple=True, metavar="METRIC=NUMBER", help="Exit 1 if the winner scores less."
)
@click.option("--repeats", type=click.IntRange(min=2), help="Also draw answers at random, this many times.")
@click.option("--plan", is_flag=True, help="Print time, tokens and what can be found, and stop.")
@click.pass_context
def eval_command(
    context: click.Context,
    workspace: Workspace,
    as_json: bool,
    url: str | None,
    select: bool,
    fail_under: Sequence[str],
    repeats: int | None,
    plan: bool,
) -> None:
    """Ask every route the test questions and give a verdict."""
    if context.invoked_subcommand is None:
        evaluate_routes(
            workspace, load_settings(workspace), url, select, fail_under, as_json, plan, repeats or 0
        )


@eval_command.command("list")
@workspace_option
@json_option
def eval_list(workspace: Workspace, as_json: bool) -> None:
    """Every evaluation of the workspace, the latest last."""
    from eval.commands import eval_list as print_list

    load_settings(workspace)
    print_list(workspace, as_json)


@eval_command.command("compare")
@workspace_option
@json_option
@click.argument("a")
@click.argument("b")
def eval_compare(workspace: Workspace, as_json: bool, a: str, b: str) -> None:
    """What changed from evaluation A to evaluation B (names of `eval list`, or folders), paired by question."""
    from eval.commands import eval_compare as print_comparison

    print_comparison(workspace, load_settings(workspace).eval, a, b, as_json)


@eval_command.command("forgetting")
@workspace_option
@json_option
@click.option(
    "--adapter", "adapters", multiple=True, help="NAME or NAME@VERSION (default: those of the routes)."
)
@click.option(
    "--general",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A .jsonl file of multiple choice questions instead of the bundled ones; may be repeated.",
)
def eval_forgetting(
    workspace: Workspace, as_json: bool, adapters: Sequence[str], general: Sequence[Path]
) -> None:
    """What training made the model forget: general questions, each adapter against the base model alone."""
    from eval.forgetting_commands import eval_forgetting as measure

    settings = load_settings(workspace)
    routes = routes_from_config(settings.routes).values()
    of_routes = dict.fromkeys(route.adapter for route in routes if route.adapter is not None)
    measure(workspace, settings.model, settings.eval, adapters or tuple(of_routes), general, as_json)


@eval_command.command("freshness")
@workspace_option
@json_option
@click.argument("changes", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--route", "names", multiple=True, help="Ask this route; may be repeated (default: all routes)."
)
@click.option("--retrain", is_flag=True, help="Also train on the changed documents, and ask again.")
def eval_freshness(
    workspace: Workspace, as_json: bool, changes: Path, names: Sequence[str], retrain: bool
) -> None:
    """How soon routes are right again after the document changes in CHANGES, tried on a copy of the workspace."""
    from eval.freshness_commands import eval_freshness as measure
    from eval.local import selected_routes

    settings = load_settings(workspace)
    asked = _named_routes(settings, names)
    chosen = selected_routes(workspace, settings.model, settings.eval, asked, settings.index)
    trainer = _trainer(workspace, settings) if retrain else None
    measure(workspace, settings.model, settings.index, settings.eval, chosen, changes, trainer, as_json)


def _named_routes(settings: Settings, names: Sequence[str]) -> dict[str, Route]:
    """The routes given by `--route`, or all of them."""
    routes = routes_from_config(settings.routes)
    for name in set(names) - routes.keys():
        raise ConfigError(f"--route {name}: unknown route; known: {', '.join(routes)}")
    return {name: routes[name] for name in names} or routes


def _trainer(workspace: Workspace, settings: Settings) -> Trainer:
    """Trains with the settings of a workspace, but in another one."""
    from cli.tune import tune_adapter
    from eval.trial import Trainer

    replay = settings.tune.replay and workspace.resolve(settings.tune.replay)
    tune = settings.tune.model_copy(update={"replay": replay})

    def train(copy: Workspace, questions: Path) -> None:
        asked = settings.eval.model_copy(update={"questions": questions})
        there = settings.model_copy(update={"tune": tune, "eval": asked})
        tune_adapter(copy, there, as_json=False, force=True, gates=False)

    return Trainer(settings.tune.adapter, train)


@eval_command.command("robustness")
@workspace_option
@json_option
@click.option("--split", type=click.Choice(["dev", "test"]), default="test", help="Which questions to ask.")
@click.option(
    "--route", "names", multiple=True, help="Ask this route; may be repeated (default: all routes)."
)
@click.option(
    "--only",
    "kinds",
    multiple=True,
    type=click.Choice([kind.value for kind in Kind]),
    help="Change this only; may be repeated.",
)
@click.option("--sample", type=click.IntRange(min=1), help="Ask this many of the questions (default: all).")
def eval_robustness(
    workspace: Workspace,
    as_json: bool,
    split: str,
    names: Sequence[str],
    kinds: Sequence[str],
    sample: int | None,
) -> None:
    """What other wordings, other passages, and documents that give orders do to each route's answers."""
    from eval.local import selected_routes
    from eval.robustness_commands import eval_robustness as measure

    settings = load_settings(workspace)
    asked = _named_routes(settings, names)
    chosen = selected_routes(workspace, settings.model, settings.eval, asked, settings.index)
    changed = [Kind(kind) for kind in kinds] or [*Kind]
    measure(
        workspace,
        settings.model,
        settings.eval,
        chosen,
        Split(split),
        changed,
        sample,
        as_json,
        settings.index,
    )


@eval_command.command("router")
@workspace_option
@json_option
@click.option(
    "--route", "names", multiple=True, help="Choose among these; may be repeated (default: all routes)."
)
def eval_router(workspace: Workspace, as_json: bool, names: Sequence[str]) -> None:
    """Learn on dev which route to take for a question, and score that once on test; `serve` offers it as `auto`."""
    from eval.router_commands import eval_router as train_and_score

    settings = load_settings(workspace)
    chosen = _named_routes(settings, names)
    train_and_score(workspace, settings.model, settings.eval, chosen, as_json, settings.index)


@eval_command.command("questions")
@workspace_option
@json_option
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write (default: eval.questions).",
)
@click.option("--count", type=click.IntRange(min=3), default=300, help="Most questions.", show_default=True)
@click.option("--by-rule", is_flag=True, help="Ask no language model, even if tune.synthesis names one.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def eval_questions(
    workspace: Workspace, as_json: bool, output: Path | None, count: int, by_rule: bool, force: bool
) -> None:
    """Make questions from the indexed documents, for want of real ones; they are marked as synthetic."""
    from eval.question_commands import eval_questions as write

    settings = load_settings(workspace)
    path = output or workspace.resolve(settings.eval.questions)
    write(workspace, path, None if by_rule else settings.tune.synthesis, count, force, as_json)


def evaluate_routes(
    workspace: Workspace,
    settings: Settings,
    url: str | None,
    select: bool,
    fail_under: Sequence[str],
    as_json: bool,
    plan: bool = False,
    repeats: int = 0,
) -> None:
    """Evaluate every route of the settings, or those of the service at `url`."""
    from eval.commands import eval_run

    routes = routes_from_config(settings.routes)
    # A service may offer `auto` beside the routes; where there is none, its contrasts are left out.
    for name in {name for pair in settings.eval.contrasts for name in pair} - {*routes, AUTO}:
        raise ConfigError(f"eval.contrasts names the unknown route {name!r}; known: {', '.join(routes)}")
    key = os.environ.get(settings.serve.api_key_env)
    eval_run(
        workspace,
        settings.model,
        settings.eval,
        routes,
        url,
        key,
        select,
        fail_under,
        plan,
        repeats,
        as_json,
        settings.index,
    )
