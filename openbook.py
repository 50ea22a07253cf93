"""The `openbook` command: joins the four packages' sub-commands; nothing else.

Heavy imports stand inside the commands that need them, so that `openbook --help` and usage errors are instant.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource
from rich.console import Console
from rich.logging import RichHandler

from indexer.config import Workspace
from service.config import routes_from_config
from settings import TEMPLATE, ConfigError, Settings, load_settings

if TYPE_CHECKING:
    from service.answering import Answerer
    from service.routes import Route

SAMPLE = Path(__file__).parent / "examples" / "skein"

F = TypeVar("F", bound=Callable[..., Any])


def workspace_option(command: F) -> F:
    """`--workspace DIR`, handed on as a Workspace."""
    return click.option(
        "--workspace",
        "-w",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(),
        callback=lambda _context, _option, value: Workspace(value.resolve()),
        help="Folder with openbook.toml (default: here).",
    )(command)


def json_option(command: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="openbook")
def cli() -> None:
    """Retrieve, fine-tune, or both? Measure it on your own documents, then serve the answer."""


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option("--sample", is_flag=True, help="Bring the sample corpus along.")
def init(folder: Path, sample: bool) -> None:
    """Write a commented openbook.toml into FOLDER."""
    from indexer.files import write_atomically

    workspace = Workspace(folder.resolve())
    if workspace.config_file.exists():
        raise ConfigError(f"{workspace.config_file} exists already; delete it to start anew")
    if sample:
        _copy_sample(workspace)
    (workspace.root / "documents").mkdir(parents=True, exist_ok=True)
    write_atomically(workspace.config_file, TEMPLATE)
    click.echo(f"{workspace.config_file} written; put documents into {workspace.root / 'documents'} and run")
    click.echo(f"  openbook index --workspace {folder}")


@cli.group(invoke_without_command=True)
@workspace_option
@json_option
@click.pass_context
def index(context: click.Context, workspace: Workspace, as_json: bool) -> None:
    """Make the index equal the documents (the same as `index sync`)."""
    if context.invoked_subcommand is None:
        _index_sync(workspace, as_json)
    elif context.get_parameter_source("workspace") is not ParameterSource.DEFAULT:
        raise click.UsageError(
            f"--workspace belongs after the sub-command: openbook index {context.invoked_subcommand}"
        )


@index.command("sync")
@workspace_option
@json_option
def index_sync_command(workspace: Workspace, as_json: bool) -> None:
    """Make the index equal the documents; only what changed is embedded."""
    _index_sync(workspace, as_json)


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
@click.argument("query")
@click.option("-k", default=5, show_default=True, type=click.IntRange(1, 100))
def index_search_command(workspace: Workspace, as_json: bool, query: str, k: int) -> None:
    """Show the chunks that QUERY finds, with scores by source."""
    from indexer.commands import index_search

    index_search(workspace, load_settings(workspace).model, query, k, as_json)


@cli.command()
@workspace_option
@json_option
@click.option("--force", is_flag=True, help="Train even if the adapter is up to date.")
@click.option("--dry-run", is_flag=True, help="Check for leakage, show the training rows, and stop.")
def tune(workspace: Workspace, as_json: bool, force: bool, dry_run: bool) -> None:
    """Train an adapter on the indexed documents and the train questions."""
    _tune(workspace, load_settings(workspace), as_json, force, dry_run)


@cli.group()
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


@cli.command()
@workspace_option
@json_option
@click.argument("question")
@click.option("--route", default="rag", show_default=True)
def ask(workspace: Workspace, as_json: bool, question: str, route: str) -> None:
    """Answer QUESTION by one route."""
    from service.answering import UnknownRoute
    from service.commands import ask as ask_once

    settings = load_settings(workspace)
    routes = routes_from_config(settings.routes)
    if route not in routes:
        raise UnknownRoute(f"unknown route {route!r}; known: {', '.join(routes)}")
    ask_once(_open(workspace, settings, {route: routes[route]}), question, route, as_json)


@cli.command()
@workspace_option
@click.option("--host", help="Address to listen on (default: serve.host).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on (default: serve.port).")
def serve(workspace: Workspace, host: str | None, port: int | None) -> None:
    """Answer over HTTP: openbook's own endpoints, an OpenAI-compatible one, and a page."""
    from service.app import create_app
    from service.commands import serve as serve_forever
    from service.model_thread import ModelThread

    settings = load_settings(workspace)
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    config = settings.serve.model_copy(update=given)
    answerer = _open(workspace, settings, _available_routes(workspace, settings))
    app = create_app(answerer, ModelThread(answerer.generator, config.queue_size), config)
    serve_forever(app, config)


@cli.command("eval")
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
    _eval(workspace, load_settings(workspace), url, select, fail_under, as_json)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("demo"))
