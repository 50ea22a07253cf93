"""Texts to vectors for clients: one request at a time and in small batches, so that questions get in between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import numpy as np

from indexer.encoding import Encoder, Vectors
from service.admission import Overloaded
from service.live import AnswerTimeout
from service.preparation import PromptTooLong
from service.worker_threads import run_beside_model

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
        self._waiting = 0
        self._turn = asyncio.Lock()

    async def embed(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """[n, dim] float32, L2-normalised, and how many tokens were read.

        Raises PromptTooLong, Overloaded, AnswerTimeout. Cancelled, it goes no further than the batch under way.
        """
        if self._waiting and self._waiting + len(texts) > MOST_WAITING:
            raise Overloaded(
                f"{self._waiting} texts are waiting for the encoder; try again in {RETRY_AFTER_SECONDS} s",
                RETRY_AFTER_SECONDS,
            )
        self._waiting += len(texts)
        try:
            async with asyncio.timeout(self._timeout_seconds), self._turn:
                return await self._embed(texts)
        except TimeoutError:
            raise AnswerTimeout(
                f"not all texts were embedded within {self._timeout_seconds:g} s (serve.timeout_seconds)"
            ) from None
        finally:
            self._waiting -= len(texts)

    async def _embed(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        batches = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
        tokens = sum([await run_beside_model(partial(self._count, batch)) for batch in batches])
        vectors = [await run_beside_model(partial(self._encoder.encode_queries, batch)) for batch in batches]
        return np.concatenate(vectors), tokens

    def _count(self, texts: Sequence[str]) -> int:
        counts = [self._encoder.count_tokens(text) for text in texts]
        if max(counts) > self._encoder.max_tokens:
            name, most = self._encoder.id.partition(":")[0], self._encoder.max_tokens
            raise PromptTooLong(f"input of {max(counts)} tokens; {name} reads {most}")
        return sum(counts)
