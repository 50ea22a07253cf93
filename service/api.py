"""openbook's own endpoints: one answer, several side by side, the documents behind them, and health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from indexer.metadata import Where
from service.admission import Overloaded
from service.answer import Answer
from service.disconnection import unless_client_leaves
from service.errors import error_response
from service.live import LiveAnswerer
from service.schemas import (
    AnswerEvent,
    AnswerRequest,
    CompareRequest,
    CompareResponse,
    Comparison,
    ContextsEvent,
    DocumentResponse,
    ErrorEvent,
    Health,
    StreamEvent,
    TextEvent,
)
from service.sse import EVENT_STREAM, error_body, event_stream
from service.underway import Underway


def answer_router(live: LiveAnswerer) -> APIRouter:
    """`/v1/answer`, `/v1/compare` and `/v1/documents/{id}`."""
    router = APIRouter(prefix="/v1", tags=["openbook"])

    @router.post("/answer", response_model=Answer, responses=EVENT_STREAM)
    async def answer(body: AnswerRequest, request: Request) -> Answer | Response:
        """Answer a question by one route, or by the one that `auto` takes."""

        async def ask() -> Underway:
            name, exposure = await live.assign(body.route, body.user, request)
            underway = await live.ask(body.question, name, body.where)
            underway.exposure = exposure
            return underway

        async def answered() -> Answer:
            return (await (await ask()).told())[0].answer

        if body.stream:
            underway = await ask()
            return event_stream(_events(underway, underway.route_name))

        return await unless_client_leaves(request, answered())

    @router.post("/compare", response_model=CompareResponse, responses=EVENT_STREAM)
    async def compare(body: CompareRequest, request: Request) -> CompareResponse | Response:
        """Answer a question by several routes; one that cannot answer reports why and the others go on.

        `auto` is one of them where it is named: its `answer.route` is the route that was taken. Streamed, the routes'
        events come as they happen, each with the name of its route as asked for.
        """
        names = list(dict.fromkeys(body.routes or live.answerer.routes))
        for name in names:
            live.require_answering(name)
        if body.stream:
            return event_stream(_all_events(live, body.question, names, body.where))

        async def ask_all() -> list[Comparison]:
            asking = (_answer(live, body.question, name, body.where) for name in names)
            found = await asyncio.gather(*asking)
            overloaded = [one for one in found if isinstance(one, Overloaded)]
            if overloaded and len(overloaded) == len(found):
                raise overloaded[0]
            return [_comparison(name, one) for name, one in zip(names, found, strict=True)]

        results = await unless_client_leaves(request, ask_all())
        return CompareResponse(question=body.question, results=results)

    @router.get("/documents/{document_id:path}", response_model=DocumentResponse)
    async def document(document_id: str) -> DocumentResponse | JSONResponse:
        """The text that citations point into."""
        found = await run_in_threadpool(live.answerer.document, document_id)
        if found is None:
            return error_response(404, f"no document {document_id!r} in the index", "document_not_found")
        return DocumentResponse(
            id=found.id, title=found.title, text=found.text, metadata=dict(found.metadata)
        )

    return router


def health_router(live: LiveAnswerer) -> APIRouter:
    """`/healthz`, open to everybody, `/readyz` and `/metrics`."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> Health:
        """The process runs."""
        return Health(status="ok")

    @router.get("/readyz", response_model=Health, responses={503: {"model": Health}})
    async def readyz() -> JSONResponse:
        """The model thread takes requests."""
        ready = live.model_thread.ready()
        return JSONResponse(Health(status="ok" if ready else "not ready").model_dump(), 200 if ready else 503)

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counters and times in Prometheus's text format."""
        return Response(live.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


async def _events(underway: Underway, name: str) -> AsyncGenerator[StreamEvent, None]:
    """What happens to one answer, under the name of its route or of what took it."""
    [prepared] = underway.prepared
    try:
        yield ContextsEvent(route=name, contexts=list(prepared.contexts))
        async for _, text in underway.pieces():
            yield TextEvent(route=name, text=text)
        [told] = await underway.told()
        yield AnswerEvent(route=name, answer=told.answer)
    finally:
        underway.cancel()


async def _all_events(
    live: LiveAnswerer, question: str, names: Sequence[str], where: Where | None
) -> AsyncGenerator[StreamEvent, None]:
    """What happens to the answers of several routes, in the order in which it happens."""
    events: asyncio.Queue[StreamEvent | None] = asyncio.Queue()

    async def ask(name: str) -> None:
        try:
            underway = await live.ask(question, name, where)
            async for event in _events(underway, name):
                events.put_nowait(event)
        except Exception as error:
            events.put_nowait(ErrorEvent(route=name, error=error_body(error).error))
        finally:
            events.put_nowait(None)

    asking = [asyncio.create_task(ask(name)) for name in names]
    try:
        left = len(asking)
        while left:
            event = await events.get()
            if event is None:
                left -= 1
            else:
                yield event
    finally:
        for task in asking:
            task.cancel()


async def _answer(live: LiveAnswerer, question: str, name: str, where: Where | None) -> Answer | Exception:
    try:
        [told] = await (await live.ask(question, name, where)).told()
    except Exception as error:
        return error
    return told.answer


def _comparison(name: str, found: Answer | Exception) -> Comparison:
    if isinstance(found, Exception):
        return Comparison(route=name, answer=None, error=error_body(found).error)
    return Comparison(route=name, answer=found, error=None)
