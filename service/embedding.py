"""Texts to vectors for clients: one request at a time and in small batches, so that questions get in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from indexer.encoding import Encoder, Vectors
from service.admission import Overloaded
from service.preparation import PromptTooLong
from service.underway import AnswerTimeout
from service.worker_threads import run_beside_model

T = TypeVar("T")

MOST_WAITING = 1024
"""Texts of all requests together."""
RETRY_AFTER_SECONDS = 5
_BATCH = 16


class Embedding:
    """Vectors by the encoder of the index; used from the event loop only."""

    def __init__(self, encoder: Encoder, timeout_seconds: float) -> None:
        """`timeout_seconds` is the longest that a request may take."""
        self._encoder = encoder
        self._timeout_seconds = timeout_seconds
        self.waiting = 0
        """Texts of all requests, also of those that nobody waits for any more."""
        self._turn = asyncio.Lock()

    async def embed(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """[n, dim] float32, L2-normalised, and how many tokens were read.

        Raises PromptTooLong, Overloaded, AnswerTimeout. Cancelled, it counts until the batch under way has ended.
        """
        if self.waiting and self.waiting + len(texts) > MOST_WAITING:
            raise Overloaded(
                f"{self.waiting} texts are waiting for the encoder; try again in {RETRY_AFTER_SECONDS} s",
                RETRY_AFTER_SECONDS,
            )
        given_up = asyncio.Event()

        def ended(_: asyncio.Task[tuple[Vectors, int]]) -> None:
            self.waiting -= len(texts)

        self.waiting += len(texts)
        working = asyncio.create_task(self._in_turn(texts, given_up))
        working.add_done_callback(ended)
        try:
            return await asyncio.wait_for(asyncio.shield(working), self._timeout_seconds)
        except TimeoutError:
            raise AnswerTimeout(
                f"not all texts were embedded within {self._timeout_seconds:g} s (serve.timeout_seconds)"
            ) from None
        finally:
            given_up.set()

    async def _in_turn(self, texts: Sequence[str], given_up: asyncio.Event) -> tuple[Vectors, int]:
        batches = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]

        async def each(work: Callable[[Sequence[str]], T]) -> list[T]:
            done = []
            for batch in batches:
                if given_up.is_set():
                    raise asyncio.CancelledError
                done.append(await run_beside_model(partial(work, batch)))
            return done

        async with self._turn:
            tokens = sum(await each(self._count))
            return np.concatenate(await each(self._encoder.encode_queries)), tokens

    def _count(self, texts: Sequence[str]) -> int:
        counts = [self._encoder.count_tokens(text) for text in texts]
        if max(counts) > self._encoder.max_tokens:
            name, most = self._encoder.id.partition(":")[0], self._encoder.max_tokens
            raise PromptTooLong(f"input of {max(counts)} tokens; {name} reads {most}")
        return sum(counts)
