"""The HTTP application: endpoints, errors, limits and the page, joined."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, Security
from fastapi.responses import FileResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from indexer.database import IndexDamaged, IndexMissing, IndexUnwritable
from service.access import AccessLog
from service.admin import adapters_router, feedback_router, jobs_router
from service.answering import Answerer
from service.api import answer_router, health_router
from service.config import ServeConfig
from service.documents_api import documents_router
from service.errors import ErrorBody, Unforeseen, add_error_handlers
from service.experiments import Experiments
from service.experiments_api import experiments_router
from service.generation import LocalGenerator
from service.guard import Guard, require_keys
from service.live import LiveAnswerer
from service.model_thread import ModelThread
from service.openai_api import openai_router
from service.router import Router
from service.workbench import Workbench
from tuner.machine import Holes, Rest

if TYPE_CHECKING:
    from service.tracing import Tracing

log = logging.getLogger("openbook.service")

STATIC = Path(__file__).parent / "static"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""The page runs only its own script: whatever documents contain, they cannot."""
WATCH_SECONDS = 1.0
"""How often it is noticed that the model thread has died or that documents have gone."""

_BEARER = HTTPBearer(auto_error=False, description="A key of the service, if it has any; checked by `Guard`.")


def create_app(
    answerer: Answerer,
    model_thread: ModelThread,
    config: ServeConfig,
    bench: Workbench | None = None,
    router: Router | None = None,
    tracing: Tracing | None = None,
    experiments: Experiments | None = None,
) -> FastAPI:
    """The service over `answerer`, whose generator `model_thread` owns; closes the thread and `bench` at shutdown.

    Without a `bench` it answers and changes nothing; with a `router` it also offers `auto`; with `tracing` it makes
    spans. Raises ExposureError if `config` would let strangers in, and KeyFileError.
    """
    keys = require_keys(config)
    live = LiveAnswerer(answerer, model_thread, config.timeout_seconds, router)
    live.experiments = experiments
    live.tracing = tracing
    if isinstance(answerer.generator, LocalGenerator):
        live.metrics.watch_prefixes(answerer.generator.prefixes)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stopping = asyncio.Event()
        watching = [asyncio.create_task(_watch(model_thread, stopping))]
        if bench is not None:
            await run_in_threadpool(bench.jobs.start)
            watching.append(asyncio.create_task(_follow_index(bench, stopping)))
        yield
        stopping.set()  # not cancelled: their threads would go on using what is closed next
        await asyncio.gather(*watching, return_exceptions=True)
        if bench is not None:
            await run_in_threadpool(bench.close)
        if experiments is not None:
            await run_in_threadpool(experiments.close)
        await run_in_threadpool(model_thread.close, config.timeout_seconds)
        if tracing is not None:
            await run_in_threadpool(tracing.close)

    app = FastAPI(
        title="openbook",
        summary="Answers by route: from the weights, from the documents, or both.",
        lifespan=lifespan,
        # FastAPI's documentation pages load scripts from other sites.
        docs_url=None,
        redoc_url=None,
        responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
    )
    # The last one added is the outermost.
    if tracing is not None:
        from service.tracing import TraceRequests  # OpenTelemetry may be missing where no spans are wanted

        app.add_middleware(TraceRequests, tracing=tracing)
    app.add_middleware(Unforeseen)
    app.add_middleware(Guard, config=config, keys=keys)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],  # OpenAI's client for browsers sends a dozen of its own
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(AccessLog, metrics=live.metrics)
    add_error_handlers(app)
    shown_as_protected = [Security(_BEARER)]
    app.include_router(health_router(live))
    if bench is not None:
        # Before the routes that take any document id: `GET /v1/documents` is a list.
        for endpoints in (
            documents_router(live, bench),
            adapters_router(live, bench),
            jobs_router(bench),
            feedback_router(live, bench),
            *([experiments_router(live, experiments, bench.feedback)] if experiments else []),
        ):
            app.include_router(endpoints, dependencies=shown_as_protected)
    app.include_router(answer_router(live), dependencies=shown_as_protected)
    app.include_router(openai_router(live, config.max_new_tokens), dependencies=shown_as_protected)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"Content-Security-Policy": PAGE_POLICY})

    return app


async def _watch(model_thread: ModelThread, stopping: asyncio.Event) -> None:
    rest, holes = Rest(), Holes()
    while not await _pause(stopping):
        model_thread.revive()
        await run_in_threadpool(rest.return_if_grown if model_thread.idle() else holes.return_if_many)


async def _follow_index(bench: Workbench, stopping: asyncio.Event) -> None:
    """Let feedback follow the documents, by whatever they go: this service, a sync job or the command line."""
    followed, stopped = None, False
    while not stopped:
        try:
            followed = await run_in_threadpool(bench.follow_index, followed)
        except (IndexMissing, IndexDamaged):
            followed = None  # whoever asks something of the index is told
        except (IndexUnwritable, sqlite3.Error) as error:
            log.warning("feedback cannot follow the index: %s", error)
        stopped = await _pause(stopping)


async def _pause(stopping: asyncio.Event) -> bool:
    """Wait a moment, or until it is time to stop; whether it is."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), WATCH_SECONDS)
    return stopping.is_set()
