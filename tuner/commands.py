"""`openbook tune` and `openbook adapters`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from indexer.config import ModelConfig, Workspace
from indexer.corpus import Question, Split
from indexer.files import hash_json
from indexer.retriever import Retriever
from indexer.snapshot import Chunk
from tuner.base_model import BaseModel, load_base, resolve_model, weights_hash
from tuner.card import write_card
from tuner.checkpoint import CheckpointStore
from tuner.config import TuneConfig
from tuner.dev import DevScorer, Score
from tuner.examples import Passage, Row, RowBuilder, Search
from tuner.leakage import check_leakage, format_leakage
from tuner.prompt import prompt_hash
from tuner.registry import AdapterVersion, Registry
from tuner.train import Plan, Trained, plan_batches, train

LIBRARIES = ("torch", "transformers", "peft", "openbook")


class TuneError(ValueError):
    """Training that cannot be started as asked; the message names the value and the remedy."""


def tune(
    workspace: Workspace,
    model: ModelConfig,
    settings: TuneConfig,
    questions: Sequence[Question],
    retriever: Retriever,
    score: Score,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train, register and promote an adapter on the indexed corpus, unless the promoted one is of these very inputs.

    Test questions are used for the leakage check only. Raises LeakageError, TuneError, ModelError.
    """
    say = _Speaker(as_json)
    say(format_leakage(check_leakage(questions)))
    learning = [q for q in questions if q.split is not Split.TEST]
    if not any(q.answerable and q.split is Split.TRAIN for q in learning):
        raise TuneError('there are no answerable train questions; give some questions `"split": "train"`')
    registry = Registry(workspace.adapters)
    inputs = _inputs(model, settings, learning, retriever)
    if (
        (existing := _same_inputs(registry, settings.adapter, inputs)) is not None
        and not force
        and not dry_run
    ):
        say(f"adapter {existing.key} is already trained on exactly this (use --force to train again)")
        say.result(existing)
        return

    base = load_base(model.base, model.dtype)
    search = _search(retriever)
    train_questions = [q for q in learning if q.split is Split.TRAIN]
    passages = [_passage(chunk) for chunk in retriever.snapshot.all_chunks()]
    rows = build_rows(RowBuilder(base.tokenizer, passages, train_questions, search, settings), settings)
    plan = plan_batches(rows, settings)
    say(format_plan(rows, plan))
    if dry_run:
        return
    dev = [q for q in learning if q.split is Split.DEV and q.answerable]
    if not dev:
        raise TuneError(
            'there are no answerable dev questions to stop on; give some questions `"split": "dev"`'
        )
    scorer = DevScorer(base.tokenizer, dev, search, settings.dev_contexts, score)
    checkpoints = CheckpointStore(workspace.cache / "checkpoints" / settings.adapter)
    trained = train(base, plan, settings, scorer, checkpoints)
    adapter = _register(registry, base, settings, inputs, rows, trained, retriever.generation)
    checkpoints.clear()
    scores = ", ".join(f"{name} {value:.3f}" for name, value in trained.dev_scores.items())
    say(
        f"adapter {adapter.key}: {trained.tokens:,} tokens in {trained.seconds:.0f} s "
        f"({trained.tokens / max(trained.seconds, 1e-9):.0f} tokens/s); best dev scores: {scores}"
    )
    say.result(adapter)


def build_rows(builder: RowBuilder, settings: TuneConfig) -> list[Row]:
    """All rows of a run: every pass of every kind, as the recipe asks."""
    randomness = builder.randomness
    rows: list[Row] = []
    if settings.recipe != "open-book":
        for _ in range(settings.document_passes):
            rows += builder.document_rows(randomness)
        for _ in range(settings.cloze_passes):
            rows += builder.cloze_rows(randomness)
        for _ in range(settings.closed_book_passes):
            rows += builder.closed_book_rows()
    if settings.recipe != "closed-book":
        for _ in range(settings.open_book_passes):
            rows += builder.open_book_rows(randomness)
    if not rows:
        raise TuneError("every pass of the recipe is 0: there is nothing to train on; raise one in [tune]")
    return rows


def format_plan(rows: Sequence[Row], plan: Plan) -> str:
    """Rows and tokens by kind, before training starts."""
    counts: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for row in rows:
        counts[row.kind] += 1
        tokens[row.kind] += len(row)
    lines = [f"  {kind:<12} {counts[kind]:>6} rows {tokens[kind]:>9,} tokens" for kind in sorted(counts)]
    total = f"  {'in all':<12} {len(rows):>6} rows {plan.tokens:>9,} tokens, {len(plan.batches)} steps"
    return "\n".join(["training rows:", *lines, total])


