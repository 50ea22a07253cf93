"""`openbook ask`, `openbook serve` and `openbook keys`: answers by route, once or over HTTP."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import json_option, words, workspace_option
from indexer.config import Workspace
from service.config import routes_from_config
from service.routes import AUTO
from settings import ConfigError, Settings, load_settings

if TYPE_CHECKING:
    from service.answering import Answerer
    from service.router import Router, TrainedRouter
    from service.routes import Route
    from service.tracing import Tracing


@click.command()
@workspace_option
@json_option
@click.argument("question", callback=words)
@click.option(
    "--route", default="rag", show_default=True, help="Answer by this one; `auto` takes the one that fits."
)
def ask(workspace: Workspace, as_json: bool, question: str, route: str) -> None:
    """Answer QUESTION by one route."""
    from service.answering import UnknownRoute
    from service.commands import print_answer
    from service.router import Router

    settings = load_settings(workspace)
    routes = routes_from_config(settings.routes)
    trained = trained_router(workspace, routes) if route == AUTO else None
    if trained is None and route not in routes:
        raise UnknownRoute(f"unknown route {route!r}; known: {', '.join(routes)}")
    wanted = trained.routes if trained else [route]
    answerer = open_routes(workspace, settings, {name: routes[name] for name in wanted})
    try:
        if trained is None:
            answer = answerer.answer(question, route)
        else:
            router = Router(trained, answerer)
            warn_if_stale(router)
            answer = router.answer(question)
        print_answer(answer, as_json)
    finally:
        answerer.generator.close()


@click.command()
@workspace_option
@click.option("--host", help="Address to listen on (default: serve.host).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on (default: serve.port).")
def serve(workspace: Workspace, host: str | None, port: int | None) -> None:
    """Answer over HTTP: openbook's own endpoints, an OpenAI-compatible one, and a page."""
    from eval.sequential import analyse
    from service.app import create_app
    from service.commands import serve as serve_forever
    from service.experiments import Experiments
    from service.guard import require_keys
    from service.model_thread import ModelThread
    from service.workbench import open_workbench
    from service.worker_threads import run_and_forget_threads
    from tuner.machine import keep_freed_memory

    settings = load_settings(workspace)
    given: dict[str, object] = {
        name: value for name, value in (("host", host), ("port", port)) if value is not None
    }
    if settings.serve.keys_file is not None:
        given["keys_file"] = str(workspace.resolve(Path(settings.serve.keys_file)))
    config = settings.serve.model_copy(update=given)
    require_keys(config)  # before the seconds that loading takes
    tracing = open_tracing() if config.tracing else None
    routes = available_routes(workspace, settings)
    keep_freed_memory()  # what a burst of requests leaves is returned when the service is idle
    answerer = run_and_forget_threads(lambda: open_routes(workspace, settings, routes))
    thread = ModelThread(answerer.generator, config.queue_size, config.queue_tokens, config.batch_tokens)
    bench = open_workbench(workspace, settings.index)
    experiments = Experiments(workspace.data / "experiments.sqlite", analyse)
    router = open_router(workspace, answerer)
    serve_forever(create_app(answerer, thread, config, bench, router, tracing, experiments), config)


def open_tracing() -> Tracing:
    """What makes and sends spans. Raises ConfigError where OpenTelemetry is not installed."""
    try:
        from service.tracing import open_tracing as open_spans
    except ModuleNotFoundError as error:
        raise ConfigError(
            "serve.tracing = true needs OpenTelemetry; run `pip install 'openbook[otel]'`, or leave it out"
        ) from error
    return open_spans()


@click.group()
def keys() -> None:
    """Keys for a service that others may reach."""


@keys.command("new")
@click.argument("name")
@click.option("--scope", type=click.Choice(["reader", "admin"]), default="reader", show_default=True)
def new(name: str, scope: str) -> None:
    """Make a key: the key itself on standard error, once; the line for serve.keys_file on standard output."""
    from service.keys import Scope, new_key

    secret, key = new_key(name, Scope(scope))
    click.echo(f"give this key to its user, it is kept nowhere: {secret}", err=True)
    click.echo(key.line())


def open_routes(workspace: Workspace, settings: Settings, routes: Mapping[str, Route]) -> Answerer:
    """The routes ready to answer, with the prompt options that `openbook eval` chose for them on dev, if it did."""
    from eval.local import selected_routes
    from indexer.readers import read_questions
    from service.assembly import open_answerer

    path = workspace.resolve(settings.eval.questions)
    questions = read_questions(path) if path.is_file() else []
    chosen = selected_routes(workspace, settings.model, settings.eval, routes, settings.index)
    return open_answerer(workspace, settings.model, chosen, questions, settings.index)


def open_router(workspace: Workspace, answerer: Answerer) -> Router | None:
    """The trained choice among the routes; without one that fits, the service does without `auto`."""
    from service.router import Router, RouterError, load_router, router_path
    from tuner.registry import AdapterError

    try:
        trained = load_router(router_path(workspace))
        router = Router(trained, answerer) if trained else None
    except (RouterError, AdapterError) as error:
        click.echo(f"route 'auto' is left out: {error}", err=True)
        return None
    if router:
        warn_if_stale(router)
    return router


def trained_router(workspace: Workspace, names: Collection[str]) -> TrainedRouter:
    """The router of the workspace, if it fits the routes of these names.

    Raises UnknownRoute if none is trained, and RouterError.
    """
    from service.answering import NO_ROUTER, UnknownRoute
    from service.router import load_router, router_path

    trained = load_router(router_path(workspace))
    if trained is None:
        raise UnknownRoute(NO_ROUTER)
    trained.require_routes(names)
    return trained


def warn_if_stale(router: Router) -> None:
    """Say on standard error if documents have changed since the router was trained."""
    if difference := router.stale():
        click.echo(f"route {AUTO!r} is out of date: {difference}; run `openbook eval router`", err=True)


def available_routes(workspace: Workspace, settings: Settings) -> dict[str, Route]:
    """Routes whose adapter can be used; without any adapter the service still answers by the others."""
    from service.assembly import base_identity, require_usable
    from tuner.registry import AdapterError, Registry

    identity = base_identity(settings.model)
    ready = {}
    for name, route in routes_from_config(settings.routes).items():
        try:
            if route.adapter is not None:
                adapter = Registry(workspace.adapters).resolve(route.adapter)
                require_usable(adapter, settings.model, identity)
        except AdapterError as error:
            click.echo(f"route {name!r} is left out: {error}", err=True)
        else:
            ready[name] = route
    return ready
