"""An OpenAI-compatible completions server that behaves as it is told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route as Endpoint

KEY = "sk-hidden-0451"
Behaviour = Callable[["Fake", dict[str, Any]], Response]


@dataclass
class Fake:
    """An OpenAI-compatible server that behaves, request by request, as its script says; then it answers."""

    script: deque[Behaviour] = field(default_factory=deque)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    left: threading.Event = field(default_factory=threading.Event)
    """Set when a client closed the connection before the end."""

    def app(self) -> Starlette:
        async def completions(request: Request) -> Response:
            body = await request.json()
            self.bodies.append(body)
            self.keys.append(request.headers.get("Authorization"))
            behaviour = self.script.popleft() if self.script else answers("a fine", " answer")
            return behaviour(self, body)

        async def models(_: Request) -> Response:
            return JSONResponse({"data": [{"id": "base"}, {"id": "mixed-v3"}]})

        return Starlette(
            routes=[
                Endpoint("/v1/completions", completions, methods=["POST"]),
                Endpoint("/v1/models", models),
            ]
        )

    async def counted(self, events: AsyncIterator[str]) -> AsyncIterator[str]:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        ended = False
        try:
            async for event in events:
                yield event
            ended = True
        finally:
            self.under_way -= 1
            if not ended:
                self.left.set()


def event(text: str, finish: str | None = None, **more: Any) -> str:
    return (
        f"data: {json.dumps({'choices': [{'index': 0, 'text': text, 'finish_reason': finish, **more}]})}\n\n"
    )


def answers(
    *pieces: str, finish: str | None = "stop", tokens: int | None = 5, wait: float = 0.0
) -> Behaviour:
    async def events() -> AsyncIterator[str]:
        for piece in pieces:
            yield event(piece)
            await asyncio.sleep(wait)
        if finish is not None:
            yield event("", finish)
        if tokens is not None:
            yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': tokens}})}\n\n"
        yield "data: [DONE]\n\n"

    return lambda fake, _: StreamingResponse(fake.counted(events()), media_type="text/event-stream")


def sends(*lines: str, then: Exception | None = None) -> Behaviour:
    async def events() -> AsyncIterator[str]:
        for line in lines:
            yield line
            await asyncio.sleep(0.01)
        if then is not None:
            raise then

    return lambda _, __: StreamingResponse(events(), media_type="text/event-stream")


def says(status: int, **headers: str) -> Behaviour:
    error = {"error": {"message": f"no, {KEY}, not with this secret question", "code": status}}
    return lambda _, __: JSONResponse(error, status, headers)
