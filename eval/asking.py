"""Who is asked: routes in this process, or whatever else answers and can say what its answers depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Protocol

from eval.provenance import Setup
from indexer.files import hash_json
from service.answer import Answer, Prepared
from service.answering import Answerer
from service.routes import Route

BATCH = 64
"""Questions answered between two writes: what an interrupted run loses at most."""

KEY_VERSION = 2
"""Grows when answers are kept or computed in another way, so that those of before are not taken for equal."""


class Asker(Protocol):
    """What an evaluation asks its questions."""

    @property
    def setup(self) -> Setup:
        """What is behind the routes."""

    @property
    def parallel(self) -> int:
        """How many questions at most are worked on together and share their times."""

    def answer_many(self, pairs: Sequence[tuple[str, Route]]) -> Sequence[Answer]:
        """One answer per (question, route), in order."""

    def keys(self, pairs: Sequence[tuple[str, Route]]) -> Sequence[str]:
        """For each (question, route) a name of all that its answer depends on but the rounding of batches."""


class LocalAsker:
    """The routes of this process; an answer is known by what the model reads, so no other edit disturbs it."""

    parallel = BATCH

    def __init__(self, answerer: Answerer, setup: Setup) -> None:
        self.setup = setup
        self._answerer = answerer

    def answer_many(self, pairs: Sequence[tuple[str, Route]]) -> list[Answer]:
        """Answer in order, in one batch."""
        return self._answerer.answer_many(pairs)

    def keys(self, pairs: Sequence[tuple[str, Route]]) -> list[str]:
        """Hash of model, adapter, prompt, decoding and the passages shown.

        An edit of a document changes the keys of the answers that read another passage because of it, and no
        others. Scores of passages are left out: they move a little with every edit.
        """
        return [prepared_key(self._answerer, self.setup, one) for one in self._answerer.prepare(pairs)]


def prepared_key(answerer: Answerer, setup: Setup, prepared: Prepared) -> str:
    """The key of the answer to a prepared question."""
    base, route = answerer.base, prepared.route
    return hash_json(
        [
            KEY_VERSION,
            setup.base_model_hash,
            base.hash,
            str(base.dtype),
            setup.adapter_hashes.get(route.name),
            prepared.question,
            asdict(route),
            list(prepared.request.prompt),
            asdict(prepared.request.sampling),
            [[c.document_id, c.title, c.start, c.end] for c in prepared.contexts],
        ]
    )