def list_adapters(workspace: Workspace, as_json: bool) -> None:
    """Every adapter with its versions and dev scores."""
    registry = Registry(workspace.adapters)
    found = [registry.resolve(f"{name}@{v}") for name in registry.names() for v in registry.versions(name)]
    if as_json:
        click.echo(json.dumps([_summary(registry, adapter) for adapter in found]))
        return
    if not found:
        click.echo("no adapters yet; train one with `openbook tune`")
    for adapter in found:
        mark = " (promoted)" if registry.promoted(adapter.name) == adapter.version else ""
        scores = ", ".join(f"{k} {v:.3f}" for k, v in adapter.manifest.dev_scores.items())
        click.echo(f"{adapter.key}{mark}: {adapter.manifest.recipe} {adapter.manifest.method}; dev {scores}")


def show_adapter(workspace: Workspace, ref: str) -> None:
    """The manifest of one adapter."""
    click.echo(Registry(workspace.adapters).resolve(ref).manifest.model_dump_json(indent=2))


def promote_adapter(workspace: Workspace, ref: str) -> None:
    """Make a version the one that routes use."""
    registry = Registry(workspace.adapters)
    adapter = registry.resolve(ref)
    registry.promote(adapter.name, adapter.version)
    click.echo(f"routes with adapter {adapter.name!r} now use {adapter.key}")


class _Speaker:
    """Text for people, or one JSON object at the end for machines."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def __call__(self, line: str) -> None:
        click.echo(line, err=self.as_json)

    def result(self, adapter: AdapterVersion) -> None:
        if self.as_json:
            click.echo(json.dumps({"adapter": adapter.key, "manifest": adapter.manifest.model_dump()}))


def _search(retriever: Retriever) -> Search:
    def search(questions: Sequence[str], k: int) -> list[list[Passage]]:
        return [[_passage(hit.chunk) for hit in hits] for hits in retriever.search(questions, k)]

    return search


def _passage(chunk: Chunk) -> Passage:
    return Passage(chunk.document_id, chunk.title, chunk.text)


def _inputs(
    model: ModelConfig, settings: TuneConfig, questions: Sequence[Question], retriever: Retriever
) -> dict[str, Any]:
    """Everything an adapter depends on, as its manifest records it."""
    return {
        "base_model": model.base,
        "base_model_hash": weights_hash(resolve_model(model.base)),
        "corpus_hash": retriever.corpus_hash,
        "questions_hash": hash_json(
            sorted([q.id, q.text, list(q.answers), list(q.document_ids), q.split] for q in questions)
        ),
        "prompt_hash": prompt_hash(),
        "recipe": settings.recipe,
        "method": settings.method.value,
        "settings": {
            **settings.model_dump(mode="json"),
            "dtype": model.dtype,
            "index": asdict(retriever.snapshot.meta.making),
        },
        "seed": settings.seed,
    }


def _same_inputs(registry: Registry, name: str, inputs: dict[str, Any]) -> AdapterVersion | None:
    if registry.promoted(name) is None:
        return None
    adapter = registry.resolve(name)
    manifest = adapter.manifest.model_dump()
    return adapter if all(manifest[key] == value for key, value in inputs.items()) else None


def _register(
    registry: Registry,
    base: BaseModel,
    settings: TuneConfig,
    inputs: dict[str, Any],
    rows: Sequence[Row],
    trained: Trained,
    generation: int,
) -> AdapterVersion:
    counts = {str(kind): count for kind, count in Counter(row.kind for row in rows).items()}

    def write(folder: Path) -> None:
        trained.save(folder)
        write_card(folder, settings.adapter, inputs, counts, trained)

    manifest = {
        **inputs,
        "corpus_generation": generation,
        "rows": counts,
        "tokens": trained.tokens,
        "steps": trained.steps,
        "seconds": round(trained.seconds, 1),
        "dev_scores": trained.dev_scores,
        "versions": {library: version(library) for library in LIBRARIES} | {"dtype": str(base.dtype)},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    adapter = registry.add(settings.adapter, write, manifest)
    registry.promote(adapter.name, adapter.version)
    return adapter


def _summary(registry: Registry, adapter: AdapterVersion) -> dict[str, Any]:
    promoted = registry.promoted(adapter.name) == adapter.version
    return {
        "adapter": adapter.key,
        "promoted": promoted,
        "recipe": adapter.manifest.recipe,
        "method": adapter.manifest.method,
        "dev_scores": adapter.manifest.dev_scores,
    }
