"""Documents and the index over HTTP: list, put, delete, status, sync and search."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from indexer.catalogue import Changes, changes_since, count, list_page
from indexer.corpus import CorpusError, Document
from indexer.database import IndexMissing
from indexer.documents import delete_document, put_document
from indexer.retriever import Hit
from service.admin_schemas import JobBody
from service.documents_schemas import (
    DocumentBody,
    DocumentEntry,
    DocumentPage,
    DocumentWritten,
    IndexStatus,
    SearchHit,
    SearchRequest,
    SearchResponse,
)
from service.jobs import JobKind
from service.live import LiveAnswerer
from service.workbench import Workbench
from service.worker_threads import run_beside_model

_NAMES_SHOWN = 20
_PUT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "JSON, or the bytes of a file whose format the ending of the id names (`guide.pdf`).",
        "content": {
            "application/json": {"schema": DocumentBody.model_json_schema()},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def documents_router(live: LiveAnswerer, bench: Workbench) -> APIRouter:
    """`/v1/documents` but for reading one, and `/v1/index`."""
    router = APIRouter(prefix="/v1", tags=["documents"])

    @router.get("/documents")
    async def documents(
        q: Annotated[str, Query(max_length=200, description="Only those whose id or title holds this.")] = "",
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> DocumentPage:
        """What the index holds, in the order of ids."""
        page = await run_in_threadpool(list_page, bench.workspace, q, offset, limit)
        entries = [DocumentEntry.model_validate(entry, from_attributes=True) for entry in page.entries]
        return DocumentPage(documents=entries, total=page.total, offset=offset)

    @router.put(
        "/documents/{document_id:path}",
        openapi_extra=_PUT_BODY,
        responses={201: {"model": DocumentWritten, "description": "There was no such document before."}},
    )
    async def put(document_id: str, request: Request, response: Response) -> DocumentWritten:
        """Add or replace a document; it can be retrieved once this returns."""
        data = await request.body()
        is_json = _media_type(request) == "application/json"
        written = await run_beside_model(partial(_put, live, bench, document_id, data, is_json))
        response.status_code = 201 if written.created else 200
        return written

    @router.delete("/documents/{document_id:path}")
    async def delete(document_id: str) -> DocumentWritten:
        """Remove a document and everything derived from it: chunks, vectors, remembered answers, feedback."""
        written = await run_in_threadpool(
            delete_document, bench.workspace, document_id, bench.patience_seconds
        )
        live.recent.forget_document(document_id, written.generation)
        await run_in_threadpool(bench.feedback.forget_document, document_id)
        return DocumentWritten(
            id=document_id, generation=written.generation, created=False, chunks_embedded=0
        )

    @router.get("/index")
    async def status() -> IndexStatus:
        """How large the index is, and whether it is what the documents folder holds."""
        return await run_in_threadpool(_status, bench)

    @router.post("/index/sync", status_code=202)
    async def sync(response: Response) -> JobBody:
        """Make the index equal the documents folder, as a job."""
        job = JobBody.of(await run_in_threadpool(bench.jobs.submit, JobKind.SYNC))
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return job

    @router.post("/index/search")
    async def search(body: SearchRequest) -> SearchResponse:
        """The passages for a query, best first."""
        search = partial(live.answerer.search, body.query, body.k, body.where)
        generation, hits = await run_beside_model(search)
        return SearchResponse(generation=generation, hits=[_hit(hit) for hit in hits])

    return router


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _put(
    live: LiveAnswerer, bench: Workbench, document_id: str, data: bytes, is_json: bool
) -> DocumentWritten:
    encoder = live.answerer.encoder
    if encoder is None:
        raise IndexMissing("no route retrieves, so no encoder is loaded to index a document with")
    document = _document(document_id, data) if is_json else bench.parser.document(document_id, data)
    written = put_document(
        bench.workspace,
        document,
        encoder,
        bench.index.chunk_tokens,
        bench.patience_seconds,
        bench.index.overlap_tokens,
    )
    return DocumentWritten(
        id=document_id,
        generation=written.generation,
        created=written.created,
        chunks_embedded=written.chunks_embedded,
    )


def _document(document_id: str, data: bytes) -> Document:
    try:
        body = DocumentBody.model_validate_json(data)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(found) from error
    return Document(document_id, body.title, body.text, body.metadata)


def _status(bench: Workbench) -> IndexStatus:
    counts = count(bench.workspace)
    problem = None
    try:
        changes = changes_since(bench.workspace, bench.documents, bench.parser)
    except CorpusError as error:
        changes, problem = Changes((), ()), str(error)
    return IndexStatus(
        generation=counts.generation,
        documents=counts.documents,
        chunks=counts.chunks,
        encoder=counts.encoder_id,
        stale=bool(changes.changed or changes.removed),
        changed=list(changes.changed[:_NAMES_SHOWN]),
        removed=list(changes.removed[:_NAMES_SHOWN]),
        problem=problem,
    )


def _hit(hit: Hit) -> SearchHit:
    chunk = hit.chunk
    return SearchHit(
        document_id=chunk.document_id,
        title=chunk.title,
        heading=chunk.heading,
        chunk_id=chunk.id,
        start=chunk.start,
        end=chunk.end,
        text=chunk.text,
        score=hit.score,
        dense=hit.dense,
        bm25=hit.bm25,
        rerank=hit.rerank,
    )
