"""What is done with fused results: read again by a cross-encoder, and limited for each document."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from indexer.config import IndexConfig
from indexer.encoding import EncoderError, hash_model, model_folder, require_safetensors
from indexer.snapshot import Chunk

RERANKED = 32
"""How many of the best fused chunks a reranker reads, whatever number is asked for; the others follow them."""


class Reranker(Protocol):
    """A model that reads a question and a passage together."""

    @property
    def id(self) -> str:
        """Identity by content: two rerankers with one id give equal scores."""

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """How well each passage answers the query; higher is better."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """How the fused results become those that are given."""

    reranker: Reranker | None = None
    max_per_document: int = 0
    """Most chunks of one document; 0 for no limit."""

    @property
    def identity(self) -> list[str | int | None]:
        """All that the results depend on; equal to `ranking_identity` of the settings it was loaded by."""
        return [self.reranker.id if self.reranker else None, self.max_per_document]


FUSED = Ranking()
"""As the fused scores have it."""


def load_ranking(settings: IndexConfig) -> Ranking:
    """The ranking that is configured, if any. Raises EncoderError if its model cannot be used."""
    reranker = load_reranker(settings.rerank) if settings.rerank else None
    return Ranking(reranker, settings.max_per_document)


def ranking_identity(settings: IndexConfig) -> list[str | int | None]:
    """`Ranking.identity`, found without loading a model."""
    return [
        _identity(*_named_folder(settings.rerank)) if settings.rerank else None,
        settings.max_per_document,
    ]


def load_reranker(ref: str) -> Reranker:
    """The cross-encoder in a folder, or of a Hugging Face id (downloaded once). Raises EncoderError."""
    return CrossEncoderReranker(*_named_folder(ref))


class CrossEncoderReranker:
    """A sentence-transformers CrossEncoder in a folder; may be used from several threads."""

    def __init__(self, folder: Path, name: str) -> None:
        require_safetensors(folder)
        _require_scores(folder)
        from sentence_transformers import CrossEncoder  # seconds to import, so not before it is needed
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        try:
            self._model: Any = CrossEncoder(
                str(folder),
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            what = " ".join(str(error).split())
            raise EncoderError(f"{folder}: not a usable cross-encoder ({what})") from error
        if self._model.num_labels != 1:
            raise EncoderError(
                f"{folder}: gives {self._model.num_labels} scores for a passage; choose a cross-encoder that gives one"
            )
        self._lock = threading.Lock()  # a fast tokenizer must not be entered from two threads
        self.id = _identity(folder, name)

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """Logits: a sigmoid would give the best of them all the same 1."""
        import torch

        pairs = [(query, passage) for passage in passages]
        with self._lock:
            scores = self._model.predict(
                pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False, convert_to_numpy=True
            )
        return [float(score) for score in scores]


def passage(chunk: Chunk) -> str:
    """What a reranker reads of a chunk: its text below its title and headings, as it was embedded."""
    context = " > ".join(part for part in (chunk.title, chunk.heading) if part)
    return f"{context}\n{chunk.text}"


def _named_folder(ref: str) -> tuple[Path, str]:
    return model_folder(ref, "reranker"), Path(ref).name


def _identity(folder: Path, name: str) -> str:
    return f"{name}:{hash_model(folder)[:16]}"


def _require_scores(folder: Path) -> None:
    """Refuse a model without a head that scores: it would be given a random one."""
    try:
        architectures = json.loads((folder / "config.json").read_text()).get("architectures") or [""]
    except (OSError, ValueError, AttributeError) as error:
        raise EncoderError(f"{folder}: holds no readable config.json; choose a cross-encoder") from error
    if not any(str(name).endswith(("ForSequenceClassification", "ForCausalLM")) for name in architectures):
        raise EncoderError(
            f"{folder}: {architectures[0] or 'this model'} gives no score for a question and a passage; choose a"
            " cross-encoder"
        )
