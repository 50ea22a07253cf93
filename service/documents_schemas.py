"""What the endpoints for documents and the index take and give."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from indexer.corpus import Owner
from service.admin_schemas import example
from service.filters import Filter

MetadataValue = str | bool | int | float
SearchText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=8000)]


class DocumentBody(BaseModel):
    """A document to add or replace."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "title": "Tide table",
                    "text": "# Tides\n\nHigh water is at 06:40 and 19:05.",
                    "metadata": {"year": 2026},
                }
            ]
        },
    )

    title: str = Field(default="", max_length=1000)
    text: str = Field(min_length=1)
    metadata: dict[str, MetadataValue] = {}


class DocumentWritten(BaseModel):
    """What a put or a delete did; `generation` is the first in which it can be seen."""

    model_config = example(id="tides.md", generation=8, created=True, chunks_embedded=2)

    id: str
    generation: int
    created: bool
    chunks_embedded: int


class DocumentEntry(BaseModel):
    """A document without its text; one of the `folder` changes with its file only."""

    model_config = example(id="tides.md", title="Tide table", owner="api", characters=2310, chunks=4)

    id: str
    title: str
    owner: Owner
    characters: int
    chunks: int


class DocumentPage(BaseModel):
    """Some of the documents, in the order of their ids; `total` is how many there are in all."""

    documents: list[DocumentEntry]
    total: int
    offset: int


class IndexStatus(BaseModel):
    """The generation that answers come from, and what a sync would find in the documents folder."""

    model_config = example(
        generation=7,
        documents=48,
        chunks=312,
        encoder="all-minilm-l6-v2:9d1c",
        stale=True,
        changed=["harbour.md"],
        removed=[],
        problem=None,
    )

    generation: int
    documents: int
    chunks: int
    encoder: str
    stale: bool
    """Whether files are new, changed (or cannot be read), or gone."""
    changed: list[str]
    """The first of them by name, and of those that are gone."""
    removed: list[str]
    problem: str | None
    """Why the folder could not be looked at."""


class SearchRequest(BaseModel):
    """A search without a model: the passages that a route with retrieval would be shown."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"query": "when is high water", "k": 5, "where": {"year": 2026}}]},
    )

    query: SearchText
    k: int = Field(default=5, ge=1, le=50)
    where: Filter | None = None


class SearchHit(BaseModel):
    """A passage; `dense` and `bm25` are null where that search did not have it among its candidates.

    `rerank` is the cross-encoder's score, null without one or where it has not read the passage.
    """

    model_config = example(
        document_id="tides.md",
        title="Tides",
        heading="",
        chunk_id=313,
        start=0,
        end=23,
        text="High water is at 06:40.",
        score=0.98,
        dense=0.61,
        bm25=7.2,
        rerank=None,
    )

    document_id: str
    title: str
    heading: str
    chunk_id: int
    start: int
    end: int
    text: str
    score: float
    dense: float | None
    bm25: float | None
    rerank: float | None


class SearchResponse(BaseModel):
    """The best passages first."""

    generation: int
    hits: list[SearchHit]
