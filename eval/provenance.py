"""What an evaluation is measured on: models, corpus, software, machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import psutil

from indexer.corpus import Question
from indexer.files import hash_json
from service.routes import Route
from tuner.prompt import prompt_hash

_LIBRARIES = ("openbook", "torch", "transformers", "peft", "faiss-cpu", "sentence-transformers", "numpy")


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything behind the routes that decides what they answer."""

    source: str
    """`in process` (with the URL of the model, if a server has it), or the URL of the service."""
    base_model: str
    base_model_hash: str
    adapters: Mapping[str, str]
    """`name@version` by route name, for routes with an adapter."""
    adapter_hashes: Mapping[str, str]
    """Their weights: a version number can come back after a registry is deleted, weights do not."""
    corpus_hash: str | None
    index_generation: int | None
    making: str
    """How documents are cut, embedded and ranked, and the number format of the model."""
    examples_hash: str
    """Identity of the solved examples that routes may show."""
    training_seconds: Mapping[str, float] | None = None
    """By route with an adapter, how long it was trained; None if nobody says."""
    published: Mapping[str, Mapping[str, Any]] | None = None
    """By route, what a service says of it; None in this process, where routes are known."""


def route_identity(route: Route, setup: Setup) -> str:
    """Hash of all that a route's answers may depend on beside the question; names an evaluation."""
    return hash_json(
        [
            setup.source,
            route_options(route, setup),
            setup.base_model_hash,
            setup.adapter_hashes.get(route.name),
            [setup.corpus_hash, setup.index_generation, setup.making] if route.retrieve else None,
            setup.examples_hash if route.examples else None,
            prompt_hash(),
        ]
    )


def route_options(route: Route, setup: Setup) -> dict[str, Any]:
    """What a route does, as far as it is known here."""
    return asdict(route) if setup.published is None else dict(setup.published[route.name])


def questions_hash(questions: Sequence[Question]) -> str:
    """Identity of a list of questions with their answers (gold documents depend on how they were read)."""
    return hash_json([[q.id, q.text, q.answers] for q in questions])


def library_versions() -> dict[str, str]:
    """Versions of the libraries that numbers depend on."""
    installed = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def machine_facts() -> dict[str, Any]:
    """What latency depends on."""
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
    }
