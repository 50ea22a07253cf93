"""openbook's own endpoints: one answer, several side by side, the documents behind them, and health."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from service.answering import Answer
from service.errors import error_detail, error_response, failure_of
from service.live import LiveAnswerer, unless_client_leaves
from service.schemas import (
    AnswerRequest,
    CompareRequest,
    CompareResponse,
    Comparison,
    DocumentResponse,
    Health,
)


def answer_router(live: LiveAnswerer) -> APIRouter:
    """`/v1/answer`, `/v1/compare` and `/v1/documents/{id}`."""
    router = APIRouter(prefix="/v1", tags=["openbook"])

    @router.post("/answer")
    async def answer(body: AnswerRequest, request: Request) -> Answer:
        """Answer a question by one route."""
        return await unless_client_leaves(request, live.answer(body.question, body.route))

    @router.post("/compare")
    async def compare(body: CompareRequest, request: Request) -> CompareResponse:
        """Answer a question by several routes; one that cannot answer reports why and the others go on."""
        names = list(dict.fromkeys(body.routes or live.answerer.routes))
        for name in names:
            live.answerer.route(name)

        async def ask_all() -> list[Answer | BaseException]:
            return await asyncio.gather(
                *(live.answer(body.question, name) for name in names), return_exceptions=True
            )

        outcomes = await unless_client_leaves(request, ask_all())
        results = [_comparison(name, outcome) for name, outcome in zip(names, outcomes, strict=True)]
        return CompareResponse(question=body.question, results=results)

    @router.get("/documents/{document_id:path}", response_model=DocumentResponse)
    async def document(document_id: str) -> DocumentResponse | JSONResponse:
        """The text that citations point into."""
        found = await run_in_threadpool(live.answerer.document, document_id)
        if found is None:
            return error_response(404, f"no document {document_id!r} in the index", "document_not_found")
        return DocumentResponse(id=found.id, title=found.title, text=found.text)

    return router


def health_router(live: LiveAnswerer) -> APIRouter:
    """`/healthz` and `/readyz`, open to everybody."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> Health:
        """The process runs."""
        return Health(status="ok")

    @router.get("/readyz", responses={503: {"model": Health}})
    async def readyz() -> JSONResponse:
        """The model thread takes requests."""
        ready = live.model_thread.ready()
        return JSONResponse(Health(status="ok" if ready else "not ready").model_dump(), 200 if ready else 503)

    return router


def _comparison(route: str, outcome: Answer | BaseException) -> Comparison:
    if isinstance(outcome, Answer):
        return Comparison(route=route, answer=outcome, error=None)
    failure = failure_of(outcome)
    if failure is None:
        raise outcome
    return Comparison(
        route=route, answer=None, error=error_detail(failure.status, str(outcome), failure.code)
    )
