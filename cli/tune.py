"""`openbook tune` and `openbook adapters`: training on the documents, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import json_option, workspace_option
from indexer.config import Workspace
from settings import Settings, load_settings

if TYPE_CHECKING:
    from indexer.corpus import Question
    from indexer.retriever import Retriever


@click.command()
@workspace_option
@json_option
@click.option("--force", is_flag=True, help="Train even if the adapter is up to date.")
@click.option("--dry-run", is_flag=True, help="Check for leakage, show the training rows, and stop.")
@click.option("--plan", is_flag=True, help="As --dry-run, and try a few steps to estimate time and memory.")
@click.option("--search", type=click.IntRange(1, 10_000), metavar="N", help="Try N settings on dev instead.")
@click.option("--no-gates", is_flag=True, help="Promote the adapter without comparing routes on dev.")
def tune(
    workspace: Workspace,
    as_json: bool,
    force: bool,
    dry_run: bool,
    plan: bool,
    search: int | None,
    no_gates: bool,
) -> None:
    """Train an adapter on the indexed documents and the train questions.

    Interrupted (or killed), the same command goes on where it was. The new adapter is promoted if, on dev, its routes
    are better than those without it. --search trains nothing that is kept: it says which settings score best; trials
    already made count, so that the same command goes on and a larger N goes further.
    """
    settings = load_settings(workspace)
    if dry_run or plan:
        plan_adapter(workspace, settings, as_json, try_steps=plan)
    elif search:
        search_adapter(workspace, settings, as_json, search)
    else:
        tune_adapter(workspace, settings, as_json, force, gates=not no_gates)


@click.group()
def adapters() -> None:
    """List, compare, promote, delete, export, merge and import trained adapters."""


@adapters.command("list")
@workspace_option
@json_option
def adapters_list(workspace: Workspace, as_json: bool) -> None:
    """Every adapter version with its dev scores."""
    from tuner.adapter_commands import list_adapters

    load_settings(workspace)
    list_adapters(workspace, as_json)


@adapters.command("show")
@workspace_option
@click.argument("adapter")
def adapters_show(workspace: Workspace, adapter: str) -> None:
    """The manifest of ADAPTER (NAME or NAME@VERSION)."""
    from tuner.adapter_commands import show_adapter

    show_adapter(workspace, adapter)


@adapters.command("promote")
@workspace_option
@click.argument("adapter")
def adapters_promote(workspace: Workspace, adapter: str) -> None:
    """Make ADAPTER (NAME@VERSION) the one that routes use, also if it failed on dev."""
    from tuner.adapter_commands import promote_adapter

    promote_adapter(workspace, adapter)


@adapters.command("diff")
@workspace_option
@click.argument("first")
@click.argument("second")
def adapters_diff(workspace: Workspace, first: str, second: str) -> None:
    """What differs between two adapters: inputs, settings, scores, weights."""
    from tuner.adapter_commands import diff_adapters

    diff_adapters(workspace, first, second)


@adapters.command("delete")
@workspace_option
@click.argument("adapter")
def adapters_delete(workspace: Workspace, adapter: str) -> None:
    """Remove ADAPTER (NAME@VERSION) for good; its number is not used again."""
    from tuner.adapter_commands import delete_adapter

    delete_adapter(workspace, adapter)


@adapters.command("export")
@workspace_option
@click.argument("adapter")
@click.argument("folder", type=click.Path(path_type=Path))
def adapters_export(workspace: Workspace, adapter: str, folder: Path) -> None:
    """Write ADAPTER into a new FOLDER that plain PEFT loads."""
    from tuner.adapter_commands import export

    export(workspace, adapter, folder)


@adapters.command("merge")
@workspace_option
@click.argument("adapter")
@click.argument("folder", type=click.Path(path_type=Path))
def adapters_merge(workspace: Workspace, adapter: str, folder: Path) -> None:
    """Write the base model with ADAPTER worked in as a whole model into a new FOLDER."""
    from tuner.adapter_commands import merge

    merge(workspace, adapter, load_settings(workspace).model.base, folder)


@adapters.command("import")
@workspace_option
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--name", required=True, help="Name that routes will use.")
def adapters_import(workspace: Workspace, folder: Path, name: str) -> None:
    """Take the PEFT LoRA adapter in FOLDER, trained elsewhere for the same base model."""
    from tuner.adapter_commands import import_

    import_(workspace, load_settings(workspace).model.base, folder, name)


def tune_adapter(
    workspace: Workspace, settings: Settings, as_json: bool, force: bool, gates: bool = True
) -> None:
    """Train by the settings; the dev score is the evaluation's primary metric."""
    from tuner.tracking import require_tracker

    require_tracker(settings.tune)  # before anything slow, the imports for training included
    from cli.gates import measure_on_dev
    from eval.scoring import mean_score
    from tuner.commands import tune as train
    from tuner.dev import Metric

    questions, retriever = _open(workspace, settings)
    metric = Metric(settings.eval.primary_metric, mean_score(settings.eval.primary_metric))
    measure = measure_on_dev(workspace, settings, questions) if gates else None
    train(workspace, settings.model, settings.tune, questions, retriever, metric, measure, force, as_json)


def plan_adapter(workspace: Workspace, settings: Settings, as_json: bool, try_steps: bool) -> None:
    """Show what would be trained."""
    from tuner.commands import show_plan

    questions, retriever = _open(workspace, settings)
    show_plan(workspace, settings.model, settings.tune, questions, retriever, try_steps, as_json)


def search_adapter(workspace: Workspace, settings: Settings, as_json: bool, trials: int) -> None:
    """Try settings; the dev score is the evaluation's primary metric."""
    from eval.scoring import mean_score
    from tuner.commands import search
    from tuner.dev import Metric

    questions, retriever = _open(workspace, settings)
    metric = Metric(settings.eval.primary_metric, mean_score(settings.eval.primary_metric))
    search(workspace, settings.model, settings.tune, questions, retriever, metric, trials, as_json)


def _open(workspace: Workspace, settings: Settings) -> tuple[list[Question], Retriever]:
    from indexer.encoding import load_encoder
    from indexer.ranking import load_ranking
    from indexer.readers import read_questions
    from indexer.retriever import Index

    opened = Index.open(workspace, load_encoder(settings.model.encoder), load_ranking(settings.index))
    questions = read_questions(workspace.resolve(settings.eval.questions), opened.documents())
    return questions, opened.retriever()
