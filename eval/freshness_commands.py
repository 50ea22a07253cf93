"""`openbook eval freshness`: document changes tried on a copy of the workspace."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import click

from eval.answers import EvalError
from eval.changes import (
    Change,
    changes_hash,
    learned_ids,
    read_changes,
)
from eval.config import EvalConfig, Prices
from eval.freshness import (
    AdapterFreshness,
    FreshnessResult,
    Retraining,
    adapter_freshness,
    change_answers,
    route_freshness,
    sync_cost,
    training_cost,
)
from eval.freshness_markdown import format_freshness
from eval.local import local_setup
from eval.provenance import Setup, route_identity
from eval.result import Provenance
from eval.scoring import facts_of_run
from eval.scratch import scratch_copy
from eval.trial import Retrained, Trainer, Trial, Tried, uses
from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.encoding import load_encoder
from indexer.files import hash_json, write_atomically
from indexer.readers import read_questions
from service.routes import Route
from tuner.registry import Registry
from tuner.trained_on import staleness


def eval_freshness(
    workspace: Workspace,
    model: ModelConfig,
    index: IndexConfig,
    settings: EvalConfig,
    routes: Mapping[str, Route],
    changes_path: Path,
    trainer: Trainer | None,
    as_json: bool,
) -> None:
    """Ask `routes` before and after the changes, made in a copy of the workspace; keep and print what was found.

    With a `trainer` the adapter is trained on the changed documents, and its routes are asked once more. Raises
    EvalError, CorpusError, AdapterError, IndexMissing, ModelError; what is cheap to find wrong comes first.
    """
    changes = read_changes(changes_path)
    _require_trainable(trainer, model, routes)
    questions = read_questions(workspace.resolve(settings.questions))
    setup = local_setup(workspace, model, routes, questions, index)
    registry = Registry(workspace.adapters)
    with scratch_copy(workspace, workspace.resolve(index.documents)) as scratch:
        edits = scratch.edits(changes)
        trial = Trial(scratch, model, index, routes, questions, changes)
        encoder = load_encoder(model.encoder)
        tried = trial.change(edits, encoder, registry)
        retrained = None
        if trainer is not None:
            retrained = trial.retrain(trainer, encoder, workspace.cache, tried.applied.seconds)
    learned = learned_ids(changes, questions)
    result = _result(changes, learned, routes, settings, setup, registry, tried, retrained)
    folder = workspace.evaluations / _folder_name(result, routes, setup)
    write_atomically(folder / "freshness.md", format_freshness(result) + "\n")
    write_atomically(folder / "freshness.json", result.model_dump_json(indent=2) + "\n")
    click.echo(result.model_dump_json(indent=2) if as_json else format_freshness(result))
    click.echo(f"Kept in {folder / 'freshness.json'}", err=as_json)


def _require_trainable(trainer: Trainer | None, model: ModelConfig, routes: Mapping[str, Route]) -> None:
    if trainer is None:
        return
    if model.remote is not None:
        raise EvalError(
            f"--retrain trains here, but {model.remote.url} answers; leave out --retrain or [model.remote]"
        )
    if not any(uses(route, trainer.adapter) for route in routes.values()):
        raise EvalError(
            f"--retrain trains the adapter {trainer.adapter!r}, which none of the routes {', '.join(routes)} uses; "
            "add one that does, or leave out --retrain"
        )


def _result(
    changes: Sequence[Change],
    learned: Collection[str],
    routes: Mapping[str, Route],
    settings: EvalConfig,
    setup: Setup,
    registry: Registry,
    tried: Tried,
    retrained: Retrained | None,
) -> FreshnessResult:
    asked_again = None if retrained is None else retrained.asked
    return FreshnessResult(
        n=len(changes),
        metric=settings.primary_metric,
        currency=settings.prices.currency,
        sync=sync_cost(tried.applied, settings.prices),
        routes=route_freshness(routes, changes, tried.before, tried.after, asked_again, settings),
        adapters=_adapters(setup, registry, tried.content_hashes, settings.prices),
        retraining=None if retrained is None else _retraining(retrained, settings.prices),
        changes=change_answers(changes, learned, tried.before, tried.after, asked_again),
        provenance=_provenance(changes, routes, settings, setup),
    )


def _adapters(
    setup: Setup, registry: Registry, content_hashes: Mapping[str, str], prices: Prices
) -> dict[str, AdapterFreshness]:
    found = {}
    for key in dict.fromkeys(setup.adapters.values()):
        adapter = registry.resolve(key)
        seen = staleness(adapter, content_hashes)
        used_by = [name for name, used in setup.adapters.items() if used == key]
        found[key] = adapter_freshness(adapter, used_by, None if seen is None else len(seen.changed), prices)
    return found


def _retraining(retrained: Retrained, prices: Prices) -> Retraining:
    return Retraining(
        adapter=retrained.adapter.name,
        seconds=retrained.seconds,
        tokens=retrained.adapter.manifest.tokens,
        cost=training_cost(retrained.seconds, prices),
        questions_left_out=retrained.questions_left_out,
    )


def _provenance(
    changes: Sequence[Change], routes: Mapping[str, Route], settings: EvalConfig, setup: Setup
) -> Provenance:
    return facts_of_run(
        changes_hash(changes),
        len({change.document_id for change in changes}),
        0,
        routes,
        settings,
        setup,
        "questions asked one at a time; models loaded before, as in a running service",
    )


def _folder_name(result: FreshnessResult, routes: Mapping[str, Route], setup: Setup) -> str:
    """One folder for each thing that can be tried: the same again replaces what it found before."""
    identities = {name: route_identity(route, setup) for name, route in routes.items()}
    facts = result.provenance
    tried = [identities, facts.questions, facts.settings, result.retraining is not None]
    return f"freshness-{hash_json(tried)[:12]}"
