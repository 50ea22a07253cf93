"""The HTTP application: endpoints, errors, limits and the page, joined."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

from service.answering import Answerer
from service.api import answer_router, health_router
from service.config import ServeConfig
from service.errors import ErrorBody, add_error_handlers
from service.guard import Guard, read_api_key, require_key
from service.live import LiveAnswerer
from service.model_thread import ModelThread
from service.openai_api import openai_router

STATIC = Path(__file__).parent / "static"
PAGE_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
"""The page runs only its own script: whatever documents contain, they cannot."""


def create_app(answerer: Answerer, model_thread: ModelThread, config: ServeConfig) -> FastAPI:
    """The service over `answerer`, whose generator `model_thread` owns; closes the thread at shutdown.

    Raises ExposureError if `config` would let strangers in.
    """
    key = read_api_key(config)
    live = LiveAnswerer(answerer, model_thread, config.timeout_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(model_thread.close)

    app = FastAPI(
        title="openbook",
        summary="Answers by route: from the weights, from the documents, or both.",
        lifespan=lifespan,
        # FastAPI's documentation pages load scripts from other sites.
        docs_url=None,
        redoc_url=None,
        responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
    )
    app.add_middleware(Guard, max_body_bytes=config.max_body_bytes, local_only=key is None)
    add_error_handlers(app)
    app.include_router(health_router(live))
    authorised = [Depends(require_key(key))]
    app.include_router(answer_router(live), dependencies=authorised)
    app.include_router(openai_router(live, config.max_new_tokens), dependencies=authorised)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"Content-Security-Policy": PAGE_POLICY})

    return app