def demo(folder: Path) -> None:
    """The whole job on the sample corpus: init, index, tune, eval. What is done already is not repeated."""
    workspace = Workspace(folder.resolve())
    if not workspace.config_file.exists():
        from indexer.files import write_atomically

        _copy_sample(workspace)
        write_atomically(workspace.config_file, TEMPLATE)
    settings = load_settings(workspace)
    click.secho("\n1. index the documents", bold=True)
    _index_sync(workspace, as_json=False)
    click.secho("\n2. tune an adapter on them", bold=True)
    _tune(workspace, settings, as_json=False, force=False, dry_run=False)
    click.secho("\n3. ask every route the same held-out questions", bold=True)
    _eval(workspace, settings, None, True, (), as_json=False)
    click.secho("\nNext", bold=True)
    click.echo(f'  openbook ask --workspace {folder} --route hybrid "Who leads the Capsule Hospital?"')
    click.echo(
        f"  openbook serve --workspace {folder}     # then open http://{settings.serve.host}:{settings.serve.port}"
    )


def _index_sync(workspace: Workspace, as_json: bool) -> None:
    from indexer.commands import index_sync

    settings = load_settings(workspace)
    index_sync(workspace, settings.index, settings.model, as_json)


def _tune(workspace: Workspace, settings: Settings, as_json: bool, force: bool, dry_run: bool) -> None:
    from eval.scoring import mean_score
    from indexer.encoding import load_encoder
    from indexer.readers import read_questions
    from indexer.retriever import Index
    from tuner.commands import tune as tune_adapter

    opened = Index.open(workspace, load_encoder(settings.model.encoder))
    questions = read_questions(workspace.resolve(settings.eval.questions), opened.documents())
    tune_adapter(
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


def _eval(
    workspace: Workspace,
    settings: Settings,
    url: str | None,
    select: bool,
    fail_under: Sequence[str],
    as_json: bool,
) -> None:
    from eval.commands import eval_run

    routes = routes_from_config(settings.routes)
    for name in {name for pair in settings.eval.contrasts for name in pair} - routes.keys():
        raise ConfigError(f"eval.contrasts names the unknown route {name!r}; known: {', '.join(routes)}")
    key = os.environ.get(settings.serve.api_key_env)
    eval_run(workspace, settings.model, settings.eval, routes, url, key, select, fail_under, as_json)


def _open(workspace: Workspace, settings: Settings, routes: Mapping[str, Route]) -> Answerer:
    """The routes ready to answer, with the prompt options that `openbook eval` chose for them on dev, if it did."""
    from eval.local import selected_routes
    from indexer.readers import read_questions
    from service.assembly import open_answerer

    path = workspace.resolve(settings.eval.questions)
    questions = read_questions(path) if path.is_file() else []
    chosen = selected_routes(workspace, settings.model, settings.eval, routes)
    return open_answerer(workspace, settings.model, chosen, questions)


def _available_routes(workspace: Workspace, settings: Settings) -> dict[str, Route]:
    """Routes whose adapter can be used; without any adapter the service still answers by the others."""
    from tuner.base_model import resolve_model, weights_hash
    from tuner.registry import AdapterError, Registry, check_adapter

    base_hash = weights_hash(resolve_model(settings.model.base))
    ready = {}
    for name, route in routes_from_config(settings.routes).items():
        try:
            if route.adapter is not None:
                adapter = Registry(workspace.adapters).resolve(route.adapter)
                check_adapter(adapter, settings.model.base, base_hash)
        except AdapterError as error:
            click.echo(f"route {name!r} is left out: {error}", err=True)
        else:
            ready[name] = route
    return ready


def _copy_sample(workspace: Workspace) -> None:
    import shutil

    if not SAMPLE.is_dir():
        raise ConfigError(f"the sample corpus is not at {SAMPLE}; run from a checkout of openbook")
    shutil.copytree(SAMPLE, workspace.root, dirs_exist_ok=True)


def main() -> None:
    """Run the command line; expected errors end in one line and exit code 1 (failed) or 2 (bad usage)."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )
    logging.getLogger("openbook").setLevel(logging.INFO)
    logging.getLogger("openbook.indexer").setLevel(logging.WARNING)  # its report is printed anyway
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; run the same command to go on where it stopped", err=True)
        sys.exit(130)
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        click.echo(f"openbook: {error}", err=True)
        sys.exit(code)


def exit_code(error: Exception) -> int | None:
    """2 for bad input or configuration, 1 for work that failed, None for a fault of ours (shown in full)."""
    if isinstance(error, ValueError) and type(error).__module__.partition(".")[0] in PACKAGES:
        return 2
    if type(error).__module__.partition(".")[0] in PACKAGES:
        return 2 if type(error).__name__ == "IndexMissing" else 1
    return 1 if isinstance(error, OSError) else None


PACKAGES = ("settings", "indexer", "tuner", "service", "eval")

if __name__ == "__main__":
    main()
