"""`openbook tune` and `openbook adapters`: training on the documents, and what came of it."""

from __future__ import annotations

import click

from cli.options import json_option, workspace_option
from indexer.config import Workspace
from settings import Settings, load_settings


@click.command()
@workspace_option
@json_option
@click.option("--force", is_flag=True, help="Train even if the adapter is up to date.")
@click.option("--dry-run", is_flag=True, help="Check for leakage, show the training rows, and stop.")
def tune(workspace: Workspace, as_json: bool, force: bool, dry_run: bool) -> None:
    """Train an adapter on the indexed documents and the train questions."""
    tune_adapter(workspace, load_settings(workspace), as_json, force, dry_run)


@click.group()
def adapters() -> None:
    """List, show and promote trained adapters."""


@adapters.command("list")
@workspace_option
@json_option
def adapters_list(workspace: Workspace, as_json: bool) -> None:
    """Every adapter version with its dev scores."""
    from tuner.commands import list_adapters

    load_settings(workspace)
    list_adapters(workspace, as_json)


@adapters.command("show")
@workspace_option
@click.argument("adapter")
def adapters_show(workspace: Workspace, adapter: str) -> None:
    """The manifest of ADAPTER (NAME or NAME@VERSION)."""
    from tuner.commands import show_adapter

    show_adapter(workspace, adapter)


@adapters.command("promote")
@workspace_option
@click.argument("adapter")
def adapters_promote(workspace: Workspace, adapter: str) -> None:
    """Make ADAPTER (NAME@VERSION) the one that routes use."""
    from tuner.commands import promote_adapter

    promote_adapter(workspace, adapter)


def tune_adapter(workspace: Workspace, settings: Settings, as_json: bool, force: bool, dry_run: bool) -> None:
    """Train by the settings; the dev score is the evaluation's primary metric."""
    from eval.scoring import mean_score
    from indexer.encoding import load_encoder
    from indexer.readers import read_questions
    from indexer.retriever import Index
    from tuner.commands import tune as train

    opened = Index.open(workspace, load_encoder(settings.model.encoder))
    questions = read_questions(workspace.resolve(settings.eval.questions), opened.documents())
    train(
        workspace,
        settings.model,
        settings.tune,
        questions,
        opened.retriever(),
        mean_score(settings.eval.primary_metric),
        force,
        dry_run,
        as_json,
    )
