"""Putting an answerer together from a workspace: models, index, adapters, routes, and solved examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from indexer.config import ModelConfig, Workspace
from indexer.corpus import Question, Split
from indexer.encoding import load_encoder
from indexer.files import hash_text
from indexer.retriever import Hit, Index
from service.answering import Answerer, supports
from service.generation import LocalGenerator
from service.routes import Route
from tuner.base_model import load_base
from tuner.prompt import Context, SolvedExample
from tuner.registry import Registry

SEARCH_DEPTH = 5
"""How many hits are looked through for the passage that holds an example's answer."""


def open_answerer(
    workspace: Workspace, model: ModelConfig, routes: Mapping[str, Route], questions: Sequence[Question]
) -> Answerer:
    """Load what `routes` need, and nothing else. Raises IndexMissing, ModelError.

    `questions` may be of any split: only solved train questions become examples.
    """
    retrieves = any(route.retrieve for route in routes.values())
    encoder = load_encoder(model.encoder) if retrieves else None
    index = Index.open(workspace, encoder) if encoder else None
    base = load_base(model.base, model.dtype)
    registry = Registry(workspace.adapters)
    count = max((route.examples for route in routes.values()), default=0)
    examples = solved_examples(questions, index, count)
    return Answerer(base, LocalGenerator(base, registry), index, registry, routes, examples, encoder)


def solved_examples(questions: Sequence[Question], index: Index | None, count: int) -> list[SolvedExample]:
    """`count` solved train questions, in an order that depends on their ids alone, plus a spare.

    With an index, each comes with the retrieved passage that holds its answer, and questions without one are
    passed over. The spare takes the place of an example that happens to be asked.
    """
    if count == 0:
        return []
    train = [q for q in questions if q.split is Split.TRAIN and q.answerable]
    train.sort(key=lambda q: hash_text(q.id))
    if index is None:
        return [SolvedExample(q.text, q.answers[0]) for q in train[: count + 1]]
    candidates = train[: 4 * (count + 1)]
    found = index.retriever().search([q.text for q in candidates], SEARCH_DEPTH)
    examples = [_with_passage(q, hits) for q, hits in zip(candidates, found, strict=True)]
    return [example for example in examples if example is not None][: count + 1]


def _with_passage(question: Question, hits: Sequence[Hit]) -> SolvedExample | None:
    for hit in hits:
        if hit.chunk.document_id in question.document_ids and supports(hit.chunk.text, question.answers[0]):
            context = Context(hit.chunk.title, hit.chunk.text)
            return SolvedExample(question.text, question.answers[0], (context,))
    return None
