"""What a run learns from: chunks and train questions, and what a language model wrote beside them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from indexer.corpus import Question, Split
from indexer.retriever import Retriever
from indexer.snapshot import Chunk
from tuner.config import SynthesisConfig, TuneConfig
from tuner.endpoint import Endpoint
from tuner.examples import Passage, Row, RowBuilder, Search, pattern_questions
from tuner.recipes import build_rows, read_replay
from tuner.synthesis import Synthesised, estimate, synthesise


@dataclass(frozen=True, slots=True)
class Material:
    """Everything that training rows are made from; `synthesised` is None if nothing was written."""

    passages: list[Passage]
    train: list[Question]
    search: Search
    test: tuple[Question, ...] = ()
    """Only to keep what is made for training unlike them."""
    replay: tuple[str, ...] = ()
    ranking: tuple[str | int | None, ...] = ()
    """What `search` depends on beside the chunks."""
    synthesised: Synthesised | None = None

    @property
    def questions(self) -> list[Question]:
        """Train questions, those written by a language model after the others."""
        return [*self.train, *(self.synthesised.questions if self.synthesised else ())]

    def made_by_rule(self, settings: TuneConfig) -> list[Question]:
        """Further questions that are trained on, each with its title and without, so that they can be remembered."""
        made = pattern_questions(self.passages, self.test) if settings.pattern_passes else []
        return [
            Question(f"made~{place}~{form}", text, (q.answer,), (), Split.TRAIN)
            for place, (title, q) in enumerate(made)
            for form, text in enumerate((q.text, f"{title}: {q.text}"))
        ]

    def describe(self) -> str:
        """What was written, in one line."""
        return self.synthesised.describe() if self.synthesised else "synthesis: none"

    def rows(self, tokenizer: Any, settings: TuneConfig) -> list[Row]:
        """The rows of the whole run. Raises RecipeError."""
        statements = self.synthesised.statements if self.synthesised else ()
        builder = RowBuilder(
            tokenizer, self.passages, self.questions, self.search, settings, statements, self.test
        )
        return build_rows(builder, settings, self.replay)


def gather(questions: Sequence[Question], retriever: Retriever, replay: Path | None = None) -> Material:
    """The indexed chunks, the questions by their splits, and general texts. Raises RecipeError."""
    passages = [_passage(chunk) for chunk in retriever.snapshot.all_chunks()]
    train = [q for q in questions if q.split is Split.TRAIN]
    test = tuple(q for q in questions if q.split is Split.TEST)
    texts = tuple(read_replay(replay)) if replay else ()
    return Material(passages, train, _search(retriever), test, texts, tuple(retriever.ranking.identity))


def with_synthesis(material: Material, settings: SynthesisConfig, cache: Path) -> Material:
    """The material and what the endpoint writes to it. Raises SynthesisError."""
    with closing(Endpoint(settings, cache)) as endpoint:
        made = synthesise(endpoint, settings, material.passages, material.train, material.test)
    return replace(material, synthesised=made)


def describe_synthesis(material: Material, settings: SynthesisConfig, cache: Path) -> str:
    """What synthesis would ask for, without asking."""
    with closing(Endpoint(settings, cache)) as endpoint:
        found = estimate(endpoint, settings, material.passages, material.train)
    return (
        f"synthesis by {settings.model}: {found.requests:,} requests, at most {found.most_tokens:,} tokens "
        f"(allowed: {settings.max_tokens:,}); its rows are not counted below"
    )


def _search(retriever: Retriever) -> Search:
    def search(questions: Sequence[str], k: int) -> list[list[Passage]]:
        return [[_passage(hit.chunk) for hit in hits] for hits in retriever.search(questions, k)]

    return search


def _passage(chunk: Chunk) -> Passage:
    return Passage(chunk.document_id, chunk.title, chunk.text, chunk.heading)
