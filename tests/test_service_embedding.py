"""Texts to vectors for clients: bounds, turns, and clients that leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from indexer.encoding import Vectors
from service.admission import Overloaded
from service.embedding import MOST_WAITING, Embedding
from service.preparation import PromptTooLong
from service.underway import AnswerTimeout
from tests.fakes import HashEncoder


class HeldEncoder(HashEncoder):
    """Encodes once `go` is set; remembers the batches it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.started = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        self.batches.append(len(queries))
        self.started.set()
        assert self.go.wait(5)
        return super().encode_queries(queries)


@pytest.fixture
def encoder() -> HeldEncoder:
    return HeldEncoder()


def test_texts_are_read_in_small_batches_and_come_back_in_order(encoder: HeldEncoder) -> None:
    encoder.go.set()
    texts = [f"text {n}" for n in range(40)]
    vectors, tokens = asyncio.run(Embedding(encoder, 5).embed(texts))
    np.testing.assert_allclose(vectors, HashEncoder().encode_queries(texts))
    assert tokens == 80
    assert encoder.batches == [16, 16, 8]


def test_text_that_the_encoder_cannot_read_is_refused(encoder: HeldEncoder) -> None:
    with pytest.raises(PromptTooLong, match="hash-encoder reads"):
        asyncio.run(Embedding(encoder, 5).embed(["word " * (encoder.max_tokens + 1)]))


def test_more_texts_than_may_wait_are_turned_away(encoder: HeldEncoder) -> None:
    async def crowd() -> None:
        embedding = Embedding(encoder, 5)
        first = asyncio.create_task(embedding.embed(["a"] * MOST_WAITING))
        await asyncio.to_thread(encoder.started.wait, 5)
        with pytest.raises(Overloaded, match=f"{MOST_WAITING} texts are waiting"):
            await embedding.embed(["b"])
        encoder.go.set()
        await first
        await embedding.embed(["b"])

    asyncio.run(crowd())


def test_client_that_leaves_counts_until_its_batch_has_ended_and_no_longer(encoder: HeldEncoder) -> None:
    async def leave() -> None:
        embedding = Embedding(encoder, 5)
        leaving = asyncio.create_task(embedding.embed(["a"] * MOST_WAITING))
        await asyncio.to_thread(encoder.started.wait, 5)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        with pytest.raises(Overloaded):
            await embedding.embed(["b"])
        encoder.go.set()
        while embedding.waiting:
            await asyncio.to_thread(encoder.started.wait, 0.01)
        await embedding.embed(["b"])
        assert encoder.batches == [16, 1]

    asyncio.run(leave())


def test_texts_that_take_too_long_are_a_timeout(encoder: HeldEncoder) -> None:
    async def wait() -> None:
        with pytest.raises(AnswerTimeout, match=r"within 0.05 s"):
            await Embedding(encoder, 0.05).embed(["a"])
        encoder.go.set()

    asyncio.run(wait())
