"""`openbook tune`: from indexed documents and questions to a promoted adapter."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from indexer.config import ModelConfig, Workspace
from indexer.corpus import Question, Split
from indexer.files import hash_json
from indexer.retriever import Retriever
from tuner.base_model import load_base
from tuner.batches import plan_batches
from tuner.checkpoint import CheckpointStore
from tuner.config import TuneConfig
from tuner.dev import DevScorer, Metric
from tuner.gates import Measure, judge
from tuner.leakage import check_leakage, format_leakage
from tuner.lock import tune_lock
from tuner.material import Material, describe_synthesis, gather, with_synthesis
from tuner.parallel import Group, require_one_process, training_group
from tuner.probe import probe
from tuner.recipes import format_plan
from tuner.registering import Run, register, replay_file, same_inputs, training_inputs
from tuner.registry import AdapterVersion, Registry
from tuner.search import search_settings
from tuner.train import train
from tuner.trained_on import TrainedOn, question_hash


class TuneError(ValueError):
    """Training that cannot be started as asked; the message names the value and the remedy."""


class NotPromoted(RuntimeError):
    """The adapter is trained and kept, but failed on dev; the message says how, and how to promote it all the same."""


def tune(
    workspace: Workspace,
    model: ModelConfig,
    settings: TuneConfig,
    questions: Sequence[Question],
    retriever: Retriever,
    metric: Metric,
    measure: Measure | None,
    force: bool,
    as_json: bool,
) -> None:
    """Train, register, measure and promote an adapter, unless there is one of these very inputs.

    An interrupted run goes on where it was. Test questions are used for the leakage check only; without `measure`
    the adapter is promoted unseen. Of the processes that torchrun starts, the first does all but the training alone.
    Raises LeakageError, TuneError, ModelError, TuneBusy, NotPromoted, ParallelError.
    """
    registry = Registry(workspace.adapters)
    with ExitStack() as held:
        with training_group() as group:
            say = _Speaker(as_json, quiet=not group.leads)
            learning = _learning_questions(questions, say)
            if group.leads:
                held.enter_context(tune_lock(workspace.data, settings.adapter))
            inputs = training_inputs(workspace, model, settings, questions, retriever, metric.name)
            adapter = None if force else same_inputs(registry, settings.adapter, inputs)
            if adapter is not None:
                say(f"adapter {adapter.key} is already trained on exactly this (use --force to train again)")
            else:
                with group.leader_first():
                    material = _gather(workspace, settings, questions, retriever, say)
                dev = [q for q in learning if q.split is Split.DEV]
                run = _train(workspace, model, settings, material, dev, metric, say, group)
        if not group.leads:
            return
        if adapter is None:
            asked = [*material.questions, *material.made_by_rule(settings), *dev]
            seen = TrainedOn(retriever.snapshot.content_hashes(), {q.id: question_hash(q) for q in asked})
            adapter = register(registry, settings, inputs, run, seen, retriever.generation)
            CheckpointStore(_checkpoint_folder(workspace, settings)).clear()
            say(_summary(adapter))
        _promote(registry, adapter, measure, say)
    say.result(adapter)


def show_plan(
    workspace: Workspace,
    model: ModelConfig,
    settings: TuneConfig,
    questions: Sequence[Question],
    retriever: Retriever,
    try_steps: bool,
    as_json: bool,
) -> None:
    """Check for leakage and show rows and tokens by kind; with `try_steps` also what time and memory they take."""
    require_one_process("a plan")
    say = _Speaker(as_json)
    _learning_questions(questions, say)
    material = gather(questions, retriever, replay_file(workspace, settings))
    if settings.synthesis is not None:
        say(describe_synthesis(material, settings.synthesis, workspace.cache / "synthesis"))
    base = load_base(model.base, model.dtype)
    rows = material.rows(base.tokenizer, settings)
    plan = plan_batches(rows, settings)
    say(format_plan(rows, plan))
    found = None
    if try_steps:
        with _warnings_only():
            found = probe(base, plan, settings)
        say(found.describe())
    if as_json:
        kinds = {kind: sum(len(r) for r in rows if r.kind == kind) for kind in {row.kind for row in rows}}
        summary = {
            "rows": len(rows),
            "steps": len(plan.batches),
            "tokens": plan.tokens,
            "tokens_by_kind": kinds,
        }
        click.echo(json.dumps({**summary, "probe": asdict(found) if found else None}))


def _learning_questions(questions: Sequence[Question], say: _Speaker) -> list[Question]:
    """Train and dev questions, once it is certain that no test question is among them."""
    say(format_leakage(check_leakage(questions)))
    learning = [q for q in questions if q.split is not Split.TEST]
    for split, purpose in ((Split.TRAIN, "to train on"), (Split.DEV, "to stop on")):
        if not any(q.answerable and q.split is split for q in learning):
            raise TuneError(
                f'there are no answerable {split} questions {purpose}; give some questions `"split": "{split}"`'
            )
    return learning


def search(
    workspace: Workspace,
    model: ModelConfig,
    settings: TuneConfig,
    questions: Sequence[Question],
    retriever: Retriever,
    metric: Metric,
    trials: int,
    as_json: bool,
) -> None:
    """Try settings on dev and say which are best; trains nothing that is kept. Raises SearchError."""
    require_one_process("a search")
    say = _Speaker(as_json)
    learning = _learning_questions(questions, say)
    with tune_lock(workspace.data, f"{settings.adapter}-search"):
        material = _gather(workspace, settings, questions, retriever, say)
        base = load_base(model.base, model.dtype)
        dev = [q for q in learning if q.split is Split.DEV]
        scorer = DevScorer(base.tokenizer, dev, material.search, settings.dev_contexts, metric)
        folder = workspace.data / "search" / settings.adapter
        found = search_settings(base, material, settings, scorer, trials, folder)
    say(found.describe())
    if as_json:
        click.echo(json.dumps(asdict(found)))


class _Speaker:
    """Text for people, or one JSON object at the end for machines; nothing from the other processes of a group."""

    def __init__(self, as_json: bool, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        if quiet:
            logging.getLogger("openbook").setLevel(logging.WARNING)

    def __call__(self, line: str) -> None:
        if not self.quiet:
            click.echo(line, err=self.as_json)

    def result(self, adapter: AdapterVersion) -> None:
        if self.as_json:
            click.echo(json.dumps({"adapter": adapter.key, "manifest": adapter.manifest.model_dump()}))


@contextmanager
def _warnings_only() -> Iterator[None]:
    """Without what training tells of its course: a trial's dev check asks nothing, so its score means nothing."""
    logger = logging.getLogger("openbook.tuner")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _gather(
    workspace: Workspace,
    settings: TuneConfig,
    questions: Sequence[Question],
    retriever: Retriever,
    say: _Speaker,
) -> Material:
    """What to learn from, with what a language model writes to it if one is configured."""
    material = gather(questions, retriever, replay_file(workspace, settings))
    if settings.synthesis is None:
        return material
    material = with_synthesis(material, settings.synthesis, workspace.cache / "synthesis")
    say(material.describe())
    return material


