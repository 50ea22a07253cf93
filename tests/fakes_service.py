"""Fakes at the service's seams: a generator that says what it is told, and an index of a few sentences."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from indexer.corpus import Document
from indexer.database import Making, Meta
from indexer.ranking import FUSED
from indexer.retriever import Hit, Index
from indexer.snapshot import Chunk
from service.answering import Answerer
from service.config import RouteConfig, routes_from_config
from service.generation import GenerationRequest, Generator, Run, never_cancelled
from tests.fakes import HashEncoder
from tests.tiny import tiny_base
from tuner.base_model import BaseModel
from tuner.decoding import Decoded
from tuner.prompt import SolvedExample
from tuner.registry import AdapterError, Registry


class FailsLater(RuntimeError):
    """In a script: lets the batch run for two steps, in which two words are said, and breaks it then."""

    def __init__(self, text: str = "") -> None:
        super().__init__("fails later")
        self.text = text


class ScriptedGenerator:
    """Answers from a queue: texts are returned, exceptions raised; `history` holds every batch asked for.

    While `hold()` is in force nothing advances, until `release()`; runs may still be given up.
    """

    def __init__(self, *script: str | BaseException) -> None:
        self.history: list[list[GenerationRequest]] = []
        self.started = threading.Event()
        self.cancelled = threading.Event()
        self.resets = 0
        self.refused: str | None = None
        """An adapter that cannot be used."""
        self.blow: BaseException | None = None
        """Raised by the next step, once."""
        self.broken: Exception | None = None
        """Raised by every reset, until it is taken away."""
        self._script = deque(script)
        self._released = threading.Event()
        self._released.set()
        self._runs: list[tuple[Run, str | BaseException]] = []

    def enqueue(self, *script: str | BaseException) -> None:
        self._script.extend(script)

    def hold(self) -> None:
        self._released.clear()

    def release(self) -> None:
        self._released.set()

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool] = never_cancelled
    ) -> list[Decoded]:
        self.history.append(list(requests))
        return [_decoded(request, self._next()) for request in requests]

    def admit(self, runs: Sequence[Run]) -> None:
        for run in runs:
            if run.request.adapter is not None and run.request.adapter == self.refused:
                raise AdapterError(f"adapter {self.refused} cannot be used")
        self.history.append([run.request for run in runs])
        self._runs += [(run, self._next()) for run in runs]
        self.started.set()

    def step(self) -> None:
        """A word more for every run; a run whose turn is an exception raises it at the first."""
        if self.blow is not None:
            blow, self.blow = self.blow, None
            raise blow
        if any(run.cancelled for run, _ in self._runs):
            self.cancelled.set()
        self._runs = [(run, said) for run, said in self._runs if not run.cancelled]
        if not self._released.wait(0.005):
            return
        for run, said in self._runs:
            if isinstance(said, BaseException):
                run.tokens += 1
                if isinstance(said, FailsLater) and run.tokens < 3:
                    run.text = " ".join(said.text.split()[: run.tokens])
                    continue
                raise said
            words = said.split(" ")
            run.tokens += 1
            run.text = " ".join(words[: run.tokens])
            if run.tokens >= len(words):
                run.decoded = _decoded(run.request, said)
        self._runs = [(run, said) for run, said in self._runs if run.decoded is None]

    def reset(self) -> None:
        self.resets += 1
        if self.broken is not None:
            raise self.broken
        self._runs.clear()

    def _next(self) -> str | BaseException:
        return self._script.popleft() if self._script else "scripted answer"


def _decoded(request: GenerationRequest, said: str | BaseException) -> Decoded:
    if isinstance(said, BaseException):
        raise said
    return Decoded(said, len(request.prompt), len(said.split()), "stop")


DOCUMENTS = (
    Document(
        "harbour.md", "Harbour rules", "The harbour opens at 06:40. Boats longer than 31 metres need a pilot."
    ),
    Document(
        "bakery.md", "Bakery", "The bakery sells rye bread. The oven was built by Ada Lindqvist in 1904."
    ),
    Document("folder/tower.md", "Tower", "The tower is 88 metres high and has 412 steps."),
)


class FakeIndex:
    """Every sentence is a chunk; search counts shared words. Stands in for `indexer.retriever.Index`."""

    def __init__(self, documents: Sequence[Document] = DOCUMENTS, generation: int = 7) -> None:
        self.generation = generation
        self.corpus_hash = "fake-corpus"
        making = Making("fake-encoder", 64, 1)
        self.snapshot = SimpleNamespace(meta=Meta(generation, making, self.corpus_hash, None, None))
        self.ranking = FUSED
        self._documents = {document.id: document for document in documents}
        self._chunks = list(_sentences(documents))

    def retriever(self) -> FakeIndex:
        return self

    def document(self, document_id: str) -> Document | None:
        return self._documents.get(document_id)

    def search(self, queries: Sequence[str], k: int, where: object = None) -> list[list[Hit]]:
        return [self._search(query, k) for query in queries]

    def _search(self, query: str, k: int) -> list[Hit]:
        words = set(re.findall(r"\w+", query.lower()))
        scored = [(len(words & set(re.findall(r"\w+", chunk.text.lower()))), chunk) for chunk in self._chunks]
        scored.sort(key=lambda pair: -pair[0])
        return [Hit(chunk, float(score), None, None) for score, chunk in scored[:k]]


def _sentences(documents: Sequence[Document]) -> Iterator[Chunk]:
    number = 0
    for document in documents:
        for match in re.finditer(r"[^.]+\.", document.text):
            text = match.group().strip()
            start = document.text.index(text)
            number += 1
            yield Chunk(number, document.id, document.title, "", start, start + len(text), text)


def make_answerer(
    root: Path,
    generator: Generator,
    base: BaseModel | None = None,
    index: FakeIndex | None = None,
    examples: Sequence[SolvedExample] = (),
    tables: Mapping[str, RouteConfig] | None = None,
) -> Answerer:
    """The standard routes over a fake index and the tiny model's tokenizer; adapters live below `root`."""
    return Answerer(
        base or tiny_base(),
        generator,
        cast("Index", index or FakeIndex()),
        Registry(root),
        routes_from_config({"rag": RouteConfig(k=3)} if tables is None else tables),
        examples,
        HashEncoder(),
    )
