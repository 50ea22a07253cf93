"""Putting an answerer together from a workspace: models, index, adapters, routes, and solved examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.corpus import Question, Split
from indexer.encoding import load_encoder
from indexer.files import hash_files, hash_json, hash_text
from indexer.ranking import load_ranking
from indexer.retriever import Hit, Index
from service.answering import Answerer, supports
from service.generation import Generator, LocalGenerator
from service.remote import RemoteGenerator, served_name
from service.routes import Route
from tuner.base_model import BaseModel, load_base, load_tokenizer, resolve_model, weights_hash
from tuner.prompt import Context, SolvedExample
from tuner.registry import AdapterVersion, Registry, check_adapter

SEARCH_DEPTH = 5
"""How many hits are looked through for the passage that holds an example's answer."""


def open_answerer(
    workspace: Workspace,
    model: ModelConfig,
    routes: Mapping[str, Route],
    questions: Sequence[Question],
    index_settings: IndexConfig,
) -> Answerer:
    """Load what `routes` need, and nothing else. Raises EncoderError, IndexMissing, ModelError.

    `questions` may be of any split: only solved train questions become examples. `index_settings` say how what is
    found is ranked.
    """
    retrieves = any(route.retrieve for route in routes.values())
    encoder = load_encoder(model.encoder) if retrieves else None
    index = Index.open(workspace, encoder, load_ranking(index_settings)) if encoder else None
    registry = Registry(workspace.adapters)
    base, generator = open_generator(model, registry)
    count = max((route.examples for route in routes.values()), default=0)
    examples = solved_examples(questions, index, count)
    return Answerer(base, generator, index, registry, routes, examples, encoder)


def open_generator(model: ModelConfig, registry: Registry) -> tuple[BaseModel, Generator]:
    """The base model with what answers from it: the weights loaded here, or a server. Raises ModelError."""
    if model.remote is None:
        base = load_base(model.base, model.dtype)
        return base, LocalGenerator(base, registry)
    base = load_tokenizer(model.base, base_identity(model))
    limit = min(base.max_prompt_tokens, model.remote.context_tokens or base.max_prompt_tokens)
    return replace(base, max_prompt_tokens=limit), RemoteGenerator(model.remote)


def base_identity(model: ModelConfig) -> str:
    """Hash of the base model's weights, or of the server that has them and of what is asked of it there."""
    if model.remote is None:
        return weights_hash(resolve_model(model.base))
    asked = model.remote.model_dump(include={"url", "model", "adapters"})
    return hash_json([hash_files([resolve_model(model.base, weights=False) / "config.json"]), asked])


def require_usable(adapter: AdapterVersion, model: ModelConfig, identity: str) -> None:
    """Refuse an adapter that the base model cannot answer with; `identity` is its `base_identity`.

    A server has its own copy of the weights, and refuses by itself what does not fit them. Raises AdapterError.
    """
    if model.remote is None:
        check_adapter(adapter, model.base, identity)
    else:
        served_name(model.remote, adapter.key)


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
