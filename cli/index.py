"""`openbook index`: the documents and what is retrieved from them."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from cli.options import json_option, words, workspace_option
from indexer.config import Workspace
from settings import load_settings


@click.group(invoke_without_command=True)
@workspace_option
@json_option
@click.pass_context
def index(context: click.Context, workspace: Workspace, as_json: bool) -> None:
    """Make the index equal the documents (the same as `index sync`)."""
    if context.invoked_subcommand is None:
        sync_index(workspace, as_json)
    elif context.get_parameter_source("workspace") is not ParameterSource.DEFAULT:
        raise click.UsageError(
            f"--workspace belongs after the sub-command: openbook index {context.invoked_subcommand}"
        )


@index.command("sync")
@workspace_option
@json_option
def index_sync_command(workspace: Workspace, as_json: bool) -> None:
    """Make the index equal the documents; only what changed is embedded."""
    sync_index(workspace, as_json)


@index.command("watch")
@workspace_option
@json_option
def index_watch_command(workspace: Workspace, as_json: bool) -> None:
    """Sync now and after every change of the documents; a running service answers from each at once."""
    from indexer.commands import index_watch

    settings = load_settings(workspace)
    index_watch(workspace, settings.index, settings.model, as_json)


@index.command("verify")
@workspace_option
@json_option
def index_verify_command(workspace: Workspace, as_json: bool) -> None:
    """Check that database, full text and vectors hold the same chunks."""
    from indexer.commands import index_verify

    load_settings(workspace)
    index_verify(workspace, as_json)


@index.command("search")
@workspace_option
@json_option
@click.argument("query", callback=words)
@click.option("-k", default=5, show_default=True, type=click.IntRange(1, 100))
def index_search_command(workspace: Workspace, as_json: bool, query: str, k: int) -> None:
    """Show the chunks that QUERY finds, with scores by source."""
    from indexer.commands import index_search

    settings = load_settings(workspace)
    index_search(workspace, settings.index, settings.model, query, k, as_json)


@index.command("eval")
@workspace_option
@json_option
@click.option(
    "--questions",
    type=click.Path(path_type=Path),
    help="A .jsonl of questions, or a BEIR folder, instead of [eval] questions.",
)
@click.option("--split", type=click.Choice(["train", "dev", "test"]), default="dev", show_default=True)
def index_eval_command(workspace: Workspace, as_json: bool, questions: Path | None, split: str) -> None:
    """Score retrieval alone (recall, MRR, nDCG) on questions that name documents or evidence."""
    from indexer.commands import index_eval
    from indexer.corpus import Split

    settings = load_settings(workspace)
    path = questions or workspace.resolve(settings.eval.questions)
    index_eval(workspace, settings.index, settings.model, path, Split(split), as_json)


@index.command("export-beir")
@workspace_option
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def index_export_beir_command(workspace: Workspace, folder: Path) -> None:
    """Write the indexed documents and the questions to FOLDER in the layout of BEIR."""
    from indexer.commands import index_export_beir

    settings = load_settings(workspace)
    index_export_beir(workspace, workspace.resolve(settings.eval.questions), folder)


def sync_index(workspace: Workspace, as_json: bool) -> None:
    """Bring the index up to date and say what that took."""
    from indexer.commands import index_sync

    settings = load_settings(workspace)
    index_sync(workspace, settings.index, settings.model, as_json)
