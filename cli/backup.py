"""`openbook backup` and `openbook restore`: a workspace in one file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from cli.options import json_option, workspace_option
from indexer.config import Workspace
from settings import load_settings

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("backup")
@workspace_option
@json_option
@click.argument("file", type=FILE)
def backup_command(workspace: Workspace, as_json: bool, file: Path) -> None:
    """Write all that cannot be rebuilt to FILE, also while the workspace is in use."""
    from indexer.backup import backup

    questions = workspace.resolve(load_settings(workspace).eval.questions)
    report = backup(workspace, file, [questions])
    if as_json:
        click.echo(json.dumps(asdict(report)))
    else:
        click.echo(
            f"{file}: {report.files} files, {report.bytes / (1 << 20):.1f} MB; the documents folder is not in it"
        )


@click.command("restore")
@workspace_option
@json_option
@click.option(
    "--replace", is_flag=True, help="Also if the workspace has data, which are kept beside the new ones."
)
@click.argument("file", type=FILE)
def restore_command(workspace: Workspace, as_json: bool, replace: bool, file: Path) -> None:
    """Make the workspace what FILE, a backup, holds; stop everything that uses it first."""
    from indexer.backup import restore

    report = restore(file, workspace, replace)
    if as_json:
        click.echo(json.dumps(asdict(report)))
    else:
        click.echo(f"{workspace.root}: {report.files} files restored and checked")
