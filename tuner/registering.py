"""An adapter's inputs and outputs as its manifest records them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from indexer.config import ModelConfig, Workspace
from indexer.corpus import Question, Split
from indexer.files import hash_files, hash_json
from indexer.ranking import FUSED
from indexer.retriever import Retriever
from tuner.base_model import resolve_model, weights_hash
from tuner.card import write_card
from tuner.config import TuneConfig
from tuner.prompt import prompt_hash
from tuner.registry import AdapterError, AdapterVersion, Registry
from tuner.train import Trained
from tuner.trained_on import TrainedOn

LIBRARIES = ("torch", "transformers", "peft", "openbook")


@dataclass(frozen=True, slots=True)
class Run:
    """What training produced, and from how many rows of each kind in which number format."""

    trained: Trained
    rows: dict[str, int]
    dtype: str


def training_inputs(
    workspace: Workspace,
    model: ModelConfig,
    settings: TuneConfig,
    questions: Sequence[Question],
    retriever: Retriever,
    metric: str,
) -> dict[str, Any]:
    """Everything an adapter depends on, as its manifest records it; `metric` chose the best weights on dev."""
    replay = replay_file(workspace, settings)
    learning = [q for q in questions if q.split is not Split.TEST]
    test = [q for q in questions if q.split is Split.TEST]
    # Only where they play a part, so that adapters trained before count as what they are.
    also: dict[str, Any] = {}
    if settings.pattern_passes or settings.synthesis is not None:  # what is made keeps away from these
        also["unlike"] = hash_json(sorted(q.text for q in test))
    if retriever.ranking.identity != FUSED.identity:
        also["ranking"] = retriever.ranking.identity
    return {
        "base_model": model.base,
        "base_model_hash": weights_hash(resolve_model(model.base)),
        "corpus_hash": retriever.corpus_hash,
        "questions_hash": hash_json(
            sorted([q.id, q.text, list(q.answers), list(q.document_ids), q.split] for q in learning)
        ),
        "prompt_hash": prompt_hash(),
        "recipe": settings.recipe,
        "method": settings.method.value,
        "settings": {
            **settings.model_dump(mode="json", exclude={"general", "track"}),  # they decide no weights
            "dtype": model.dtype,
            "dev_metric": metric,
            "replay_hash": hash_files([replay]) if replay is not None and replay.is_file() else None,
            "index": asdict(retriever.snapshot.meta.making),
            **also,
        },
        "seed": settings.seed,
    }


def replay_file(workspace: Workspace, settings: TuneConfig) -> Path | None:
    """The file of general texts, if one is configured."""
    return workspace.resolve(settings.replay) if settings.replay is not None else None


def same_inputs(registry: Registry, name: str, inputs: dict[str, Any]) -> AdapterVersion | None:
    """The newest version that was trained on exactly this, promoted or not."""
    for number in reversed(registry.versions(name)):
        try:
            adapter = registry.resolve(f"{name}@{number}")
        except AdapterError:
            continue  # damaged: training again is the remedy
        manifest = adapter.manifest.model_dump()
        if all(manifest[key] == value for key, value in inputs.items()):
            return adapter
    return None


def register(
    registry: Registry,
    settings: TuneConfig,
    inputs: dict[str, Any],
    run: Run,
    seen: TrainedOn,
    generation: int,
) -> AdapterVersion:
    """Publish what a run produced as a new version, not promoted."""
    trained = run.trained

    def write(folder: Path) -> None:
        trained.save(folder)
        seen.write(folder)
        write_card(folder, settings.adapter, inputs, run.rows, trained)

    manifest = {
        **inputs,
        "corpus_generation": generation,
        "rows": run.rows,
        "tokens": trained.tokens,
        "steps": trained.steps,
        "seconds": round(trained.seconds, 1),
        "dev_scores": trained.dev_scores,
        "versions": {library: version(library) for library in LIBRARIES} | {"dtype": run.dtype},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return registry.add(settings.adapter, write, manifest)