def _train(
    workspace: Workspace,
    model: ModelConfig,
    settings: TuneConfig,
    material: Material,
    dev: Sequence[Question],
    metric: Metric,
    say: _Speaker,
    group: Group,
) -> Run:
    base = load_base(model.base, model.dtype)
    rows = material.rows(base.tokenizer, settings)
    plan = plan_batches(rows, settings)
    say(format_plan(rows, plan))
    scorer = DevScorer(base.tokenizer, dev, material.search, settings.dev_contexts, metric, group)
    judge = hash_json([scorer.identity, *material.ranking])
    checkpoints = CheckpointStore(_checkpoint_folder(workspace, settings), judge)
    trained = train(base, plan, settings, scorer, checkpoints, group)
    return Run(
        trained, {str(kind): n for kind, n in Counter(row.kind for row in rows).items()}, str(base.dtype)
    )


def _checkpoint_folder(workspace: Workspace, settings: TuneConfig) -> Path:
    return workspace.cache / "checkpoints" / settings.adapter


def _summary(adapter: AdapterVersion) -> str:
    manifest = adapter.manifest
    scores = ", ".join(f"{name} {value:.3f}" for name, value in manifest.dev_scores.items())
    return (
        f"adapter {adapter.key}: {manifest.tokens:,} tokens in {manifest.seconds:.0f} s "
        f"({manifest.tokens / max(manifest.seconds, 1e-9):.0f} tokens/s); best dev scores: {scores}"
    )


def _promote(registry: Registry, adapter: AdapterVersion, measure: Measure | None, say: _Speaker) -> None:
    """Let the adapter through the gates, once under the same conditions: what they found is kept with it."""
    if registry.promoted(adapter.name) == adapter.version:
        return
    if measure is not None:
        gates = registry.gates(adapter)
        if gates is None or gates.conditions != measure.conditions:
            say(f"asking the dev questions with {adapter.key} and without")
            gates = judge(measure.of(adapter.key), measure.conditions)
            registry.record_gates(adapter, gates)
            if not gates.figures:
                say(f"nothing was compared: no route uses {adapter.name!r}")
        if not gates.passed:
            raise NotPromoted(
                f"adapter {adapter.key} is kept but not promoted: {'; '.join(gates.failures)}. Change [tune] and train "
                f"again, or use it all the same with `openbook adapters promote {adapter.key}`"
            )
    registry.promote(adapter.name, adapter.version)
    say(f"adapter {adapter.key} is promoted: routes that name {adapter.name!r} use it from now on")
