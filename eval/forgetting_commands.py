"""`openbook eval forgetting`: general questions, each adapter against the base model alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from eval.answers import EvalError
from eval.config import EvalConfig
from eval.forgetting import (
    BUNDLED,
    Item,
    forgetting,
    format_forgetting,
    item_scores,
    items_hash,
    keep_forgetting,
    read_forgetting,
    read_items,
)
from eval.provenance import Setup
from eval.result import ForgettingResult
from eval.statistics import Floats
from indexer.config import ModelConfig, Workspace
from tuner.base_model import load_base
from tuner.loading import ResidentAdapters
from tuner.registry import Registry


def eval_forgetting(
    workspace: Workspace,
    model: ModelConfig,
    settings: EvalConfig,
    adapters: Sequence[str],
    general: Sequence[Path],
    as_json: bool,
) -> None:
    """Measure, keep and print what each of `adapters` forgot, on the files `general` or the bundled questions.

    Raises EvalError, AdapterError, ModelError.
    """
    names = [path.stem for path in general]
    if taken := next((name for name in names if names.count(name) > 1 or name == BUNDLED), None):
        raise EvalError(f"results are kept by the names of files, and {taken!r} is taken; rename one")
    sources = {path.stem: read_items(path) for path in general} or {BUNDLED: read_items(None)}
    versions = {ref: Registry(workspace.adapters).resolve(ref) for ref in adapters}
    base = load_base(model.base, model.dtype)
    resident = ResidentAdapters(base, Registry(workspace.adapters))

    def measured(source: str, items: Sequence[Item]) -> dict[str, ForgettingResult]:
        def score(key: str | None) -> Floats:
            resident.use(key)
            return item_scores(base.model, base.tokenizer, items, key or "base")

        keys = list(dict.fromkeys(version.key for version in versions.values()))
        return forgetting(items, keys, score, source, settings.resamples, settings.seed)

    found = {source: measured(source, items) for source, items in sources.items()}
    hashes = {version.key: version.manifest.weights_hash for version in versions.values()}
    for results in found.values():
        for key, result in results.items():
            keep_forgetting(forgetting_path(workspace), hashes[key], result)
    if as_json:
        click.echo(
            json.dumps(
                {s: {key: r.model_dump() for key, r in results.items()} for s, results in found.items()},
                indent=2,
            )
        )
    else:
        click.echo("\n".join(format_forgetting(results) for results in found.values()))


def forgetting_path(workspace: Workspace) -> Path:
    """Where measurements are kept, by the adapter's weights."""
    return workspace.data / "forgetting.json"


def known_forgetting(workspace: Workspace, setup: Setup) -> dict[str, list[ForgettingResult]]:
    """What was measured of the adapters of an evaluation, by `name@version`; of the bundled items if still these."""
    kept = read_forgetting(forgetting_path(workspace))
    bundled = items_hash(read_items(None)) if kept else ""
    found = {}
    for route, key in setup.adapters.items():
        results = kept.get(setup.adapter_hashes[route], {}).values()
        fitting = [one for one in results if one.source != BUNDLED or one.items == bundled]
        if fitting:
            found[key] = fitting
    return found
