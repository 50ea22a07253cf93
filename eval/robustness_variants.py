"""Which variants a workspace's routes are asked under."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from eval.arranged import (
    DISTRACTORS,
    SHOWN,
    Arrange,
    ArrangedIndex,
    searching,
    shuffled,
    with_distractors,
    with_gold_at,
)
from eval.asking import LocalAsker
from eval.injection import planted_index
from eval.local import LocalRoutes
from eval.oracle import gold_chunks
from eval.perturbations import PARAPHRASES, Kind
from eval.robustness import AS_ASKED, INJECTED, Variant
from indexer.config import Workspace
from indexer.corpus import Question
from indexer.encoding import Encoder
from indexer.ranking import FUSED
from indexer.retriever import Retriever
from service.routes import Route

SWEEP = (1, 2, 3, 5, 8)
"""Numbers of passages that are tried."""
PLACES: Mapping[str, float] = {"gold first": 0.0, "gold in the middle": 0.5, "gold last": 1.0}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined: routes of a workspace, and the answerable questions they are asked."""

    workspace: Workspace
    local: LocalRoutes
    routes: Mapping[str, Route]
    questions: Sequence[Question]
    encoder: Encoder | None
    """None if no route retrieves."""


@contextmanager
def open_variants(subject: Subject, kinds: Sequence[Kind]) -> Iterator[list[Variant]]:
    """The questions as asked, then every variant of `kinds` that changes anything; the planted index lives as long."""
    plain = Variant(
        AS_ASKED, LocalAsker(subject.local.answerer, subject.local.setup), subject.questions, subject.routes
    )
    variants = [plain]
    if Kind.WORDING in kinds:
        variants += _wordings(plain)
    retriever, encoder = subject.local.retriever, subject.encoder
    if retriever is None or encoder is None:
        yield variants
        return
    retrieving = {name: route for name, route in subject.routes.items() if route.retrieve}
    if Kind.PASSAGES in kinds:
        variants += _other_passages(subject, retriever, retrieving)
    if Kind.K in kinds:
        variants += _sweep(plain, retrieving)
    if Kind.POSITION in kinds:
        variants += _positions(subject, retriever, retrieving)
    if Kind.INJECTION not in kinds:
        yield variants
        return
    ranking = subject.local.retriever.ranking if subject.local.retriever else FUSED
    with planted_index(subject.workspace, encoder, subject.questions, ranking) as planted:
        meta = planted.retriever().snapshot.meta
        setup = replace(subject.local.setup, corpus_hash=meta.corpus_hash, index_generation=meta.generation)
        asker = LocalAsker(searching(subject.local.answerer, planted), setup)
        yield [*variants, Variant(INJECTED, asker, subject.questions, retrieving)]


def _wordings(plain: Variant) -> Iterator[Variant]:
    for name, rewrite in PARAPHRASES.items():
        rewritten = [replace(question, text=rewrite(question.text)) for question in plain.questions]
        changed = [new for new, old in zip(rewritten, plain.questions, strict=True) if new.text != old.text]
        if changed:
            yield Variant(name, plain.asker, changed, plain.routes)


def _other_passages(subject: Subject, retriever: Retriever, routes: Mapping[str, Route]) -> Iterator[Variant]:
    several = {name: route for name, route in routes.items() if route.k > 1}
    if several:  # one passage has no order
        yield _arranged("shuffled passages", subject, retriever, shuffled, subject.questions, several)
    more = {name: replace(route, k=route.k + DISTRACTORS) for name, route in routes.items()}
    arrange = with_distractors(_by_text(subject.questions))
    yield _arranged(f"{DISTRACTORS} distractors", subject, retriever, arrange, subject.questions, more)


def _sweep(plain: Variant, routes: Mapping[str, Route]) -> Iterator[Variant]:
    for k in SWEEP:
        others = {name: replace(route, k=k) for name, route in routes.items() if route.k != k}
        if others:
            yield Variant(f"k={k}", plain.asker, plain.questions, others)


def _positions(subject: Subject, retriever: Retriever, routes: Mapping[str, Route]) -> Iterator[Variant]:
    gold = gold_chunks(subject.questions, retriever.snapshot.all_chunks())
    known = [question for question in subject.questions if question.text in gold]
    wide = {name: replace(route, k=SHOWN) for name, route in routes.items()}
    first = next(iter(PLACES))
    for name, place in PLACES.items() if known else ():
        arrange = with_gold_at(place, _by_text(known), gold)
        against = AS_ASKED if name == first else first
        yield _arranged(name, subject, retriever, arrange, known, wide, against)


def _arranged(
    name: str,
    subject: Subject,
    retriever: Retriever,
    arrange: Arrange,
    questions: Sequence[Question],
    routes: Mapping[str, Route],
    against: str = AS_ASKED,
) -> Variant:
    answerer = searching(subject.local.answerer, ArrangedIndex(retriever, arrange))
    return Variant(name, LocalAsker(answerer, subject.local.setup), questions, routes, against)


def _by_text(questions: Sequence[Question]) -> dict[str, Question]:
    return {question.text: question for question in questions}
