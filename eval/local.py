"""A workspace opened for evaluation in this process: models, index, questions, and what identifies them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from eval.config import EvalConfig
from eval.provenance import Setup, questions_hash
from eval.selection import load_selection
from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.corpus import Question, Split
from indexer.database import Meta, open_published
from indexer.encoding import load_encoder
from indexer.files import hash_json, hash_text
from indexer.ranking import load_ranking, ranking_identity
from indexer.readers import read_questions
from indexer.retriever import Index, Retriever
from service.answering import Answerer
from service.assembly import base_identity, open_generator, require_usable, solved_examples
from service.routes import Route
from tuner.registry import AdapterError, AdapterVersion, Registry
from tuner.trained_on import refuse_seen_questions

log = logging.getLogger("openbook.eval")


@dataclass(frozen=True, slots=True)
class LocalRoutes:
    """Routes ready to answer here; `retriever` is None if none of them retrieves."""

    answerer: Answerer
    retriever: Retriever | None
    questions: Sequence[Question]
    setup: Setup


def open_local(
    workspace: Workspace,
    model: ModelConfig,
    settings: EvalConfig,
    routes: Mapping[str, Route],
    examples: int,
    index_settings: IndexConfig,
) -> LocalRoutes:
    """Load what `routes` need, with up to `examples` solved train questions to show.

    `index_settings` say how what is found is ranked.

    Raises CorpusError, AdapterError, IndexMissing, ModelError; what is cheap to find missing comes first.
    """
    questions_path = workspace.resolve(settings.questions)
    registry = Registry(workspace.adapters)
    known = read_questions(questions_path)
    setup = local_setup(workspace, model, routes, known, index_settings)
    test = [question for question in known if question.split is Split.TEST]
    for key in sorted(set(setup.adapters.values())):
        refuse_seen_questions(registry.resolve(key), test)
    index = None
    if _any_retrieves(routes):
        index = Index.open(workspace, load_encoder(model.encoder), load_ranking(index_settings))
    questions = read_questions(questions_path, index.documents() if index else None)
    base, generator = open_generator(model, registry)
    solved = solved_examples(questions, index, examples)
    answerer = Answerer(base, generator, index, registry, routes, solved)
    return LocalRoutes(answerer, index.retriever() if index else None, questions, setup)


def local_setup(
    workspace: Workspace,
    model: ModelConfig,
    routes: Mapping[str, Route],
    questions: Sequence[Question],
    index_settings: IndexConfig,
) -> Setup:
    """What identifies the routes of a workspace, found without loading a model."""
    registry = Registry(workspace.adapters)
    adapters = {r.name: registry.resolve(r.adapter) for r in routes.values() if r.adapter is not None}
    base_hash = base_identity(model)
    for adapter in adapters.values():
        require_usable(adapter, model, base_hash)
    meta = _published(workspace) if _any_retrieves(routes) else None
    corpus_hash = meta.corpus_hash if meta else None
    _warn_of_other_corpora(adapters.values(), corpus_hash)
    train = [question for question in questions if question.split is Split.TRAIN]
    return Setup(
        source=f"in process, the model at {model.remote.url}" if model.remote else "in process",
        base_model=model.base,
        base_model_hash=base_hash,
        adapters={name: adapter.key for name, adapter in adapters.items()},
        adapter_hashes={name: adapter.manifest.weights_hash for name, adapter in adapters.items()},
        training_seconds={name: adapter.manifest.seconds for name, adapter in adapters.items()},
        corpus_hash=corpus_hash,
        index_generation=meta.generation if meta else None,
        making=hash_json(
            [
                asdict(meta.making) if meta else None,
                ranking_identity(index_settings) if meta else None,
                model.dtype,
            ]
        ),
        examples_hash=hash_text(questions_hash(train), corpus_hash or ""),
    )


def selection_path(workspace: Workspace) -> Path:
    """Where the prompt options chosen for the routes of a workspace are kept."""
    return workspace.data / "selection.json"


def selected_routes(
    workspace: Workspace,
    model: ModelConfig,
    settings: EvalConfig,
    routes: Mapping[str, Route],
    index_settings: IndexConfig,
) -> dict[str, Route]:
    """The routes as `openbook eval` would ask them: with the prompt options it chose, where these still fit.

    Routes whose adapter is missing stay as they are. Loads no model, so it is cheap enough for every start.
    """
    path, questions_path = selection_path(workspace), workspace.resolve(settings.questions)
    if not path.exists() or not questions_path.exists():
        return dict(routes)
    usable = {name: route for name, route in routes.items() if _adapter_exists(workspace, route)}
    questions = read_questions(questions_path)
    setup = local_setup(workspace, model, usable, questions, index_settings)
    dev = [question for question in questions if question.split is Split.DEV]
    return {**routes, **load_selection(path, dev, usable, settings.primary_metric, setup)}


def _any_retrieves(routes: Mapping[str, Route]) -> bool:
    return any(route.retrieve for route in routes.values())


def _published(workspace: Workspace) -> Meta:
    connection, meta = open_published(workspace.database)
    connection.close()
    return meta


def _adapter_exists(workspace: Workspace, route: Route) -> bool:
    if route.adapter is None:
        return True
    try:
        Registry(workspace.adapters).resolve(route.adapter)
    except AdapterError:
        return False
    return True


def _warn_of_other_corpora(adapters: Iterable[AdapterVersion], corpus_hash: str | None) -> None:
    for key, trained_on in {adapter.key: adapter.manifest.corpus_hash for adapter in adapters}.items():
        if corpus_hash is not None and trained_on != corpus_hash:
            log.warning("adapter %s was trained on another state of the documents than is indexed now", key)
