"""`openbook init` and `openbook demo`: a first workspace."""

from __future__ import annotations

from pathlib import Path

import click

from cli.eval import evaluate_routes
from cli.index import sync_index
from cli.tune import tune_adapter
from indexer.config import Workspace
from settings import TEMPLATE, ConfigError, load_settings

SAMPLE = Path(__file__).parents[1] / "examples" / "skein"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option("--sample", is_flag=True, help="Bring the sample corpus along.")
def init(folder: Path, sample: bool) -> None:
    """Write a commented openbook.toml into FOLDER."""
    from indexer.files import write_atomically

    workspace = Workspace(folder.resolve())
    if workspace.config_file.exists():
        raise ConfigError(f"{workspace.config_file} exists already; delete it to start anew")
    if sample:
        copy_sample(workspace)
    (workspace.root / "documents").mkdir(parents=True, exist_ok=True)
    write_atomically(workspace.config_file, TEMPLATE)
    click.echo(f"{workspace.config_file} written; put documents into {workspace.root / 'documents'} and run")
    click.echo(f"  openbook index --workspace {folder}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("demo"))
def demo(folder: Path) -> None:
    """The whole job on the sample corpus: init, index, tune, eval. What is done already is not repeated."""
    workspace = Workspace(folder.resolve())
    if not workspace.config_file.exists():
        from indexer.files import write_atomically

        copy_sample(workspace)
        write_atomically(workspace.config_file, TEMPLATE)
    settings = load_settings(workspace)
    click.secho("\n1. index the documents", bold=True)
    sync_index(workspace, as_json=False)
    click.secho("\n2. tune an adapter on them", bold=True)
    tune_adapter(workspace, settings, as_json=False, force=False, gates=False)
    click.secho("\n3. ask every route the same held-out questions", bold=True)
    evaluate_routes(workspace, settings, None, True, (), as_json=False)
    click.secho("\nNext", bold=True)
    click.echo(f'  openbook ask --workspace {folder} --route hybrid "When was service back after the flood?"')
    click.echo(
        f"  openbook serve --workspace {folder}     # then open http://{settings.serve.host}:{settings.serve.port}"
    )


def copy_sample(workspace: Workspace) -> None:
    """Copy the sample corpus into the workspace."""
    import shutil

    if not SAMPLE.is_dir():
        raise ConfigError(f"the sample corpus is not at {SAMPLE}; run from a checkout of openbook")
    shutil.copytree(SAMPLE, workspace.root, dirs_exist_ok=True)
