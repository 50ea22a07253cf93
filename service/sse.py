"""Server-sent events: one JSON object each, and `[DONE]` at the end."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from service.errors import ErrorBody, error_detail, failure_of

log = logging.getLogger("openbook.service")

EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream`, server-sent events of JSON objects, then `[DONE]`.",
        "content": {"text/event-stream": {}},
    }
}
"""What an endpoint that can stream adds to its description."""


def event_stream(events: AsyncGenerator[BaseModel, None]) -> StreamingResponse:
    """A response that sends each of `events` as it comes; an exception becomes a last event with an error object."""
    return StreamingResponse(
        _lines(events), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


async def _lines(events: AsyncGenerator[BaseModel, None]) -> AsyncIterator[str]:
    try:
        async for event in events:
            yield f"data: {event.model_dump_json()}\n\n"
    except Exception as error:
        # The status has been sent: only an event can still tell.
        yield f"data: {error_body(error).model_dump_json()}\n\n"
    finally:
        # Also when the client has left, so that nothing goes on for nobody.
        await events.aclose()
    yield "data: [DONE]\n\n"


def error_body(error: BaseException) -> ErrorBody:
    """The error object for whatever went wrong; only foreseen errors are described."""
    failure = failure_of(error)
    if failure is None:
        log.error("request failed: %s", type(error).__name__)
        return ErrorBody(
            error=error_detail(500, "the service failed to answer; its log says why", "internal_error")
        )
    return ErrorBody(error=error_detail(failure.status, str(error), failure.code))
