"""From a question and a route to an answer: retrieve, build the prompt, generate, cite."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from indexer.corpus import Document
from indexer.database import IndexMissing
from indexer.encoding import Encoder
from indexer.files import hash_json
from indexer.metadata import Where
from indexer.retriever import Hit, Index, Retriever
from service.answer import Answer, Citation, Prepared, Timings
from service.generation import GenerationRequest, Generator
from service.preparation import (
    PromptTooLong,
    examples_for,
    fit_prompt,
    require_room,
    require_short,
    retrieve,
)
from service.routes import AUTO, Route
from tuner.base_model import BaseModel
from tuner.decoding import Decoded, Sampling
from tuner.prompt import ABSTENTION, STYLES, PromptError, SolvedExample, prompt_hash
from tuner.registry import Registry

NO_ROUTER = (
    f"there is no {AUTO!r}, as no router is trained that fits the routes; run `openbook eval router` "
    "(a running service has to be started again then)"
)


class UnknownRoute(ValueError):
    """A route that the configuration does not define; the message names those it does."""


class Answerer:
    """Answers questions by route; holds the routes, the index, and the generator."""

    def __init__(
        self,
        base: BaseModel,
        generator: Generator,
        index: Index | None,
        registry: Registry,
        routes: Mapping[str, Route],
        examples: Sequence[SolvedExample] = (),
        encoder: Encoder | None = None,
    ) -> None:
        """`examples` are shown, in this order, by routes that ask for some; `encoder` is the index's."""
        self.base = base
        self.encoder = encoder
        self.generator = generator
        self.routes = dict(routes)
        self._index = index
        self._registry = registry
        self._examples = tuple(examples)
        # Tokenisers and encoders are not thread-safe, and in parallel they would only compete for cores.
        self._preparing = threading.Lock()

    def answer(self, question: str, route_name: str) -> Answer:
        """Answer one question, in this thread."""
        return self.answer_many([(question, self.route(route_name))])[0]

    def answer_many(self, pairs: Sequence[tuple[str, Route]]) -> list[Answer]:
        """Answer many questions with one retrieval batch and one generation batch, in this thread."""
        started = time.monotonic()
        prepared = self.prepare(pairs)
        generating = time.monotonic()
        decoded = self.generator.generate([p.request for p in prepared])
        ended = time.monotonic()
        generate_ms, total_ms = (ended - generating) * 1000, (ended - started) * 1000
        return [
            self.finish(p, d, Timings(0.0, p.retrieve_ms, generate_ms, total_ms))
            for p, d in zip(prepared, decoded, strict=True)
        ]

    def route(self, name: str) -> Route:
        """The route of that name."""
        try:
            return self.routes[name]
        except KeyError:
            if name == AUTO:
                raise UnknownRoute(NO_ROUTER) from None
            raise UnknownRoute(f"unknown route {name!r}; known: {', '.join(self.routes)}") from None

    def document(self, document_id: str) -> Document | None:
        """A document as indexed, or None if the index does not hold it."""
        return self._index.document(document_id) if self._index else None

    def search(self, query: str, k: int, where: Where | None = None) -> tuple[int, list[Hit]]:
        """The index generation, and the best `k` of its chunks that fit `where`. Raises IndexMissing, CorpusError."""
        if self._index is None:
            raise IndexMissing("no route retrieves, so no index is open")
        retriever = self._index.retriever()
        return retriever.generation, retriever.search([query], k, where)[0]

    def identity(self, route: Route) -> str:
        """Hash of all that the route's answers depend on beside the question. Raises AdapterError, IndexMissing."""
        adapter = self._registry.resolve(route.adapter) if route.adapter else None
        searched = None
        if route.retrieve:
            retriever = self._retriever(route)
            meta = retriever.snapshot.meta
            searched = [
                meta.generation,
                meta.corpus_hash,
                asdict(meta.making),
                retriever.ranking.identity,
            ]
        return hash_json(
            [
                self.base.hash,
                str(self.base.dtype),
                adapter.manifest.weights_hash if adapter else None,
                asdict(route),
                searched,
                [asdict(example) for example in self._examples] if route.examples else None,
                prompt_hash(),
            ]
        )

    def lasting_identity(self, route: Route) -> str:
        """`identity` without the texts of documents and solved examples: it outlasts their edits."""
        adapter = self._registry.resolve(route.adapter) if route.adapter else None
        searched = None
        if route.retrieve:
            retriever = self._retriever(route)
            searched = [asdict(retriever.snapshot.meta.making), retriever.ranking.identity]
        weights = adapter.manifest.weights_hash if adapter else None
        return hash_json(
            [self.base.hash, str(self.base.dtype), weights, asdict(route), searched, prompt_hash()]
        )

    def index_generation(self) -> int | None:
        """The index generation that answers come from; None if no index is open."""
        return self._index.retriever().generation if self._index else None

    def require_room(self, question: str, max_new_tokens: int) -> None:
        """Raise PromptTooLong if the model has no room for the question and an answer."""
        require_short(question, self.base)
        with self._preparing:
            require_room(question, self.base, max_new_tokens)

    def prepare(self, pairs: Sequence[tuple[str, Route]], sampling: Sampling | None = None) -> list[Prepared]:
        """Retrieve and build prompts, without the model; `sampling` replaces what the routes say about it."""
        for question, _ in pairs:
            require_short(question, self.base)
        with self._preparing:
            for question, route in pairs:
                require_room(question, self.base, (sampling or route).max_new_tokens)
            started = time.monotonic()
            asking = next((route for _, route in pairs if route.retrieve), None)
            retriever = self._retriever(asking) if asking else None
            hits = retrieve(retriever, pairs) if retriever else [[] for _ in pairs]
            retrieve_ms = (time.monotonic() - started) * 1000
            prepared = []
            for (question, route), found in zip(pairs, hits, strict=True):
                adapter = self._registry.resolve(route.adapter).key if route.adapter else None
                chosen = sampling or Sampling(route.max_new_tokens)
                ends = () if chosen.ignore_eos else STYLES[route.prompt].stop
                stops = dict.fromkeys((*chosen.stop, *ends))
                chosen = replace(chosen, stop=tuple(stops))
                examples = examples_for(question, route, self._examples)
                prompt, shown = fit_prompt(self.base, question, route, found, examples, chosen.max_new_tokens)
                prepared.append(
                    Prepared(
                        question=question,
                        route=route,
                        request=GenerationRequest(tuple(prompt), adapter, chosen),
                        contexts=tuple(_citation(n, hit) for n, hit in enumerate(shown, start=1)),
                        generation=retriever.generation if retriever and route.retrieve else None,
                        retrieve_ms=retrieve_ms if route.retrieve else 0.0,
                        retrieve_started=started,
                    )
                )
            return prepared

    def prepare_tokens(
        self, prompts: Sequence[Sequence[int]], route: Route, sampling: Sampling
    ) -> list[Prepared]:
        """Whole prompts for the route's model: no passages, instructions or stop strings are added."""
        room, known = self.base.max_prompt_tokens - sampling.max_new_tokens, len(self.base.tokenizer)
        for prompt in prompts:
            if len(prompt) > room:
                raise PromptTooLong(
                    f"a prompt has {len(prompt)} tokens, and {self.base.name} has room for {room} beside an answer "
                    f"of {sampling.max_new_tokens}"
                )
            if max(prompt) >= known:
                raise PromptError(
                    f"a prompt has token {max(prompt)}, and {self.base.name} knows {known} tokens"
                )
        adapter = self._registry.resolve(route.adapter).key if route.adapter else None
        return [
            Prepared("", route, GenerationRequest(tuple(prompt), adapter, sampling), (), None, 0.0)
            for prompt in prompts
        ]

    def finish(self, prepared: Prepared, decoded: Decoded, timings: Timings) -> Answer:
        """Join what was asked with what the model said."""
        abstained = is_abstention(decoded.text)
        supported = [] if abstained else [c for c in prepared.contexts if supports(c.text, decoded.text)]
        return Answer(
            question=prepared.question,
            answer=decoded.text,
            route=prepared.route.name,
            contexts=prepared.contexts,
            citations=tuple(supported),
            abstained=abstained,
            prompt_tokens=decoded.prompt_tokens,
            completion_tokens=decoded.completion_tokens,
            finish_reason=decoded.finish_reason,
            timings_ms=timings,
            base_model=self.base.name,
            adapter=prepared.request.adapter,
            generation=prepared.generation,
            id=self._answer_id(prepared, decoded.text),
        )

    def _answer_id(self, prepared: Prepared, text: str) -> str:
        shown = [[c.document_id, c.start, c.end, c.text] for c in prepared.contexts]
        made_by = [prepared.route.name, self.base.hash, prepared.request.adapter]
        return hash_json([prepared.question, text, made_by, shown])[:24]

    def _retriever(self, route: Route) -> Retriever:
        if self._index is None:
            raise IndexMissing(f"route {route.name!r} retrieves, but there is no index; run `openbook index`")
        return self._index.retriever()


def is_abstention(answer: str) -> bool:
    """Whether the answer is the agreed "I don't know.", whatever its case, punctuation, or continuation."""
    return f"{_normalise(answer)} ".startswith(f"{_normalise(ABSTENTION)} ")


def supports(passage: str, answer: str) -> bool:
    """Whether the passage contains the answer as whole words, ignoring case and punctuation."""
    needle = _normalise(answer)
    return bool(needle) and f" {needle} " in f" {_normalise(passage)} "


def _normalise(text: str) -> str:
    return " ".join(re.findall(r"\w+", re.sub("['\u2019]", "", text.casefold())))


def _citation(number: int, hit: Hit) -> Citation:
    chunk = hit.chunk
    return Citation(
        number=number,
        document_id=chunk.document_id,
        title=chunk.title,
        chunk_id=chunk.id,
        start=chunk.start,
        end=chunk.end,
        text=chunk.text,
        score=hit.score,
    )
