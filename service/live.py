"""Answers for the HTTP endpoints: the same steps as `Answerer.answer`, without blocking the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from service.answering import Answer, Answerer, Timings
from service.model_thread import ModelThread
from tuner.decoding import Sampling

T = TypeVar("T")


class AnswerTimeout(RuntimeError):
    """The answer took longer than the service allows."""


class ClientLeft(RuntimeError):
    """Nobody waits for the answer any more."""


class LiveAnswerer:
    """Joins the answerer (threads) with the model thread (one) for many concurrent requests."""

    def __init__(self, answerer: Answerer, model_thread: ModelThread, timeout_seconds: float) -> None:
        self.answerer = answerer
        self.model_thread = model_thread
        self._timeout_seconds = timeout_seconds

    async def answer(self, question: str, route_name: str, sampling: Sampling | None = None) -> Answer:
        """Answer one question; cancelling this cancels the generation. Raises AnswerTimeout, Overloaded."""
        started = time.monotonic()
        route = self.answerer.route(route_name)
        [prepared] = await run_in_threadpool(self.answerer.prepare, [(question, route)], sampling)
        future = self.model_thread.submit([prepared.request])
        try:
            generated = await asyncio.wait_for(asyncio.wrap_future(future), self._timeout_seconds)
        except TimeoutError:
            raise AnswerTimeout(
                f"no answer within {self._timeout_seconds:g} s (serve.timeout_seconds)"
            ) from None
        total_ms = (time.monotonic() - started) * 1000
        timings = Timings(generated.queue_ms, prepared.retrieve_ms, generated.generate_ms, total_ms)
        return self.answerer.finish(prepared, generated.decoded[0], timings)


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled once the client closes the connection. Raises ClientLeft."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnection(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeft("the client closed the connection")
    finally:
        working.cancel()
        leaving.cancel()


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
