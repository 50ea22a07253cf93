"""Answers that are being made: their text as it grows, and what became of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from service.admission import Generated
from service.answer import Answer, Prepared, Timings
from service.experiments import Exposure
from service.generation import GenerationRequest
from tuner.decoding import Decoded

if TYPE_CHECKING:
    from service.live import LiveAnswerer


class AnswerTimeout(RuntimeError):
    """The answer took longer than the service allows."""


@dataclass(frozen=True, slots=True)
class Told:
    """An answer, and what the generator said of it."""

    answer: Answer
    decoded: Decoded


class Underway:
    """Answers that are being made; `cancel` gives them up."""

    def __init__(
        self,
        live: LiveAnswerer,
        prepared: Sequence[Prepared],
        requests: Sequence[GenerationRequest],
        started: float,
        timeout_seconds: float,
    ) -> None:
        """Submits the requests. Raises Overloaded, TooMuchAtOnce."""
        self.prepared = prepared
        self._live = live
        self._started = started
        self._timeout_seconds = timeout_seconds
        self.exposure: Exposure | None = None
        """What the answers are part of, if they are part of an experiment."""
        self._exposed = False
        self._pieces: asyncio.Queue[tuple[int, str] | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def on_text(place: int, text: str) -> None:
            loop.call_soon_threadsafe(self._pieces.put_nowait, (place, text))

        self._future: Future[Generated] = live.model_thread.submit(requests, on_text)
        self._generated = asyncio.wrap_future(self._future)
        self._generated.add_done_callback(lambda _: self._pieces.put_nowait(None))
        if live.tracing is not None:
            live.tracing.follow(self._future, prepared, live.answerer.base.name)

    @property
    def route_name(self) -> str:
        """The route that answers."""
        return self.prepared[0].route.name

    @property
    def exposure_id(self) -> str | None:
        """What feedback on answers of an experiment names."""
        return self.exposure.id if self.exposure else None

    async def pieces(self) -> AsyncIterator[tuple[int, str]]:
        """Which answer goes on, and with what text; ends with the answers or their failure, which `told` raises."""
        await self._expose()
        try:
            while (piece := await asyncio.wait_for(self._pieces.get(), self._left())) is not None:
                yield piece
        except TimeoutError:
            return  # `told` says so

    async def told(self) -> list[Told]:
        """The whole answers. Raises AnswerTimeout, and whatever the generator failed with."""
        with self._live.counted(self.route_name):
            try:
                await self._expose()
                generated = await asyncio.wait_for(self._generated, self._left())
            except TimeoutError:
                raise AnswerTimeout(
                    f"no answer within {self._timeout_seconds:g} s (serve.timeout_seconds)"
                ) from None
            finally:
                self.cancel()
        total_ms = (time.monotonic() - self._started) * 1000
        told = []
        for place, (prepared, decoded) in enumerate(zip(self.prepared, generated.decoded, strict=True)):
            timings = Timings(generated.queue_ms, prepared.retrieve_ms, generated.generate_ms, total_ms)
            answer = self._live.answerer.finish(prepared, decoded, timings)
            if self.exposure is not None:  # two users may get the same words, and only one like them
                answer = replace(answer, id=self.exposure.answer_id(place))
            told.append(Told(answer, decoded))
            self._live.metrics.answered(answer)
            self._live.recent.add(answer)
        return told

    async def _expose(self) -> None:
        """Count the request for its experiment, once: it has been accepted, and somebody waits for what it gets."""
        if self.exposure is not None and not self._exposed:
            self._exposed = True
            await self._live.expose(self.exposure)

    def cancel(self) -> None:
        """Nobody waits any more; no effect on answers that are complete."""
        self._future.cancel()

    def _left(self) -> float:
        return max(0.0, self._started + self._timeout_seconds - time.monotonic())
